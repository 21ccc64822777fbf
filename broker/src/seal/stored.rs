//! Keys of scopes as records of the store: `k/` scope 0x00 epoch, and what is said of the key there.
//!
//! A record names the root key that was in use when it was written, a tombstone too: so the records always say which root key
//! the store belongs to.

use bytes::Bytes;
use prost::Message as _;

use super::root::RootKeyId;
use crate::{
    engine::Record,
    model::{Epoch, Scope, UnixMicros},
};

/// How the records of keys begin.
pub const KEY_PREFIX: &[u8] = b"k/";

const VERSION: u32 = 1;

/// What the store holds of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredKey {
    pub(super) scope: Scope,
    pub(super) epoch: Epoch,
    pub(super) created_at: UnixMicros,
    pub(super) root: RootKeyId,
    pub(super) body: StoredBody,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoredBody {
    Wrapped(Vec<u8>),
    Shredded(UnixMicros),
}

impl StoredKey {
    pub(super) fn to_record(&self) -> Record {
        let (wrapped, shredded_at_us) = match &self.body {
            StoredBody::Wrapped(wrapped) => (wrapped.clone(), None),
            StoredBody::Shredded(at) => (Vec::new(), Some(at.0)),
        };
        let layout = Layout {
            version: VERSION,
            created_at_us: self.created_at.0,
            root_key_id: self.root.to_string(),
            wrapped,
            shredded_at_us,
        };
        Record { key: record_key(&self.scope, self.epoch), value: Some(layout.encode_to_vec().into()) }
    }

    /// What [`StoredKey::to_record`] wrote; nothing where it did not write this.
    pub(super) fn parse(key: &[u8], value: &[u8]) -> Option<Self> {
        let (scope, epoch) = parse_record_key(key)?;
        let layout = Layout::decode(value).ok().filter(|layout| layout.version == VERSION)?;
        let body = match layout.shredded_at_us {
            Some(at) if layout.wrapped.is_empty() => StoredBody::Shredded(UnixMicros(at)),
            None if !layout.wrapped.is_empty() => StoredBody::Wrapped(layout.wrapped),
            _ => return None,
        };
        let root = RootKeyId::parse(&layout.root_key_id)?;
        Some(Self { scope, epoch, created_at: UnixMicros(layout.created_at_us), root, body })
    }
}

fn record_key(scope: &Scope, epoch: Epoch) -> Bytes {
    [KEY_PREFIX, scope.as_str().as_bytes(), &[0], &epoch.0.to_be_bytes()].concat().into()
}

fn parse_record_key(key: &[u8]) -> Option<(Scope, Epoch)> {
    let (rest, epoch) = key.strip_prefix(KEY_PREFIX)?.split_last_chunk()?;
    let scope = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
    let epoch = Epoch(u32::from_be_bytes(*epoch));
    (epoch >= Epoch::FIRST).then_some((Scope::parse(scope).ok()?, epoch))
}

/// The value of a record.
#[derive(Clone, PartialEq, prost::Message)]
struct Layout {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(int64, tag = "2")]
    created_at_us: i64,
    #[prost(string, tag = "3")]
    root_key_id: String,
    #[prost(bytes = "vec", tag = "4")]
    wrapped: Vec<u8>,
    #[prost(int64, optional, tag = "5")]
    shredded_at_us: Option<i64>,
}
