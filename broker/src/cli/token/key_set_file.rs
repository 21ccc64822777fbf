//! A key set on disk: read, changed and put back whole, by one command at a time.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use crate::{
    cli::failure::Failure,
    dev::{directory_of, write_public},
    issue::{PublishedKeys, PublishedKeysError},
};

/// Reads the set.
pub(super) fn read(path: &Path) -> Result<PublishedKeys, Failure> {
    let text = fs::read_to_string(path).map_err(|error| about(path, error))?;
    PublishedKeys::from_json(&text).map_err(|error| about(path, error))
}

/// Puts what `change` makes of the set in its place, in one step; a set that is not there is empty if `may_be_new`.
pub(super) fn change<T>(
    path: &Path,
    may_be_new: bool,
    change: impl FnOnce(&mut PublishedKeys) -> Result<T, Failure>,
) -> Result<T, Failure> {
    // Held until the end. The directory, since the file itself is replaced.
    let lock = File::open(directory_of(path)).and_then(|directory| directory.lock().map(|()| directory));
    let _lock = lock.map_err(|error| about(path, error))?;
    let mut keys = if may_be_new && is_absent(path) { PublishedKeys::empty() } else { read(path)? };
    let done = change(&mut keys)?;
    write_public(path, keys.to_json().as_bytes())
        .map_err(|error| Failure::failed(format!("cannot write `{}`: {error}", path.display())))?;
    Ok(done)
}

/// What the set refuses.
pub(super) fn refused(path: &Path) -> impl FnOnce(PublishedKeysError) -> Failure {
    move |error| Failure::failed(format!("`{}`: {error}", path.display()))
}

fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn about(path: &Path, fault: impl ToString) -> Failure {
    Failure::usage(format!("`{}`: {}", path.display(), fault.to_string()))
}
