//! A value as it comes out of the writer, sealed, and as its reader gets it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    TableError,
    stored::{self, Plain, Version},
};
use crate::{
    authenticate::{Confirmation, Identity},
    engine::{ReadError, SharedLogStore},
    model::{Epoch, Revision, StateKey, UnixMicros, Write},
    seal::{self, Context, KeyRing, NoKey, OpenError, ScopeKey, SealError},
};

/// Why a value cannot be read.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// Its key was destroyed.
    #[error("the key of this value was destroyed")]
    Shredded,
    /// It was replaced while it was being read.
    #[error("the value was replaced while it was being read")]
    Replaced,
    /// What is stored is not what was written.
    #[error("the stored value cannot be opened: {0}")]
    Damaged(#[from] OpenError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] ReadError),
}

/// What is known of a value without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its key.
    pub key: StateKey,
    /// Which version.
    pub revision: Revision,
    /// Its media type.
    pub content_type: String,
    /// Its length, in bytes.
    pub size_bytes: u64,
    /// When it is gone.
    pub expires_at: Option<UnixMicros>,
    /// When it was written.
    pub written_at: UnixMicros,
    /// Who vouched for the writer.
    pub issuer: String,
    /// Who wrote it.
    pub agent: String,
    /// Revisions of earlier versions that are kept, oldest first.
    pub earlier: Vec<Revision>,
}

impl Metadata {
    /// How much memory it takes, about, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let texts = self.key.name().len() + self.content_type.len() + self.issuer.len() + self.agent.len();
        (256 + texts + 8 * self.earlier.len()) as u64
    }
}

/// A version of a value as it is stored.
#[derive(Debug)]
pub struct SealedValue {
    key: StateKey,
    version: Version,
    /// The room that the parts of a long value take, once they are here.
    room: Option<OwnedSemaphorePermit>,
}

/// A version of a value, for its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedValue {
    /// What is known of it.
    pub metadata: Metadata,
    /// The value.
    pub value: Bytes,
}

impl SealedValue {
    pub(super) const fn new(key: StateKey, version: Version) -> Self {
        Self { key, version, room: None }
    }

    /// With all its parts, which take this room.
    pub(super) fn whole(
        self,
        room: OwnedSemaphorePermit,
        record: impl Fn(&Bytes) -> Result<Option<Bytes>, ReadError>,
    ) -> Result<Self, TableError> {
        let sealed = fetch(&self.key, &self.version, record)?;
        let sealed = sealed.ok_or_else(|| TableError::Damaged(self.key.clone()))?;
        Ok(Self { version: Version { sealed, ..self.version }, room: Some(room), ..self })
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> &StateKey {
        &self.key
    }

    /// Which version.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        Revision(self.version.revision)
    }

    /// Its length, in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.version.size_bytes
    }

    /// Whether it takes a while to open.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.version.parts > 0
    }

    /// Opens it. Parts that are not here yet are fetched from `store`, where they may be gone by now.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn open(mut self, keys: &KeyRing, store: &SharedLogStore) -> Result<OpenedValue, Unreadable> {
        let epoch = Epoch(self.version.epoch);
        let scope_key = match keys.key(self.key.scope(), epoch) {
            Ok(key) => key,
            Err(NoKey::Shredded) => return Err(Unreadable::Shredded),
            Err(NoKey::Unknown) => return Err(OpenError.into()),
        };
        if self.version.parts > 0 && self.room.is_none() {
            let part = |key: &Bytes| store.record(key);
            self.version.sealed = fetch(&self.key, &self.version, part)?.ok_or(Unreadable::Replaced)?;
        }
        let plain = open(&scope_key, &self.key, &self.version)?;
        let metadata = metadata(self.key, &self.version, Vec::new());
        Ok(OpenedValue { metadata, value: plain })
    }
}

