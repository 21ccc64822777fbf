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
    (epoch >= Epoch::FIRST).then_some((Scope::parse_stored(scope)?, epoch))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(body: StoredBody) -> StoredKey {
        let scope = Scope::parse("tickets.open").expect("a scope");
        let root = RootKeyId::parse("0123456789abcdef").expect("an id");
        StoredKey { scope, epoch: Epoch(258), created_at: UnixMicros(-7), root, body }
    }

    fn layout() -> Layout {
        let root_key_id = "0123456789abcdef".to_owned();
        Layout { version: VERSION, created_at_us: 1, root_key_id, wrapped: vec![1], shredded_at_us: None }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for body in [StoredBody::Wrapped(vec![1, 2, 3]), StoredBody::Shredded(UnixMicros(0))] {
            let record = stored(body.clone()).to_record();
            assert_eq!(&record.key[..], b"k/tickets.open\0\0\0\x01\x02");
            assert_eq!(StoredKey::parse(&record.key, &record.value.expect("a value")), Some(stored(body)));
        }
    }

    #[test]
    fn a_key_of_another_form_is_refused() {
        let value = layout().encode_to_vec();
        assert!(StoredKey::parse(b"k/tickets\0\0\0\0\x01", &value).is_some());
        let other: [&[u8]; 7] = [
            b"",
            b"k/",
            b"k/tickets\0\0\0\0\0",
            b"k/tickets\0\0\0\x01",
            b"k/tickets.*\0\0\0\0\x01",
            b"s/tickets\0\0\0\0\x01",
            b"k/tickets!\0\0\0\x01",
        ];
        for key in other {
            assert_eq!(StoredKey::parse(key, &value), None, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn a_value_of_another_form_is_refused() {
        let parse = |layout: Layout| StoredKey::parse(b"k/tickets\0\0\0\0\x01", &layout.encode_to_vec());
        assert!(parse(layout()).is_some());
        assert_eq!(parse(Layout { version: 2, ..layout() }), None);
        assert_eq!(parse(Layout { root_key_id: "0123".to_owned(), ..layout() }), None);
        assert_eq!(parse(Layout { wrapped: Vec::new(), ..layout() }), None, "neither a key nor shredded");
        assert_eq!(parse(Layout { shredded_at_us: Some(1), ..layout() }), None, "a key, and shredded");
    }
}
