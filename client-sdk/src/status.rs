//! Sorts gRPC statuses: what the broker said, what the transport suffered, and what to do about it.

use std::error::Error as StdError;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    Error,
    connect::ConnectFault,
    error::{REVISION_CONFLICT, Refusal},
};

/// The domain of the broker's `google.rpc.ErrorInfo`.
const DOMAIN: &str = "veribus";

/// What to do after a failed call.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Try again after a while.
    Again(Error),
    /// Try again at once if there is another token.
    Token,
    /// Give up.
    Final(Error),
}

impl Verdict {
    pub(crate) fn of(status: &Status) -> Self {
        if is_local(status) {
            return Self::Again(transport_error(status));
        }
        match status.code() {
            Code::Unauthenticated => Self::Token,
            Code::Ok | Code::Unavailable | Code::Aborted | Code::Cancelled | Code::DeadlineExceeded => {
                Self::Again(refused(status))
            }
            // What tonic itself says where a stream ends without a status.
            Code::Unknown | Code::Internal => Self::Again(refused(status)),
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss => Self::Final(refused(status)),
        }
    }

    /// What to say where there is no other attempt.
    pub(crate) fn to_error(&self) -> Error {
        match self {
            Self::Again(error) | Self::Final(error) => error.clone(),
            Self::Token => Error::Unauthenticated,
        }
    }

    /// For subscriptions, which also come back after they were cut off for being slow or for want of room.
    pub(crate) fn of_subscription(status: &Status) -> Self {
        match Self::of(status) {
            Self::Final(error) if matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange) => {
                Self::Again(error)
            }
            verdict => verdict,
        }
    }

    /// For watches, which come back after they were cut off for want of room, but not where there is no going on from the
    /// revision that they name.
    pub(crate) fn of_watch(status: &Status) -> Self {
        match Self::of(status) {
            Self::Final(error) if status.code() == Code::ResourceExhausted => Self::Again(error),
            verdict => verdict,
        }
    }
}

/// Whether the call may have had an effect although it failed.
pub(crate) fn may_have_happened(status: &Status) -> bool {
    connect_fault(status).is_none() && matches!(Verdict::of(status), Verdict::Again(_))
}

/// A status that this side made up because the transport failed: those have a source, the broker's have none.
fn is_local(status: &Status) -> bool {
    status.source().is_some()
}

fn connect_fault(status: &Status) -> Option<&ConnectFault> {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(fault) = error.downcast_ref() {
            return Some(fault);
        }
        source = error.source();
    }
    None
}

fn transport_error(status: &Status) -> Error {
    match connect_fault(status) {
        Some(fault) => fault.clone().into(),
        None => Error::ConnectionLost { fault: innermost(status) },
    }
}

/// The text of the first cause: the outer ones say no more than "transport error".
fn innermost(status: &Status) -> String {
    let mut error: &dyn StdError = status;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What stands under a key, where the broker refused a change because of it. 0: no value.
pub(crate) fn revision_in_conflict(status: &Status) -> Option<u64> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    let is_conflict = status.code() == Code::Aborted && info.reason == REVISION_CONFLICT;
    info.metadata.get("current_revision").filter(|_| is_conflict)?.parse().ok()
}

/// The status that says of a call what a refusal says of one message.
pub(crate) fn of_refusal(refusal: &Refusal) -> Status {
    let metadata = [("message_id".to_owned(), refusal.message_id.clone())];
    let details = ErrorDetails::with_error_info(&refusal.reason, DOMAIN, metadata);
    Status::with_error_details(refusal.code, &refusal.message, details)
}

fn refused(status: &Status) -> Error {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
    let (reason, mut metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
    Error::Refused(Box::new(Refusal {
        code: status.code(),
        reason,
        message: status.message().to_owned(),
        decision_id: metadata.remove("decision_id").filter(|id| !id.is_empty()),
        audit_index: metadata.get("audit_index").and_then(|index| index.parse().ok()),
        message_id: metadata.remove("message_id").unwrap_or_default(),
        duplicate: metadata.get("duplicate").is_some_and(|duplicate| duplicate == "true"),
        undelivered: metadata.get("undelivered").and_then(|count| count.parse().ok()),
        retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
    }))
}
