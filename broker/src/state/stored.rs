//! How state stands beside the log: the records, their keys, and their form.
//!
//! | key | value |
//! |---|---|
//! | `s/head/SCOPE\0NAME` | [`Head`]: the newest version, and which earlier ones are kept |
//! | `s/tomb/SCOPE\0NAME` | [`Head`] of a value that is gone, so that a list need not pass by it |
//! | `s/past/SCOPE\0NAME\0REVISION` | [`Version`], an earlier one |
//! | `s/part/SCOPE\0NAME\0REVISION PART` | a part of a sealed value that is too long to stand in its version |
//! | `s/due/TIME SCOPE\0NAME` | nothing: at that time something is to be done about the head |
//! | `s/gone/SCOPE` | the newest revision of a deletion that is no longer kept, big-endian |
//!
//! `REVISION` has eight bytes, `TIME` (microseconds since the Unix epoch) eight, `PART` two, all big-endian. Neither scopes
//! nor names can hold a zero byte.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::model::{Revision, Scope, StateKey, StatePrefix, UnixMicros};

const HEADS: &[u8] = b"s/head/";
const TOMBSTONES: &[u8] = b"s/tomb/";
const PAST: &[u8] = b"s/past/";
const PARTS: &[u8] = b"s/part/";
pub(super) const DUE: &[u8] = b"s/due/";
const GONE: &[u8] = b"s/gone/";

/// The longest sealed value that stands in its version, in bytes.
pub(super) const INLINE_BYTES_MAX: usize = 4 * 1024;
/// The longest part of a sealed value, in bytes.
pub(super) const PART_BYTES_MAX: usize = 6 * 1024;

/// What stands under a key.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Head {
    /// Absent: the value is gone.
    #[prost(message, optional, tag = "1")]
    pub(super) newest: Option<Version>,
    /// Revisions of earlier versions that are kept, oldest first.
    #[prost(uint64, repeated, tag = "2")]
    pub(super) earlier: Vec<u64>,
    /// Where the value is gone: the revision of that.
    #[prost(uint64, tag = "3")]
    pub(super) gone_at: u64,
    /// Whether its time had run out.
    #[prost(bool, tag = "4")]
    pub(super) expired: bool,
    /// When something is to be done about it, in microseconds since the Unix epoch; 0: never.
    #[prost(int64, tag = "5")]
    pub(super) due_unix_us: i64,
}

/// One version of a value, as it was written, sealed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Version {
    #[prost(uint64, tag = "1")]
    pub(super) revision: u64,
    #[prost(uint64, tag = "2")]
    pub(super) previous_revision: u64,
    #[prost(uint32, tag = "3")]
    pub(super) epoch: u32,
    #[prost(string, tag = "4")]
    pub(super) content_type: String,
    #[prost(uint64, tag = "5")]
    pub(super) size_bytes: u64,
    /// 0: never.
    #[prost(int64, tag = "6")]
    pub(super) expires_unix_us: i64,
    #[prost(int64, tag = "7")]
    pub(super) written_unix_us: i64,
    #[prost(string, tag = "8")]
    pub(super) issuer: String,
    #[prost(string, tag = "9")]
    pub(super) agent: String,
    #[prost(string, tag = "10")]
    pub(super) token_id: String,
    #[prost(string, tag = "11")]
    pub(super) confirmation: String,
    #[prost(bytes = "vec", tag = "12")]
    pub(super) token_sha256: Vec<u8>,
    /// How many parts the sealed value has; 0: it stands in `sealed`.
    #[prost(uint32, tag = "13")]
    pub(super) parts: u32,
    #[prost(bytes = "bytes", tag = "14")]
    pub(super) sealed: Bytes,
}

/// What is sealed: the value with what was said of it, so that neither can be changed without the other.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Plain {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) value: Bytes,
    #[prost(string, tag = "2")]
    pub(super) content_type: String,
    #[prost(int64, tag = "3")]
    pub(super) expires_unix_us: i64,
    #[prost(int64, tag = "4")]
    pub(super) written_unix_us: i64,
    #[prost(uint64, tag = "5")]
    pub(super) revision: u64,
}

