//! Chunks as keys and values of one tree. Key: first index and part, both big-endian, so that key order is log order.
//! Records stand in the same tree, since a batch of sled is atomic within one: behind a first byte that no chunk reaches.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::{
    head::{Head, HeadFile},
    open_error::{OpenError, remedy},
};
use crate::engine::{AppendError, Chunk, KEY_BYTES_MAX, LogStore, ReadError, Record};

/// The longest value, in bytes: sixteen of them fill a leaf page of sled without it turning into a blob.
pub const VALUE_BYTES_MAX: usize = 7 * 1024;

/// How long a store may take to close, and how long to wait between two looks.
const CLOSE_MAX: Duration = Duration::from_secs(10);
const CLOSE_PAUSE: Duration = Duration::from_millis(2);

const PARTS_MAX: usize = u16::MAX as usize;
/// The first byte of a record's key. No log grows to 2^56 * 255 entries.
const RECORD: u8 = u8::MAX;
const INDEX_MAX: u64 = ((RECORD as u64) << 56) - 1;

/// The audit log in a sled directory.
pub struct SledLog {
    db: sled::Db,
    file: File,
    head: Mutex<HeadFile>,
}

impl SledLog {
    /// Opens or makes the store in `directory`; its page cache takes up to `cache_bytes_max`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(directory: &Path, cache_bytes_max: u64) -> Result<Self, OpenError> {
        let in_directory = |source| OpenError::Directory { path: directory.to_owned(), source };
        let path = directory.join("log");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(in_directory)?;
        // Those of a broker that runs are its own.
        let closed = path.join("db").exists().then(|| closed_within(Duration::ZERO, directory)).transpose()?;
        move_aside_half_made_snapshots(&path).map_err(in_directory)?;
        drop(closed);
        let db = sled::Config::default()
            .path(&path)
            .cache_capacity(cache_bytes_max)
            .flush_every_ms(None)
            .open()
            .map_err(|error| OpenError::new(path.clone(), error))?;
        let file = File::open(path.join("db")).map_err(in_directory)?;
        let head = HeadFile::open(&path).map_err(in_directory)?;
        let known = head.read().map_err(in_directory)?;
        sync_directories(directory, &path).map_err(in_directory)?;
        let log = Self { db, file, head: Mutex::new(head) };
        log.check_head(known, &path)?;
        Ok(log)
    }

    fn check_head(&self, known: Option<Head>, path: &Path) -> Result<(), OpenError> {
        let Some(known) = known else { return Ok(()) };
        let path = path.to_owned();
        match self.chunk_at(known.first_index) {
            Ok(Some(chunk)) if head_of(&chunk) == known => Ok(()),
            Ok(_) | Err(ReadError::Damaged(_)) => Err(OpenError::FallenBehind { path, known: known.first_index }),
            Err(ReadError::Corrupt(detail)) => Err(OpenError::Damaged { path, detail }),
            Err(ReadError::Store(detail)) => Err(OpenError::Store { path, detail }),
        }
    }

    fn write(&self, chunks: &[Chunk], records: &[Record]) -> Result<(), AppendError> {
        let mut batch = sled::Batch::default();
        for record in records {
            let value_bytes = record.value.as_ref().map_or(0, Bytes::len);
            if record.key.len() > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
                return Err(AppendError::Write("a record is too large".to_owned()));
            }
            match &record.value {
                Some(value) => batch.insert(record_key(&record.key), value.as_ref()),
                None => batch.remove(record_key(&record.key)),
            }
        }
        for chunk in chunks {
            if chunk.bytes.len() > VALUE_BYTES_MAX * PARTS_MAX {
                return Err(AppendError::Write("a chunk is too large".to_owned()));
            }
            for (part, value) in (0u16..).zip(chunk.bytes.chunks(VALUE_BYTES_MAX)) {
                batch.insert(&key(chunk.first_index, part), value);
            }
        }
        let written = self.db.apply_batch(batch).and_then(|()| self.db.flush().map(drop));
        written.map_err(|error| AppendError::Fatal(error.into()))
    }

    fn parts(&self, first_index: u64) -> Result<Bytes, ReadError> {
        let mut bytes = Vec::new();
        for (expected, item) in (0u16..).zip(self.db.range(key(first_index, 0)..=key(first_index, u16::MAX))) {
            let (found, value) = item.map_err(read_error)?;
            if split_key(&found) != Some((first_index, expected)) {
                return Err(ReadError::Damaged(first_index));
            }
            bytes.extend_from_slice(&value);
        }
        Ok(bytes.into())
    }
}

/// Waits until nothing writes to the store in `directory` any more, for those who copy its files, and keeps others from
/// opening it as long as what is returned lives. A store that was dropped ends what it has begun in the background.
///
/// # Errors
/// [`OpenError::InUse`] where that takes longer than ten seconds; [`OpenError::Directory`].
pub fn wait_until_closed(directory: &Path) -> Result<File, OpenError> {
    closed_within(CLOSE_MAX, directory)
}

