//! Sealing at rest: each value under a key of its own, which depends on the scope's key and on everything about the write.
//!
//! In scope: the sealing format (`sealed`, over `envelope`; written down in `proto/docs/sealing.md`), the keys of the scopes
//! and their epochs (`ring`, as they are stored: `stored`), the root key that wraps them (`root`), the file that it comes from
//! (`root_file`), and the files that other private keys come from (`secret_file`). These two alone do any I/O.
//!
//! Out of scope: end-to-end secrecy: the broker holds the keys and can read what it seals. This protects the disk, the
//! storage engine and their backups. Who may read or write (see `decide`), when changes of keys are committed (see `record`),
//! and copies of keys that the compiler leaves in registers or on the stack: what we hold is zeroed, as far as crates let us.

mod envelope;
mod key;
mod node;
mod ring;
mod root;
mod root_file;
mod sealed;
mod secret_file;
mod stored;

pub use envelope::{OVERHEAD_BYTES, OpenError, SealError};
pub use key::ScopeKey;
pub use node::{FINGERPRINT_BYTES, Fingerprint, NodeKey};
pub use ring::{KEY_PREFIX, KeyChange, KeyFact, KeyRing, KeyRingError, NoKey};
pub use root::{RootKey, RootKeyId, WrapContext};
pub use root_file::{RootKeyError, RootKeyLook, RootKeySource, RootKeys};
pub use sealed::{Context, open, seal};
pub use secret_file::{Exposed, SecretFile, SecretFileError};
