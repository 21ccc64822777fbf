//! `veribus token issue`.

use std::{fs, path::PathBuf};

use clap::Args;
use serde_json::Value;

use super::signer::SignerArgs;
use crate::{
    authenticate::Permission,
    cli::{failure::Failure, output},
    config::TOKEN_LIFETIME_S_MAX,
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
    warnings(args, &issuer).into_iter().for_each(output::note);
    let claims = for_audiences(&claims(&issuer, args, confirmation.as_ref()), args.signer.audiences())?;
    let token = issuer.sign(&claims).map_err(Failure::failed)?;
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

/// Several stand in a list (RFC 7519, section 4.1.3).
fn for_audiences(claims: &Claims, audiences: &[String]) -> Result<Value, Failure> {
    let mut claims = serde_json::to_value(claims).map_err(Failure::failed)?;
    if let (Some(members), [_, _, ..]) = (claims.as_object_mut(), audiences) {
        members.insert("aud".to_owned(), audiences.into());
    }
    Ok(claims)
}

/// What a broker will not take as it is meant, most likely.
fn warnings(args: &IssueArgs, issuer: &TokenIssuer) -> Vec<String> {
    let unknown = args.permissions.iter().filter(|text| Permission::parse(text).is_none());
    let mut warnings: Vec<_> = unknown
        .map(|text| format!("warning: `{text}` is no permission that a broker knows: it grants nothing"))
        .collect();
    if args.lifetime.as_secs() > TOKEN_LIFETIME_S_MAX {
        warnings.push(format!(
            "warning: a broker takes no token for longer than {TOKEN_LIFETIME_S_MAX} s, unless its \
             `identity.token_lifetime_s_max` says otherwise"
        ));
    }
    warnings.extend(args.signer.unlisted(issuer).map(|fault| format!("warning: {fault}")));
    warnings
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

    #[test]
    fn several_audiences_stand_in_a_list_and_one_by_itself() {
        let outer = tempfile::tempdir().expect("a directory");
        let (key, out) = (outer.path().join("k.pem"), outer.path().join("x.jwt"));
        fs::write(&key, KeyKind::EdDsa.generate_pem().expect("a key")).expect("written");
        let (key, file) = (key.to_string_lossy(), out.to_string_lossy());
        let line = ["--sub", "x", "--key", &key, "--issuer", "i", "--out", &file, "--audience", "a"];
        let audience = |line: &[&str]| {
            run(&parse(line).expect("arguments")).expect("issued");
            let token = fs::read_to_string(&out).expect("a token");
            let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token.trim()).expect("decodes");
            claims["aud"].clone()
        };
        assert_eq!(audience(&line), "a");
        assert_eq!(audience(&[&line[..], &["--audience", "b"]].concat()), serde_json::json!(["a", "b"]));
    }

    #[test]
    fn what_a_broker_will_not_take_is_warned_of() {
        let outer = tempfile::tempdir().expect("a directory");
        let (key, jwks) = (outer.path().join("k.pem"), outer.path().join("jwks.json"));
        fs::write(&key, KeyKind::EdDsa.generate_pem().expect("a key")).expect("written");
        let key = key.to_string_lossy();
        let line = ["--sub", "x", "--key", &key, "--issuer", "i", "--audience", "a"];
        let warned = |more: &[&str]| {
            let args = parse(&[&line[..], more].concat()).expect("arguments");
            let issuer = args.signer.open().expect("opens");
            warnings(&args, &issuer)
        };
        assert_eq!(warned(&["--permission", "publish:a.>", "--lifetime", "1day"]), [""; 0]);
        let told = warned(&["--permission", "publsh:a.>", "--permission", "admin.keys", "--lifetime", "86401s"]);
        assert!(told.len() == 2 && told[0].contains("publsh:a.>") && told[1].contains("86400 s"), "{told:?}");

        fs::write(&jwks, "{\"keys\": []}").expect("written");
        let told = warned(&[]);
        assert!(matches!(&told[..], [one] if one.contains("jwks.json")), "{told:?}");
        let own = parse(&line).expect("arguments").signer.open().expect("opens").jwks().to_owned();
        fs::write(&jwks, own).expect("written");
        assert_eq!(warned(&[]), [""; 0]);
        assert_eq!(warned(&["--kid", "another"]).len(), 1);
    }
}