/// The parts of a long value, put together; `None` if one is gone.
fn fetch(
    key: &StateKey,
    version: &Version,
    record: impl Fn(&Bytes) -> Result<Option<Bytes>, ReadError>,
) -> Result<Option<Bytes>, ReadError> {
    let mut sealed = Vec::new();
    for part in 0..u16::try_from(version.parts).unwrap_or(u16::MAX) {
        let Some(part) = record(&stored::part_key(key, version.revision, part))? else { return Ok(None) };
        sealed.extend_from_slice(&part);
    }
    Ok(Some(sealed.into()))
}

pub(super) fn metadata(key: StateKey, version: &Version, earlier: Vec<Revision>) -> Metadata {
    Metadata {
        key,
        revision: Revision(version.revision),
        content_type: version.content_type.clone(),
        size_bytes: version.size_bytes,
        expires_at: (version.expires_unix_us != 0).then_some(UnixMicros(version.expires_unix_us)),
        written_at: UnixMicros(version.written_unix_us),
        issuer: version.issuer.clone(),
        agent: version.agent.clone(),
        earlier,
    }
}

/// A new version: the value sealed with what is said of it.
pub(super) fn seal(
    write: &Write,
    writer: &Identity,
    (epoch, scope_key): (Epoch, &Arc<ScopeKey>),
    (revision, previous): (Revision, Revision),
    now: UnixMicros,
) -> Result<Version, SealError> {
    let ttl_us = write.ttl_s.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000));
    let mut version = Version {
        revision: revision.0,
        previous_revision: previous.0,
        epoch: epoch.0,
        content_type: write.content_type.as_str().to_owned(),
        size_bytes: write.value.len() as u64,
        expires_unix_us: ttl_us.map_or(0, |ttl| now.0.saturating_add(ttl)),
        written_unix_us: now.0,
        issuer: writer.issuer().as_str().to_owned(),
        agent: writer.agent().as_str().to_owned(),
        token_id: writer.token_id().as_str().to_owned(),
        confirmation: writer.confirmation().map(Confirmation::to_string).unwrap_or_default(),
        token_sha256: writer.token_sha256().to_vec(),
        parts: 0,
        sealed: Bytes::new(),
    };
    let plain = Plain {
        value: write.value.clone(),
        content_type: version.content_type.clone(),
        expires_unix_us: version.expires_unix_us,
        written_unix_us: version.written_unix_us,
        revision: version.revision,
    };
    let plain = zeroize::Zeroizing::new(plain.encode_to_vec());
    let resource = write.key.to_string();
    let sealed = with_context(&write.key, &resource, &version, |context| seal::seal(scope_key, context, &plain))?;
    version.sealed = sealed.into();
    Ok(version)
}

/// Opens a version, and checks that what is said of it is what was sealed.
fn open(scope_key: &ScopeKey, key: &StateKey, version: &Version) -> Result<Bytes, OpenError> {
    let resource = key.to_string();
    let plain = with_context(key, &resource, version, |context| seal::open(scope_key, context, &version.sealed))?;
    let plain = Plain::decode(Bytes::from(plain)).map_err(|_| OpenError)?;
    let times_as_sealed = (plain.expires_unix_us, plain.written_unix_us);
    let is_as_said = plain.revision == version.revision
        && plain.content_type == version.content_type
        && plain.value.len() as u64 == version.size_bytes
        && times_as_sealed == (version.expires_unix_us, version.written_unix_us);
    if is_as_said { Ok(plain.value) } else { Err(OpenError) }
}

/// A token hash of the wrong length stands for none: nothing was ever sealed under it.
fn with_context<T>(key: &StateKey, resource: &str, version: &Version, use_it: impl FnOnce(&Context<'_>) -> T) -> T {
    let token_sha256: [u8; 32] = version.token_sha256.as_slice().try_into().unwrap_or_default();
    use_it(&Context {
        scope: key.scope().as_str(),
        epoch: Epoch(version.epoch),
        resource,
        previous_revision: Revision(version.previous_revision),
        issuer: &version.issuer,
        subject: &version.agent,
        token_id: &version.token_id,
        confirmation: &version.confirmation,
        token_sha256: &token_sha256,
    })
}
