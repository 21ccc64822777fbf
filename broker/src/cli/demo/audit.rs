//! The auditor: reads the log over the wire, verifies its chain, and shows what a changed byte does.

use futures_util::TryStreamExt as _;
use veribus_client::{AuditFilter, StoredEntry};
use veribus_proto::{
    chain::{BrokenChain, ChainVerifier},
    v1::{AuditEntry, Decision, DecisionFacts, EntryKind},
};

use super::{
    super::failure::Failure,
    cast::Cast,
    report::{Findings, Seen, Step},
    script::SHARED_TICKET,
};

/// Fills in what the log says about each step, and the auditor's own steps.
pub(super) async fn read(cast: &Cast, steps: &mut [Step]) -> Result<Findings, Failure> {
    let auditor = cast.client("auditor").await?;
    let mut log = Vec::new();
    // Refused callers are recorded by a task of their own: read until the last of them is there.
    let refused = steps.iter().filter(|step| step.seen == Seen::Refused).count();
    let mut tail = auditor.audit().tail(Some(0), AuditFilter::all());
    while refusals(&log).count() < refused {
        let Some(entry) = tail.try_next().await? else { break };
        log.push(entry);
    }
    drop(tail);
    let log: Vec<StoredEntry> = auditor.audit().query(AuditFilter::all(), 0, 0).try_collect().await?;
    explain(steps, &log);
    for (number, step) in (1..).zip(steps.iter_mut()) {
        step.step = number;
    }
    let whole = verify(&log).is_ok();
    let complete = steps.iter().filter(|step| step.who != "auditor").all(|step| !step.why.is_empty());
    let tampered = log.len() / 2;
    let named = verify(&with_a_byte_flipped(&log, tampered)).err();
    let answers = [
        (complete, format!("{} entries", log.len())),
        (tells_of_the_ticket(&log), "one write, one read, one refusal".to_owned()),
        (whole, "whole from the first entry".to_owned()),
        (
            named.as_ref().is_some_and(|broken| points_at(broken, tampered)),
            named.map(|broken| broken.to_string()).unwrap_or_default(),
        ),
    ];
    for (step, (found, why)) in steps.iter_mut().filter(|step| step.who == "auditor").zip(answers) {
        step.seen = if found { Seen::Found } else { Seen::Otherwise };
        step.as_expected = step.seen == step.expected;
        step.why = vec![why];
    }
    Ok(Findings { entries: log.len() as u64, chain_ok: whole })
}

/// Takes over from the log why each attempt ended as it did.
fn explain(steps: &mut [Step], log: &[StoredEntry]) {
    let mut refusals = refusals(log);
    for step in steps {
        if let Some(index) = step.audit_index {
            let decision = log.iter().find(|entry| entry.index == index).and_then(|entry| entry.entry.decision.clone());
            step.why = decision.map(|decision| decision.rules).unwrap_or_default();
            if step.why.is_empty() && matches!(step.seen, Seen::Delivered | Seen::Written | Seen::Read) {
                step.why.push("allowed by policy".to_owned());
            }
        } else if step.seen == Seen::Refused
            && let Some(entry) = refusals.next()
        {
            step.audit_index = Some(entry.index);
            step.why = vec![entry.entry.detail.clone()];
        }
    }
}

/// Support wrote the shared ticket, billing read that very version, and the external agent was refused.
fn tells_of_the_ticket(log: &[StoredEntry]) -> bool {
    let about: Vec<_> = log.iter().map(|entry| &entry.entry).filter(|entry| entry.resource == SHARED_TICKET).collect();
    let [write, read, refusal] = about.as_slice() else { return false };
    let agent = |entry: &AuditEntry| entry.actor.as_ref().map(|actor| actor.agent.clone()).unwrap_or_default();
    let decision = |entry: &AuditEntry| entry.decision.as_ref().map(DecisionFacts::decision);
    let reads = |entry: &AuditEntry| entry.state.as_ref().map(|state| state.reads.clone()).unwrap_or_default();
    let is_of = |entry: &AuditEntry, kind, name: &str, decided| {
        (entry.kind(), agent(entry).as_str(), decision(entry)) == (kind, name, Some(decided))
    };
    is_of(write, EntryKind::StatePut, "support-agent", Decision::Allow)
        && is_of(read, EntryKind::StateRead, "billing-agent", Decision::Allow)
        && reads(read).iter().map(|read| read.revision).eq([write.index])
        && is_of(refusal, EntryKind::StateRead, "external-agent", Decision::Deny)
        && reads(refusal).is_empty()
}

fn refusals(log: &[StoredEntry]) -> impl Iterator<Item = &StoredEntry> {
    log.iter().filter(|entry| entry.entry.kind() == EntryKind::AuthenticationRefused)
}

fn verify(log: &[StoredEntry]) -> Result<(), BrokenChain> {
    let mut chain = ChainVerifier::from_genesis();
    log.iter().try_for_each(|entry| chain.push(&entry.bytes).map(drop))
}

fn with_a_byte_flipped(log: &[StoredEntry], at: usize) -> Vec<StoredEntry> {
    let mut copy = log.to_vec();
    if let Some(entry) = copy.get_mut(at) {
        let mut bytes = entry.bytes.to_vec();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        entry.bytes = bytes.into();
    }
    copy
}

/// A change shows at the entry itself, or at the next, whose link names the one before.
fn points_at(broken: &BrokenChain, tampered: usize) -> bool {
    let tampered = tampered as u64;
    broken.index == tampered || broken.index == tampered.saturating_add(1)
}
