//! Files that appear whole or not at all, and are never readable by others for a moment.
//!
//! A secret goes to a regular file and nowhere else: not through a link, which somebody else may have laid, and not into a
//! device or a pipe. What all may read goes where [`super::OutputFile`] says.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use tempfile::NamedTempFile;

use super::output_file::{OutputFile, OutputTarget};

const PUBLIC: u32 = 0o644;
const PRIVATE_DIRECTORY: u32 = 0o700;

/// Writes a file that only its owner may read (0600), in place of any earlier one.
///
/// # Errors
/// What the system says, or that something else than a regular file is there; what is there is then as it was.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    private(path, content)?.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Writes a file that only its owner may read (0600), where there is none.
///
/// # Errors
/// As [`write_private`]; a file that is there stays as it is.
pub fn write_new_private(path: &Path, content: &[u8]) -> io::Result<()> {
    private(path, content)?.persist_noclobber(path).map_err(|error| error.error)?;
    Ok(())
}

/// Writes a file that everybody may read (0644), in place of any earlier one.
///
/// # Errors
/// What the system says; an earlier file is then as it was.
pub fn write_public(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut out = OutputFile::create(OutputTarget::of(path)?, PUBLIC)?;
    out.write_all(content)?;
    out.finish()
}

/// Makes a directory that only its owner may enter (0700), or makes an existing one so.
///
/// # Errors
/// What the system says.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(PRIVATE_DIRECTORY))
}

/// The content, durable, beside where it is to be.
fn private(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    if path.as_os_str() == "-" || fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a secret goes to a regular file of its own, not through a link, into a device or to standard output",
        ));
    }
    // Such a file is made with mode 0600 and O_EXCL.
    let mut file = NamedTempFile::new_in(directory_of(path))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// The directory that a file is in.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn a_private_file_is_for_its_owner_alone_even_where_a_public_one_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a");
        write_public(&path, b"public").expect("written");
        assert_eq!(mode(&path), 0o644);
        write_private(&path, b"private").expect("written");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read(&path).expect("read"), b"private");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a");
        write_new_private(&path, b"first").expect("written");
        assert_eq!(mode(&path), 0o600);
        let error = write_new_private(&path, b"second").expect_err("there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("read"), b"first");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_secret_goes_through_no_link_and_into_no_pipe() {
        let directory = tempfile::tempdir().expect("a directory");
        let names = ["real", "link", "dangling", "pipe"];
        let [real, link, dangling, pipe] = names.map(|name| directory.path().join(name));
        fs::write(&real, "mine").expect("written");
        symlink(&real, &link).expect("linked");
        symlink("nothing", &dangling).expect("linked");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
        for path in [&link, &dangling, &pipe, Path::new("-")] {
            for write in [write_private, write_new_private] {
                let error = write(path, b"secret").expect_err("refused");
                assert!(error.to_string().contains("regular file"), "{}: {error}", path.display());
            }
        }
        assert_eq!(fs::read(&real).expect("read"), b"mine");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), names.len());
    }

    #[test]
    fn a_directory_that_was_open_is_closed() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("b");
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("opened");
        private_directory(&path).expect("closed");
        assert_eq!(mode(&path), 0o700);
    }
}
