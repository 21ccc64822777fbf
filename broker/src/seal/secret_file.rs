//! Files with private keys, and who else may use them: judged on the open file, before what is in it counts.
//!
//! Links are followed and what they lead to is judged, since orchestrators lay secrets as links. What others may write is
//! refused: they choose the key. What everybody may read or replace is used, and told. The root key is stricter, see `root_file`.

use std::{
    fmt,
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;
use zeroize::Zeroizing;

/// A key with a chain of certificates is some ten thousand bytes long.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const OTHERS_WRITE: u32 = 0o002;
const OTHERS_READ: u32 = 0o004;
const GROUP_WRITES: u32 = 0o020;
/// In such a directory nobody replaces the files of others.
const STICKY: u32 = 0o1000;
/// All that a mode consists of.
const MODE: u32 = 0o7777;

/// Why a file with a secret is not used.
#[derive(Debug, Error)]
pub enum SecretFileError {
    /// The system says no.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Everybody may write it.
    #[error(
        "`{path}` has mode {mode:04o}: everybody on this machine may put another key there; make it private \
         (`chmod 600 {path}`) and, if others had access, replace the key"
    )]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is a pipe that has a name.
    #[error("`{0}` is a pipe: a key is read from a file, or from an open descriptor (`/dev/fd/N`)")]
    Pipe(PathBuf),
    /// It is much too long.
    #[error("`{0}` is longer than any key")]
    TooLong(PathBuf),
}

/// How others than the broker's user and root have to do with a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Exposed {
    /// Everybody may read it.
    #[error(
        "`{path}` has mode {mode:04o}: everybody on this machine may read the key in it; make it private (`chmod 600 {path}`)"
    )]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Everybody may put another file in its place. That cannot be refused: in an `emptyDir` of Kubernetes, where sidecars lay keys,
    /// everybody may write, and everybody is one's own.
    #[error(
        "`{path}` lies in `{directory}`, which has mode {mode:04o}: everybody on this machine may put another key there; close the \
         directory (`chmod o-w {directory}`) and, if others had access, replace the key"
    )]
    Replaceable {
        /// The file.
        path: PathBuf,
        /// The directory, of the file or of the link to it.
        directory: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its group may write it.
    #[error("`{path}` has mode {mode:04o}: its group may put another key there; take that away (`chmod g-w {path}`)")]
    GroupWritable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns the file, or a directory that it lies in.
    #[error(
        "`{place}` belongs to user {owner}, who may put another key there: the key's file and its directory should belong to \
         the user that reads it, or to root"
    )]
    Owner {
        /// The file or the directory.
        place: PathBuf,
        /// Its user id.
        owner: u32,
    },
}

/// The content of a file that nobody but its owner and its group may write.
pub struct SecretFile {
    path: PathBuf,
    content: Zeroizing<Vec<u8>>,
    exposed: Option<Exposed>,
}

impl SecretFile {
    /// Opens, judges and reads the file.
    ///
    /// # Errors
    /// [`SecretFileError`].
    pub fn read(path: &Path) -> Result<Self, SecretFileError> {
        let exposed = Self::look(path)?;
        let file = File::open(path).map_err(at(path))?;
        let metadata = file.metadata().map_err(at(path))?;
        // Another file may stand there by now.
        let exposed = judge(path, &metadata)?.or(exposed);
        // Room for all of it from the beginning: what grows leaves copies behind.
        let room = metadata.len().min(FILE_BYTES_MAX).saturating_add(1024);
        let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(room).unwrap_or_default()));
        let read = file.take(FILE_BYTES_MAX.saturating_add(1)).read_to_end(&mut content).map_err(at(path))?;
        if read as u64 > FILE_BYTES_MAX {
            return Err(SecretFileError::TooLong(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), content, exposed })
    }

    /// Judges a file that somebody else will read.
    ///
    /// # Errors
    /// [`SecretFileError`].
    pub fn look(path: &Path) -> Result<Option<Exposed>, SecretFileError> {
        judge(path, &fs::metadata(path).map_err(at(path))?)
    }

    /// The file, as it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// What is in it, which must be text.
    ///
    /// # Errors
    /// [`SecretFileError::Read`].
    pub fn text(&self) -> Result<&str, SecretFileError> {
        let not_text = |error| at(&self.path)(io::Error::new(io::ErrorKind::InvalidData, error));
        std::str::from_utf8(&self.content).map_err(not_text)
    }

    /// Whether others have to do with it.
    #[must_use]
    pub const fn exposed(&self) -> Option<&Exposed> {
        self.exposed.as_ref()
    }
}

