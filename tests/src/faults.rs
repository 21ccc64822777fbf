//! A log store in memory that fails on command.

use std::{
    collections::BTreeMap,
    io,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use veribus_broker::engine::{AppendError, Chunk, LogStore, ReadError, Record};

/// How an append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was written.
    NotPersisted,
    /// Everything was written, but said to have failed.
    PersistedButReportedFailed,
    /// Everything was written, but the disk did not confirm it.
    Sync,
    /// A panic, before anything was written.
    Panic,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<Chunk>,
    records: BTreeMap<Bytes, Bytes>,
    fault: Option<Fault>,
    appends: u64,
    records_read: u64,
}

impl State {
    fn change(&mut self, records: &[Record]) {
        for Record { key, value } in records {
            match value {
                Some(value) => self.records.insert(key.clone(), value.clone()),
                None => self.records.remove(key),
            };
        }
    }
}

/// Keeps chunks in memory.
#[derive(Debug, Default)]
pub struct FaultyStore(Mutex<State>);

impl FaultyStore {
    /// The next append fails, and only that.
    pub fn fail_next(&self, fault: Fault) {
        self.state().fault = Some(fault);
    }

    /// How many appends there were, failed ones among them.
    #[must_use]
    pub fn appends(&self) -> u64 {
        self.state().appends
    }

    /// How many records were read where they were looked through.
    #[must_use]
    pub fn records_read(&self) -> u64 {
        self.state().records_read
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore for FaultyStore {
    #[expect(clippy::panic, reason = "as a store with a defect would")]
    fn append(&self, chunks: &[Chunk], records: &[Record]) -> Result<(), AppendError> {
        let mut state = self.state();
        state.appends += 1;
        let fault = state.fault.take();
        if !matches!(fault, Some(Fault::NotPersisted | Fault::Panic)) {
            state.chunks.extend_from_slice(chunks);
            state.change(records);
        }
        match fault {
            None => Ok(()),
            Some(Fault::NotPersisted | Fault::PersistedButReportedFailed) => {
                Err(AppendError::Write("failed on command".to_owned()))
            }
            Some(Fault::Panic) => panic!("on command"),
            Some(Fault::Sync) => Err(AppendError::Fatal(io::Error::other("failed on command"))),
        }
    }

    fn records(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        let state = self.state();
        let found = state.records.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn records_between(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        let mut state = self.state();
        let found = state.records.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let found: Vec<_> = found.take(max).map(|(key, value)| (key.clone(), value.clone())).collect();
        state.records_read += found.len() as u64;
        Ok(found)
    }

    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.state().records.get(key).cloned())
    }

    fn chunk_at(&self, index: u64) -> Result<Option<Chunk>, ReadError> {
        Ok(self.state().chunks.iter().rev().find(|chunk| chunk.first_index <= index).cloned())
    }

    fn size_bytes(&self) -> u64 {
        self.state().chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum()
    }
}
