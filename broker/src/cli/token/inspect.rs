//! `veribus token inspect`: shows, and vouches for nothing.

use std::{fs, io, path::Path};

use clap::Args;
use owo_colors::Style;
use serde_json::{Map, Value, json};

use crate::{
    authenticate::Permission,
    cli::{failure::Failure, instant, output},
    model::{Clock, UnixSeconds},
};

/// The claims in which presets look for permissions.
const PERMISSIONS: [&str; 3] = ["permissions", "scope", "scp"];
const TIMES: [&str; 4] = ["exp", "iat", "nbf", "auth_time"];

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectArgs {
    /// A file that holds the token, `-` for standard input, or the token itself
    token: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let text = read(&args.token)?;
    let (header, claims) = decode(text.trim()).map_err(|error| Failure::failed(format!("not a token: {error}")))?;
    if args.json {
        let grants_nothing = grants_nothing(&claims);
        let shown = json!({"verified": false, "header": header, "claims": claims, "grants_nothing": grants_nothing});
        return Ok(output::json(&shown)?);
    }
    let UnixSeconds(now) = Clock::system().now().seconds();
    let warning = output::Line::new().styled("not verified:", Style::new().yellow().bold());
    output::line(warning.text(" anybody could have written this"))?;
    Ok(output::table(&table(&header, &claims, now))?)
}

fn read(argument: &str) -> Result<String, Failure> {
    if argument == "-" {
        return io::read_to_string(io::stdin()).map_err(|error| Failure::failed(format!("cannot read: {error}")));
    }
    let is_token = argument.split('.').count() == 3 && !Path::new(argument).exists();
    if is_token {
        return Ok(argument.to_owned());
    }
    fs::read_to_string(argument).map_err(|error| Failure::usage(format!("cannot read `{argument}`: {error}")))
}

fn decode(token: &str) -> Result<(Value, Map<String, Value>), jsonwebtoken::errors::Error> {
    let header = serde_json::to_value(jsonwebtoken::decode_header(token)?)?;
    let claims = jsonwebtoken::dangerous::insecure_decode_claims(token)?;
    Ok((header, claims))
}

fn table(header: &Value, claims: &Map<String, Value>, now: i64) -> output::Table {
    let mut table = output::new_table(["PART", "NAME", "VALUE"]);
    for (name, value) in header.as_object().into_iter().flatten() {
        add_rows(&mut table, "header", name, value, now);
    }
    for (name, value) in claims {
        add_rows(&mut table, "claim", name, value, now);
    }
    let words = grants_nothing(claims);
    if !words.is_empty() {
        table.add_row(["note", "grants nothing", &words.join(" ")]);
    }
    table
}

/// The words among the permissions that are none.
fn grants_nothing(claims: &Map<String, Value>) -> Vec<&str> {
    let words = PERMISSIONS.iter().filter_map(|name| claims.get(*name)).flat_map(|value| match value {
        Value::String(words) => words.split_ascii_whitespace().collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    });
    words.filter(|word| Permission::parse(word).is_none()).collect()
}

/// One row for a value, or one for each that an object holds, such as `cnf.jkt`.
fn add_rows(table: &mut output::Table, part: &str, name: &str, value: &Value, now: i64) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (member, value) in members {
                add_rows(table, part, &format!("{name}.{member}"), value, now);
            }
        }
        _ => {
            table.add_row([part, name, &shown(name, value, now)]);
        }
    }
}

fn shown(name: &str, value: &Value, now: i64) -> String {
    match (value, value.as_i64()) {
        (_, Some(unix_s)) if TIMES.contains(&name) => {
            format!("{} ({})", instant::from_seconds(unix_s), instant::relative(unix_s, now))
        }
        (Value::String(text), _) => text.clone(),
        (Value::Array(items), _) => items.iter().map(|item| shown("", item, now)).collect::<Vec<_>>().join(" "),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::issue::{Confirmation, KeyKind, TokenIssuer};

    fn token() -> String {
        let pem = KeyKind::Es256.generate_pem().expect("a key");
        let issuer = TokenIssuer::with_key_id("an-issuer", "veribus", &pem, "a-key").expect("an issuer");
        let claims = issuer.claims("an-agent", UnixSeconds(1_790_000_000), Duration::from_secs(3600));
        let claims = claims.permission("publish:a").permission("publish:b").decrypt("finance.>");
        let claims =
            claims.acted_by(&["helper", "helpers-helper"]).confirmed_by(&Confirmation::Key("thumb".to_owned()));
        issuer.issue(&claims).expect("signed")
    }

    #[test]
    fn header_and_claims_are_shown_with_times_in_words() {
        let (header, claims) = decode(&token()).expect("decodes");
        let text = table(&header, &claims, 1_790_000_060).text();
        for part in [
            "a-key",
            "at+jwt",
            "an-agent",
            "publish:a publish:b",
            "finance.>",
            "cnf.jkt",
            "thumb",
            "act.act.sub",
            "helpers-helper",
            "2026-09-21T15:13:20Z (in 59m)",
            "2026-09-21T14:13:20Z (1m ago)",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn words_that_are_no_permission_are_told() {
        let claims = json!({"scope": "openid publish:a.> profile", "permissions": ["publish:", "audit.read"]});
        let claims = claims.as_object().expect("an object");
        assert_eq!(grants_nothing(claims), ["publish:", "openid", "profile"]);
        assert!(table(&json!({}), claims, 0).text().contains("publish: openid profile"));
        assert!(grants_nothing(&Map::new()).is_empty());
    }

    #[test]
    fn a_token_is_taken_from_a_file_or_from_the_argument() {
        let (outer, token) = (tempfile::tempdir().expect("a directory"), token());
        let path = outer.path().join("a.b.jwt");
        fs::write(&path, &token).expect("written");
        assert_eq!(read(&path.to_string_lossy()), Ok(token.clone()));
        assert_eq!(read(&token), Ok(token));
        assert!(matches!(read("/nowhere"), Err(Failure::Usage(_))));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert!(decode("a.b.c").is_err());
    }
}