/// Nothing of the content.
impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The mode of a file, if it permits anything of `forbidden`.
pub(super) fn mode_beyond(metadata: &Metadata, forbidden: u32) -> Option<u32> {
    let mode = metadata.mode() & MODE;
    (mode & forbidden != 0).then_some(mode)
}

/// A pipe by a name in a directory waits for whoever comes to write, for ever perhaps; one that was passed on as an open
/// descriptor has somebody at its other end.
fn is_named_pipe(path: &Path, metadata: &Metadata) -> bool {
    metadata.file_type().is_fifo() && !is_descriptor(path)
}

fn is_descriptor(path: &Path) -> bool {
    ["/dev/fd", "/proc/self/fd", "/dev/stdin"].iter().any(|open| path.starts_with(open))
}

fn judge(path: &Path, metadata: &Metadata) -> Result<Option<Exposed>, SecretFileError> {
    if is_named_pipe(path, metadata) {
        return Err(SecretFileError::Pipe(path.to_owned()));
    }
    if metadata.file_type().is_char_device() {
        // A terminal, for example: its mode says nothing about what comes from it.
        return Ok(None);
    }
    if let Some(mode) = mode_beyond(metadata, OTHERS_WRITE) {
        return Err(SecretFileError::Writable { path: path.to_owned(), mode });
    }
    if is_descriptor(path) {
        return Ok(exposed(path, metadata));
    }
    let mut exposed = exposed(path, metadata);
    for directory in directories(path)? {
        let metadata = fs::metadata(&directory).map_err(at(path))?;
        match mode_beyond(&metadata, OTHERS_WRITE) {
            Some(mode) if mode & STICKY == 0 => {
                return Ok(Some(Exposed::Replaceable { path: path.to_owned(), directory, mode }));
            }
            _ => exposed = exposed.or_else(|| foreign_owner(&directory, &metadata)),
        }
    }
    Ok(exposed)
}

fn exposed(path: &Path, metadata: &Metadata) -> Option<Exposed> {
    let readable = |mode| Exposed::Readable { path: path.to_owned(), mode };
    let writable = |mode| Exposed::GroupWritable { path: path.to_owned(), mode };
    mode_beyond(metadata, OTHERS_READ)
        .map(readable)
        .or_else(|| foreign_owner(path, metadata))
        .or_else(|| mode_beyond(metadata, GROUP_WRITES).map(writable))
}

fn foreign_owner(place: &Path, metadata: &Metadata) -> Option<Exposed> {
    let (owner, ours) = (metadata.uid(), rustix::process::geteuid().as_raw());
    (owner != ours && owner != 0).then(|| Exposed::Owner { place: place.to_owned(), owner })
}