impl Head {
    /// The newest version, unless its time has run out.
    pub(super) fn live(&self, now: UnixMicros) -> Option<&Version> {
        self.newest.as_ref().filter(|version| !version.is_over(now))
    }

    /// The last revision that the key has had.
    pub(super) fn last_revision(&self) -> Revision {
        Revision(self.newest.as_ref().map_or(self.gone_at, |version| version.revision))
    }
}

impl Version {
    pub(super) const fn is_over(&self, now: UnixMicros) -> bool {
        self.expires_unix_us != 0 && self.expires_unix_us <= now.0
    }
}

pub(super) fn head_key(key: &StateKey) -> Bytes {
    named(HEADS, key).freeze()
}

pub(super) fn tombstone_key(key: &StateKey) -> Bytes {
    named(TOMBSTONES, key).freeze()
}

pub(super) fn past_key(key: &StateKey, revision: u64) -> Bytes {
    let mut bytes = named(PAST, key);
    bytes.put_u8(0);
    bytes.put_u64(revision);
    bytes.freeze()
}

pub(super) fn part_key(key: &StateKey, revision: u64, part: u16) -> Bytes {
    let mut bytes = named(PARTS, key);
    bytes.put_u8(0);
    bytes.put_u64(revision);
    bytes.put_u16(part);
    bytes.freeze()
}

pub(super) fn due_key(key: &StateKey, due_unix_us: i64) -> Bytes {
    let mut bytes = due_until(UnixMicros(due_unix_us));
    put_name(&mut bytes, key);
    bytes.freeze()
}

/// Before this stands what is due before `time`.
pub(super) fn due_until(time: UnixMicros) -> BytesMut {
    let mut bytes = BytesMut::from(DUE);
    bytes.put_u64(time.0.max(0).unsigned_abs());
    bytes
}

pub(super) fn gone_key(scope: &Scope) -> Bytes {
    [GONE, scope.as_str().as_bytes()].concat().into()
}

/// Which heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    /// Of values that are there, or whose time has just run out.
    Live,
    /// Of values that are gone.
    Gone,
}

impl Heads {
    const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Live => HEADS,
            Self::Gone => TOMBSTONES,
        }
    }

    /// The keys of the heads that a prefix names: from the first on, before the second.
    pub(super) fn of(self, prefix: &StatePrefix, after: Option<&StateKey>) -> (Vec<u8>, Vec<u8>) {
        let first = [self.prefix(), prefix.scope().as_str().as_bytes(), &[0], prefix.beginning().as_bytes()].concat();
        // Names are ASCII.
        let end = [&first[..], &[0x80]].concat();
        let behind = after.map(|key| [&named(self.prefix(), key)[..], &[0]].concat());
        // Never before the first, nor after the end, wherever the last page is said to have ended.
        let from = behind.map_or_else(|| first.clone(), |behind| behind.clamp(first.clone(), end.clone()));
        (from, end)
    }

    /// The key whose head stands under `record_key`.
    pub(super) fn key(self, record_key: &[u8]) -> Option<StateKey> {
        parse_name(record_key.strip_prefix(self.prefix())?)
    }
}

/// The key that is due under `record_key`.
pub(super) fn key_of_due(record_key: &[u8]) -> Option<StateKey> {
    parse_name(record_key.strip_prefix(DUE)?.get(8..)?)
}

fn parse_name(bytes: &[u8]) -> Option<StateKey> {
    let text = std::str::from_utf8(bytes).ok()?;
    StateKey::parse(&text.replacen('\0', "/", 1)).ok()
}

fn named(prefix: &[u8], key: &StateKey) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(prefix.len() + key.scope().as_str().len() + key.name().len() + 12);
    bytes.put_slice(prefix);
    put_name(&mut bytes, key);
    bytes
}