fn closed_within(wait_max: Duration, directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("log");
    let in_directory = |source| OpenError::Directory { path: directory.to_owned(), source };
    let file = File::open(path.join("db")).map_err(in_directory)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(in_directory(error)),
            Err(TryLockError::WouldBlock) if begun.elapsed() >= wait_max => return Err(OpenError::InUse(path)),
            Err(TryLockError::WouldBlock) => thread::park_timeout(CLOSE_PAUSE),
        }
    }
}

impl LogStore for SledLog {
    fn append(&self, chunks: &[Chunk], records: &[Record]) -> Result<(), AppendError> {
        if chunks.is_empty() && records.is_empty() {
            return Ok(());
        }
        self.write(chunks, records)?;
        // A crash here leaves entries that nobody was told of; the next start finds them in the log.
        self.file.sync_data().map_err(AppendError::Fatal)?;
        let Some(last) = chunks.last() else { return Ok(()) };
        // A head that cannot be written is older than the log, which is allowed; a disk that fails here is about to fail
        // the next append as well.
        self.head.lock().write(head_of(last)).map_err(AppendError::Fatal)
    }

    fn records(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.db.scan_prefix(record_key(prefix)).map(without_mark).collect()
    }

    fn records_between(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.db.range(record_key(from)..record_key(to)).take(max).map(without_mark).collect()
    }

    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let found = self.db.get(record_key(key)).map_err(read_error)?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn chunk_at(&self, index: u64) -> Result<Option<Chunk>, ReadError> {
        let Some(found) = self.db.range(..=key(index.min(INDEX_MAX), u16::MAX)).next_back() else { return Ok(None) };
        let (found, _) = found.map_err(read_error)?;
        let (first_index, _) = split_key(&found).ok_or(ReadError::Damaged(index))?;
        Ok(Some(Chunk { first_index, bytes: self.parts(first_index)? }))
    }

    fn size_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }
}

fn key(first_index: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    let (index, rest) = key.split_at_mut(8);
    index.copy_from_slice(&first_index.to_be_bytes());
    rest.copy_from_slice(&part.to_be_bytes());
    key
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [&[RECORD], key].concat()
}

fn without_mark(item: sled::Result<(sled::IVec, sled::IVec)>) -> Result<(Bytes, Bytes), ReadError> {
    let (key, value) = item.map_err(read_error)?;
    Ok((Bytes::copy_from_slice(key.get(1..).unwrap_or_default()), Bytes::copy_from_slice(&value)))
}

fn split_key(key: &[u8]) -> Option<(u64, u16)> {
    let (index, part) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*index), u16::from_be_bytes(part.try_into().ok()?)))
}

fn head_of(chunk: &Chunk) -> Head {
    Head { first_index: chunk.first_index, sha256: Sha256::digest(&chunk.bytes).into() }
}

fn read_error(error: sled::Error) -> ReadError {
    match error {
        sled::Error::Corruption { .. } => ReadError::Corrupt(error.to_string()),
        sled::Error::Io(error) => ReadError::Store(format!("{error}{}", remedy(&error))),
        _ => ReadError::Store(error.to_string()),
    }
}

fn move_aside_half_made_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::rename(entry.path(), path.join(format!("aside.{name}")))?;
        }
    }
    Ok(())
}

