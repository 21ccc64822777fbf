//! Revocations in the form in which they stand in entries, beside the log, and on the wire.

use bytes::Bytes;
use prost::Message as _;
use prost_types::Timestamp;
use thiserror::Error;
use veribus_proto::v1::{self, revocation::Target};

use crate::{
    authenticate::{Revocation, RevocationTarget, Revoked},
    engine::{LogStore, ReadError, Record},
    model::{AgentId, IdError, Issuer, TokenId, UnixSeconds},
};

/// Under what the revocations in force are kept beside the log; the audit index follows, big-endian.
const PREFIX: &[u8] = b"revocation/";

/// What is wrong with a revocation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RevocationError {
    /// A name in it is none.
    #[error(transparent)]
    Identifier(#[from] IdError),
    /// It does not say whose tokens.
    #[error("the revocation names no target")]
    NoTarget,
    /// The reason is too long.
    #[error("the reason is longer than {} bytes", Revocation::REASON_BYTES_MAX)]
    Reason,
    /// It names a time that does not exist.
    #[error("the time is out of range")]
    Time,
}

impl TryFrom<v1::Revocation> for Revocation {
    type Error = RevocationError;

    fn try_from(wire: v1::Revocation) -> Result<Self, RevocationError> {
        let target = match wire.target.ok_or(RevocationError::NoTarget)? {
            Target::TokenId(id) => RevocationTarget::Token(TokenId::parse(&id)?),
            Target::Agent(agent) => RevocationTarget::Agent(AgentId::parse(&agent)?),
            Target::IssuedBefore(issued) => {
                RevocationTarget::IssuedBefore(AgentId::parse(&issued.agent)?, possible(issued.issued_before)?)
            }
            Target::WholeIssuer(true) => RevocationTarget::WholeIssuer,
            Target::WholeIssuer(false) => return Err(RevocationError::NoTarget),
        };
        if wire.reason.len() > Self::REASON_BYTES_MAX {
            return Err(RevocationError::Reason);
        }
        let issuer = Issuer::parse(&wire.issuer)?;
        let expires_at = wire.expires_at.map(|end| whole_seconds(&end)).transpose()?;
        Ok(Self { issuer, target, expires_at, reason: wire.reason })
    }
}

/// A revocation under its name, which is empty where it is not in force.
#[must_use]
pub fn revocation_facts(revocation: &Revocation, id: &str) -> v1::Revocation {
    let target = match &revocation.target {
        RevocationTarget::Token(id) => Target::TokenId(id.as_str().to_owned()),
        RevocationTarget::Agent(agent) => Target::Agent(agent.as_str().to_owned()),
        RevocationTarget::IssuedBefore(agent, moment) => {
            Target::IssuedBefore(v1::IssuedBefore { agent: agent.as_str().to_owned(), issued_before: moment.0 })
        }
        RevocationTarget::WholeIssuer => Target::WholeIssuer(true),
    };
    v1::Revocation {
        id: id.to_owned(),
        issuer: revocation.issuer.as_str().to_owned(),
        target: Some(target),
        expires_at: revocation.expires_at.map(|end| Timestamp { seconds: end.0, nanos: 0 }),
        reason: revocation.reason.clone(),
    }
}

/// What is kept of a revocation in force.
pub(super) fn kept(revoked: &Revoked) -> Record {
    let value = revocation_facts(&revoked.revocation, &revoked.id).encode_to_vec();
    Record { key: key(revoked.index), value: Some(value.into()) }
}

/// The removal of one that is no longer in force.
pub(super) fn forgotten(index: u64) -> Record {
    Record { key: key(index), value: None }
}

/// All that are kept.
pub(super) fn load(store: &dyn LogStore) -> Result<Vec<Revoked>, ReadError> {
    store.records(PREFIX)?.iter().map(|(key, value)| read(key, value).ok_or_else(|| damaged(key))).collect()
}

