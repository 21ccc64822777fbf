//! A message on its way through the broker.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{ContentType, Destination, MessageId, MessageType, Topic, UnixMicros};

/// How many attributes a message may carry.
pub const ATTRIBUTES_MAX: usize = 32;
/// The longest free text (`subject`, `correlation_id`, an attribute's key or value), in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// How the log says what a message is about (its `subject` and `correlation_id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectRecording {
    /// As an HMAC under the node's key: it can be searched for by who knows the text, and not be read.
    Hashed,
    /// In clear, to whoever may read the log.
    Clear,
    /// Not at all.
    Off,
}

/// A well-formed message: every name is parsed and every text bounded. Nothing is said yet about who sent it, what
/// is in it or where it may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Chosen by the sender, or made by the broker where the sender chose none.
    pub id: MessageId,
    /// Where it goes.
    pub topic: Topic,
    /// The declared type.
    pub kind: MessageType,
    /// What it is about, free text.
    pub subject: String,
    /// The sender's time.
    pub time: Option<UnixMicros>,
    /// The media type of `data`.
    pub content_type: ContentType,
    /// The payload.
    pub data: Bytes,
    /// For whom it is meant; nobody in particular if absent.
    pub destination: Option<Destination>,
    /// Where an answer is expected.
    pub reply_to: Option<Topic>,
    /// Ties an answer to a question, free text.
    pub correlation_id: String,
    /// Further texts, at most [`ATTRIBUTES_MAX`].
    pub attributes: BTreeMap<String, String>,
}

impl Message {
    /// The size that limits and policies speak of, in bytes: payload and free texts.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.data.len() + self.subject.len() + self.correlation_id.len() + attributes
    }
}
