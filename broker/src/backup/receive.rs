//! Writing a backup down as it comes from the broker, and verifying it when all is there.

use std::path::{Path, PathBuf};

use veribus_proto::{
    chain::ChainVerifier,
    v1::{BackupChunk, BackupEnd, BackupRecord, BackupResponse},
};

use super::{
    BackupError, CACHE_BYTES_MAX, Contents,
    contents::{push, verify},
    directory::Partial,
    manifest::Manifest,
};
use crate::{
    engine::{Chunk, KEY_BYTES_MAX, Record, SharedLogStore},
    server::{open_data, wait_until_closed},
};

/// How many bytes are written at a time, about.
const WRITE_BYTES: usize = 4 * 1024 * 1024;

/// A backup that is being received, in `DIRECTORY.partial` until it is complete. Dropped before that, it stays so.
pub struct Receiver {
    directory: Partial,
    store: SharedLogStore,
    chain: ChainVerifier,
    chunks: Vec<Chunk>,
    records: Vec<Record>,
    waiting_bytes: usize,
    bytes: u64,
    end: Option<BackupEnd>,
}

/// How far a backup has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many entries are here.
    pub entries: u64,
    /// How many bytes came, without framing.
    pub bytes: u64,
}

impl Receiver {
    /// Begins one that is to be `directory`, which must be nothing, or empty.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn create(directory: &Path) -> Result<Self, BackupError> {
        let directory = Partial::create(directory)?;
        let store = open_data(directory.path(), CACHE_BYTES_MAX)?;
        let (chain, chunks, records) = (ChainVerifier::from_genesis(), Vec::new(), Vec::new());
        Ok(Self { directory, store, chain, chunks, records, waiting_bytes: 0, bytes: 0, end: None })
    }

    /// Where it is until it is complete.
    #[must_use]
    pub fn partial_path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Takes the next part, and follows the chain through it. Blocks on the disk.
    ///
    /// # Errors
    /// [`BackupError`]: this backup cannot be completed.
    pub fn take(&mut self, part: BackupResponse) -> Result<Progress, BackupError> {
        if self.end.is_some() {
            return Err(BackupError::Protocol("something follows the end of a backup"));
        }
        part.records.into_iter().try_for_each(|record| self.take_record(record))?;
        part.chunks.into_iter().try_for_each(|chunk| self.take_chunk(chunk))?;
        self.end = part.end;
        if self.waiting_bytes >= WRITE_BYTES {
            self.write()?;
        }
        Ok(Progress { entries: self.chain.next_index(), bytes: self.bytes })
    }

    /// Verifies all that was received, as it stands on the disk, and gives it its name.
    ///
    /// # Errors
    /// [`BackupError`]: what was received stays under the name that says that it is not complete.
    pub fn finish(mut self) -> Result<Contents, BackupError> {
        let end = self.end.take().ok_or(BackupError::Protocol("a backup broke off before its end"))?;
        self.write()?;
        let Self { directory, store, .. } = self;
        drop(store);
        drop(wait_until_closed(directory.path())?);
        let verified = verify(&*open_data(directory.path(), CACHE_BYTES_MAX)?)?;
        if (verified.entries, &verified.head[..]) != (end.next_index, &end.head[..]) {
            return Err(BackupError::OtherEnd { found: verified.entries, expected: end.next_index });
        }
        let closed = wait_until_closed(directory.path())?;
        let manifest = Manifest::of(directory.path(), verified.entries, &verified.head, verified.records)?;
        manifest.write(directory.path())?;
        directory.complete()?;
        drop(closed);
        Ok(Contents { bytes: manifest.bytes(), ..verified })
    }

    fn take_record(&mut self, BackupRecord { key, value }: BackupRecord) -> Result<(), BackupError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(BackupError::Protocol("a record has no key, or one that is too long"));
        }
        self.count(key.len() + value.as_ref().map_or(0, bytes::Bytes::len));
        self.records.push(Record { key, value });
        Ok(())
    }

    fn take_chunk(&mut self, BackupChunk { first_index, entries }: BackupChunk) -> Result<(), BackupError> {
        if first_index != self.chain.next_index() {
            return Err(BackupError::Protocol("the log has a gap"));
        }
        let chunk = Chunk { first_index, bytes: entries };
        push(&mut self.chain, &chunk)?;
        self.count(chunk.bytes.len());
        self.chunks.push(chunk);
        Ok(())
    }

    fn count(&mut self, bytes: usize) {
        self.waiting_bytes += bytes;
        self.bytes += bytes as u64;
    }

    fn write(&mut self) -> Result<(), BackupError> {
        self.store.append(&self.chunks, &self.records)?;
        self.chunks.clear();
        self.records.clear();
        self.waiting_bytes = 0;
        Ok(())
    }
}
