//! Why a store cannot be opened. Damage is said only where it was found: who is told to restore a backup loses what is newer.

use std::{io, path::PathBuf};

use rustix::io::Errno;
use thiserror::Error;

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made, read or written.
    #[error("cannot use the data directory `{path}`: {source}{}", remedy(source))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the data directory `{0}` is in use by another broker")]
    InUse(PathBuf),
    /// The files are not what sled wrote.
    #[error("the log in `{path}` is damaged: {detail}; restore the directory from a backup")]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What the store said.
        detail: String,
    },
    /// The store does not open for a reason of its own.
    #[error("the log in `{path}` cannot be opened: {detail}")]
    Store {
        /// The directory.
        path: PathBuf,
        /// What the store said.
        detail: String,
    },
    /// The log ends before what was known to be durable.
    #[error(
        "the log in `{path}` has lost entries: it was durable up to the chunk at entry {known}, which is gone or changed; \
         restore the directory from a backup, or move it away to begin a new log"
    )]
    FallenBehind {
        /// The directory.
        path: PathBuf,
        /// First index of the chunk that was the last.
        known: u64,
    },
}

impl OpenError {
    pub(super) fn new(path: PathBuf, error: sled::Error) -> Self {
        let detail = error.to_string().replace('\n', " ");
        match error {
            sled::Error::Io(_) if detail.contains("could not acquire lock") => Self::InUse(path),
            sled::Error::Io(source) if !is_of_the_content(&source) => Self::Directory { path, source },
            sled::Error::Io(_) | sled::Error::Corruption { .. } => Self::Damaged { path, detail },
            sled::Error::CollectionNotFound(_) | sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => {
                Self::Store { path, detail }
            }
        }
    }
}

/// What sled itself says of what it read, in the form of an error of the system.
fn is_of_the_content(error: &io::Error) -> bool {
    let is_made_by_sled =
        matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
    is_made_by_sled && error.raw_os_error().is_none()
}

/// What to do about an error of the system in a data directory, to be put behind it; nothing where only the error says more.
pub(in crate::engine) fn remedy(error: &io::Error) -> &'static str {
    match (error.kind(), Errno::from_io_error(error)) {
        (_, Some(Errno::MFILE)) => {
            "; raise the limit of open files of the process (`ulimit -n`, `LimitNOFILE=` of systemd) and start again"
        }
        (_, Some(Errno::NFILE)) => "; raise the limit of open files of the system (`fs.file-max`) and start again",
        (_, Some(Errno::IO)) => "; the device failed: see the log of the kernel (`dmesg`) before anything else",
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => {
            "; free space on its file system, and start again"
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            "; its file system is mounted read-only: mount it for writing, and start again"
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "; the user that the broker runs as must own it and everything in it, and may read and write it"
        }
        (io::ErrorKind::FileTooLarge, _) => {
            "; raise the limit of the size of files (`ulimit -f`, `LimitFSIZE=` of systemd) and start again"
        }
        (io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists, _) => "; it must be a directory",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: sled::Error) -> String {
        OpenError::new(PathBuf::from("/data/log"), error).to_string()
    }

    #[test]
    fn what_the_system_refuses_is_told_with_what_to_do_and_as_no_damage() {
        let cases = [
            (Errno::NOSPC, "free space"),
            (Errno::DQUOT, "free space"),
            (Errno::ROFS, "mounted read-only"),
            (Errno::MFILE, "`ulimit -n`, `LimitNOFILE="),
            (Errno::NFILE, "fs.file-max"),
            (Errno::ACCESS, "must own it"),
            (Errno::PERM, "must own it"),
            (Errno::FBIG, "ulimit -f"),
            (Errno::NOTDIR, "must be a directory"),
            (Errno::IO, "dmesg"),
        ];
        for (errno, remedy) in cases {
            let told = told(io::Error::from(errno).into());
            let code = format!("(os error {})", errno.raw_os_error());
            assert!([remedy, &code, "`/data/log`"].iter().all(|part| told.contains(part)), "{told}");
            assert!(!told.contains("backup") && !told.contains("damage"), "{told}");
        }
    }

    #[test]
    fn what_sled_passes_on_from_another_thread_is_told_the_same() {
        let passed_on = sled::Error::Io(io::Error::from(Errno::NOSPC)).clone();
        let told = told(passed_on);
        assert!(told.contains("free space") && !told.contains("backup"), "{told}");
    }

    #[test]
    fn damage_is_said_where_sled_found_it() {
        let damaged = [
            sled::Error::Corruption { at: None, bt: () },
            io::Error::other("encountered torn segment").into(),
            io::Error::from(io::ErrorKind::UnexpectedEof).into(),
        ];
        for error in damaged {
            let told = told(error);
            assert!(told.contains("is damaged") && told.contains("restore the directory from a backup"), "{told}");
        }
        for error in [sled::Error::Unsupported("x".to_owned()), sled::Error::ReportableBug("x".to_owned())] {
            let told = told(error);
            assert!(told.contains("cannot be opened") && !told.contains("backup"), "{told}");
        }
    }
}
