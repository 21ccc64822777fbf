//! What a digest in an audit entry binds: all that a receiver gets of a message, or a reader of a value, in one canonical
//! form. `proto/docs/content-digest.md` says it for other implementations, with vectors.
//!
//! `content hash = SHA-256(parts(…))`, each part behind its length in four bytes, big-endian;
//! `content digest = SHA-256(salt ‖ content hash)`. The salt keeps the log from betraying content that can be guessed.

use sha2::{Digest as _, Sha256};

use crate::v1;

/// Length of a content salt in bytes.
pub const SALT_BYTES: usize = 32;

/// The hash of a content, before the salt.
pub type ContentHash = [u8; 32];

/// All that a subscriber gets of a message, in the spelling in which it is delivered.
#[derive(Debug, Clone, Default)]
pub struct MessageContent<'a> {
    /// The message's id; never empty in a delivery.
    pub id: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// The declared type.
    pub kind: &'a str,
    /// CloudEvents `subject`.
    pub subject: &'a str,
    /// The sender's time, in microseconds since the Unix epoch, rounded down.
    pub time_unix_us: Option<i64>,
    /// Media type of `data`; never empty in a delivery.
    pub datacontenttype: &'a str,
    /// An agent id or `role:NAME`; empty: nobody in particular.
    pub destination: &'a str,
    /// The topic for an answer, or empty.
    pub reply_to: &'a str,
    /// Free text.
    pub correlation_id: &'a str,
    /// In any order.
    pub attributes: Vec<(&'a str, &'a str)>,
    /// The payload.
    pub data: &'a [u8],
}

impl MessageContent<'_> {
    /// The content hash: attributes count in the order of their keys (by bytes).
    #[must_use]
    pub fn hash(mut self) -> ContentHash {
        self.attributes.sort_unstable();
        let time = self.time_unix_us.map(i64::to_be_bytes);
        let count = (self.attributes.len() as u64).to_be_bytes();
        let mut parts = Parts::new("veribus/1/message");
        for text in [self.id, self.topic, self.kind, self.subject] {
            parts.push(text.as_bytes());
        }
        parts.push(time.as_ref().map_or(&[], |time| time));
        for text in [self.datacontenttype, self.destination, self.reply_to, self.correlation_id] {
            parts.push(text.as_bytes());
        }
        parts.push(&count);
        for (key, value) in &self.attributes {
            parts.push(key.as_bytes());
            parts.push(value.as_bytes());
        }
        parts.push(self.data);
        parts.hash()
    }
}

impl<'a> From<&'a v1::Message> for MessageContent<'a> {
    /// As a receiver has it. A sender has to fill in first what the broker fills in: `id` and `datacontenttype`.
    fn from(message: &'a v1::Message) -> Self {
        let micros = |time: &prost_types::Timestamp| {
            time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos).div_euclid(1_000))
        };
        Self {
            id: &message.id,
            topic: &message.topic,
            kind: &message.r#type,
            subject: &message.subject,
            time_unix_us: message.time.as_ref().map(micros),
            datacontenttype: &message.datacontenttype,
            destination: &message.destination,
            reply_to: &message.reply_to,
            correlation_id: &message.correlation_id,
            attributes: message.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            data: &message.data,
        }
    }
}

/// The content hash of a value of shared state: of its key (`scope/name`), its media type as it is read, and its bytes.
#[must_use]
pub fn value_hash(key: &str, content_type: &str, value: &[u8]) -> ContentHash {
    let mut parts = Parts::new("veribus/1/value");
    for part in [key.as_bytes(), content_type.as_bytes(), value] {
        parts.push(part);
    }
    parts.hash()
}

/// `SHA-256(salt ‖ content hash)`: 32 bytes, as in the audit entry's `message.content_digest`.
#[must_use]
pub fn digest(salt: &[u8; SALT_BYTES], content: &ContentHash) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(content).finalize().into()
}

/// Parts, each behind its length, so that no two lists of parts look alike.
struct Parts(Sha256);

impl Parts {
    fn new(label: &str) -> Self {
        let mut parts = Self(Sha256::new());
        parts.push(label.as_bytes());
        parts
    }

    /// No part is longer than a gRPC message can be, which is less than 4 GiB.
    fn push(&mut self, part: &[u8]) {
        self.0.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.update(part);
    }

    fn hash(self) -> ContentHash {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn message() -> v1::Message {
        v1::Message {
            id: "m-1".to_owned(),
            topic: "a.b".to_owned(),
            r#type: "note".to_owned(),
            subject: "ticket 7".to_owned(),
            time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 1_999 }),
            datacontenttype: "text/plain".to_owned(),
            data: bytes::Bytes::from_static(b"data"),
            destination: "role:reader".to_owned(),
            reply_to: "a.c".to_owned(),
            correlation_id: "case".to_owned(),
            attributes: [("verdict".to_owned(), "approved".to_owned()), ("b".to_owned(), "c".to_owned())].into(),
            credentials: None,
        }
    }

    fn hash(change: impl FnOnce(&mut v1::Message)) -> ContentHash {
        let mut changed = message();
        change(&mut changed);
        MessageContent::from(&changed).hash()
    }

    #[test]
    fn whatever_a_subscriber_gets_changes_the_hash() {
        let changes: [fn(&mut v1::Message); 16] = [
            |_| {},
            |m| m.id.push('x'),
            |m| m.topic.push('x'),
            |m| m.r#type.push('x'),
            |m| m.subject.push('x'),
            |m| m.time = None,
            |m| m.time = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 2_000 }),
            |m| m.datacontenttype.push('x'),
            |m| m.data = bytes::Bytes::from_static(b"datb"),
            |m| m.destination.clear(),
            |m| m.reply_to.push('x'),
            |m| m.correlation_id.push('x'),
            |m| drop(m.attributes.insert("verdict".to_owned(), "refused".to_owned())),
            |m| drop(m.attributes.remove("b")),
            // The same letters, cut elsewhere.
            |m| drop((m.attributes.remove("b"), m.attributes.insert("bc".to_owned(), String::new()))),
            |m| (m.subject, m.correlation_id) = ("ticket".to_owned(), "case 7".to_owned()),
        ];
        let hashes: HashSet<_> = changes.into_iter().map(hash).collect();
        assert_eq!(hashes.len(), changes.len());
    }

    #[test]
    fn credentials_and_parts_of_a_microsecond_do_not() {
        let time = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 1_000 });
        assert_eq!(hash(|m| m.credentials = Some(v1::Credentials::default())), hash(|_| {}));
        assert_eq!(hash(|m| m.time = time), hash(|_| {}));
    }

    /// The vectors of `proto/docs`, which implementations in other languages are held to as well.
    #[test]
    fn the_vectors_hold() {
        let vectors = include_str!("../docs/content-vectors.txt");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let value = value_hash("tickets/7", "text/plain", b"open");
        let lines = [
            ("message", MessageContent::from(&message()).hash()),
            ("empty", MessageContent::default().hash()),
            ("value", value),
        ];
        for (name, content) in lines {
            let line = format!("{name} {} {}", hex(&content), hex(&digest(&[7; 32], &content)));
            assert!(vectors.lines().any(|one| one == line), "{line}");
        }
    }
}
