//! What can go wrong, as values that a program can act on.

use std::{fmt, path::PathBuf, time::Duration};

use thiserror::Error as ThisError;
use tonic::Code;
use veribus_proto::v1;

use crate::TokenError;

/// The broker's word for a [`Error::Conflict`].
pub(crate) const REVISION_CONFLICT: &str = "REVISION_CONFLICT";

/// Why something did not happen, or why nobody can say whether it did.
#[derive(Debug, Clone, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The address is not of the form `https://host:port`. Plain http is never spoken.
    #[error("`{url}` is no broker address: {fault}")]
    InvalidUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A setting is missing or cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// The token file cannot be read, or holds no token.
    #[error("no token in `{path}`: {fault}")]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        fault: String,
    },
    /// There is no token to show, and the broker does not take the old one, if there was one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No connection to the broker could be made. Nothing was sent.
    #[error("cannot reach `{address}`: {fault}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system said.
        fault: String,
    },
    /// The broker could not prove who it is, or speaks no TLS 1.3 with HTTP/2. Nothing was sent.
    #[error("no secure connection to `{address}`: {fault}")]
    Tls {
        /// Host and port.
        address: String,
        /// What is wrong.
        fault: String,
    },
    /// The broker does not accept the token, even after it was read again.
    #[error("the broker does not accept the token")]
    Unauthenticated,
    /// The broker said no, and that is final.
    #[error("refused: {0}")]
    Refused(Box<Refusal>),
    /// The connection was lost and did not come back in time.
    #[error("connection lost: {fault}")]
    ConnectionLost {
        /// What the transport said.
        fault: String,
    },
    /// The message was on its way and no answer came: it may have been recorded and delivered, or not. Publishing it
    /// again with the same id is safe within the broker's window.
    #[error("the outcome of message `{message_id}` is unknown: {cause}")]
    OutcomeUnknown {
        /// Which message.
        message_id: String,
        /// Why there is no answer.
        cause: Box<Error>,
    },
    /// Another revision stands there than the one that was expected. Nothing was written or deleted.
    #[error("`{key}` has {}", standing(*.current_revision))]
    Conflict {
        /// The key.
        key: String,
        /// What stands there; `None` where there is no value.
        current_revision: Option<u64>,
    },
    /// The key that the value was encrypted with has been destroyed, and the value with it.
    #[error("the value of `{key}` was shredded")]
    Shredded {
        /// The key.
        key: String,
    },
    /// A write or a deletion was on its way and no answer came: it may have happened, or not. Read to find out.
    #[error("whether `{key}` was changed is unknown: {cause}")]
    ChangeUnknown {
        /// The key.
        key: String,
        /// Why there is no answer.
        cause: Box<Error>,
    },
    /// A value is no JSON of the expected shape, or what was to be written cannot be put as JSON. Nothing was sent.
    #[error("the value of `{key}` is not the JSON expected: {fault}")]
    Json {
        /// The key.
        key: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The message or value is larger than what the broker would decode. Nothing was sent.
    #[error("{bytes} bytes on the wire are more than {bytes_max}")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The limit that the client was built with.
        bytes_max: usize,
    },
    /// The broker broke its word about a delivery. The subscription ends with this.
    #[error("inconsistent delivery at audit index {audit_index}: {fault}")]
    InconsistentDelivery {
        /// As the delivery gave it.
        audit_index: u64,
        /// What does not fit.
        fault: DeliveryFault,
    },
    /// The broker answered something that the protocol does not allow.
    #[error("the broker broke the protocol: {0}")]
    Protocol(&'static str),
    /// The data is not UTF-8.
    #[error("the data of the message is not text")]
    NotText,
    /// The publisher is closed. Nothing was sent.
    #[error("closed")]
    Closed,
}

