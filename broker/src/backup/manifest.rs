//! `backup.json`: what a backup holds, and by what it is known to be as it was.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use walkdir::{DirEntry, WalkDir};

use super::{BackupError, at};

const FILE: &str = "backup.json";
/// The only form that there is.
const FORMAT: &str = "veribus-backup-1";
const READ_BYTES: usize = 256 * 1024;

/// What is in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    /// How many entries the log has.
    pub(super) entries: u64,
    /// The leaf hash of the last of them, hexadecimal.
    pub(super) head: String,
    /// How many records stand beside it.
    pub(super) records: u64,
    /// Every file, by its path from the directory on.
    files: BTreeMap<String, Facts>,
}

/// By what a file is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    bytes: u64,
    /// Hexadecimal.
    sha256: String,
}

impl Manifest {
    /// Of the files in `directory` as they are now.
    pub(super) fn of(directory: &Path, entries: u64, head: &[u8], records: u64) -> Result<Self, BackupError> {
        let mut files = BTreeMap::new();
        for (name, path) in files_in(directory)? {
            files.insert(name, copy(&path, &mut io::sink())?);
        }
        Ok(Self { format: FORMAT.to_owned(), entries, head: HEXLOWER.encode(head), records, files })
    }

    /// Reads that of a backup.
    pub(super) fn read(directory: &Path) -> Result<Self, BackupError> {
        let path = directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::Incomplete(directory.to_owned()));
            }
            Err(error) => return Err(at(&path)(error)),
        };
        let wrong = |fault: String| BackupError::Manifest { path: path.clone(), fault };
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(wrong(format!("`{}` is not `{FORMAT}`", manifest.format)));
        }
        Ok(manifest)
    }

    /// Writes it into a directory.
    pub(super) fn write(&self, directory: &Path) -> Result<(), BackupError> {
        let path = directory.join(FILE);
        let text = serde_json::to_vec_pretty(self).map_err(|error| at(&path)(error.into()))?;
        File::create_new(&path).and_then(|mut file| file.write_all(&text)).map_err(at(&path))
    }

    /// How many bytes its files have.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|facts| facts.bytes).sum()
    }

    /// Copies the files of a backup, if there are these and no others and each is as it was. Links are not followed.
    pub(super) fn copy_files(&self, from: &Path, to: &Path) -> Result<(), BackupError> {
        let found = files_in(from)?;
        if let Some(missing) = self.files.keys().find(|name| !found.contains_key(*name)) {
            return Err(BackupError::Changed(from.join(missing)));
        }
        for (name, path) in found {
            let expected = self.files.get(&name).ok_or_else(|| BackupError::Changed(path.clone()))?;
            let target = to.join(&name);
            if let Some(outer) = target.parent() {
                fs::create_dir_all(outer).map_err(at(outer))?;
            }
            let mut file = File::create_new(&target).map_err(at(&target))?;
            if copy(&path, &mut file)? != *expected {
                return Err(BackupError::Changed(path));
            }
        }
        Ok(())
    }
}

/// The files of a backup but for this one, by their names in it.
fn files_in(directory: &Path) -> Result<BTreeMap<String, PathBuf>, BackupError> {
    let mut files = BTreeMap::new();
    for entry in WalkDir::new(directory).min_depth(1) {
        let entry = entry.map_err(|error| at(directory)(error.into()))?;
        if entry.file_type().is_dir() {
            continue;
        }
        let name = name_of(&entry, directory).ok_or_else(|| BackupError::Changed(entry.path().to_owned()))?;
        if name != FILE {
            files.insert(name, entry.into_path());
        }
    }
    Ok(files)
}

/// Nothing but a file has one.
fn name_of(entry: &DirEntry, directory: &Path) -> Option<String> {
    let name = entry.path().strip_prefix(directory).ok()?.to_str()?;
    entry.file_type().is_file().then(|| name.to_owned())
}

/// Copies a file, and says by what its content is known.
fn copy(path: &Path, to: &mut impl Write) -> Result<Facts, BackupError> {
    let mut file = File::open(path).map_err(at(path))?;
    let (mut sha256, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; READ_BYTES]);
    loop {
        let length = file.read(&mut buffer).map_err(at(path))?;
        let read = buffer.get(..length).unwrap_or_default();
        if read.is_empty() {
            return Ok(Facts { bytes, sha256: HEXLOWER.encode(&sha256.finalize()) });
        }
        sha256.update(read);
        to.write_all(read).map_err(at(path))?;
        bytes += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn backup() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("log")).expect("made");
        fs::write(directory.path().join("log/db"), vec![7; 300_000]).expect("written");
        fs::write(directory.path().join("log/conf"), "conf").expect("written");
        Manifest::of(directory.path(), 5, &[1; 32], 2).expect("read").write(directory.path()).expect("written");
        directory
    }

    fn copied(directory: &Path) -> Result<tempfile::TempDir, BackupError> {
        let to = tempfile::tempdir().expect("a directory");
        Manifest::read(directory)?.copy_files(directory, to.path())?;
        Ok(to)
    }

    #[test]
    fn the_files_of_a_backup_are_copied_as_they_are() {
        let backup = backup();
        let copy = copied(backup.path()).expect("copied");
        assert_eq!(fs::read(copy.path().join("log/db")).expect("there"), vec![7; 300_000]);
        assert!(!copy.path().join(FILE).exists(), "it is no backup");
        assert_eq!(Manifest::read(backup.path()).expect("read").bytes(), 300_004);
    }

    #[test]
    fn a_file_that_was_changed_removed_added_or_linked_is_named() {
        type Change = fn(&Path);
        let cases: [(Change, &str); 5] = [
            (|path| fs::write(path.join("log/conf"), "cond").expect("written"), "log/conf"),
            (|path| fs::write(path.join("log/db"), vec![7; 299_999]).expect("written"), "log/db"),
            (|path| fs::remove_file(path.join("log/conf")).expect("removed"), "log/conf"),
            (|path| fs::write(path.join("log/more"), "").expect("written"), "log/more"),
            (|path| symlink("conf", path.join("log/link")).expect("linked"), "log/link"),
        ];
        for (change, named) in cases {
            let backup = backup();
            change(backup.path());
            let error = copied(backup.path()).expect_err(named);
            assert!(matches!(&error, BackupError::Changed(path) if path.ends_with(named)), "{error}");
        }
    }

    #[test]
    fn what_says_nothing_or_something_else_is_no_manifest() {
        let backup = backup();
        let path = backup.path().join(FILE);
        let text = fs::read_to_string(&path).expect("read");
        for changed in [text.replace("backup-1", "backup-2"), text.replace("\"entries\"", "\"more\""), String::new()] {
            fs::write(&path, changed).expect("written");
            assert!(matches!(Manifest::read(backup.path()), Err(BackupError::Manifest { .. })));
        }
        fs::remove_file(&path).expect("removed");
        assert!(matches!(Manifest::read(backup.path()), Err(BackupError::Incomplete(_))));
    }
}
