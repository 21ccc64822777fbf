//! Where the root key comes from: a file that this process may replace, or a descriptor that it was started with.
//!
//! The file holds one line, `veribus-root-key-1 ` and 32 bytes in Base64. It is a regular file of the user that runs the broker, and
//! nobody else may read it.
//!
//! A change of the root key takes three steps, each durable before the next: `FILE.next` is written; the store's keys are
//! committed under it; it takes the place of `FILE`. After a crash between any two, [`RootKeys::settle`] asks which root key
//! the store names, and goes on or goes back.
//!
//! What is replaced is overwritten with zeros first. That is the best that can be done from here, and not a promise: a file
//! system that copies on write, a flash disk, a snapshot or a backup may keep the old bytes. Where that matters, keep the
//! file on a memory file system or an encrypted disk, or give the key by a descriptor from where it can be destroyed.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use data_encoding::BASE64;
use rustix::fs::OFlags;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    envelope::SealError,
    root::{LocalRootKey, RootKey, RootKeyId},
    secret_file::mode_beyond,
};

/// What stands before the key in the file.
const MARK: &str = "veribus-root-key-1 ";
/// A line is 64 bytes long; what is much longer is not even read.
const LINE_BYTES_MAX: u64 = 128;
/// The most that the file's owner may do with it, and all that anybody may.
const MODE_MAX: u32 = 0o600;

/// Why there is no root key, or why it cannot be changed.
#[derive(Debug, Error)]
pub enum RootKeyError {
    /// The system says no.
    #[error("the root key in `{place}`: {source}")]
    File {
        /// The file, or the descriptor.
        place: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A link, a directory, a device, a pipe.
    #[error("the root key `{0}` must be a regular file, not a link to one: give anything else by its descriptor")]
    NotRegular(PathBuf),
    /// Others may read it, or write it.
    #[error("the root key `{path}` has mode {mode:04o}: others must not have access; make it 0600 or 0400")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("the root key `{0}` belongs to another user than the one that runs the broker")]
    Owner(PathBuf),
    /// Not the line that it should be.
    #[error("`{0}` does not hold a root key: one line, `veribus-root-key-1` and 32 bytes in base64")]
    Format(PathBuf),
    /// Otherwise it may be the right line.
    #[error(
        "`{0}` ends its line with CRLF, as editors on Windows do: a root key's line ends with LF alone \
         (`sed -i 's/\\r$//' {0}`)"
    )]
    CarriageReturn(PathBuf),
    /// The keys in the store are wrapped by another root key.
    #[error("`{place}` holds root key `{found}`, but the store's keys are wrapped by {}", listed(in_use))]
    Other {
        /// The file, or the descriptor.
        place: PathBuf,
        /// Which key it holds.
        found: RootKeyId,
        /// Which one is needed.
        in_use: BTreeSet<RootKeyId>,
    },
    /// A change was interrupted, and neither file is what the store needs.
    #[error(
        "a change of the root key was interrupted, and neither `{path}` nor `{next}` is the key that the store's keys are \
         wrapped by ({}); bring that key back",
        listed(in_use)
    )]
    Unsettled {
        /// The file.
        path: PathBuf,
        /// The file beside it.
        next: PathBuf,
        /// Which key is needed.
        in_use: BTreeSet<RootKeyId>,
    },
    /// A change was begun and not finished.
    #[error("`{0}` is there: an earlier change of the root key is not finished; start the broker anew to settle it")]
    Unfinished(PathBuf),
    /// The next key in the file is not the one that the store's keys went under.
    #[error("`{next}` does not hold root key `{in_use}`, which the store's keys are wrapped by")]
    NotAdopted {
        /// The file.
        next: PathBuf,
        /// Which key is needed.
        in_use: RootKeyId,
    },
    /// It came by a descriptor.
    #[error(
        "the root key came by descriptor {0} and cannot be replaced from here: keep it in a file that the broker may write, \
         and name that file in the settings"
    )]
    Descriptor(u32),
    /// No key could be made.
    #[error(transparent)]
    Seal(#[from] SealError),
}

fn listed(ids: &BTreeSet<RootKeyId>) -> String {
    let ids: Vec<_> = ids.iter().map(|id| format!("`{id}`")).collect();
    if ids.is_empty() { "none yet".to_owned() } else { ids.join(" and ") }
}

/// Where the root key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootKeySource {
    /// In this file. Changes write beside it, and replace it.
    File(PathBuf),
    /// To be read from this open descriptor, once, to its end: a pipe, a memory file, a file. It stays open.
    Descriptor(u32),
}

