//! The one table from what went wrong to what a client is told: a gRPC code, a stable word, a short text. What lies behind
//! it is in the audit log.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use veribus_proto::v1::{self, publish_result};

use crate::{
    administer::KeyRefusal,
    authenticate::SessionEnd,
    deliver::{EndReason, InboxError},
    engine::ReadError,
    model::{DecisionId, Outcome, Receipt, RefusalReason, RefusedReceipt},
    quota::QuotaExceeded,
    record::{CopyError, JournalFault, RecordError, SubmitError},
    share::{WatchEnd, WhyNot},
    subscribe::ReadRefusal,
};

const DOMAIN: &str = "veribus";

/// A code, a stable word, and a text.
pub(super) struct Told(Code, &'static str, &'static str);

pub(super) const UNAUTHENTICATED: Told = Told(Code::Unauthenticated, "UNAUTHENTICATED", "unauthenticated");
const DRAINING: Told = Told(Code::Unavailable, "DRAINING", "the broker is shutting down: reconnect");

pub(super) fn unauthenticated() -> Status {
    UNAUTHENTICATED.status(None)
}

/// How a call is told that its session is over.
pub(super) fn ended(end: &SessionEnd) -> Status {
    match end {
        SessionEnd::Token(_) | SessionEnd::Left => unauthenticated(),
        SessionEnd::Disconnected => {
            Told(Code::Unavailable, "DISCONNECTED", "an operator ended this call: reconnect").status(None)
        }
    }
}

pub(super) fn draining() -> Status {
    DRAINING.status(None)
}

pub(super) fn too_many_connections() -> Status {
    Told(Code::ResourceExhausted, "CONNECTION_LIMIT", "this identity has too many connections").status(None)
}

pub(super) fn too_many_health_connections() -> Status {
    let text = "too many connections only ask for health: this one will be closed unless it says who it is";
    Told(Code::ResourceExhausted, "CONNECTION_LIMIT", text).status(None)
}

pub(super) fn too_many_health_watches() -> Status {
    Told(Code::ResourceExhausted, "CONNECTION_LIMIT", "this connection watches health too often").status(None)
}

pub(super) fn invalid(text: &'static str) -> Status {
    Told(Code::InvalidArgument, "INVALID_ARGUMENT", text).status(None)
}

pub(super) fn frame_too_large() -> Status {
    Told(Code::ResourceExhausted, "FRAME_TOO_LARGE", "the request is larger than the broker decodes").status(None)
}

pub(super) fn too_many_items() -> Status {
    Told(Code::ResourceExhausted, "TOO_MANY_ITEMS", "the request holds more items than one may").status(None)
}

/// How the body of a call ends that brings its message too slowly.
pub(super) fn frame_too_slow() -> Status {
    Told(Code::DeadlineExceeded, "FRAME_TOO_SLOW", "the request took longer to arrive than the broker waits")
        .status(None)
}

/// How a call ends that finds too many others of its connection waiting for memory.
pub(super) fn receive_limit() -> Status {
    let text = "too many requests of this agent wait to be received: try again";
    let mut details = ErrorDetails::with_error_info("RECEIVE_LIMIT", DOMAIN, HashMap::new());
    details.set_retry_info(Some(Duration::from_millis(100)));
    Status::with_error_details(Code::Unavailable, text, details)
}

/// What is told of something over quota: it says when to come again, or that it never will pass.
pub(super) fn over_quota(exceeded: &QuotaExceeded) -> Status {
    let Told(code, reason, text) = Told::from(exceeded);
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    if exceeded.retry_after.is_some() {
        details.set_retry_info(Some(Duration::from_millis(retry_after_ms(exceeded))));
    }
    Status::with_error_details(code, text, details)
}

/// The same of one message among others.
pub(super) fn over_quota_in_stream(exceeded: &QuotaExceeded, message_id: String) -> v1::PublishResult {
    let Told(code, reason, text) = Told::from(exceeded);
    result(publish_result::Outcome::Refusal(v1::Refusal {
        message_id,
        code: code.into(),
        reason: reason.to_owned(),
        message: text.to_owned(),
        retry_after_ms: retry_after_ms(exceeded),
        ..v1::Refusal::default()
    }))
}

/// Rounded up, since a moment too early is in vain; 0 where there is no such moment.
fn retry_after_ms(exceeded: &QuotaExceeded) -> u64 {
    let ms = |wait: Duration| u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1);
    exceeded.retry_after.map_or(0, ms)
}

