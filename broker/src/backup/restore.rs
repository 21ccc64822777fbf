//! From a backup to a data directory that a broker starts from.

use std::path::Path;

use data_encoding::HEXLOWER;

use super::{BackupError, CACHE_BYTES_MAX, Contents, contents::verify, directory::Partial, manifest::Manifest};
use crate::server::{open_data, wait_until_closed};

/// Copies a backup to `data_directory`, which must be nothing, or empty, and verifies the copy from its first entry to its
/// last. The backup stays as it is.
///
/// # Errors
/// [`BackupError`]: then there is no data directory.
pub fn restore(backup: &Path, data_directory: &Path) -> Result<Contents, BackupError> {
    let manifest = Manifest::read(backup)?;
    let directory = Partial::create(data_directory)?;
    match fill(&manifest, backup, directory.path()) {
        Ok(verified) => {
            directory.complete()?;
            Ok(verified)
        }
        Err(error) => {
            directory.discard()?;
            Err(error)
        }
    }
}

fn fill(manifest: &Manifest, backup: &Path, directory: &Path) -> Result<Contents, BackupError> {
    manifest.copy_files(backup, directory)?;
    let verified = verify(&*open_data(directory, CACHE_BYTES_MAX)?)?;
    let found = (verified.entries, HEXLOWER.encode(&verified.head), verified.records);
    if found != (manifest.entries, manifest.head.clone(), manifest.records) {
        return Err(BackupError::OtherEnd { found: verified.entries, expected: manifest.entries });
    }
    drop(wait_until_closed(directory)?);
    Ok(Contents { bytes: manifest.bytes(), ..verified })
}
