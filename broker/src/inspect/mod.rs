//! What is in a message: its size, whether it is what it says it is, and text that tries to take over its reader.
//!
//! In scope: finding. Out of scope: deciding, which is the policy's (`decide`), and who sent it (`authenticate`).
//!
//! Every text is looked at as sent and as a reader would take it (see [`scan`]). The work is linear in the message's
//! size and has a budget ([`work`]); what could not be looked at is reported as [`FindingKind::ScannerFailure`], never as
//! clean.

mod automaton;
mod clean;
mod decode;
mod escape;
mod findings;
mod fold;
mod grammar;
mod inspected;
mod json;
mod markup;
mod native;
mod phrases;
mod rules;
mod scan;
mod scramble;
mod symbols;
mod work;

use std::{borrow::Cow, cell::Cell, sync::Arc};

use arc_swap::ArcSwap;

pub use self::inspected::{Content, Findings, Inspected, Submitted};
use self::{
    clean::CleanNames,
    findings::FindingsBuilder,
    json::Strings,
    rules::Rules,
    scan::{Location, Scan},
    symbols::Stream,
};
pub use self::{
    findings::{FINDINGS_MAX, OMITTED_MAX},
    grammar::PhraseError,
    rules::{BUILT_IN, RuleFault, RulesError},
    scan::DEPTH_MAX,
    work::{WORK_FACTOR, WORK_FLOOR, work_max},
};
use crate::model::{ContentType, Destination, Finding, FindingKind, Message, Severity};

/// More than this at once is inspected and decided by [`Workers`](crate::workers::Workers), in bytes: an inspection takes about
/// 25 ns a byte. An item counts with [`ITEM_BYTES`] beside its content.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;
/// What an item takes to be decided, as if it were content.
pub const ITEM_BYTES: usize = 256;
/// Scratch memory that a message leaves larger than this is not kept, in bytes.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;

/// What it costs to read one byte of JSON, in steps: as JSON, as one of a string, and to compare names.
const JSON_STEPS: usize = 3;

/// Inspects messages. One serves all threads.
#[derive(Debug)]
pub struct Inspector {
    rules: ArcSwap<LoadedRules>,
}

/// Rules that can be put in force.
#[derive(Debug)]
pub struct LoadedRules {
    rules: Rules,
    clean: CleanNames,
}

impl LoadedRules {
    /// Reads a rule file, or the built-in one.
    ///
    /// # Errors
    /// [`RulesError`], which names the rule that is wrong.
    pub fn parse(rules: Option<&str>) -> Result<Self, RulesError> {
        Ok(Self { rules: Rules::parse(rules.unwrap_or(BUILT_IN))?, clean: CleanNames::default() })
    }
}

impl Inspector {
    /// Reads a rule file, or the built-in one.
    ///
    /// # Errors
    /// [`RulesError`], which names the rule that is wrong.
    pub fn new(rules: Option<&str>) -> Result<Self, RulesError> {
        LoadedRules::parse(rules).map(Self::with)
    }

    /// Goes by these rules.
    #[must_use]
    pub fn with(rules: LoadedRules) -> Self {
        fold::prepare();
        Self { rules: ArcSwap::from_pointee(rules) }
    }

    /// Goes by these rules from now on.
    pub fn put_in_force(&self, rules: LoadedRules) {
        self.rules.store(Arc::new(rules));
    }

    /// What is to be said about the message: the worst [`FINDINGS_MAX`] findings, each rule once per location. Where
    /// others were left out, one of them says so.
    #[must_use]
    pub fn findings(&self, message: &Message) -> Vec<Finding> {
        self.findings_and_omitted(message.into()).0
    }

    /// The steps that it takes to look into the message, at most [`work_max`] of its size. A step is about one byte that
    /// one pass looks at.
    #[must_use]
    pub fn work(&self, message: &Message) -> usize {
        self.look_into(message.into()).1
    }

    /// The findings with how many more there were, counted up to [`OMITTED_MAX`].
    fn findings_and_omitted(&self, content: Content<'_>) -> (Vec<Finding>, u32) {
        self.look_into(content).0.finish()
    }