impl From<&QuotaExceeded> for Told {
    fn from(exceeded: &QuotaExceeded) -> Self {
        match exceeded.retry_after {
            Some(_) => Self(Code::ResourceExhausted, "QUOTA_EXCEEDED", "over this agent's quota: try again later"),
            None => Self(
                Code::FailedPrecondition,
                "MESSAGE_EXCEEDS_QUOTA",
                "the message is larger than this agent's quota ever lets pass",
            ),
        }
    }
}

impl Told {
    fn status(&self, decision: Option<(&DecisionId, &str)>) -> Status {
        let mut metadata = HashMap::new();
        if let Some((decision_id, message_id)) = decision {
            metadata.insert("decision_id".to_owned(), decision_id.to_string());
            metadata.insert("audit_index".to_owned(), decision_id.audit_index().to_string());
            if !message_id.is_empty() {
                metadata.insert("message_id".to_owned(), message_id.to_owned());
            }
        }
        Status::with_error_details(self.0, self.2, ErrorDetails::with_error_info(self.1, DOMAIN, metadata))
    }

    pub(super) fn state_refusal(&self) -> v1::StateRefusal {
        v1::StateRefusal {
            code: self.0.into(),
            reason: self.1.to_owned(),
            message: self.2.to_owned(),
            ..v1::StateRefusal::default()
        }
    }

    pub(super) fn refusal(&self, message_id: String) -> v1::PublishResult {
        result(publish_result::Outcome::Refusal(v1::Refusal {
            message_id,
            code: self.0.into(),
            reason: self.1.to_owned(),
            message: self.2.to_owned(),
            ..v1::Refusal::default()
        }))
    }
}

impl From<RefusalReason> for Told {
    fn from(reason: RefusalReason) -> Self {
        let (code, text) = match reason {
            RefusalReason::MissingPermission => (Code::PermissionDenied, "the token does not permit this"),
            RefusalReason::PolicyDenied => (Code::PermissionDenied, "denied by policy"),
            RefusalReason::DecisionFailed => (Code::PermissionDenied, "no decision could be made, so the answer is no"),
            RefusalReason::MalformedMessage => (Code::InvalidArgument, "the message is not well-formed"),
            RefusalReason::TokenExpired | RefusalReason::TokenRevoked => (Code::Unauthenticated, "unauthenticated"),
            RefusalReason::RevocationLimit => (Code::ResourceExhausted, "as many revocations are in force as are kept"),
            RefusalReason::NoSuchRevocation => (Code::NotFound, "no such revocation is in force"),
            RefusalReason::RevocationOver => (Code::InvalidArgument, "the revocation would be over at once"),
            RefusalReason::MissingDecryptClaim => (Code::PermissionDenied, "the token may not see this scope in clear"),
            RefusalReason::Quarantined => (Code::PermissionDenied, "withheld for review, and not written"),
            RefusalReason::AnswerTooLarge => {
                (Code::ResourceExhausted, "the answers to one request are too much together: ask for fewer")
            }
            RefusalReason::RevisionConflict => (Code::Aborted, "another revision stands there"),
            RefusalReason::ScopeLimit => (Code::ResourceExhausted, "as many scopes have keys as are kept"),
            RefusalReason::NoSuchKey => (Code::NotFound, "there is no such key, or it was shredded"),
            RefusalReason::RootKeyFixed => (Code::FailedPrecondition, "the root key is not the broker's to change"),
            RefusalReason::RootKeyFailed => {
                (Code::Internal, "the next root key could not be made ready: nothing changed")
            }
            RefusalReason::BackupRunning => (Code::FailedPrecondition, "another backup is under way"),
            RefusalReason::MessageIdReused => (Code::AlreadyExists, "the message id belongs to another message"),
            RefusalReason::MessageTooLarge => (Code::ResourceExhausted, "larger than the broker takes"),
        };
        Self(code, reason.as_str(), text)
    }
}

impl From<WhyNot> for Told {
    fn from(why: WhyNot) -> Self {
        match why {
            WhyNot::NotFound => Self(Code::NotFound, "NOT_FOUND", "there is no such value"),
            WhyNot::Shredded => Self(Code::DataLoss, "SHREDDED", "the key of this value was destroyed"),
            WhyNot::Replaced => {
                Self(Code::Aborted, "REPLACED", "the value was replaced while it was being read: read again")
            }
            WhyNot::Damaged => Self(Code::DataLoss, "DAMAGED", "what is stored cannot be opened"),
            WhyNot::TooMuch => RefusalReason::AnswerTooLarge.into(),
            WhyNot::Refused(reason, _) => reason.into(),
        }
    }
}

