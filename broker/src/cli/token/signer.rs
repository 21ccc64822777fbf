//! Which key signs: one that is given, or of several the one that a key set lists last.

use std::path::{Path, PathBuf};

use clap::Args;

use super::key_set_file;
use crate::{
    cli::{failure::Failure, secret::secret},
    dev::{DevDirectory, leads_to_same_file},
    issue::{IssueError, KeyKind, Listed, PublishedKeys, TokenIssuer},
    seal::SecretFile,
};

const KEY_SET_NAME: &str = "jwks.json";

#[derive(Debug, Args)]
pub(in crate::cli) struct SignerArgs {
    /// A development directory, whose issuer signs
    #[arg(long, value_name = "DIR", conflicts_with_all = ["key", "kid", "issuer", "audiences", "jwks"])]
    dir: Option<PathBuf>,
    /// The private key that signs: PKCS #8 PEM, ECDSA P-256 or P-384, Ed25519 or RSA; several with `--jwks`
    #[arg(long, value_name = "FILE", required_unless_present = "dir", num_args = 1..)]
    key: Vec<PathBuf>,
    /// The key set that verifiers read. The key that was added to it last signs, under the name that it has there; one
    /// that is not in it signs nothing
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// The key's id [default: as in the key set; without one, its thumbprint, RFC 7638]
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// The claim `iss`
    #[arg(long, value_name = "NAME", required_unless_present = "dir")]
    issuer: Option<String>,
    /// The claim `aud`: who is to accept the token; may be repeated
    #[arg(long = "audience", value_name = "NAME", required_unless_present = "dir")]
    audiences: Vec<String>,
}

impl SignerArgs {
    /// Which of the files that it reads a path leads to.
    pub(super) fn reads(&self, path: &Path) -> Option<&Path> {
        let read = self.key.iter().chain(&self.jwks).map(PathBuf::as_path);
        read.into_iter().find(|file| leads_to_same_file(path, file))
    }

    /// Whom the token is for, where that was given.
    pub(super) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// That the signing key is not, under its id, in the key set beside it: one named as in a development directory.
    pub(super) fn unlisted(&self, issuer: &TokenIssuer) -> Option<String> {
        let [key] = self.key.as_slice() else { return None };
        let path = key.with_file_name(KEY_SET_NAME);
        let set = if self.jwks.is_none() && path.exists() { key_set_file::read(&path).ok()? } else { return None };
        let is_listed = set.find(issuer.public_key()).is_some_and(|listed| listed.key_id == issuer.key_id());
        let (id, path) = (issuer.key_id(), path.display());
        (!is_listed)
            .then(|| format!("`{path}` does not list the key under the id `{id}`: who reads it refuses the token"))
    }

    pub(super) fn open(&self) -> Result<TokenIssuer, Failure> {
        if let Some(dir) = &self.dir {
            return DevDirectory::issuer_of(dir).map_err(Failure::usage);
        }
        let keys = self.key.iter().map(|path| secret(path)).collect::<Result<Vec<_>, _>>()?;
        match (&self.jwks, keys.as_slice()) {
            (Some(jwks), keys) if !keys.is_empty() => self.newest(&key_set_file::read(jwks)?, keys),
            (None, [key]) => self.build(key, None, self.kid.clone()),
            (None, []) => Err(incomplete()),
            _ => Err(Failure::usage("of several keys only `--jwks` says which is the newest")),
        }
    }

    /// The key that was added last, or the one of the name that was asked for.
    fn newest(&self, set: &PublishedKeys, keys: &[SecretFile]) -> Result<TokenIssuer, Failure> {
        let mut newest = None;
        for key in keys {
            let issuer = self.build(key, None, None)?;
            let listed = set.find(issuer.public_key());
            let wanted = |listed: &Listed<'_>| self.kid.as_deref().is_none_or(|kid| kid == listed.key_id);
            let found = listed.filter(wanted).map(|listed| (listed, key));
            newest = newest.into_iter().chain(found).max_by_key(|(listed, _)| listed.place);
        }
        let Some((listed, key)) = newest else {
            return Err(Failure::failed("none of the keys is in the key set under that name: nobody would accept it"));
        };
        self.build(key, listed.algorithm.and_then(KeyKind::named), Some(listed.key_id.to_owned()))
    }

    fn build(&self, key: &SecretFile, kind: Option<KeyKind>, key_id: Option<String>) -> Result<TokenIssuer, Failure> {
        let (Some(issuer), Some(audience)) = (&self.issuer, self.audiences.first()) else { return Err(incomplete()) };
        let pem = key.text().map_err(Failure::usage)?;
        let made: Result<_, IssueError> = match (kind, key_id) {
            (Some(kind), key_id) => TokenIssuer::of_kind(issuer, audience, pem, kind, key_id),
            (None, Some(key_id)) => TokenIssuer::with_key_id(issuer, audience, pem, key_id),
            (None, None) => TokenIssuer::from_pem(issuer, audience, pem),
        };
        made.map_err(|error| Failure::usage(format!("`{}`: {error}", key.path().display())))
    }
}

fn incomplete() -> Failure {
    Failure::usage("give `--dir`, or `--key`, `--issuer` and `--audience`")
}
