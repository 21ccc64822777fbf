//! What became of an operation: the broker's answers, checked, and its refusals, told apart.

use tonic::{Code, Status};
use veribus_proto::{content::SALT_BYTES, v1};

use super::value::{StateMetadata, is_under};
use crate::{
    Error,
    error::{REVISION_CONFLICT, Refusal},
    receipt::names_index,
    status,
};

/// The broker's word for a value whose key was destroyed.
const SHREDDED: &str = "SHREDDED";

/// A value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Its revision: the index of the entry in the audit log.
    pub revision: u64,
    /// The decision's id.
    pub decision_id: String,
    /// With key, content type and value it gives the content digest in that entry ([`veribus_proto::content`]).
    pub content_salt: [u8; SALT_BYTES],
}

impl Written {
    pub(super) fn check(wire: v1::PutResponse) -> Result<Self, Error> {
        let content_salt = <[u8; SALT_BYTES]>::try_from(wire.content_salt.as_slice())
            .map_err(|_| Error::Protocol("the content salt of a write is not 32 bytes"))?;
        decided(&wire.decision_id, wire.revision)?;
        Ok(Self { revision: wire.revision, decision_id: wire.decision_id, content_salt })
    }
}

/// There is no value any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// The revision of the deletion: the index of the entry in the audit log.
    pub revision: u64,
    /// The decision's id.
    pub decision_id: String,
    /// Whether there was a value before.
    pub existed: bool,
}

impl Deleted {
    pub(super) fn check(wire: v1::DeleteResponse) -> Result<Self, Error> {
        decided(&wire.decision_id, wire.revision)?;
        Ok(Self { revision: wire.revision, decision_id: wire.decision_id, existed: wire.existed })
    }
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatePage {
    /// In key order.
    pub values: Vec<StateMetadata>,
    /// What to ask for the rest with; `None` where this was the last page.
    pub next_page_token: Option<String>,
    /// The decision's id.
    pub decision_id: String,
    /// Where that is recorded.
    pub audit_index: u64,
}

impl StatePage {
    pub(super) fn check(wire: v1::ListResponse, prefix: &str) -> Result<Self, Error> {
        decided(&wire.decision_id, wire.audit_index)?;
        let values = wire.values.into_iter().map(StateMetadata::check).collect::<Result<Vec<_>, _>>()?;
        if !values.iter().all(|value| is_under(prefix, &value.key)) {
            return Err(Error::Protocol("a listing holds keys that were not asked for"));
        }
        if !values.is_sorted_by(|one, next| one.key < next.key) {
            return Err(Error::Protocol("a listing is out of order"));
        }
        let next_page_token = Some(wire.next_page_token).filter(|token| !token.is_empty());
        Ok(Self { values, next_page_token, decision_id: wire.decision_id, audit_index: wire.audit_index })
    }
}

/// A decision is recorded where it says.
pub(super) fn decided(decision_id: &str, audit_index: u64) -> Result<(), Error> {
    let fault = Error::Protocol("the decision id of an operation on state does not name its audit index");
    if names_index(decision_id, audit_index) { Ok(()) } else { Err(fault) }
}

/// That a call was refused because another revision stands there.
pub(super) fn conflict_of(key: &str, status: &Status) -> Option<Error> {
    status::revision_in_conflict(status).map(|current| conflict(key, current))
}

/// What a refused operation of a session ended with.
pub(super) fn of_refusal(key: &str, wire: v1::StateRefusal) -> Error {
    if Code::from_i32(wire.code) == Code::Aborted && wire.reason == REVISION_CONFLICT {
        return conflict(key, wire.current_revision);
    }
    about(key, Error::Refused(Box::new(Refusal::from(wire))))
}

/// A refusal that has an error of its own.
pub(super) fn about(key: &str, error: Error) -> Error {
    match error {
        Error::Refused(refusal) if refusal.code == Code::DataLoss && refusal.reason == SHREDDED => {
            Error::Shredded { key: key.to_owned() }
        }
        error => error,
    }
}

/// That there is nothing to be read is an answer.
pub(super) fn none_if_absent<T>(error: Error) -> Result<Option<T>, Error> {
    match error {
        Error::Refused(refusal) if refusal.code == Code::NotFound => Ok(None),
        error => Err(error),
    }
}

fn conflict(key: &str, current: u64) -> Error {
    Error::Conflict { key: key.to_owned(), current_revision: (current != 0).then_some(current) }
}
