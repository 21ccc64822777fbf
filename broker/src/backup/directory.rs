//! A directory that gets its name only when it is complete. Until then it is called `NAME.partial`.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

use super::{BackupError, at};

/// A directory in the making, which nobody but its owner can enter.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    complete: PathBuf,
}

impl Partial {
    /// Makes one that is to become `complete`, which must be nothing, or empty.
    pub(super) fn create(complete: &Path) -> Result<Self, BackupError> {
        if !is_free(complete).map_err(at(complete))? {
            return Err(BackupError::NotEmpty(complete.to_owned()));
        }
        let mut name = complete.file_name().ok_or_else(|| BackupError::NoName(complete.to_owned()))?.to_owned();
        name.push(".partial");
        let path = complete.with_file_name(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self { path, complete: complete.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(BackupError::Leftover(path)),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// Where it is until then.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Everything in it is durable when it gets its name, and so is the name.
    pub(super) fn complete(self) -> Result<(), BackupError> {
        for entry in WalkDir::new(&self.path) {
            let entry = entry.map_err(|error| at(&self.path)(error.into()))?;
            File::open(entry.path()).and_then(|file| file.sync_all()).map_err(at(entry.path()))?;
        }
        fs::rename(&self.path, &self.complete).map_err(at(&self.complete))?;
        let outer = self.complete.parent().filter(|outer| !outer.as_os_str().is_empty());
        let outer = outer.unwrap_or_else(|| Path::new("."));
        File::open(outer).and_then(|outer| outer.sync_all()).map_err(at(outer))
    }

    /// Takes it away again.
    pub(super) fn discard(self) -> Result<(), BackupError> {
        fs::remove_dir_all(&self.path).map_err(at(&self.path))
    }
}

/// Whether there is nothing, or an empty directory.
fn is_free(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_gets_its_name_when_it_is_complete_and_only_its_owner_enters_it() {
        let outer = tempfile::tempdir().expect("a directory");
        let complete = outer.path().join("copy");
        let partial = Partial::create(&complete).expect("made");
        fs::write(partial.path().join("file"), "content").expect("written");
        assert!(!complete.exists());
        assert!(matches!(Partial::create(&complete), Err(BackupError::Leftover(_))), "one at a time");
        partial.complete().expect("complete");
        assert_eq!(fs::read_to_string(complete.join("file")).expect("read"), "content");
        assert_eq!(fs::metadata(&complete).expect("there").permissions().mode() & 0o777, 0o700);
        assert!(matches!(Partial::create(&complete), Err(BackupError::NotEmpty(_))));
    }

    #[test]
    fn what_is_there_is_never_written_over() {
        let outer = tempfile::tempdir().expect("a directory");
        fs::write(outer.path().join("file"), "").expect("written");
        fs::create_dir(outer.path().join("empty")).expect("made");
        let create = |name: &str| Partial::create(&outer.path().join(name));
        assert!(matches!(create("file"), Err(BackupError::NotEmpty(_))));
        assert!(matches!(create("nowhere/copy"), Err(BackupError::File { .. })));
        assert!(matches!(create(".."), Err(BackupError::NotEmpty(_) | BackupError::NoName(_))));
        let partial = create("empty").expect("nothing is in it");
        partial.discard().expect("removed");
        assert!(!outer.path().join("empty.partial").exists());
        create("empty").expect("again").complete().expect("over an empty one");
    }
}
