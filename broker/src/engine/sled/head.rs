//! The head of the log in a file of its own: how far the log was known to be durable.
//!
//! It is written after the store's own `fdatasync`, so it can lag behind the log but never run ahead of it. A crash between
//! the two leaves an older head, which is still true.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

const FILE: &str = "HEAD";
/// Index of the last chunk, SHA-256 of its bytes, and the first 8 bytes of SHA-256 over both.
const LEN_BYTES: usize = 8 + 32 + 8;

/// The last chunk that was durable, by its first index and the SHA-256 of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) first_index: u64,
    pub(super) sha256: [u8; 32],
}

/// The open file.
pub(super) struct HeadFile(File);

impl HeadFile {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        options.open(directory.join(FILE)).map(Self)
    }

    /// What was written last; `None` in a new file, or where a write was torn.
    pub(super) fn read(&self) -> io::Result<Option<Head>> {
        let mut bytes = [0; LEN_BYTES];
        match self.0.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, head: Head) -> io::Result<()> {
        self.0.write_all_at(&encode(head), 0)
    }
}

fn encode(head: Head) -> [u8; LEN_BYTES] {
    let mut bytes = [0; LEN_BYTES];
    let (content, check) = bytes.split_at_mut(40);
    let (index, sha256) = content.split_at_mut(8);
    index.copy_from_slice(&head.first_index.to_be_bytes());
    sha256.copy_from_slice(&head.sha256);
    check.copy_from_slice(&checksum(content));
    bytes
}

fn decode(bytes: &[u8; LEN_BYTES]) -> Option<Head> {
    let (content, check) = bytes.split_at(40);
    let (index, sha256) = content.split_at(8);
    let head = Head { first_index: u64::from_be_bytes(index.try_into().ok()?), sha256: sha256.try_into().ok()? };
    (checksum(content) == check).then_some(head)
}

fn checksum(content: &[u8]) -> [u8; 8] {
    let digest = Sha256::digest(content);
    std::array::from_fn(|at| digest.get(at).copied().unwrap_or_default())
}
