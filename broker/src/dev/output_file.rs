//! Where a command writes a result that the user named: the one place that decides how.
//!
//! | what stands there | what is done |
//! |---|---|
//! | `-` | standard output is written to |
//! | nothing, or a regular file | a new file takes its place, whole or not at all |
//! | a link | it is followed, also to where nothing is yet; the link stays |
//! | a device, a pipe, a socket | it is written into, and stays what it is |
//! | a file that some process has open (`/dev/stdout`, `/dev/fd/3`) | it is written into, at its end |
//!
//! Out of scope: secrets, which go nowhere but to a file of their own (see [`super::write_new_private`]).

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::files::directory_of;

/// Standard output, where a file may be named.
const STANDARD_OUTPUT: &str = "-";
/// As many as Linux follows.
const LINKS_MAX: usize = 40;

/// What a path for output leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum OutputTarget {
    /// The path is `-`.
    StandardOutput,
    /// A device, a pipe or a socket.
    Stream(PathBuf),
    /// A regular file, or none yet. No link: what the link leads to.
    File(PathBuf),
}

impl OutputTarget {
    /// Follows every link.
    ///
    /// # Errors
    /// What the system says; too many links.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str() == STANDARD_OUTPUT {
            return Ok(Self::StandardOutput);
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            // Whoever has it open goes on with it, not with what takes its place; it may have no name any more.
            Ok(metadata) if metadata.is_file() && leads_through_descriptor(path) => Ok(Self::Stream(path.to_owned())),
            Ok(metadata) if metadata.is_file() => {
                Ok(fs::canonicalize(path).map_or_else(|_| Self::Stream(path.to_owned()), Self::File))
            }
            Ok(_) => Ok(Self::Stream(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => end_of_links(path).map(Self::File),
            Err(error) => Err(error),
        }
    }
}

/// A result on its way. What goes to a file stands under its name only after [`OutputFile::finish`].
#[derive(Debug)]
pub struct OutputFile(Out);

#[derive(Debug)]
enum Out {
    StandardOutput(io::Stdout),
    Stream(File),
    Socket(UnixStream),
    File(NamedTempFile, PathBuf),
}

impl OutputFile {
    /// Opens the target. `mode` is that of a file; what is no file keeps its own.
    ///
    /// # Errors
    /// What the system says; what was there is then as it was.
    pub fn create(target: OutputTarget, mode: u32) -> io::Result<Self> {
        Ok(Self(match target {
            OutputTarget::StandardOutput => Out::StandardOutput(io::stdout()),
            OutputTarget::Stream(path) if fs::metadata(&path)?.file_type().is_socket() => {
                Out::Socket(UnixStream::connect(path)?)
            }
            OutputTarget::Stream(path) => Out::Stream(OpenOptions::new().append(true).open(path)?),
            OutputTarget::File(path) => {
                let file = NamedTempFile::new_in(directory_of(&path))?;
                file.as_file().set_permissions(Permissions::from_mode(mode))?;
                Out::File(file, path)
            }
        }))
    }

    /// Makes a file durable, and puts it in its place.
    ///
    /// # Errors
    /// What the system says; an earlier file is then as it was.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            Out::StandardOutput(mut out) => out.flush(),
            Out::Stream(mut stream) => stream.flush(),
            Out::Socket(mut stream) => stream.flush(),
            Out::File(file, path) => {
                file.as_file().sync_all()?;
                file.persist(path).map_err(|error| error.error)?;
                Ok(())
            }
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Out::StandardOutput(out) => out.write(bytes),
            Out::Stream(stream) => stream.write(bytes),
            Out::Socket(stream) => stream.write(bytes),
            Out::File(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Out::StandardOutput(out) => out.flush(),
            Out::Stream(stream) => stream.flush(),
            Out::Socket(stream) => stream.flush(),
            Out::File(file, _) => file.flush(),
        }
    }
}

/// Whether a path names an open descriptor, itself or by links.
fn leads_through_descriptor(path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let directory = fs::canonicalize(directory_of(&path)).unwrap_or_default();
        if directory.starts_with("/proc") && directory.ends_with("fd") {
            return true;
        }
        match fs::read_link(&path) {
            Ok(target) => path = directory.join(target),
            Err(_) => return false,
        }
    }
    false
}

/// Whether two paths lead to the same regular file, also one that is yet to be.
#[must_use]
pub fn leads_to_same_file(one: &Path, other: &Path) -> bool {
    let resolved = |path| match OutputTarget::of(path) {
        Ok(OutputTarget::File(file)) => {
            Some((fs::canonicalize(directory_of(&file)).ok()?, file.file_name()?.to_owned()))
        }
        _ => None,
    };
    resolved(one).is_some_and(|file| Some(file) == resolved(other))
}

