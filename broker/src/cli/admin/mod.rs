//! `veribus revoke`, `reinstate`, `revocations` and `sessions`: what an operator does about agents.

mod revoke;
mod sessions;

use clap::Args;
use serde_json::json;
use veribus_proto::v1;

pub(super) use revoke::{RevokeArgs, run as revoke};
pub(super) use sessions::{SessionsCommand, run as sessions};

use super::{audit, connect::ConnectArgs, failure::Failure, instant, output};

#[derive(Debug, Args)]
pub(super) struct ReinstateArgs {
    /// The name of the revocation, as `veribus revocations` prints it
    #[arg(value_name = "ID")]
    revocation_id: String,
    #[command(flatten)]
    connection: ConnectArgs,
}

#[derive(Debug, Args)]
pub(super) struct RevocationsArgs {
    /// Print one JSON object per revocation
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn reinstate(args: ReinstateArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let index = client.admin().reinstate(&args.revocation_id).await?;
    Ok(output::line(format_args!("lifted {} (entry {index})", args.revocation_id))?)
}

pub(super) async fn revocations(args: RevocationsArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let all = client.admin().revocations().await?;
    if args.json {
        return all.iter().try_for_each(|one| Ok(output::json(&json!(audit::revocation_json(one)))?));
    }
    let mut table = output::new_table(["ID", "ISSUER", "WHAT", "ENDS", "REASON"]);
    for one in &all {
        table.add_row([&one.id, &one.issuer, &audit::revocation_text(one), &ends(one), &one.reason]);
    }
    Ok(output::table(&table)?)
}

fn ends(revocation: &v1::Revocation) -> String {
    revocation.expires_at.as_ref().map_or_else(|| "when lifted".to_owned(), |end| instant::from_seconds(end.seconds))
}
