//! Values and what is known of them, checked as they come in.

use std::time::SystemTime;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use veribus_proto::v1;

use super::outcome::decided;
use crate::Error;

/// What is known of a value without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateMetadata {
    /// `scope/name`.
    pub key: String,
    /// Which write it is of: the index of its entry in the audit log.
    pub revision: u64,
    /// The media type.
    pub content_type: String,
    /// Its length, in bytes.
    pub size_bytes: u64,
    /// When it will be gone; `None`: it stays.
    pub expires_at: Option<SystemTime>,
    /// When it was written.
    pub written_at: SystemTime,
    /// Who wrote it.
    pub writer: StateWriter,
    /// Earlier revisions that can still be read, oldest first. Only in listings.
    pub earlier_revisions: Vec<u64>,
}

/// Who wrote a value, as the broker verified it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StateWriter {
    /// Who vouches for the agent.
    pub issuer: String,
    /// Its id.
    pub agent: String,
}

impl StateMetadata {
    pub(super) fn check(wire: v1::StateMetadata) -> Result<Self, Error> {
        let writer = wire.writer.ok_or(Error::Protocol("a value without its writer"))?;
        let written_at = wire.written_at.and_then(|time| SystemTime::try_from(time).ok());
        let expires_at = wire.expires_at.map(SystemTime::try_from).transpose();
        let no_time = || Error::Protocol("a value with a time that is none");
        if !wire.earlier_revisions.is_sorted_by(|one, next| one < next) {
            return Err(Error::Protocol("revisions are out of order"));
        }
        Ok(Self {
            key: wire.key,
            revision: wire.revision,
            content_type: wire.content_type,
            size_bytes: wire.size_bytes,
            expires_at: expires_at.map_err(|_| no_time())?,
            written_at: written_at.ok_or_else(no_time)?,
            writer: StateWriter { issuer: writer.issuer, agent: writer.agent },
            earlier_revisions: wire.earlier_revisions,
        })
    }
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateValue {
    /// What is known of it.
    pub metadata: StateMetadata,
    /// The value itself.
    pub value: Bytes,
    /// Where it is recorded that it was read.
    pub audit_index: u64,
}

impl StateValue {
    /// Which write it is of: what [`if_revision`](super::StatePut::if_revision) takes.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.metadata.revision
    }

    /// The value as text.
    ///
    /// # Errors
    /// [`Error::NotText`], if it is not UTF-8.
    pub fn text(&self) -> Result<&str, Error> {
        std::str::from_utf8(&self.value).map_err(|_| Error::NotText)
    }

    /// The value read as JSON.
    ///
    /// # Errors
    /// [`Error::Json`], if it has another shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let fault = |fault: serde_json::Error| Error::Json { key: self.metadata.key.clone(), fault: fault.to_string() };
        serde_json::from_slice(&self.value).map_err(fault)
    }

    pub(super) fn check(wire: v1::StateValue, audit_index: u64) -> Result<Self, Error> {
        let metadata = StateMetadata::check(wire.metadata.ok_or(Error::Protocol("a value without its metadata"))?)?;
        if u64::try_from(wire.value.len()) != Ok(metadata.size_bytes) {
            return Err(Error::Protocol("a value is not as long as its metadata says"));
        }
        Ok(Self { metadata, value: wire.value, audit_index })
    }

    /// The answer to a read, if it is the value that was asked for.
    pub(super) fn of_get(wire: v1::GetResponse, asked: &v1::GetRequest) -> Result<Self, Error> {
        decided(&wire.decision_id, wire.audit_index)?;
        let value = wire.value.ok_or(Error::Protocol("an answer to a read holds no value"))?;
        let value = Self::check(value, wire.audit_index)?;
        let is_asked_for = value.metadata.key == asked.key && [0, value.revision()].contains(&asked.revision);
        if is_asked_for { Ok(value) } else { Err(Error::Protocol("another value than the one asked for")) }
    }
}

/// Whether a key is under `scope/beginning`, or under a scope alone.
pub(super) fn is_under(prefix: &str, key: &str) -> bool {
    match key.strip_prefix(prefix) {
        Some(rest) => prefix.contains('/') || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stays_within_its_scope() {
        for (prefix, key) in [("a", "a/b"), ("a/", "a/b"), ("a/b", "a/bc"), ("a/b", "a/b/c")] {
            assert!(is_under(prefix, key), "{prefix} {key}");
        }
        for (prefix, key) in [("a", "ab/c"), ("a/", "ab/c"), ("a/b", "a/c"), ("a.b", "a/b"), ("a/b", "a")] {
            assert!(!is_under(prefix, key), "{prefix} {key}");
        }
    }
}
