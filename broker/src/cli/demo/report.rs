//! What the demo shows: a table for people, JSON for programs.

use comfy_table::Color;
use owo_colors::Style;
use serde::Serialize;
use serde_json::json;

use super::super::{
    failure::Failure,
    output::{self, Cell},
};

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Seen {
    /// The sender has a receipt and the receiver has the message.
    Delivered,
    /// The sender was refused by a decision and the receiver got nothing.
    Denied,
    /// The sender has a receipt that says it is withheld, and the receiver got nothing.
    Quarantined,
    /// The writer has a revision.
    Written,
    /// The reader has the value that was written.
    Read,
    /// The caller was not recognised.
    Refused,
    /// A reading of the log found what it should.
    Found,
    /// Something else happened.
    Otherwise,
}

/// One step of the demo.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) step: usize,
    pub(super) who: &'static str,
    pub(super) what: &'static str,
    pub(super) expected: Seen,
    pub(super) seen: Seen,
    pub(super) as_expected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) audit_index: Option<u64>,
    /// From the audit log: the rules that spoke, or why the caller was refused.
    pub(super) why: Vec<String>,
}

impl Step {
    pub(super) const fn is_as_expected(&self) -> bool {
        self.as_expected
    }
}

/// What the auditor found in the log as a whole.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) entries: u64,
    pub(super) chain_ok: bool,
}

pub(super) fn print(steps: &[Step], findings: &Findings, as_json: bool) -> Result<(), Failure> {
    let as_expected = steps.iter().filter(|step| step.as_expected).count();
    if as_json {
        for step in steps {
            output::json(step)?;
        }
        let (entries, chain_ok) = (findings.entries, findings.chain_ok);
        return Ok(output::json(&json!({
            "steps": steps.len(), "as_expected": as_expected, "audit_entries": entries, "chain_ok": chain_ok
        }))?);
    }
    print_table(steps)?;
    let (good, bad) = (Style::new().green(), Style::new().red());
    let summary = if as_expected == steps.len() { good } else { bad };
    let (chain, is_whole) = if findings.chain_ok { ("whole", good) } else { ("broken", bad) };
    let line = output::Line::new()
        .styled(format_args!("{as_expected} of {} steps as expected", steps.len()), summary.bold())
        .text(format_args!("; {} entries in the audit log, chain ", findings.entries))
        .styled(chain, is_whole);
    output::line("")?;
    output::line(line)?;
    Ok(())
}

fn print_table(steps: &[Step]) -> Result<(), Failure> {
    let mut table = output::new_table(["", "WHO", "TRIES", "OUTCOME", "ENTRY", "WHY"]);
    for step in steps {
        let mark = if step.as_expected { Cell::new("✓").fg(Color::Green) } else { Cell::new("✗").fg(Color::Red) };
        let outcome = if step.as_expected {
            step.seen.to_string()
        } else {
            format!("{} (expected {})", step.seen, step.expected)
        };
        table.add_row([
            mark,
            Cell::new(step.who),
            Cell::new(step.what),
            Cell::new(outcome).fg(step.seen.colour()),
            Cell::new(step.audit_index.map(|index| index.to_string()).unwrap_or_default()),
            Cell::new(step.why.join(", ")),
        ]);
    }
    Ok(output::table(&table)?)
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Delivered => "delivered",
            Self::Denied => "denied",
            Self::Quarantined => "quarantined",
            Self::Written => "written",
            Self::Read => "read",
            Self::Refused => "refused",
            Self::Found => "found",
            Self::Otherwise => "something else",
        })
    }
}

impl Seen {
    const fn colour(self) -> Color {
        match self {
            Self::Delivered | Self::Written | Self::Read | Self::Found => Color::Green,
            Self::Quarantined => Color::Yellow,
            Self::Denied | Self::Refused => Color::Magenta,
            Self::Otherwise => Color::Red,
        }
    }
}
