//! How much disk is left. Below the floor new publishes and changes of shared state are refused, while
//! reading and what is in flight go on. Each reading is recorded too: when most of the floor is used up, reading ends as well.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What is kept of any floor for ending and reporting, at the most.
const CRITICAL_BYTES: u64 = 64 << 20;

/// Watches the disk that holds the log.
#[derive(Debug, Clone)]
pub struct DiskWatch {
    directory: Arc<PathBuf>,
    floor_bytes: u64,
    free_bytes: Arc<AtomicU64>,
}

impl DiskWatch {
    /// Looks at the disk under `directory`.
    #[must_use]
    pub fn new(directory: &Path, floor_bytes: u64) -> Self {
        let watch = Self { directory: Arc::new(directory.to_owned()), floor_bytes, free_bytes: Arc::default() };
        watch.look();
        watch
    }

    /// Looks again. A disk that cannot be asked counts as full.
    pub fn look(&self) {
        let free = rustix::fs::statvfs(self.directory.as_path())
            .map_or(0, |statistics| statistics.f_bavail.saturating_mul(statistics.f_frsize));
        self.free_bytes.store(free, Ordering::Relaxed);
    }

    /// Free bytes when last looked at.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Whether new publishes must wait for somebody to make room.
    #[must_use]
    pub fn is_below_floor(&self) -> bool {
        self.free_bytes() < self.floor_bytes
    }

    /// Whether so little is left of the reserve that only what ends or reports may still be written.
    #[must_use]
    pub fn is_critical(&self) -> bool {
        self.free_bytes() < (self.floor_bytes / 4).min(CRITICAL_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_less_than_the_floor_is_told_from_one_with_more() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(!DiskWatch::new(directory.path(), 1).is_below_floor());
        let low = DiskWatch::new(directory.path(), u64::MAX);
        assert!(low.is_below_floor() && !low.is_critical());
    }

    #[test]
    fn a_disk_that_cannot_be_asked_counts_as_full() {
        let unknown = DiskWatch::new(Path::new("/nowhere/at/all"), 8);
        assert!(unknown.is_below_floor() && unknown.is_critical());
    }
}
