//! What the broker answers about a recorded message.

use super::{DecisionId, MessageId};

/// What became of a message, once that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Handed to its audience.
    Accepted(Receipt),
    /// Withheld.
    Quarantined(Receipt),
    /// Gone nowhere.
    Refused(RefusedReceipt),
}

/// The sender's proof that the decision on its message is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Which message.
    pub message_id: MessageId,
    /// Which decision.
    pub decision_id: DecisionId,
    /// With the data it gives the content digest in the log; `None` where it is no longer known.
    pub salt: Option<[u8; 32]>,
    /// This is the receipt of an earlier publish with the same id.
    pub duplicate: bool,
    /// How many subscriptions are the message's audience; `None` where it is no longer known.
    pub recipients: Option<u32>,
}

/// The record of a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedReceipt {
    /// Which message, in the words of the sender where they were no valid id.
    pub message_id: String,
    /// Which decision.
    pub decision_id: DecisionId,
    /// What the client may know.
    pub reason: RefusalReason,
    /// This is the refusal of an earlier publish with the same id.
    pub duplicate: bool,
}

/// The stable words that a client is told. Details are in the audit log only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The token's permissions do not cover the action.
    MissingPermission,
    /// The policy did not allow it.
    PolicyDenied,
    /// Something on the way failed, so the answer is no.
    DecisionFailed,
    /// The message is not well-formed.
    MalformedMessage,
    /// The token ran out while the message was on its way.
    TokenExpired,
    /// The token was revoked while the message was on its way.
    TokenRevoked,
    /// As many revocations are in force as the broker keeps.
    RevocationLimit,
    /// No revocation of that name is in force.
    NoSuchRevocation,
    /// The revocation would be over at once.
    RevocationOver,
    /// The token may not see values of this scope in clear.
    MissingDecryptClaim,
    /// The value was withheld, and not written.
    Quarantined,
    /// The values that one request asks for are too much together.
    AnswerTooLarge,
    /// What stands under the key is not what the writer expected.
    RevisionConflict,
    /// As many scopes have keys as the broker keeps.
    ScopeLimit,
    /// There is no such key, or it was shredded already.
    NoSuchKey,
    /// The root key is not the broker's to change.
    RootKeyFixed,
    /// The next root key could not be prepared.
    RootKeyFailed,
    /// Another backup is under way.
    BackupRunning,
    /// The message id belongs to another message of the same sender.
    MessageIdReused,
    /// The message or value is larger than the broker takes.
    MessageTooLarge,
}

impl RefusalReason {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingPermission => "MISSING_PERMISSION",
            Self::PolicyDenied => "POLICY_DENIED",
            Self::DecisionFailed => "DECISION_FAILED",
            Self::MalformedMessage => "MALFORMED_MESSAGE",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::TokenRevoked => "TOKEN_REVOKED",
            Self::RevocationLimit => "REVOCATION_LIMIT",
            Self::NoSuchRevocation => "NO_SUCH_REVOCATION",
            Self::RevocationOver => "REVOCATION_OVER",
            Self::MissingDecryptClaim => "MISSING_DECRYPT_CLAIM",
            Self::Quarantined => "QUARANTINED",
            Self::AnswerTooLarge => "ANSWER_TOO_LARGE",
            Self::RevisionConflict => "REVISION_CONFLICT",
            Self::ScopeLimit => "SCOPE_LIMIT",
            Self::NoSuchKey => "NO_SUCH_KEY",
            Self::RootKeyFixed => "ROOT_KEY_FIXED",
            Self::RootKeyFailed => "ROOT_KEY_FAILED",
            Self::BackupRunning => "BACKUP_RUNNING",
            Self::MessageIdReused => "MESSAGE_ID_REUSED",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
        }
    }

    /// Reads the stable word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::MissingPermission,
            Self::PolicyDenied,
            Self::DecisionFailed,
            Self::MalformedMessage,
            Self::TokenExpired,
            Self::TokenRevoked,
            Self::RevocationLimit,
            Self::NoSuchRevocation,
            Self::RevocationOver,
            Self::MissingDecryptClaim,
            Self::Quarantined,
            Self::AnswerTooLarge,
            Self::RevisionConflict,
            Self::ScopeLimit,
            Self::NoSuchKey,
            Self::RootKeyFixed,
            Self::RootKeyFailed,
            Self::BackupRunning,
            Self::MessageIdReused,
            Self::MessageTooLarge,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == word)
    }
}