/// Where a link leads at last, though nothing may be there.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(target) => path = directory_of(&path).join(target),
            // Nothing there, or something that is no link.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::unix::{fs::symlink, net::UnixListener},
    };

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const MODE: u32 = 0o640;

    fn write(path: &Path, content: &[u8]) -> io::Result<()> {
        let mut out = OutputFile::create(OutputTarget::of(path)?, MODE)?;
        out.write_all(content)?;
        out.finish()
    }

    fn make_pipe(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
    }

    fn count(directory: &tempfile::TempDir) -> usize {
        fs::read_dir(directory.path()).expect("listed").count()
    }

    #[test]
    fn a_pipe_is_written_into_also_behind_a_link_and_stays_a_pipe() {
        let directory = tempfile::tempdir().expect("a directory");
        let (pipe, link) = (directory.path().join("pipe"), directory.path().join("link"));
        make_pipe(&pipe);
        symlink("pipe", &link).expect("linked");
        for path in [&pipe, &link] {
            // Open at both ends, so that nobody waits for anybody.
            let mut both = OpenOptions::new().read(true).write(true).open(&pipe).expect("opened");
            write(path, b"content").expect("written");
            let mut read = [0; 7];
            both.read_exact(&mut read).expect("read");
            assert_eq!(&read, b"content");
            assert!(fs::symlink_metadata(&pipe).expect("there").file_type().is_fifo());
        }
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(count(&directory), 2);
    }

    #[test]
    fn a_socket_is_written_into_and_stays_a_socket() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bound");
        write(&path, b"content").expect("written");
        let mut read = Vec::new();
        listener.accept().expect("a connection").0.read_to_end(&mut read).expect("read");
        assert_eq!(read, b"content");
        assert!(fs::metadata(&path).expect("there").file_type().is_socket());
    }

    #[test]
    fn what_a_link_leads_to_is_replaced_or_made_and_the_link_stays() {
        let (directory, other) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("another directory"));
        let (real, link, chain) =
            (other.path().join("real"), directory.path().join("link"), directory.path().join("chain"));
        symlink(&real, &link).expect("linked");
        symlink("link", &chain).expect("linked");
        for content in ["nothing was there", "something was"] {
            write(&chain, content.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(&real).expect("read"), content);
            assert!(!fs::symlink_metadata(&real).expect("there").is_symlink());
            assert_eq!(fs::metadata(&real).expect("there").permissions().mode() & 0o777, MODE);
        }
        assert!([&link, &chain].iter().all(|link| fs::symlink_metadata(link).expect("there").is_symlink()));
        assert_eq!((count(&directory), count(&other)), (2, 1));
    }

    #[test]
    fn a_link_that_leads_to_itself_or_to_a_directory_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let (circle, inner) = (directory.path().join("circle"), directory.path().join("inner"));
        symlink("circle", &circle).expect("linked");
        symlink(".", &inner).expect("linked");
        assert!(write(&circle, b"").is_err());
        assert_eq!(write(&inner, b"").expect_err("a directory").kind(), io::ErrorKind::IsADirectory);
        assert_eq!(count(&directory), 2);
    }

    #[test]
    fn a_result_that_is_not_finished_leaves_what_was_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        write(&path, b"whole").expect("written");
        let mut out = OutputFile::create(OutputTarget::of(&path).expect("a target"), MODE).expect("opened");
        out.write_all(b"half").expect("written");
        drop(out);
        assert_eq!(fs::read(&path).expect("read"), b"whole");
        assert_eq!(count(&directory), 1);
    }

    #[test]
    fn what_somebody_has_open_is_written_into_at_its_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&path, "head ").expect("written");
        let open = OpenOptions::new().append(true).open(&path).expect("opened");
        let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        symlink(&descriptor, &link).expect("linked");
        for one in [Path::new(&descriptor), &link] {
            write(one, b"more ").expect("written");
        }
        assert_eq!(fs::read_to_string(&path).expect("read"), "head more more ");
    }

    #[test]
    fn two_names_of_one_file_are_seen_through() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        symlink("x", at("link")).expect("linked");
        assert!(leads_to_same_file(&at("x"), &at("link")), "before it is there");
        fs::write(at("x"), "").expect("written");
        assert!(leads_to_same_file(&at("x"), &at("link")) && leads_to_same_file(&at("x"), &at("../").join(at("x"))));
        assert!(!leads_to_same_file(&at("x"), &at("y")) && !leads_to_same_file(Path::new("-"), Path::new("-")));
    }

    #[test]
    fn a_dash_is_standard_output() {
        assert_eq!(OutputTarget::of(Path::new("-")).expect("a target"), OutputTarget::StandardOutput);
        assert!(matches!(OutputTarget::of(Path::new("./-")).expect("a target"), OutputTarget::File(_)));
    }
}