impl From<RecordError> for Told {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Failed => Self(
                Code::Unavailable,
                "RECORD_FAILED",
                "the audit log could not be written: nothing was delivered; retry with the same message id",
            ),
            RecordError::DiskFloor => Self(
                Code::ResourceExhausted,
                "DISK_FLOOR",
                "the broker has too little disk left to take messages or values",
            ),
            RecordError::DiskCritical => Self(
                Code::ResourceExhausted,
                "DISK_FLOOR",
                "the broker's disk is full: this cannot be recorded, and what is not recorded is not done, nor read",
            ),
        }
    }
}

/// The answer to an operation on shared state that was not done, or found nothing.
pub(super) fn state_refusal(decision_id: &DecisionId, why: WhyNot) -> v1::StateRefusal {
    let Told(code, reason, text) = why.into();
    let current = match why {
        WhyNot::Refused(_, current) => current.map_or(0, |revision| revision.0),
        _ => 0,
    };
    v1::StateRefusal {
        code: code.into(),
        reason: reason.to_owned(),
        message: text.to_owned(),
        decision_id: decision_id.to_string(),
        audit_index: decision_id.audit_index(),
        current_revision: current,
        retry_after_ms: 0,
    }
}

/// The same for one over quota.
pub(super) fn state_over_quota(exceeded: &QuotaExceeded) -> v1::StateRefusal {
    let retry_after_ms = retry_after_ms(exceeded);
    v1::StateRefusal { retry_after_ms, ..Told::from(exceeded).state_refusal() }
}

/// The status of a unary call that was refused like this.
pub(super) fn state_status(refusal: v1::StateRefusal) -> Status {
    let mut metadata = HashMap::new();
    if !refusal.decision_id.is_empty() {
        metadata.insert("decision_id".to_owned(), refusal.decision_id);
        metadata.insert("audit_index".to_owned(), refusal.audit_index.to_string());
    }
    if refusal.reason == RefusalReason::RevisionConflict.as_str() {
        metadata.insert("current_revision".to_owned(), refusal.current_revision.to_string());
    }
    let details = ErrorDetails::with_error_info(refusal.reason, DOMAIN, metadata);
    Status::with_error_details(Code::from(refusal.code), refusal.message, details)
}

/// How a watch's end is told.
pub(super) fn watch_status(end: WatchEnd) -> Status {
    match end {
        WatchEnd::Token(_) => unauthenticated(),
        WatchEnd::Refused { decision_id, reason } => Told::from(reason).status(Some((&decision_id, ""))),
        WatchEnd::Record(error) => record_status(error),
        WatchEnd::TooOld(_) => {
            let text = "what was deleted since that revision is no longer known: begin anew";
            Told(Code::OutOfRange, "REVISION_TOO_OLD", text).status(None)
        }
        WatchEnd::NotThereYet(_) => {
            let text = "there is no such revision yet: this is not the log that it came from";
            Told(Code::OutOfRange, "REVISION_UNKNOWN", text).status(None)
        }
        WatchEnd::Unreadable => Told::from(WhyNot::Damaged).status(None),
        WatchEnd::Ended => draining(),
    }
}

/// How a watch ends whose client gives fresh tokens and reads nothing.
pub(super) fn answers_unread() -> Status {
    let text = "too many answers to fresh tokens wait unread: watch again from the last revision";
    Told(Code::ResourceExhausted, "SLOW_SUBSCRIBER", text).status(None)
}

pub(super) fn record_status(error: RecordError) -> Status {
    Told::from(error).status(None)
}

pub(super) fn submit_status(error: &SubmitError) -> Status {
    match error {
        SubmitError::Token(_) => unauthenticated(),
        SubmitError::Record(error) => record_status(*error),
    }
}

pub(super) fn read_status(refusal: &ReadRefusal) -> Status {
    match refusal {
        ReadRefusal::Token(_) => unauthenticated(),
        ReadRefusal::Denied { decision_id, reason } => Told::from(*reason).status(Some((decision_id, ""))),
        ReadRefusal::Record(error) => record_status(*error),
    }
}

/// How a call on keys is told that it was refused, or not done to its end.
pub(super) fn keys_status(refusal: &KeyRefusal) -> Status {
    match refusal {
        KeyRefusal::Refused(refusal) => read_status(refusal),
        KeyRefusal::OldRootLeft(decision_id) => {
            let text = "the keys are under the new root key, but the old one is not destroyed: start the broker anew";
            Told(Code::Internal, "OLD_ROOT_KEY_LEFT", text).status(Some((decision_id, "")))
        }
    }
}

