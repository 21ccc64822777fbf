//! A key set on disk: read, changed and put back whole, by one command at a time.

use std::{
    fs::{self, File},
    path::Path,
};

use crate::{
    cli::failure::Failure,
    dev::{OutputTarget, directory_of, write_public},
    issue::{PublishedKeys, PublishedKeysError},
};

/// Reads the set.
pub(super) fn read(path: &Path) -> Result<PublishedKeys, Failure> {
    let text = fs::read_to_string(path).map_err(|error| about(path, error))?;
    PublishedKeys::from_json(&text).map_err(|error| about(path, error))
}

/// Puts what `change` makes of the set in its place, in one step. Where `may_be_new`, a set that is not there is empty, and
/// so is one that is only written to: standard output, a device, a pipe.
pub(super) fn change<T>(
    path: &Path,
    may_be_new: bool,
    change: impl FnOnce(&mut PublishedKeys) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let target = OutputTarget::of(path).map_err(|error| about(path, error))?;
    let file = if let OutputTarget::File(file) = &target { Some(file.as_path()) } else { None };
    // Held until the end. The directory, since the file itself is replaced.
    let lock =
        file.map(|file| File::open(directory_of(file)).and_then(|directory| directory.lock().map(|()| directory)));
    let _lock = lock.transpose().map_err(|error| about(path, error))?;
    let mut keys = match file {
        Some(file) if !may_be_new || file.exists() => read(path)?,
        None if !may_be_new => return Err(about(path, "no key set can be read from there")),
        Some(_) | None => PublishedKeys::empty(),
    };
    let done = change(&mut keys)?;
    write_public(path, keys.to_json().as_bytes())
        .map_err(|error| Failure::failed(format!("cannot write `{}`: {error}", path.display())))?;
    Ok(done)
}

/// What the set refuses.
pub(super) fn refused(path: &Path) -> impl FnOnce(PublishedKeysError) -> Failure {
    move |error| Failure::failed(format!("`{}`: {error}", path.display()))
}

fn about(path: &Path, fault: impl ToString) -> Failure {
    Failure::usage(format!("`{}`: {}", path.display(), fault.to_string()))
}
