//! `veribus sessions list` and `disconnect`.

use clap::{Args, Subcommand};
use serde_json::json;
use veribus_client::Disconnect;
use veribus_proto::v1::Session;

use crate::cli::{connect::ConnectArgs, failure::Failure, instant, output};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SessionsCommand {
    /// Print the calls and streams that are open
    List(ListArgs),
    /// End calls and streams; their agents may come back
    Disconnect(DisconnectArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Only this agent's
    #[arg(long)]
    agent: Option<String>,
    /// Only this issuer's
    #[arg(long)]
    issuer: Option<String>,
    /// Print one JSON object per session
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DisconnectArgs {
    /// One session, by its number
    #[arg(value_name = "SESSION", required_unless_present = "agent", conflicts_with = "agent")]
    session: Option<u64>,
    /// All sessions of this agent
    #[arg(long, requires = "issuer")]
    agent: Option<String>,
    /// Who vouches for the agent
    #[arg(long, requires = "agent")]
    issuer: Option<String>,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(in crate::cli) async fn run(command: SessionsCommand) -> Result<(), Failure> {
    match command {
        SessionsCommand::List(args) => list(args).await,
        SessionsCommand::Disconnect(args) => disconnect(args).await,
    }
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let all = client.admin().sessions(args.agent.as_deref(), args.issuer.as_deref()).await?;
    if args.json {
        return all.iter().try_for_each(|one| Ok(output::json(&to_json(one))?));
    }
    let mut table = output::new_table(["SESSION", "AGENT", "ISSUER", "METHOD", "PEER", "OPENED", "TOKEN ENDS"]);
    all.iter().for_each(|one| {
        table.add_row(row(one));
    });
    Ok(output::table(&table)?)
}

async fn disconnect(args: DisconnectArgs) -> Result<(), Failure> {
    let whom = match (args.session, args.agent, args.issuer) {
        (Some(id), None, None) => Disconnect::Session(id),
        (None, Some(agent), Some(issuer)) => Disconnect::Agent { issuer, agent },
        _ => return Err(Failure::usage("give a session, or `--agent` and `--issuer`")),
    };
    let client = args.connection.connect().await?;
    let done = client.admin().disconnect(whom).await?;
    Ok(output::line(format_args!("sessions ended: {} (entry {})", done.sessions_ended, done.audit_index))?)
}

fn row(session: &Session) -> [String; 7] {
    let actor = session.actor.clone().unwrap_or_default();
    [
        session.id.to_string(),
        actor.agent,
        actor.issuer,
        session.method.rsplit('/').next().unwrap_or_default().to_owned(),
        session.peer.clone(),
        opened_at(session),
        instant::from_seconds(session.token_expires_at),
    ]
}

fn to_json(session: &Session) -> serde_json::Value {
    let actor = session.actor.clone().unwrap_or_default();
    json!({
        "session": session.id, "issuer": actor.issuer, "agent": actor.agent, "roles": actor.roles,
        "token_id": actor.token_id, "method": session.method, "peer": session.peer, "opened_at": opened_at(session),
        "token_expires_at": instant::from_seconds(session.token_expires_at), "refreshes": session.refreshes,
    })
}

fn opened_at(session: &Session) -> String {
    let time = session.opened_at.unwrap_or_default();
    instant::from_micros(time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_one_row_to_people() {
        let session = Session { id: 7, method: "/veribus.v1.BrokerService/Subscribe".to_owned(), ..Session::default() };
        let row = row(&session);
        assert_eq!((&*row[0], &*row[3]), ("7", "Subscribe"));
    }
}