/// How a root key lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootKeyLook {
    /// Fit to be used.
    Whole(RootKeyId),
    /// A change is not finished: the next root key lies in this file.
    Unfinished(PathBuf),
}

/// The root key of a broker: read at its start, and replaced when all keys go under another.
pub struct RootKeys {
    source: RootKeySource,
}

impl RootKeys {
    /// Reads nothing yet.
    #[must_use]
    pub const fn new(source: RootKeySource) -> Self {
        Self { source }
    }

    /// Makes a root key in a new file.
    ///
    /// # Errors
    /// [`RootKeyError::File`], also where there is one already; [`RootKeyError::Seal`].
    pub fn create(path: &Path) -> Result<RootKeyId, RootKeyError> {
        let key = LocalRootKey::generate()?;
        write_new(path, &key).map_err(at(path))?;
        Ok(key.id().clone())
    }

    /// Reads the root key, and finishes or undoes a change that was interrupted. `in_use` are the root keys that the store
    /// names (see [`super::KeyRing::roots_in_use`]).
    ///
    /// # Errors
    /// [`RootKeyError`].
    pub fn settle(&self, in_use: &BTreeSet<RootKeyId>) -> Result<Arc<dyn RootKey>, RootKeyError> {
        let key = match &self.source {
            RootKeySource::File(path) => settle_file(path, in_use)?,
            RootKeySource::Descriptor(number) => {
                let place = PathBuf::from(format!("/dev/fd/{number}"));
                fits(&place, File::open(&place).map_err(at(&place)).and_then(|file| parse(&place, file))?, in_use)?
            }
        };
        Ok(Arc::new(key))
    }

    /// Looks at the file and changes nothing.
    ///
    /// # Errors
    /// [`RootKeyError`]; for a descriptor always, since who reads it takes the key away.
    pub fn look(&self) -> Result<RootKeyLook, RootKeyError> {
        let path = self.path()?;
        let next = next_of(path);
        if next.try_exists().map_err(at(&next))? {
            return Ok(RootKeyLook::Unfinished(next));
        }
        read(path).map(|key| RootKeyLook::Whole(key.id().clone()))
    }