impl Error {
    /// The gRPC code, where the error has one; for an unknown outcome, that of its cause.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Unauthenticated => Some(Code::Unauthenticated),
            Self::Unreachable { .. } | Self::Tls { .. } | Self::ConnectionLost { .. } => Some(Code::Unavailable),
            Self::OutcomeUnknown { cause, .. } | Self::ChangeUnknown { cause, .. } => cause.code(),
            Self::Conflict { .. } => Some(Code::Aborted),
            Self::Shredded { .. } => Some(Code::DataLoss),
            Self::InvalidUrl { .. }
            | Self::Configuration(_)
            | Self::TokenFile { .. }
            | Self::Token(_)
            | Self::TooLarge { .. }
            | Self::Json { .. }
            | Self::InconsistentDelivery { .. }
            | Self::Protocol(_)
            | Self::NotText
            | Self::Closed => None,
        }
    }

    /// The broker's stable word, for example `POLICY_DENIED`, where it gave one; for an unknown outcome, that of its
    /// cause.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(refusal.reason.as_str()).filter(|reason| !reason.is_empty()),
            Self::Unauthenticated => Some("UNAUTHENTICATED"),
            Self::OutcomeUnknown { cause, .. } | Self::ChangeUnknown { cause, .. } => cause.reason(),
            Self::Conflict { .. } => Some(REVISION_CONFLICT),
            _ => None,
        }
    }

    /// Not before this has passed does it make sense to try again, where the broker said so; for an unknown outcome, as
    /// its cause said.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::OutcomeUnknown { cause, .. } | Self::ChangeUnknown { cause, .. } => cause.retry_after(),
            _ => None,
        }
    }

    /// Says that a message may or may not have been recorded.
    pub(crate) fn outcome_unknown(message_id: String, cause: Self) -> Self {
        Self::OutcomeUnknown { message_id, cause: Box::new(cause) }
    }

    /// Says that a value may or may not have been changed.
    pub(crate) fn change_unknown(key: &str, cause: Self) -> Self {
        Self::ChangeUnknown { key: key.to_owned(), cause: Box::new(cause) }
    }
}

fn standing(current_revision: Option<u64>) -> String {
    current_revision.map_or_else(|| "no value".to_owned(), |revision| format!("the revision {revision}"))
}

/// What the broker said when it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// A stable word, for example `POLICY_DENIED`; empty where the broker gave none.
    pub reason: String,
    /// One short sentence. Details are in the audit log.
    pub message: String,
    /// Set where the refusal is a recorded decision.
    pub decision_id: Option<String>,
    /// Where that decision is recorded.
    pub audit_index: Option<u64>,
    /// Which message; empty where the refusal is not about one.
    pub message_id: String,
    /// This message id was refused before; this is the refusal of that first time.
    pub duplicate: bool,
    /// Not before this has passed does it make sense to try again; `None` where the broker says no such thing. Whoever is
    /// over its quota is told so (`QUOTA_EXCEEDED`).
    pub retry_after: Option<Duration>,
    /// Of a subscription that was cut off as too slow (`SLOW_SUBSCRIBER`): how many messages named it in their audience and
    /// were not delivered, as far as they had been recorded then. What was published after that is not among them.
    pub undelivered: Option<u64>,
}

impl From<v1::Refusal> for Refusal {
    fn from(wire: v1::Refusal) -> Self {
        let recorded = !wire.decision_id.is_empty();
        Self {
            code: Code::from_i32(wire.code),
            reason: wire.reason,
            message: wire.message,
            audit_index: recorded.then_some(wire.audit_index),
            decision_id: recorded.then_some(wire.decision_id),
            message_id: wire.message_id,
            duplicate: wire.duplicate,
            undelivered: None,
            retry_after: (wire.retry_after_ms > 0).then(|| Duration::from_millis(wire.retry_after_ms)),
        }
    }
}

impl From<v1::StateRefusal> for Refusal {
    fn from(wire: v1::StateRefusal) -> Self {
        v1::Refusal {
            code: wire.code,
            reason: wire.reason,
            message: wire.message,
            decision_id: wire.decision_id,
            audit_index: wire.audit_index,
            retry_after_ms: wire.retry_after_ms,
            ..v1::Refusal::default()
        }
        .into()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.reason.is_empty() { self.code.description() } else { &self.reason };
        write!(f, "{word}")?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(undelivered) = self.undelivered {
            write!(f, " (messages not delivered: {undelivered})")?;
        }
        match &self.decision_id {
            Some(decision_id) => write!(f, " (decision `{decision_id}`)"),
            None => Ok(()),
        }
    }
}

/// What does not fit in a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum DeliveryFault {
    /// There is no message in it.
    #[error("it carries no message")]
    NoMessage,
    /// The broker does not say who sent it.
    #[error("it names no verified sender")]
    NoSender,
    /// The decision id does not name the audit index.
    #[error("its decision id does not name its audit index")]
    DecisionId,
    /// The salt is not 32 bytes.
    #[error("its content salt is not 32 bytes")]
    Salt,
    /// It comes after one with the same or a higher index.
    #[error("its audit index does not come after that of the delivery before it")]
    Order,
    /// It carries the credentials of somebody: a broker that forwards those is not to be trusted.
    #[error("it carries credentials")]
    Credentials,
    /// No subscribed pattern matches its topic.
    #[error("its topic was not subscribed to")]
    Topic,
}
