//! `veribus state`: values that agents share.
//!
//! A conflict of revisions, a refusal and a value that is not there are failures: exit code 1.

mod change;
mod get;
mod list;
mod shown;
mod watch;

use clap::Subcommand;

use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum StateCommand {
    /// Write a value
    Put(change::PutArgs),
    /// Read a value
    Get(get::GetArgs),
    /// Print what is known of the values under a prefix
    List(list::ListArgs),
    /// Print values under a prefix, then each change of them, until interrupted
    Watch(watch::WatchArgs),
    /// Delete a value, with all its revisions
    Delete(change::DeleteArgs),
}

pub(super) async fn run(command: StateCommand) -> Result<(), Failure> {
    match command {
        StateCommand::Put(args) => change::put(args).await,
        StateCommand::Get(args) => get::run(args).await,
        StateCommand::List(args) => list::run(args).await,
        StateCommand::Watch(args) => watch::run(args).await,
        StateCommand::Delete(args) => change::delete(args).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        _command: StateCommand,
    }

    fn parses(line: &str) -> bool {
        Cli::try_parse_from(["state"].into_iter().chain(line.split_whitespace())).is_ok()
    }

    #[test]
    fn the_commands_take_what_their_help_says() {
        for line in [
            "put a/b --data x",
            "put a/b --file -",
            "put a/b --data -x --content-type text/plain --if-revision 0 --ttl 1h",
            "get a/b",
            "get a/b --revision 7 --json",
            "list a",
            "watch a/ --after 7",
            "delete a/b --if-revision 7",
        ] {
            assert!(parses(line), "{line}");
        }
        for line in [
            "put a/b",
            "put a/b --data x --file y",
            "put a/b --data x --ttl soon",
            "put a/b --data x --ttl 0s",
            "get",
            "get a/b --revision 0",
            "list",
            "delete a/b --if-revision 0",
        ] {
            assert!(!parses(line), "{line}");
        }
    }
}