fn read(key: &[u8], value: &Bytes) -> Option<Revoked> {
    let index = u64::from_be_bytes(key.strip_prefix(PREFIX)?.try_into().ok()?);
    let wire = v1::Revocation::decode(value.clone()).ok()?;
    let id = wire.id.clone();
    Some(Revoked { index, id, revocation: wire.try_into().ok()? })
}

fn damaged(key: &[u8]) -> ReadError {
    let index = key.strip_prefix(PREFIX).and_then(|index| index.try_into().ok()).map_or(u64::MAX, u64::from_be_bytes);
    ReadError::Damaged(index)
}

fn key(index: u64) -> Bytes {
    [PREFIX, &index.to_be_bytes()].concat().into()
}

/// A part of a second counts as a whole one: a revocation ends late rather than early.
fn whole_seconds(time: &Timestamp) -> Result<UnixSeconds, RevocationError> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(RevocationError::Time);
    }
    let seconds = time.seconds.checked_add(i64::from(time.nanos > 0)).ok_or(RevocationError::Time)?;
    possible(seconds)
}

fn possible(seconds: i64) -> Result<UnixSeconds, RevocationError> {
    if Revocation::TIMES.contains(&seconds) { Ok(UnixSeconds(seconds)) } else { Err(RevocationError::Time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(target: Option<Target>) -> v1::Revocation {
        v1::Revocation { issuer: "https://issuer.example".to_owned(), target, ..v1::Revocation::default() }
    }

    #[test]
    fn what_is_read_back_is_what_was_kept() {
        let issued_before = v1::IssuedBefore { agent: "a".to_owned(), issued_before: 7 };
        for target in [
            Target::TokenId("t".to_owned()),
            Target::Agent("a".to_owned()),
            Target::IssuedBefore(issued_before),
            Target::WholeIssuer(true),
        ] {
            let expires_at = Some(Timestamp { seconds: 9, nanos: 0 });
            let revocation =
                Revocation::try_from(v1::Revocation { expires_at, reason: "why".to_owned(), ..wire(Some(target)) });
            let revoked = Revoked { index: 300, id: "n-300".to_owned(), revocation: revocation.expect("valid") };
            let record = kept(&revoked);
            assert_eq!(read(&record.key, &record.value.expect("a value")), Some(revoked));
        }
    }

    #[test]
    fn what_names_nothing_is_none() {
        assert_eq!(Revocation::try_from(wire(None)), Err(RevocationError::NoTarget));
        assert_eq!(Revocation::try_from(wire(Some(Target::WholeIssuer(false)))), Err(RevocationError::NoTarget));
        assert!(Revocation::try_from(wire(Some(Target::Agent("role:x".to_owned())))).is_err());
        let long = v1::Revocation { reason: "x".repeat(257), ..wire(Some(Target::WholeIssuer(true))) };
        assert_eq!(Revocation::try_from(long), Err(RevocationError::Reason));
        for (seconds, nanos) in [(i64::MAX, 0), (0, -1), (0, 1_000_000_000)] {
            let expires_at = Some(Timestamp { seconds, nanos });
            let out_of_range = v1::Revocation { expires_at, ..wire(Some(Target::WholeIssuer(true))) };
            assert_eq!(Revocation::try_from(out_of_range), Err(RevocationError::Time));
        }
        for issued_before in [i64::MAX, 253_402_300_800, -62_135_596_801, i64::MIN] {
            let target = Target::IssuedBefore(v1::IssuedBefore { agent: "a".to_owned(), issued_before });
            assert_eq!(Revocation::try_from(wire(Some(target))), Err(RevocationError::Time), "{issued_before}");
        }
        let half = v1::Revocation {
            expires_at: Some(Timestamp { seconds: 1, nanos: 1 }),
            ..wire(Some(Target::WholeIssuer(true)))
        };
        assert_eq!(Revocation::try_from(half).expect("valid").expires_at, Some(UnixSeconds(2)), "late, not early");
    }
}
