//! Private keys that the user names: refused where others may replace them, and told where everybody may read them.

use std::path::Path;

use super::{failure::Failure, output};
use crate::seal::{Exposed, SecretFile};

/// Reads one.
pub(super) fn secret(path: &Path) -> Result<SecretFile, Failure> {
    let file = SecretFile::read(path).map_err(Failure::usage)?;
    file.exposed().into_iter().for_each(tell);
    Ok(file)
}

/// Looks at one that somebody else will read.
pub(super) fn look(path: &Path) -> Result<(), Failure> {
    SecretFile::look(path).map_err(Failure::usage)?.iter().for_each(tell);
    Ok(())
}

fn tell(exposed: &Exposed) {
    output::note(format_args!("warning: {exposed}"));
}
