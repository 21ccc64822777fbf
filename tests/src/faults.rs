//! A log store in memory that fails on command.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use veribus_broker::engine::{AppendError, Chunk, LogStore, ReadError};

/// How an append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was written.
    NotPersisted,
    /// Everything was written, but said to have failed.
    PersistedButReportedFailed,
    /// Everything was written, but the disk did not confirm it.
    Sync,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<Chunk>,
    fault: Option<Fault>,
    appends: u64,
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore for FaultyStore {
    fn append(&self, chunks: &[Chunk]) -> Result<(), AppendError> {
        let mut state = self.state();
        state.appends += 1;
        let fault = state.fault.take();
        if fault != Some(Fault::NotPersisted) {
            state.chunks.extend_from_slice(chunks);
        }
        match fault {
            None => Ok(()),
            Some(Fault::NotPersisted | Fault::PersistedButReportedFailed) => {
                Err(AppendError::Write("failed on command".to_owned()))
            }
            Some(Fault::Sync) => Err(AppendError::Fatal(io::Error::other("failed on command"))),
        }
    }

    fn chunk_at(&self, index: u64) -> Result<Option<Chunk>, ReadError> {
        Ok(self.state().chunks.iter().rev().find(|chunk| chunk.first_index <= index).cloned())
    }

    fn size_bytes(&self) -> u64 {
        self.state().chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum()
    }
}