/// The directory of the name, and that of the file where a link leads elsewhere. Links in between are not looked at.
fn directories(path: &Path) -> Result<Vec<PathBuf>, SecretFileError> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let (named, real) = (parent(path), parent(&path.canonicalize().map_err(at(path))?));
    Ok(if named == real { vec![named] } else { vec![named, real] })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SecretFileError {
    move |source| SecretFileError::Read { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn a_file_is_judged_by_its_mode_and_a_link_by_what_it_leads_to() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, link) = (directory.path().join("a.key"), directory.path().join("link.key"));
        fs::write(&file, "secret").expect("written");
        symlink("a.key", &link).expect("linked");
        for path in [&file, &link] {
            let with_mode = |mode| {
                fs::set_permissions(&file, Permissions::from_mode(mode)).expect("changed");
                SecretFile::read(path)
            };
            for mode in [0o600, 0o400, 0o640, 0o440] {
                let secret = with_mode(mode).expect("read");
                assert_eq!((secret.content(), secret.exposed()), (&b"secret"[..], None), "{mode:o}");
            }
            for mode in [0o644, 0o604, 0o444, 0o660, 0o620] {
                let told = with_mode(mode).expect("read").exposed().expect("a warning").to_string();
                assert!(told.contains(&format!("{mode:04o}")) && told.contains("chmod"), "{told}");
                assert!(told.contains(&path.display().to_string()), "{told}");
                assert!(SecretFile::look(path).expect("there").is_some());
            }
            for mode in [0o666, 0o602, 0o646] {
                let told = with_mode(mode).expect_err("refused").to_string();
                assert!(told.contains(&format!("{mode:04o}")) && told.contains("chmod"), "{told}");
                assert!(told.contains(&path.display().to_string()), "{told}");
                assert!(matches!(SecretFile::look(path), Err(SecretFileError::Writable { .. })));
            }
        }
    }

    #[test]
    fn a_key_in_a_directory_that_others_may_write_is_told_by_every_name() {
        let outer = tempfile::tempdir().expect("a directory");
        let [open, closed] = ["open", "closed"].map(|name| outer.path().join(name));
        for directory in [&open, &closed] {
            fs::create_dir(directory).expect("made");
            fs::set_permissions(directory, Permissions::from_mode(0o755)).expect("changed");
            fs::write(directory.join("a.key"), "secret").expect("written");
            fs::set_permissions(directory.join("a.key"), Permissions::from_mode(0o600)).expect("changed");
        }
        // As Kubernetes lays secrets: a link out of a directory that all may write, but whose files are their owner's.
        symlink(closed.join("a.key"), open.join("to-closed.key")).expect("linked");
        symlink(open.join("a.key"), closed.join("to-open.key")).expect("linked");
        let names = [open.join("a.key"), open.join("to-closed.key"), closed.join("to-open.key")];
        for (mode, is_told) in [(0o755, false), (0o775, false), (0o1777, false), (0o3777, false), (0o777, true)] {
            fs::set_permissions(&open, Permissions::from_mode(mode)).expect("changed");
            for name in &names {
                let secret = SecretFile::read(name).expect("read");
                let told = secret.exposed().filter(|told| told.to_string().contains("`chmod o-w "));
                assert_eq!(told.is_some(), is_told, "{mode:o} {} {:?}", name.display(), secret.exposed());
            }
            assert!(SecretFile::read(&closed.join("a.key")).is_ok_and(|secret| secret.exposed().is_none()));
        }
    }

    #[test]
    fn a_key_of_somebody_else_than_us_and_root_is_told() {
        // Only root gives files away.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.key");
        fs::write(&path, "secret").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o440)).expect("changed");
        let told = || SecretFile::read(&path).expect("read").exposed().map(ToString::to_string);
        assert_eq!(told(), None);
        for place in [path.as_path(), directory.path()] {
            std::os::unix::fs::chown(place, Some(65_534), None).expect("given away");
            let told = told().expect("a warning");
            assert!(told.contains(&format!("`{}` belongs to user 65534", place.display())), "{told}");
            std::os::unix::fs::chown(place, Some(0), None).expect("taken back");
        }
    }

    #[test]
    fn a_pipe_by_its_name_holds_nobody_up() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let directory = tempfile::tempdir().expect("a directory");
        let (pipe, link) = (directory.path().join("pipe"), directory.path().join("link"));
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
        symlink("pipe", &link).expect("linked");
        for path in [&pipe, &link] {
            assert!(matches!(SecretFile::read(path), Err(SecretFileError::Pipe(_))));
            assert!(matches!(SecretFile::look(path), Err(SecretFileError::Pipe(_))));
        }
    }

    #[test]
    fn what_is_not_there_too_long_or_no_text_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.key");
        assert!(matches!(SecretFile::read(&path), Err(SecretFileError::Read { .. })));
        let long = File::create(&path).expect("made");
        long.set_permissions(Permissions::from_mode(0o600)).expect("changed");
        long.set_len(FILE_BYTES_MAX).expect("grown");
        assert!(SecretFile::read(&path).is_ok());
        long.set_len(FILE_BYTES_MAX + 1).expect("grown");
        assert!(matches!(SecretFile::read(&path), Err(SecretFileError::TooLong(_))));
        fs::write(&path, b"\xff").expect("written");
        assert!(SecretFile::read(&path).expect("read").text().is_err());
    }

    #[test]
    fn what_is_shown_of_it_is_not_its_content() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.key");
        fs::write(&path, "hunter2").expect("written");
        let shown = format!("{:?}", SecretFile::read(&path).expect("read"));
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
