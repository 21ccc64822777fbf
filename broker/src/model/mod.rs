//! The words of the domain: parsed, bounded values without behaviour towards the outside.
//!
//! In scope: identifiers, topics, messages, findings, time. Out of scope: any I/O, the wire format, who may do what.

mod finding;
mod ids;
mod message;
mod quota;
mod receipt;
mod state;
mod time;
mod topic;

pub use finding::{Finding, FindingKind, Severity};
pub use ids::{
    AgentId, ContentType, DecisionId, Destination, IdError, Issuer, MessageId, MessageType, NodeName, RoleName,
    SubscriptionId, TokenId,
};
pub use message::{ATTRIBUTES_MAX, Message, SubjectRecording, TEXT_BYTES_MAX};
pub use quota::{Ceiling, QUEUES_SHARE, QuotaOverrides, QuotaTerms, RECEIVE_SHARE};
pub use receipt::{Outcome, Receipt, RefusalReason, RefusedReceipt};
pub use state::{Epoch, HISTORY_MAX, Revision, Scope, StateKey, StateKeyError, StatePrefix, Write};
pub use time::{Clock, StepWatch, UnixMicros, UnixSeconds};
pub use topic::{Topic, TopicError, TopicPattern};
