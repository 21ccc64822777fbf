//! Why there is no development directory.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    config::ConfigError,
    issue::{IssueError, PublishedKeysError},
    seal::{RootKeyError, SecretFileError},
};

/// What can go wrong with a development directory.
#[derive(Debug, Error)]
pub enum DevError {
    /// Something in it cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something in it cannot be written.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate cannot be made from the keys that are there.
    #[error("cannot make the certificate `{path}`: {source}")]
    Certificate {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// The issuer's key in it is not one.
    #[error("cannot use `{path}`: {source}")]
    Issuer {
        /// The key file.
        path: PathBuf,
        /// What is wrong.
        source: IssueError,
    },
    /// The key set in it takes no more keys.
    #[error("cannot add the issuer's key to `{path}`: {source}")]
    KeySet {
        /// The key set.
        path: PathBuf,
        /// What is wrong.
        source: PublishedKeysError,
    },
    /// A private key in it cannot be read, or others may replace it.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The root key cannot be made.
    #[error(transparent)]
    RootKey(#[from] RootKeyError),
    /// Its configuration was changed and is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

pub(super) fn reading(path: &Path) -> impl FnOnce(io::Error) -> DevError {
    move |source| DevError::Read { path: path.to_owned(), source }
}

pub(super) fn writing(path: &Path) -> impl FnOnce(io::Error) -> DevError {
    move |source| DevError::Write { path: path.to_owned(), source }
}

pub(super) fn certificate(path: &Path) -> impl FnOnce(rcgen::Error) -> DevError {
    move |source| DevError::Certificate { path: path.to_owned(), source }
}

pub(super) fn issuer(path: &Path) -> impl FnOnce(IssueError) -> DevError {
    move |source| DevError::Issuer { path: path.to_owned(), source }
}
