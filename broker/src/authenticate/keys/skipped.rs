//! Entries of a key set that do not count, although they are there to verify with, or should never have been there.

use std::fmt;

use thiserror::Error;

use crate::{authenticate::shown::shown, metrics::Metrics, model::Issuer};

/// The longest `kid` that is repeated, in bytes.
pub(super) const KEY_ID_SHOWN_BYTES_MAX: usize = 64;
/// How many entries are named on one line.
const NAMED_MAX: usize = 8;

/// Why an entry does not count (RFC 7517, section 5: "implementations SHOULD ignore JWKs ... that are out of the supported
/// ranges").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SkipReason {
    /// `null`, say.
    #[error("it is not an object")]
    NotAnObject,
    /// It shows `d`, `k` or the like (RFC 7518, section 6): who reads the set can sign.
    #[error("it shows its private part, which is no secret any more: withdraw the key")]
    Private,
    /// Another entry shows the private part of the same key.
    #[error("another entry shows its private part, which is no secret any more: withdraw the key")]
    PrivateElsewhere,
    /// Without `kty` it is no key (RFC 7517, section 4.1).
    #[error("it has no `kty`")]
    NoType,
    /// `kid` is not a string (RFC 7517, section 4.5).
    #[error("its `kid` is not a string")]
    KeyId,
    /// A token could not say that it means this one.
    #[error("it has no `kid`, and is not the only key")]
    NoKeyId,
    /// A token could not say which of them it means.
    #[error("another key has the same `kid` and `alg`")]
    Ambiguous,
    /// Its parameters make no key that is safe to verify with.
    #[error("{0}")]
    Invalid(&'static str),
}

/// An entry that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its `kid`, escaped and cut; `None` without one.
    pub kid: Option<String>,
    /// Why.
    pub why: SkipReason,
}

impl Skipped {
    pub(super) fn new(kid: Option<&str>, why: SkipReason) -> Self {
        Self { kid: kid.map(|kid| shown(kid, KEY_ID_SHOWN_BYTES_MAX)), why }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "`{kid}` ({})", self.why),
            None => write!(f, "one without a `kid` ({})", self.why),
        }
    }
}

/// The entries of one set that do not count: no more than [`KeySet::KEYS_MAX`](super::KeySet::KEYS_MAX).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedEntries(Vec<Skipped>);

impl SkippedEntries {
    pub(super) const fn of(entries: Vec<Skipped>) -> Self {
        Self(entries)
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether every entry counts, or is for something else.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Skipped> {
        self.0.iter()
    }

    /// Logs and counts them; a private part that is published is an error.
    pub fn tell(&self, issuer: &Issuer, metrics: &Metrics) {
        metrics.key_set_entries_skipped(issuer, self.len());
        for Skipped { kid, why } in self.iter() {
            let kid = kid.as_deref();
            match why {
                SkipReason::Private | SkipReason::PrivateElsewhere => {
                    tracing::error!(%issuer, kid, %why, "an entry of the key set is skipped");
                }
                SkipReason::NotAnObject
                | SkipReason::NoType
                | SkipReason::KeyId
                | SkipReason::NoKeyId
                | SkipReason::Ambiguous
                | SkipReason::Invalid(_) => tracing::warn!(%issuer, kid, %why, "an entry of the key set is skipped"),
            }
        }
    }
}

/// On one line.
impl fmt::Display for SkippedEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, entry) in self.iter().take(NAMED_MAX).enumerate() {
            write!(f, "{}{entry}", if place == 0 { "" } else { ", " })?;
        }
        match self.len().checked_sub(NAMED_MAX) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}
