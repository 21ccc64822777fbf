//! Which entries, as arguments.

use std::time::SystemTime;

use clap::Args;
use veribus_client::AuditFilter;
use veribus_proto::v1::{Decision, EntryKind};

use crate::cli::instant;

#[derive(Debug, Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArgs {
    /// From this time on: RFC 3339, or how long ago, for example `1h`
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    from: Option<SystemTime>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    to: Option<SystemTime>,
    /// By this agent
    #[arg(long)]
    agent: Option<String>,
    /// About topics that this pattern names (`*` is one level, a last `>` the rest), or state in such scopes; or about
    /// exactly this text: a state key, the patterns of a subscription
    #[arg(long, value_name = "PATTERN")]
    topic: Option<String>,
    /// Of this kind, for example `publish`
    #[arg(long, value_parser = kind)]
    kind: Option<EntryKind>,
    /// Where this was decided: `allow`, `deny` or `quarantine`
    #[arg(long, value_parser = decision)]
    decision: Option<Decision>,
    /// About this message
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// About messages with this subject, whole
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// About messages with this correlation id, whole
    #[arg(long, value_name = "TEXT")]
    correlation_id: Option<String>,
}

impl FilterArgs {
    pub(super) fn filter(self) -> AuditFilter {
        let mut filter = AuditFilter::all();
        if let Some(time) = self.from {
            filter = filter.from_time(time);
        }
        if let Some(time) = self.to {
            filter = filter.to_time(time);
        }
        if let Some(kind) = self.kind {
            filter = filter.kind(kind);
        }
        if let Some(decision) = self.decision {
            filter = filter.decision(decision);
        }
        filter
            .agent(self.agent.unwrap_or_default())
            .topic(self.topic.unwrap_or_default())
            .message_id(self.message_id.unwrap_or_default())
            .subject(self.subject.unwrap_or_default())
            .correlation_id(self.correlation_id.unwrap_or_default())
    }
}

fn kind(text: &str) -> Result<EntryKind, String> {
    EntryKind::from_str_name(&enum_name("ENTRY_KIND", text))
        .filter(|kind| *kind != EntryKind::Unspecified)
        .ok_or_else(|| "no kind of entry; one is `publish`".to_owned())
}

fn decision(text: &str) -> Result<Decision, String> {
    Decision::from_str_name(&enum_name("DECISION", text))
        .filter(|decision| *decision != Decision::Unspecified)
        .ok_or_else(|| "not `allow`, `deny` or `quarantine`".to_owned())
}

fn enum_name(prefix: &str, text: &str) -> String {
    format!("{prefix}_{}", text.replace('-', "_").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_decisions_are_named_as_they_are_printed() {
        assert_eq!(kind("authentication_refused"), Ok(EntryKind::AuthenticationRefused));
        assert_eq!(kind("broker-started"), Ok(EntryKind::BrokerStarted));
        assert_eq!(decision("quarantine"), Ok(Decision::Quarantine));
        assert!(kind("unspecified").is_err() && kind("x").is_err() && decision("").is_err());
    }
}