/// How a subscription's end is told; `None` where the client ended it.
pub(super) fn inbox_status(InboxError { reason, undelivered }: InboxError) -> Option<Status> {
    match reason {
        EndReason::ClientGone => None,
        EndReason::SlowSubscriber => Some(slow_subscriber(undelivered)),
        EndReason::TokenExpired | EndReason::Revoked | EndReason::KeyWithdrawn => Some(unauthenticated()),
        EndReason::NotPermitted => Some(Told::from(RefusalReason::MissingPermission).status(None)),
        EndReason::Disconnected => Some(ended(&SessionEnd::Disconnected)),
        EndReason::Draining => Some(draining()),
    }
}

fn slow_subscriber(undelivered: u64) -> Status {
    let metadata = HashMap::from([("undelivered".to_owned(), undelivered.to_string())]);
    let details = ErrorDetails::with_error_info("SLOW_SUBSCRIBER", DOMAIN, metadata);
    Status::with_error_details(Code::ResourceExhausted, "the subscriber does not keep up", details)
}

/// Why a backup is not completed.
pub(super) fn copy_status(error: &CopyError) -> Status {
    let told = match error {
        CopyError::Read(error) => return log_status(error),
        CopyError::Journal(JournalFault::Full) => Told(
            Code::ResourceExhausted,
            "BACKUP_OVERTAKEN",
            "more was written than the backup took in: take it faster, or when there is less to do",
        ),
        CopyError::Journal(JournalFault::WriteFailed) => {
            Told(Code::Unavailable, "BACKUP_INTERRUPTED", "a write to the log failed meanwhile: begin anew")
        }
    };
    told.status(None)
}

/// The receiver of a backup takes nothing in.
pub(super) fn backup_stalled() -> Status {
    Told(Code::ResourceExhausted, "BACKUP_STALLED", "the backup is not taken in").status(None)
}

pub(super) fn log_status(error: &ReadError) -> Status {
    tracing::error!(%error, "the audit log could not be read");
    Told(Code::DataLoss, "LOG_DAMAGED", "the audit log could not be read").status(None)
}

/// An argument that does not parse; what is wrong with it is said in our own words.
pub(super) fn argument(error: impl std::error::Error) -> Status {
    Status::with_error_details(
        Code::InvalidArgument,
        error.to_string(),
        ErrorDetails::with_error_info("INVALID_ARGUMENT", DOMAIN, HashMap::new()),
    )
}

/// The answer to one publish that was alone in its call.
pub(super) fn unary(outcome: Outcome) -> Result<v1::PublishResponse, Status> {
    match outcome {
        Outcome::Accepted(one) => Ok(v1::PublishResponse { receipt: Some(receipt(one, v1::Decision::Allow)) }),
        Outcome::Quarantined(one) => Ok(v1::PublishResponse { receipt: Some(receipt(one, v1::Decision::Quarantine)) }),
        Outcome::Refused(refused) => {
            Err(Told::from(refused.reason).status(Some((&refused.decision_id, &refused.message_id))))
        }
    }
}

/// The answer to one publish among others.
pub(super) fn streamed(outcome: Outcome) -> v1::PublishResult {
    result(match outcome {
        Outcome::Accepted(one) => publish_result::Outcome::Receipt(receipt(one, v1::Decision::Allow)),
        Outcome::Quarantined(one) => publish_result::Outcome::Receipt(receipt(one, v1::Decision::Quarantine)),
        Outcome::Refused(refused) => publish_result::Outcome::Refusal(refusal(refused)),
    })
}

const fn result(outcome: publish_result::Outcome) -> v1::PublishResult {
    v1::PublishResult { outcome: Some(outcome) }
}

fn receipt(receipt: Receipt, decision: v1::Decision) -> v1::Receipt {
    v1::Receipt {
        message_id: receipt.message_id.as_str().to_owned(),
        decision: decision.into(),
        decision_id: receipt.decision_id.to_string(),
        audit_index: receipt.decision_id.audit_index(),
        content_salt: receipt.salt.map(Vec::from).unwrap_or_default(),
        retained: false,
        duplicate: receipt.duplicate,
        recipients: receipt.recipients,
    }
}

fn refusal(refused: RefusedReceipt) -> v1::Refusal {
    let Told(code, reason, text) = refused.reason.into();
    v1::Refusal {
        message_id: refused.message_id,
        code: code.into(),
        reason: reason.to_owned(),
        message: text.to_owned(),
        decision_id: refused.decision_id.to_string(),
        audit_index: refused.decision_id.audit_index(),
        duplicate: refused.duplicate,
        retry_after_ms: 0,
    }
}
