//! `veribus token issue`.

use std::{fs, path::PathBuf};

use clap::Args;

use super::signer::SignerArgs;
use crate::{
    cli::{failure::Failure, output},
    dev::write_private,
    issue::{Claims, Confirmation, TokenIssuer},
    model::{AgentId, Clock, RoleName, TopicPattern},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct IssueArgs {
    /// The agent's id, the claim `sub`
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// A role of the agent; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// What the agent may do, for example `publish:finance.>`; may be repeated
    #[arg(long = "permission", value_name = "PERMISSION")]
    permissions: Vec<String>,
    /// A message type that the agent may send, any if there is none; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// A scope whose content the agent may read in clear, for example `finance.>`; may be repeated
    #[arg(long = "decrypt", value_name = "PATTERN")]
    decrypt: Vec<String>,
    /// Bind the token to a client certificate, PEM: it is worth nothing on another connection (RFC 8705)
    #[arg(long, value_name = "FILE", conflicts_with = "cnf_jwk")]
    cnf_certificate: Option<PathBuf>,
    /// Bind the token to a key, a public JSON Web Key, of which the agent must prove possession (DPoP, RFC 9449)
    #[arg(long, value_name = "FILE")]
    cnf_jwk: Option<PathBuf>,
    /// Who acts for the agent (RFC 8693); repeated, the current actor comes first
    #[arg(long = "act", value_name = "NAME")]
    actors: Vec<String>,
    /// How long the token is valid
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    lifetime: humantime::Duration,
    /// Write the token to a regular file that only its owner can read; `-` is standard output [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    signer: SignerArgs,
}

pub(super) fn run(args: &IssueArgs) -> Result<(), Failure> {
    check_names(args)?;
    if let Some(read) = args.out.as_deref().and_then(|out| args.signer.reads(out)) {
        return Err(Failure::usage(format!("`--out` leads to `{}`, which signs the token", read.display())));
    }
    let confirmation = confirmation(args)?;
    let issuer = args.signer.open()?;
    let token = issuer.issue(&claims(&issuer, args, confirmation.as_ref())).map_err(Failure::failed)?;
    match args.out.as_deref().filter(|path| path.as_os_str() != "-") {
        None => Ok(output::line(token)?),
        Some(path) => write_private(path, format!("{token}\n").as_bytes())
            .map_err(|error| Failure::failed(format!("cannot write `{}`: {error}", path.display()))),
    }
}

fn check_names(args: &IssueArgs) -> Result<(), Failure> {
    AgentId::parse(&args.sub).map_err(Failure::usage)?;
    for role in &args.roles {
        RoleName::parse(role).map_err(Failure::usage)?;
    }
    for actor in &args.actors {
        AgentId::parse(actor).map_err(Failure::usage)?;
    }
    for scope in &args.decrypt {
        TopicPattern::parse(scope).map_err(|error| Failure::usage(format!("`--decrypt {scope}`: {error}")))?;
    }
    Ok(())
}

/// What the token is bound to, if to anything.
fn confirmation(args: &IssueArgs) -> Result<Option<Confirmation>, Failure> {
    let (path, read): (_, fn(&[u8]) -> _) = match (&args.cnf_certificate, &args.cnf_jwk) {
        (Some(path), _) => (path, Confirmation::of_certificate),
        (None, Some(path)) => (path, Confirmation::of_jwk),
        (None, None) => return Ok(None),
    };
    let about = |fault: &dyn ToString| Failure::usage(format!("`{}`: {}", path.display(), fault.to_string()));
    let bytes = fs::read(path).map_err(|error| about(&error))?;
    read(&bytes).map(Some).map_err(|error| about(&error))
}

fn claims(issuer: &TokenIssuer, args: &IssueArgs, confirmation: Option<&Confirmation>) -> Claims {
    let mut claims = issuer.claims(&args.sub, Clock::system().now().seconds(), *args.lifetime);
    claims.roles.clone_from(&args.roles);
    claims.permissions.clone_from(&args.permissions);
    let claims = args.types.iter().fold(claims, |claims, message_type| claims.message_type(message_type));
    let claims = args.decrypt.iter().fold(claims, |claims, scope| claims.decrypt(scope.as_str()));
    let claims = claims.acted_by(&args.actors);
    match confirmation {
        Some(confirmation) => claims.confirmed_by(confirmation),
        None => claims,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser;

    use super::*;
    use crate::{
        dev::{DevDirectory, DevOptions},
        issue::KeyKind,
    };

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: IssueArgs,
    }

    fn parse(line: &[&str]) -> Result<IssueArgs, clap::Error> {
        Line::try_parse_from([&["issue"], line].concat()).map(|line| line.args)
    }

    fn claims_in(path: &std::path::Path) -> Claims {
        let token = fs::read_to_string(path).expect("a token");
        jsonwebtoken::dangerous::insecure_decode(token.trim()).expect("decodes").claims
    }

    #[test]
    fn a_token_of_a_development_directory_goes_to_a_private_file() {
        let outer = tempfile::tempdir().expect("a directory");
        DevDirectory::create_or_reuse(outer.path(), DevOptions::default()).expect("made");
        let (dir, out) = (outer.path().to_string_lossy(), outer.path().join("x.jwt"));
        let line = ["--dir", &dir, "--sub", "x", "--role", "finance", "--permission", "publish:finance.>", "--type"];
        let args =
            parse(&[&line[..], &["finance.report", "--lifetime", "2m", "--out", &out.to_string_lossy()]].concat());
        run(&args.expect("arguments")).expect("issued");
        let claims = claims_in(&out);
        assert_eq!((claims.iss.as_str(), claims.aud.as_str(), claims.sub.as_str()), ("veribus-dev", "veribus", "x"));
        assert_eq!(claims.exp - claims.iat, 120);
        assert_eq!(claims.types, Some(vec!["finance.report".to_owned()]));
        assert_eq!(fs::metadata(&out).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_of_ones_own_needs_an_issuer_and_an_audience() {
        assert!(parse(&["--sub", "x", "--key", "k"]).is_err());
        assert!(parse(&["--sub", "x"]).is_err());
        assert!(parse(&["--sub", "x", "--dir", "d", "--issuer", "i"]).is_err());
        let outer = tempfile::tempdir().expect("a directory");
        let (key, out) = (outer.path().join("k.pem"), outer.path().join("x.jwt"));
        fs::write(&key, KeyKind::EdDsa.generate_pem().expect("a key")).expect("written");
        let (key, file) = (key.to_string_lossy(), out.to_string_lossy());
        let line = ["--sub", "x", "--key", &key, "--issuer", "i", "--audience", "a", "--out", &file];
        run(&parse(&line).expect("arguments")).expect("issued");
        assert_eq!((claims_in(&out).iss.as_str(), claims_in(&out).types), ("i", None));
    }

    #[test]
    fn an_agent_that_is_named_like_a_role_gets_no_token() {
        let args = parse(&["--sub", "role:finance", "--dir", "d"]).expect("arguments");
        assert!(matches!(run(&args), Err(Failure::Usage(_))));
    }
}
