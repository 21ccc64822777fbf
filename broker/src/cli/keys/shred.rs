//! `veribus keys shred`: asks first, since there is no way back.

use std::io::{self, IsTerminal as _};

use clap::Args;
use serde_json::json;

use crate::cli::{connect::ConnectArgs, failure::Failure, output};

#[derive(Debug, Args)]
pub(in crate::cli) struct ShredArgs {
    /// The scope
    #[arg(long)]
    scope: String,
    /// Which key of the scope, as `veribus keys status` prints it; the current one is rotated first
    #[arg(long)]
    epoch: u32,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn run(args: ShredArgs) -> Result<(), Failure> {
    if !args.yes {
        confirm(&args)?;
    }
    let client = args.connection.connect().await?;
    let done = client.admin().shred_key(&args.scope, args.epoch).await?;
    let (id, entry) = (&done.root_key_id, done.audit_index);
    if args.json {
        let object = json!({
            "scope": args.scope, "epoch": args.epoch, "root_key_id": id, "audit_index": entry,
        });
        return Ok(output::json(&object)?);
    }
    let key = format!("{}, epoch {}", args.scope, args.epoch);
    Ok(output::line(format_args!("shredded: {key} (entry {entry}); root key {id} wraps what is left"))?)
}

fn confirm(args: &ShredArgs) -> Result<(), Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage("there is no terminal to ask on: give `--yes` to shred without being asked"));
    }
    let ShredArgs { scope, epoch, .. } = args;
    output::note(format_args!(
        "What epoch {epoch} of scope `{scope}` encrypts can be read by nobody any more, for ever."
    ));
    output::note("Type the name of the scope to go on:");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
    if is_yes(&answer, scope) { Ok(()) } else { Err(Failure::failed("not confirmed: nothing was shredded")) }
}

fn is_yes(answer: &str, scope: &str) -> bool {
    answer.trim() == scope
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_the_scope_confirms() {
        assert!(is_yes("tickets\n", "tickets"));
        for answer in ["", "\n", "y\n", "yes\n", "tickets.open\n", "TICKETS"] {
            assert!(!is_yes(answer, "tickets"), "{answer:?}");
        }
    }
}