fn put_name(bytes: &mut BytesMut, key: &StateKey) {
    bytes.put_slice(key.scope().as_str().as_bytes());
    bytes.put_u8(0);
    bytes.put_slice(key.name().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{CHUNK_BYTES_MAX, KEY_BYTES_MAX};

    fn key(text: &str) -> StateKey {
        StateKey::parse(text).expect("a key")
    }

    #[test]
    fn the_longest_names_and_versions_fit_a_record() {
        let long = key(&format!("{}/{}", "s".repeat(Scope::LEN_BYTES_MAX), "n".repeat(StateKey::NAME_BYTES_MAX)));
        assert!(part_key(&long, u64::MAX, u16::MAX).len() <= KEY_BYTES_MAX);
        assert!(due_key(&long, i64::MAX).len() <= KEY_BYTES_MAX);
        let text = |bytes: usize| "x".repeat(bytes);
        let newest = Version {
            revision: u64::MAX,
            previous_revision: u64::MAX,
            epoch: u32::MAX,
            content_type: text(crate::model::ContentType::LEN_BYTES_MAX),
            size_bytes: u64::MAX,
            expires_unix_us: i64::MAX,
            written_unix_us: i64::MAX,
            issuer: text(crate::model::Issuer::LEN_BYTES_MAX),
            agent: text(crate::model::AgentId::LEN_BYTES_MAX),
            token_id: text(crate::model::TokenId::LEN_BYTES_MAX),
            confirmation: text(64),
            token_sha256: vec![1; 32],
            parts: 0,
            sealed: vec![1; INLINE_BYTES_MAX].into(),
        };
        let earlier = vec![u64::MAX; crate::model::HISTORY_MAX - 1];
        let head = Head { newest: Some(newest), earlier, gone_at: u64::MAX, expired: true, due_unix_us: i64::MAX };
        assert!(prost::Message::encoded_len(&head) <= CHUNK_BYTES_MAX);
    }

    #[test]
    fn a_prefix_finds_its_heads_and_no_others() {
        let within = |prefix: &str, name: &str| {
            let (from, to) = Heads::Live.of(&StatePrefix::parse(prefix).expect("a prefix"), None);
            (from..to).contains(&head_key(&key(name)).to_vec())
        };
        assert!(within("a", "a/x") && within("a/x", "a/x") && within("a/x", "a/xy") && within("a", "a/~"));
        assert!(!within("a", "a.b/x") && !within("a", "ab/x") && !within("a/x", "a/y") && !within("b", "a/x"));
        let prefix = StatePrefix::parse("a").expect("a prefix");
        let (from, _) = Heads::Live.of(&prefix, Some(&key("a/x")));
        assert!(from > head_key(&key("a/x")).to_vec() && from <= head_key(&key("a/x!")).to_vec());
        let narrow = StatePrefix::parse("b/x").expect("a prefix");
        for elsewhere in ["a/a", "b/a", "b/y", "c/a"] {
            let (from, to) = Heads::Live.of(&narrow, Some(&key(elsewhere)));
            assert!(from >= head_key(&key("b/x")).to_vec() && from <= to, "{elsewhere}");
        }
    }

    #[test]
    fn keys_come_back_from_their_records() {
        let one = key("a.b/c/d");
        assert_eq!(Heads::Live.key(&head_key(&one)).as_ref(), Some(&one));
        assert_eq!(Heads::Gone.key(&tombstone_key(&one)).as_ref(), Some(&one));
        assert_eq!(Heads::Live.key(&tombstone_key(&one)), None);
        assert_eq!(key_of_due(&due_key(&one, 77)).as_ref(), Some(&one));
        assert!(due_key(&one, 77)[..] < due_until(UnixMicros(78))[..]);
        assert!(due_key(&one, 78)[..] >= due_until(UnixMicros(78))[..]);
    }
}
