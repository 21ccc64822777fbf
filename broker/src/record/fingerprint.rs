//! By what a message is recognised in its entry: a fingerprint that tells a retry from another message under the same id,
//! and its subject and correlation id, as the settings say they may stand there.

use veribus_proto::{
    content::{ContentHash, MessageContent},
    v1::MessageFacts,
};

use super::draft::cut;
use crate::{
    authenticate::Identity,
    model::{Destination, Message, MessageId, SubjectRecording, Topic},
    seal::{Fingerprint, NodeKey},
};

/// The longest subject or correlation id that an entry holds in clear, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Makes and compares what messages are recognised by.
#[derive(Debug, Clone)]
pub struct Fingerprints {
    key: NodeKey,
    subjects: SubjectRecording,
}

impl Fingerprints {
    /// Under the node's key; `subjects` says how subjects and correlation ids are recorded.
    #[must_use]
    pub const fn new(key: NodeKey, subjects: SubjectRecording) -> Self {
        Self { key, subjects }
    }

    pub(super) fn of_message(&self, sender: &Identity, id: &MessageId, content: &ContentHash) -> Fingerprint {
        self.key.message([sender.issuer().as_str(), sender.agent().as_str(), id.as_str()], content)
    }

    /// Puts what a message is about, and what it answers, into the facts of its entry.
    pub(super) fn record_subject(&self, message: &Message, facts: &mut MessageFacts) {
        let (subject, correlation_id) = (&message.subject, &message.correlation_id);
        match self.subjects {
            SubjectRecording::Off => {}
            SubjectRecording::Clear => {
                facts.subject = cut(subject, TEXT_BYTES_MAX);
                facts.correlation_id = cut(correlation_id, TEXT_BYTES_MAX);
                // What is cut short is recognised by its HMAC.
                if facts.subject.len() < subject.len() {
                    facts.subject_hmac = self.key.subject(subject).to_vec();
                }
                if facts.correlation_id.len() < correlation_id.len() {
                    facts.correlation_id_hmac = self.key.correlation_id(correlation_id).to_vec();
                }
            }
            SubjectRecording::Hashed => {
                let hashed = |text: &str, hash: &dyn Fn(&str) -> Fingerprint| match text {
                    "" => Vec::new(),
                    text => hash(text).to_vec(),
                };
                facts.subject_hmac = hashed(subject, &|text| self.key.subject(text));
                facts.correlation_id_hmac = hashed(correlation_id, &|text| self.key.correlation_id(text));
            }
        }
    }

    /// What recognises a subject in entries, however they were recorded.
    #[must_use]
    pub fn subject(&self, text: &str) -> RecordedText {
        RecordedText { clear: text.to_owned(), hmac: self.key.subject(text) }
    }

    /// The same for a correlation id.
    #[must_use]
    pub fn correlation_id(&self, text: &str) -> RecordedText {
        RecordedText { clear: text.to_owned(), hmac: self.key.correlation_id(text) }
    }
}

/// A text as entries may hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedText {
    clear: String,
    hmac: Fingerprint,
}

impl RecordedText {
    /// Whether an entry that holds this in clear, or this HMAC, is about the text.
    #[must_use]
    pub fn is(&self, clear: &str, hmac: &[u8]) -> bool {
        if hmac.is_empty() { !clear.is_empty() && clear == self.clear } else { hmac == self.hmac }
    }
}

/// All that a subscriber gets of the message.
pub(super) fn content_hash(message: &Message) -> ContentHash {
    let destination = message.destination.as_ref().map(Destination::text).unwrap_or_default();
    MessageContent {
        id: message.id.as_str(),
        topic: message.topic.as_str(),
        kind: message.kind.as_str(),
        subject: &message.subject,
        time_unix_us: message.time.map(|time| time.0),
        datacontenttype: message.content_type.as_str(),
        destination: &destination,
        reply_to: message.reply_to.as_ref().map_or("", Topic::as_str),
        correlation_id: &message.correlation_id,
        attributes: message.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        data: &message.data,
    }
    .hash()
}