/// New files exist after a power cut only once their directory is synced too.
fn sync_directories(outer: &Path, inner: &Path) -> io::Result<()> {
    File::open(inner)?.sync_all()?;
    File::open(outer)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: u64 = 1 << 20;

    fn chunk(first_index: u64, length: usize) -> Chunk {
        let byte = u8::try_from(first_index % 251).expect("small");
        Chunk { first_index, bytes: vec![byte; length].into() }
    }

    #[test]
    fn chunks_of_any_length_come_back_and_none_becomes_a_blob() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = SledLog::open(directory.path(), CACHE).expect("opened");
        let lengths = [1, 500, VALUE_BYTES_MAX - 1, VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1, 66_000];
        for round in 0..60u64 {
            let chunks: Vec<_> = (0u64..).zip(lengths).map(|(at, length)| chunk(round * 100 + at, length)).collect();
            log.append(&chunks, &[]).expect("appended");
            for chunk in &chunks {
                assert_eq!(log.chunk_at(chunk.first_index).expect("read").as_ref(), Some(chunk));
            }
        }
        assert_eq!(log.chunk_at(50).expect("read"), Some(chunk(5, 66_000)), "the last one before an index");
        drop(log);
        let blobs = fs::read_dir(directory.path().join("log/blobs")).expect("there").count();
        assert_eq!(blobs, 0, "a value went to a file that is never synced");
    }

    #[test]
    fn what_was_appended_is_there_after_opening_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = SledLog::open(directory.path(), CACHE).expect("opened");
        log.append(&[chunk(0, 10), chunk(7, 20)], &[]).expect("appended");
        drop(log);
        let log = SledLog::open(directory.path(), CACHE).expect("opened again");
        assert_eq!(log.chunk_at(u64::MAX).expect("read"), Some(chunk(7, 20)));
    }

    fn record(key: &str, value: Option<&str>) -> Record {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Record { key: bytes(key), value: value.map(bytes) }
    }

    #[test]
    fn records_change_with_a_commit_and_are_no_part_of_the_log() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = SledLog::open(directory.path(), CACHE).expect("opened");
        log.append(&[], &[record("a/1", Some("alone"))]).expect("appended without a chunk");
        assert_eq!(log.chunk_at(u64::MAX).expect("read"), None);
        let records =
            [record("a/1", None), record("a/2", Some("old")), record("a/2", Some("x")), record("b", Some("y"))];
        log.append(&[chunk(0, 10)], &records).expect("appended");
        drop(log);
        let log = SledLog::open(directory.path(), CACHE).expect("opened again");
        assert_eq!(log.chunk_at(u64::MAX).expect("read"), Some(chunk(0, 10)));
        assert_eq!(log.records(b"a/").expect("read"), [("a/2".into(), "x".into())]);
        assert_eq!(log.record(b"b").expect("read"), Some("y".into()));
        assert_eq!(log.record(b"a/1").expect("read"), None);
        let both = [("a/2".into(), "x".into()), ("b".into(), "y".into())];
        assert_eq!(log.records_between(b"a", b"c", 9).expect("read"), both);
        assert_eq!(log.records_between(b"a", b"c", 1).expect("read"), both[..1]);
        assert_eq!(log.records_between(b"a/3", b"b", 9).expect("read"), []);
        let long = record("a", Some(&"x".repeat(VALUE_BYTES_MAX + 1)));
        assert!(matches!(log.append(&[chunk(7, 1)], &[long]), Err(AppendError::Write(_))));
        assert_eq!(log.chunk_at(u64::MAX).expect("read"), Some(chunk(0, 10)), "all or nothing");
    }

    #[test]
    fn a_second_broker_cannot_open_the_same_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let _log = SledLog::open(directory.path(), CACHE).expect("opened");
        let snapshot = directory.path().join("log/snap.0000.generating");
        fs::write(&snapshot, b"half").expect("written");
        let second = SledLog::open(directory.path(), CACHE);
        assert!(matches!(second, Err(OpenError::InUse(_))), "{:?}", second.err());
        assert!(snapshot.exists(), "what the first one writes is left to it");
    }

    #[test]
    fn a_store_is_closed_when_it_was_dropped_and_nobody_opens_it_while_it_is_copied() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = SledLog::open(directory.path(), CACHE).expect("opened");
        log.append(&[chunk(0, 10)], &[]).expect("appended");
        let dropping = thread::spawn(move || {
            thread::park_timeout(Duration::from_millis(50));
            drop(log);
        });
        let begun = Instant::now();
        let closed = wait_until_closed(directory.path()).expect("closed");
        assert!(begun.elapsed() >= Duration::from_millis(40), "it waits");
        dropping.join().expect("no panic");
        assert!(matches!(SledLog::open(directory.path(), CACHE), Err(OpenError::InUse(_))));
        drop(closed);
        SledLog::open(directory.path(), CACHE).expect("opened again");
    }

    #[test]
    fn a_log_that_lost_its_end_does_not_open() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = SledLog::open(directory.path(), CACHE).expect("opened");
        log.append(&[chunk(0, 10)], &[]).expect("appended");
        log.append(&[chunk(7, 20)], &[]).expect("appended");
        log.db.remove(key(7, 0)).expect("removed");
        drop(log);
        let opened = SledLog::open(directory.path(), CACHE).err();
        assert!(matches!(opened, Some(OpenError::FallenBehind { known: 7, .. })), "{opened:?}");
    }

    #[test]
    fn a_database_file_that_is_gone_does_not_open_as_an_empty_log() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = SledLog::open(directory.path(), CACHE).expect("opened");
        log.append(&[chunk(0, 10)], &[]).expect("appended");
        drop(log);
        fs::remove_file(directory.path().join("log/db")).expect("removed");
        let opened = SledLog::open(directory.path(), CACHE).err();
        assert!(opened.is_some());
    }

    #[test]
    fn a_half_made_snapshot_is_moved_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        drop(SledLog::open(directory.path(), CACHE).expect("opened"));
        fs::write(directory.path().join("log/snap.0000.generating"), b"half").expect("written");
        drop(SledLog::open(directory.path(), CACHE).expect("opened again"));
        assert!(directory.path().join("log/aside.snap.0000.generating").exists());
    }
}
