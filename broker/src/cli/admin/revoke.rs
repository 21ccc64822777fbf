//! `veribus revoke`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;
use veribus_client::Revocation;

use super::ends;
use crate::cli::{connect::ConnectArgs, failure::Failure, instant, output};

#[derive(Debug, Args)]
pub(in crate::cli) struct RevokeArgs {
    /// Who issued the tokens
    #[arg(long)]
    issuer: String,
    /// One token, by its `jti`
    #[arg(long, value_name = "ID", group = "target", required_unless_present_any = ["agent", "whole_issuer"])]
    token_id: Option<String>,
    /// All tokens of this agent, also those to come
    #[arg(long, group = "target")]
    agent: Option<String>,
    /// Only those of the agent's tokens that were issued before: RFC 3339, or how long ago, for example `0s`
    #[arg(long, value_name = "TIME", requires = "agent", value_parser = instant::parse)]
    issued_before: Option<SystemTime>,
    /// All tokens of the issuer
    #[arg(long, group = "target")]
    whole_issuer: bool,
    /// When it ends by itself, RFC 3339 [default: when what it names has run out, or when it is lifted]
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    expires_at: Option<SystemTime>,
    /// Why; it stands in the audit log
    #[arg(long, default_value = "")]
    reason: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(in crate::cli) async fn run(args: RevokeArgs) -> Result<(), Failure> {
    let mut revocation = target(&args)?.reason(&args.reason);
    if let Some(end) = args.expires_at {
        revocation = revocation.expires_at(end);
    }
    let client = args.connection.connect().await?;
    let revoked = client.admin().revoke(revocation).await?;
    let (id, index, ended) = (&revoked.revocation.id, revoked.audit_index, revoked.sessions_ended);
    let passes_from = revoked.passes_from.map(instant::from_seconds);
    if args.json {
        let end = revoked.revocation.expires_at.as_ref().map(|end| instant::from_seconds(end.seconds));
        return Ok(output::json(
            &json!({"id": id, "audit_index": index, "sessions_ended": ended, "expires_at": end, "passes_from": passes_from}),
        )?);
    }
    let until = ends(&revoked.revocation);
    let fresh = passes_from.map(|moment| format!("; tokens pass that are issued from {moment} on")).unwrap_or_default();
    Ok(output::line(format_args!("revoked as {id} (entry {index}); ends: {until}; sessions ended: {ended}{fresh}"))?)
}

fn target(args: &RevokeArgs) -> Result<Revocation, Failure> {
    let issuer = &args.issuer;
    match (&args.token_id, &args.agent, args.issued_before) {
        (Some(token_id), None, None) => Ok(Revocation::token(issuer, token_id)),
        (None, Some(agent), None) => Ok(Revocation::agent(issuer, agent)),
        (None, Some(agent), Some(moment)) => Ok(Revocation::issued_before(issuer, agent, seconds(moment)?)),
        (None, None, None) if args.whole_issuer => Ok(Revocation::whole_issuer(issuer)),
        _ => Err(Failure::usage("give one of `--token-id`, `--agent` and `--whole-issuer`")),
    }
}

/// The next whole second: a token of that very second is meant as well.
fn seconds(moment: SystemTime) -> Result<i64, Failure> {
    let since = moment.duration_since(UNIX_EPOCH).map_err(|_| Failure::usage("that time is before 1970"))?;
    let whole = since.as_secs().saturating_add(u64::from(since.subsec_nanos() > 0));
    i64::try_from(whole).map_err(|_| Failure::usage("that time is out of range"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: RevokeArgs,
    }

    fn parse(line: &str) -> Option<Revocation> {
        let words = ["revoke", "--issuer", "i"].into_iter().chain(line.split_whitespace());
        target(&Cli::try_parse_from(words).ok()?.args).ok()
    }

    #[test]
    fn exactly_one_target_is_taken() {
        assert_eq!(parse("--token-id t"), Some(Revocation::token("i", "t")));
        assert_eq!(parse("--agent a"), Some(Revocation::agent("i", "a")));
        let before = "--agent a --issued-before 2026-09-21T14:13:20Z";
        assert_eq!(parse(before), Some(Revocation::issued_before("i", "a", 1_790_000_000)));
        assert_eq!(parse("--whole-issuer"), Some(Revocation::whole_issuer("i")));
        for wrong in [
            "",
            "--token-id t --agent a",
            "--agent a --whole-issuer",
            "--issued-before 1h",
            "--token-id t --issued-before 1h",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_part_of_a_second_counts_as_a_whole_one() {
        let moment = UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(seconds(moment).ok(), Some(2));
        assert!(seconds(UNIX_EPOCH - Duration::from_secs(1)).is_err());
    }
}
