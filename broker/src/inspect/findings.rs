//! What was found in one message so far, within a limit that never hides the worst.
//!
//! In scope: which findings are kept, and counting the others. Out of scope: finding ([`super::scan`]).

use std::{
    collections::BTreeSet,
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::scan::Location;
use crate::model::{Finding, FindingKind, Severity};

/// The most findings that one message may have, with the one that says that others were left out.
pub const FINDINGS_MAX: usize = 32;
/// FindingsBuilder that were left out are counted up to here.
pub const OMITTED_MAX: usize = 1024;

/// The rule of the finding that says that others were left out.
const TOO_MANY: &str = "too-many-findings";

/// The worst findings in a message.
#[derive(Debug, Default)]
pub(super) struct FindingsBuilder {
    list: Vec<Finding>,
    omitted: BTreeSet<u64>,
    location: String,
    noted: usize,
}

/// How hard a finding is to leave out: a rule's by its severity, what is wrong with the message as a whole hardest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    OfRule(Severity),
    OfMessage,
}

impl Weight {
    const fn of(kind: FindingKind, severity: Severity) -> Self {
        match kind {
            FindingKind::Injection => Self::OfRule(severity),
            FindingKind::Malformed | FindingKind::ScannerFailure => Self::OfMessage,
        }
    }
}

impl FindingsBuilder {
    /// How often something was noted, kept or not.
    pub(super) const fn noted(&self) -> usize {
        self.noted
    }

    /// Notes a finding, unless the same is known. Where there is no room, the lightest is left out.
    pub(super) fn note(&mut self, kind: FindingKind, rule: &str, severity: Severity, at: Location<'_>) {
        self.noted += 1;
        self.location.clear();
        // Writing to memory does not fail.
        _ = write!(self.location, "{at}");
        if self.list.iter().any(|known| known.rule == rule && known.location == self.location) {
            return;
        }
        if self.list.len() + 1 >= FINDINGS_MAX && !self.make_room(Weight::of(kind, severity)) {
            self.omit(rule, &self.location.clone());
            return;
        }
        self.list.push(Finding { kind, rule: rule.to_owned(), severity, location: self.location.clone() });
    }

    /// The findings, and how many were left out, of which a finding tells.
    pub(super) fn finish(mut self) -> (Vec<Finding>, u32) {
        if !self.omitted.is_empty() {
            self.list.push(Finding {
                kind: FindingKind::Injection,
                rule: TOO_MANY.to_owned(),
                severity: Severity::Medium,
                location: "message".to_owned(),
            });
        }
        (self.list, u32::try_from(self.omitted.len()).unwrap_or(u32::MAX))
    }

    /// Leaves out the lightest finding, if it is lighter than the one that comes.
    fn make_room(&mut self, coming: Weight) -> bool {
        let weights = self.list.iter().map(|finding| Weight::of(finding.kind, finding.severity));
        let Some((at, lightest)) = weights.enumerate().min_by_key(|(_, weight)| *weight) else { return false };
        if lightest >= coming {
            return false;
        }
        let finding = self.list.remove(at);
        self.omit(&finding.rule, &finding.location);
        true
    }

    fn omit(&mut self, rule: &str, location: &str) {
        if self.omitted.len() < OMITTED_MAX {
            let mut hasher = DefaultHasher::new();
            (rule, location).hash(&mut hasher);
            self.omitted.insert(hasher.finish());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn low(findings: &mut FindingsBuilder, count: usize) {
        for n in 0..count {
            findings.note(FindingKind::Injection, &format!("low-{n}"), Severity::Low, Location::part("data"));
        }
    }

    #[test]
    fn a_worse_finding_takes_the_place_of_the_lightest() {
        for kind in [FindingKind::Malformed, FindingKind::ScannerFailure, FindingKind::Injection] {
            let mut findings = FindingsBuilder::default();
            low(&mut findings, 2 * FINDINGS_MAX);
            findings.note(kind, "late", Severity::High, Location::part("attributes"));
            let (list, omitted) = findings.finish();
            assert_eq!(list.len(), FINDINGS_MAX);
            assert!(list.iter().any(|finding| finding.rule == "late" && finding.kind == kind));
            assert_eq!(omitted as usize, 2 * FINDINGS_MAX + 1 - (FINDINGS_MAX - 1));
        }
    }

    #[test]
    fn the_worst_are_never_left_out_for_something_less() {
        let mut findings = FindingsBuilder::default();
        findings.note(FindingKind::Malformed, "broken", Severity::Medium, Location::part("data"));
        findings.note(FindingKind::Injection, "high", Severity::High, Location::part("data"));
        low(&mut findings, FINDINGS_MAX);
        for n in 0..FINDINGS_MAX {
            findings.note(FindingKind::Injection, &format!("{n}"), Severity::High, Location::part("data"));
        }
        let (list, _) = findings.finish();
        assert!(["broken", "high"].iter().all(|rule| list.iter().any(|finding| finding.rule == *rule)), "{list:?}");
    }

    #[test]
    fn what_was_left_out_is_told_and_counted_once_each() {
        let mut findings = FindingsBuilder::default();
        low(&mut findings, FINDINGS_MAX - 1);
        assert_eq!(findings.finish().1, 0);
        let mut findings = FindingsBuilder::default();
        (0..5).for_each(|_| low(&mut findings, FINDINGS_MAX));
        let (list, omitted) = findings.finish();
        assert_eq!(omitted, 1);
        let told = list.iter().find(|finding| finding.rule == TOO_MANY).map(|told| (told.kind, told.severity));
        assert_eq!(told, Some((FindingKind::Injection, Severity::Medium)));
        let mut findings = FindingsBuilder::default();
        low(&mut findings, 2 * OMITTED_MAX);
        assert_eq!(findings.finish().1 as usize, OMITTED_MAX);
    }
}
