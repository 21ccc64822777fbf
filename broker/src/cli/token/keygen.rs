//! `veribus token keygen`: a private key for oneself, and its public half for those who verify.

use std::{fs, path::PathBuf};

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use super::key_set_file;
use crate::{
    cli::{failure::Failure, output},
    dev::{leads_to_same_file, write_new_private},
    issue::{IssueError, KeyKind, TokenIssuer},
};

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Algorithm {
    #[value(name = "ES256")]
    Es256,
    #[value(name = "ES384")]
    Es384,
    #[value(name = "EdDSA")]
    EdDsa,
    #[value(name = "RS256")]
    Rs256,
    #[value(name = "PS256")]
    Ps256,
}

impl From<Algorithm> for KeyKind {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Es256 => Self::Es256,
            Algorithm::Es384 => Self::Es384,
            Algorithm::EdDsa => Self::EdDsa,
            Algorithm::Rs256 => Self::Rs256,
            Algorithm::Ps256 => Self::Ps256,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeygenArgs {
    /// Where the private key goes: a new regular file, that only its owner can read
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The key set to which the public key is added at the end; made if it is not there, `-` for a new one on standard
    /// output
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// What the key signs with
    #[arg(long, value_name = "ALGORITHM", default_value = "ES256")]
    alg: Algorithm,
    /// The key's id: up to 64 letters, digits, `.`, `_` and `-` [default: its thumbprint, RFC 7638]
    #[arg(long, value_name = "ID", value_parser = key_id)]
    kid: Option<String>,
}

const KEY_ID_BYTES_MAX: usize = 64;

fn key_id(text: &str) -> Result<String, String> {
    let fits = (1..=KEY_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits { Ok(text.to_owned()) } else { Err("not 1 to 64 letters, digits, `.`, `_` and `-`".to_owned()) }
}

pub(super) fn run(args: &KeygenArgs) -> Result<(), Failure> {
    if leads_to_same_file(&args.out, &args.jwks) {
        return Err(Failure::usage("`--out` and `--jwks` lead to the same file"));
    }
    let (pem, issuer) = make(args).map_err(Failure::failed)?;
    // The private key first: a key set never names a key that nobody has.
    let mut written = false;
    let changed = key_set_file::change(&args.jwks, true, |keys| {
        keys.add(issuer.key_id(), issuer.public_key().clone()).map_err(key_set_file::refused(&args.jwks))?;
        write_new_private(&args.out, pem.as_bytes())
            .map_err(|error| Failure::failed(format!("cannot write `{}`: {error}", args.out.display())))?;
        written = true;
        Ok(())
    });
    if changed.is_err() && written {
        // Nobody knows its public half. If it cannot be taken away either, the failure that is told says enough.
        let _ = fs::remove_file(&args.out);
    }
    changed?;
    if args.jwks.as_os_str() == "-" {
        output::note(issuer.key_id());
        return Ok(());
    }
    Ok(output::line(issuer.key_id())?)
}

/// A new key, and what signs with it; of the latter only its public half matters here.
fn make(args: &KeygenArgs) -> Result<(Zeroizing<String>, TokenIssuer), IssueError> {
    let kind = KeyKind::from(args.alg);
    let pem = Zeroizing::new(kind.generate_pem()?);
    let issuer = TokenIssuer::of_kind("", "", &pem, kind, args.kid.clone())?;
    Ok((pem, issuer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_fits_on_a_line() {
        for good in ["a", "2026-11.b_c", &"k".repeat(KEY_ID_BYTES_MAX)] {
            assert_eq!(key_id(good), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "a\n", "ä", "a/b", &"k".repeat(KEY_ID_BYTES_MAX + 1)] {
            assert!(key_id(bad).is_err(), "{bad}");
        }
    }
}