    /// Makes the next root key, in `FILE.next`, durably.
    ///
    /// # Errors
    /// [`RootKeyError::Descriptor`]; [`RootKeyError::Unfinished`]; [`RootKeyError::File`]; [`RootKeyError::Seal`].
    pub fn prepare_next(&self) -> Result<Arc<dyn RootKey>, RootKeyError> {
        let next = next_of(self.path()?);
        let key = LocalRootKey::generate()?;
        match write_new(&next, &key) {
            Ok(()) => Ok(Arc::new(key)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(RootKeyError::Unfinished(next)),
            Err(error) => Err(at(&next)(error)),
        }
    }

    /// Puts the next root key in the place of the old one, which it destroys. Only when the store's keys are durably under it:
    /// `in_use` says which one they are under now.
    ///
    /// # Errors
    /// [`RootKeyError`]. Nothing is lost: [`RootKeys::settle`] does it at the next start.
    pub fn adopt(&self, in_use: &RootKeyId) -> Result<(), RootKeyError> {
        let path = self.path()?;
        let next = next_of(path);
        if read(&next)?.id() != in_use {
            return Err(RootKeyError::NotAdopted { next, in_use: in_use.clone() });
        }
        replace(path, &next)
    }

    /// Takes back [`RootKeys::prepare_next`], where the store's keys certainly did not go under it.
    ///
    /// # Errors
    /// [`RootKeyError::Descriptor`]; [`RootKeyError::File`].
    pub fn abandon(&self) -> Result<(), RootKeyError> {
        remove(&next_of(self.path()?))
    }

    fn path(&self) -> Result<&Path, RootKeyError> {
        match &self.source {
            RootKeySource::File(path) => Ok(path),
            RootKeySource::Descriptor(number) => Err(RootKeyError::Descriptor(*number)),
        }
    }
}

fn settle_file(path: &Path, in_use: &BTreeSet<RootKeyId>) -> Result<LocalRootKey, RootKeyError> {
    let next = next_of(path);
    if !next.try_exists().map_err(at(&next))? {
        return fits(path, read(path)?, in_use);
    }
    match read(&next) {
        // Without any key in the store, the old one was overwritten only because the change was carried through.
        Ok(key) if is_the_one(&key, in_use) || in_use.is_empty() && is_overwritten(path) => {
            replace(path, &next)?;
            return Ok(key);
        }
        // Half written, it is nothing that the store could be under.
        Ok(_) | Err(RootKeyError::Format(_)) => (),
        Err(error) => return Err(error),
    }
    match read(path) {
        Ok(key) if in_use.is_empty() || is_the_one(&key, in_use) => {
            remove(&next)?;
            Ok(key)
        }
        _ => Err(RootKeyError::Unsettled { path: path.to_owned(), next, in_use: in_use.clone() }),
    }
}

fn fits(place: &Path, key: LocalRootKey, in_use: &BTreeSet<RootKeyId>) -> Result<LocalRootKey, RootKeyError> {
    if in_use.is_empty() || is_the_one(&key, in_use) {
        return Ok(key);
    }
    Err(RootKeyError::Other { place: place.to_owned(), found: key.id().clone(), in_use: in_use.clone() })
}

fn is_overwritten(path: &Path) -> bool {
    matches!(read(path), Err(RootKeyError::Format(_)))
}

fn is_the_one(key: &LocalRootKey, in_use: &BTreeSet<RootKeyId>) -> bool {
    in_use.len() == 1 && in_use.contains(key.id())
}

fn next_of(path: &Path) -> PathBuf {
    let mut next = OsString::from(path);
    next.push(".next");
    next.into()
}

fn at(place: &Path) -> impl FnOnce(io::Error) -> RootKeyError {
    move |source| RootKeyError::File { place: place.to_owned(), source }
}

/// Overwrites the old key, then renames. A crash in between leaves a file that holds no key, and the next key beside it.
fn replace(path: &Path, next: &Path) -> Result<(), RootKeyError> {
    if let Err(error) = overwrite_with_zeros(path) {
        tracing::warn!(path = %path.display(), %error, "the old root key could not be overwritten before it was replaced");
    }
    fs::rename(next, path).and_then(|()| sync_parent(path)).map_err(at(path))
}

fn overwrite_with_zeros(path: &Path) -> io::Result<()> {
    // It may have been made read-only, as is allowed.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE_MAX))?;
    let mut file = OpenOptions::new().write(true).custom_flags(flags()).open(path)?;
    let len = file.metadata()?.len().min(LINE_BYTES_MAX);
    file.write_all(&vec![0; usize::try_from(len).unwrap_or_default()])?;
    file.sync_all()
}

fn remove(path: &Path) -> Result<(), RootKeyError> {
    fs::remove_file(path).and_then(|()| sync_parent(path)).map_err(at(path))
}

/// Writes a file that was not there, durably, or leaves none.
fn write_new(path: &Path, key: &LocalRootKey) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE_MAX).open(path)?;
    let mut line = Zeroizing::new(String::with_capacity(64));
    line.push_str(MARK);
    BASE64.encode_append(key.bytes(), &mut line);
    line.push('\n');
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
    if written.is_err() {
        fs::remove_file(path)?;
    }
    written
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn read(path: &Path) -> Result<LocalRootKey, RootKeyError> {
    let opened = OpenOptions::new().read(true).custom_flags(flags()).open(path);
    let file = opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) => RootKeyError::NotRegular(path.to_owned()),
        _ => at(path)(error),
    })?;
    check(path, &file.metadata().map_err(at(path))?, rustix::process::geteuid().as_raw())?;
    parse(path, file)
}

/// Links are not followed, since the file is to be replaced; and a pipe must not make us wait.
fn flags() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

fn check(path: &Path, metadata: &Metadata, user: u32) -> Result<(), RootKeyError> {
    if !metadata.is_file() {
        return Err(RootKeyError::NotRegular(path.to_owned()));
    }
    if let Some(mode) = mode_beyond(metadata, !MODE_MAX) {
        return Err(RootKeyError::Mode { path: path.to_owned(), mode });
    }
    if metadata.uid() != user {
        return Err(RootKeyError::Owner(path.to_owned()));
    }
    Ok(())
}

fn parse(place: &Path, file: File) -> Result<LocalRootKey, RootKeyError> {
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    file.take(LINE_BYTES_MAX).read_to_end(&mut line).map_err(at(place))?;
    let bytes = decode(&line).ok_or_else(|| not_a_key(place, &line))?;
    let bytes = bytes.as_array().ok_or_else(|| RootKeyError::Format(place.to_owned()))?;
    Ok(LocalRootKey::from_bytes(bytes)?)
}

fn not_a_key(place: &Path, line: &[u8]) -> RootKeyError {
    let is_carriage_return = line.trim_ascii_end().len() < line.len() && line.contains(&b'\r');
    if is_carriage_return && line.starts_with(MARK.as_bytes()) {
        RootKeyError::CarriageReturn(place.to_owned())
    } else {
        RootKeyError::Format(place.to_owned())
    }
}

fn decode(line: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = line.strip_suffix(b"\n").unwrap_or(line).strip_prefix(MARK.as_bytes())?;
    BASE64.decode(key).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests;