    /// The findings, and the steps that it took to find them.
    fn look_into(&self, content: Content<'_>) -> (FindingsBuilder, usize) {
        let size_bytes = match content {
            Content::Message(message) => message.size_bytes(),
            Content::Write(write) => write.value.len(),
        };
        let loaded = self.rules.load();
        let LoadedRules { rules, clean } = &**loaded;
        let mut scratch = SCRATCH.take();
        let mut scan = Scan::new(rules, size_bytes, std::mem::take(&mut scratch.stream));
        match content {
            Content::Message(message) => {
                inspect_data(&mut scan, &message.content_type, &message.data, &mut scratch.strings, clean);
                inspect_texts(&mut scan, message, &mut scratch.strings, clean);
            }
            Content::Write(write) => {
                inspect_data(&mut scan, &write.content_type, &write.value, &mut scratch.strings, clean);
                scan.text(write.key.name(), Location::part("name"));
                scan.name(write.key.scope().as_str(), Location::part("scope"), clean);
                scan.name(write.content_type.as_str(), Location::part("content_type"), clean);
            }
        }
        let (findings, stream, steps) = scan.finish();
        scratch.stream = stream;
        scratch.give_back();
        (findings, steps)
    }
}

/// Memory that is used for one message after the other.
#[derive(Default)]
struct Scratch {
    stream: Stream,
    strings: Strings,
}

impl Scratch {
    fn give_back(self) {
        let kept_bytes = self.stream.capacity_bytes() + self.strings.capacity_bytes();
        if kept_bytes <= SCRATCH_BYTES_MAX {
            SCRATCH.set(self);
        }
    }
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

fn inspect_data(
    scan: &mut Scan<'_>,
    content_type: &ContentType,
    data: &[u8],
    strings: &mut Strings,
    clean: &CleanNames,
) {
    let at = Location::part("data");
    let says_json = content_type.is_json();
    if says_json || json::may_be_json(data) {
        if !scan.spend(JSON_STEPS * data.len()) {
            return;
        }
        strings.clear();
        if strings.read(data) {
            scan.strings(strings, at, clean);
            if strings.has_duplicates {
                scan.note(FindingKind::Malformed, "duplicate-json-member", Severity::Medium, at);
            }
            return;
        }
        if says_json {
            scan.note(FindingKind::Malformed, "invalid-json", Severity::Medium, at);
        }
    }
    if !scan.spend(data.len()) {
        return;
    }
    let text = String::from_utf8_lossy(data);
    // Only invalid UTF-8 has to be copied.
    if !says_json && matches!(text, Cow::Owned(_)) && content_type.is_text() {
        scan.note(FindingKind::Malformed, "invalid-utf8", Severity::Medium, at);
    }
    scan.text(&text, at);
    scan.packed(data, at);
}

/// The names and free texts around the data. The attributes are taken together: a phrase may be spread over them.
fn inspect_texts(scan: &mut Scan<'_>, message: &Message, strings: &mut Strings, clean: &CleanNames) {
    scan.text(message.id.as_str(), Location::part("id"));
    scan.name(message.topic.as_str(), Location::part("topic"), clean);
    scan.name(message.kind.as_str(), Location::part("type"), clean);
    scan.name(message.content_type.as_str(), Location::part("content_type"), clean);
    if let Some(topic) = &message.reply_to {
        scan.name(topic.as_str(), Location::part("reply_to"), clean);
    }
    match &message.destination {
        Some(Destination::Agent(agent)) => scan.name(agent.as_str(), Location::part("destination"), clean),
        Some(Destination::Role(role)) => scan.name(role.as_str(), Location::part("destination"), clean),
        None => {}
    }
    for (text, name) in [(message.subject.as_str(), "subject"), (message.correlation_id.as_str(), "correlation_id")] {
        if !text.is_empty() {
            scan.text(text, Location::part(name));
        }
    }
    if message.attributes.is_empty() {
        return;
    }
    strings.clear();
    for (key, value) in &message.attributes {
        strings.add_name(key);
        strings.add_value(value);
    }
    scan.strings(strings, Location::part("attributes"), clean);
}

#[cfg(test)]
mod corpora_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod work_tests;
