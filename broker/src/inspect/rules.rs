//! The rule file: TOML with phrases and markers, read into the matchers that find them.
//!
//! In scope: the file's shape and limits, errors that name the rule. Out of scope: what the matchers look at.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use serde::Deserialize;
use thiserror::Error;

use super::{
    fold,
    grammar::{Lists, Phrase, PhraseError},
    native::{self, NativeMatcher},
    phrases::PhraseMatcher,
    scramble::Vocabulary,
    symbols::MARKER_CHARS,
};
use crate::model::{FindingKind, Severity};

/// The rules that ship with the broker.
pub const BUILT_IN: &str = include_str!("../../rules/injection.toml");
/// The largest rule file, in bytes.
pub(super) const FILE_BYTES_MAX: usize = 256 * 1024;
/// The most rules in a file.
pub(super) const RULES_MAX: usize = 256;
/// The longest rule id, in bytes.
pub(super) const ID_BYTES_MAX: usize = 64;
/// The most letters in all phrases of one rule, choices counted once each.
pub(super) const RULE_LETTERS_MAX: usize = 64 * 1024;
/// The shortest phrase, in letters, by its shortest form.
pub(super) const PHRASE_LETTERS_MIN: usize = 8;
/// The shortest native phrase: one Chinese character says as much as a word.
const NATIVE_LETTERS_MIN: usize = 4;
/// The shortest marker, in bytes.
const MARKER_BYTES_MIN: usize = 4;

/// Why there are no rules.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RulesError {
    /// Larger than a rule file may be.
    #[error("the rule file is larger than {FILE_BYTES_MAX} bytes")]
    FileTooLarge,
    /// Not TOML, or not of the shape of a rule file.
    #[error("the rule file is not valid: {0}")]
    Shape(String),
    /// More rules than a file may have.
    #[error("the rule file has more than {RULES_MAX} rules")]
    TooManyRules,
    /// All rules together are too much for one automaton.
    #[error("the rules are too large together")]
    TooLarge,
    /// One rule is wrong.
    #[error("rule `{id}`: {fault}")]
    Rule {
        /// Which rule.
        id: String,
        /// What is wrong with it.
        fault: RuleFault,
    },
}

/// What is wrong with one rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleFault {
    /// The id is empty, too long, or has other characters than `a-z`, `0-9` and `-`.
    #[error("an id has 1 to {ID_BYTES_MAX} characters of a-z, 0-9 and `-`")]
    Id,
    /// Another rule has the same id.
    #[error("the id is taken")]
    Duplicate,
    /// There is nothing to find.
    #[error("no phrase and no marker")]
    Empty,
    /// The phrases together are too long.
    #[error("more than {RULE_LETTERS_MAX} letters in its phrases")]
    TooLarge,
    /// A phrase is wrong.
    #[error("phrase `{phrase}`: {error}")]
    Phrase {
        /// As written.
        phrase: String,
        /// Why.
        error: PhraseError,
    },
    /// A marker is wrong.
    #[error("marker `{0}` must be ASCII, at least {MARKER_BYTES_MIN} long, with one of `{MARKER_CHARS}`")]
    Marker(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileShape {
    #[serde(default)]
    words: Lists,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleShape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleShape {
    id: String,
    kind: KindShape,
    severity: SeverityShape,
    #[serde(default)]
    phrases: Vec<String>,
    #[serde(default)]
    markers: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindShape {
    Injection,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SeverityShape {
    Low,
    Medium,
    High,
}

/// What a finding says of its rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) kind: FindingKind,
    pub(super) severity: Severity,
}

/// All rules, ready to be searched for.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) rules: Vec<Rule>,
    pub(super) phrases: PhraseMatcher,
    pub(super) native: NativeMatcher,
    pub(super) markers: Option<(AhoCorasick, Vec<usize>)>,
    pub(super) vocabulary: Vocabulary,
}

impl Rules {
    /// Reads a rule file.
    pub(super) fn parse(text: &str) -> Result<Self, RulesError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(RulesError::FileTooLarge);
        }
        let file: FileShape = toml::from_str(text).map_err(|error| RulesError::Shape(on_one_line(&error)))?;
        if file.rules.len() > RULES_MAX {
            return Err(RulesError::TooManyRules);
        }
        let mut draft = Draft::default();
        for rule in &file.rules {
            draft.add(rule, &file.words).map_err(|fault| RulesError::Rule { id: rule.id.clone(), fault })?;
        }
        draft.finish()
    }

    /// The rule at an index that a matcher gave.
    pub(super) fn rule(&self, index: usize) -> Option<&Rule> {
        self.rules.get(index)
    }
}

#[derive(Default)]
struct Draft {
    ids: BTreeSet<String>,
    rules: Vec<Rule>,
    latin: Vec<(usize, Phrase)>,
    native: Vec<(usize, Phrase)>,
    markers: Vec<String>,
    marker_rules: Vec<usize>,
}

impl Draft {
    fn add(&mut self, shape: &RuleShape, lists: &Lists) -> Result<(), RuleFault> {
        check_id(&shape.id)?;
        if !self.ids.insert(shape.id.clone()) {
            return Err(RuleFault::Duplicate);
        }
        if shape.phrases.is_empty() && shape.markers.is_empty() {
            return Err(RuleFault::Empty);
        }
        let mut letters = 0;
        for text in &shape.phrases {
            letters +=
                self.add_phrase(text, lists).map_err(|error| RuleFault::Phrase { phrase: text.clone(), error })?;
        }
        if letters > RULE_LETTERS_MAX {
            return Err(RuleFault::TooLarge);
        }
        shape.markers.iter().try_for_each(|marker| self.add_marker(marker))?;
        self.rules.push(Rule::from(shape));
        Ok(())
    }

    /// Adds a phrase of the rule that comes next; gives its letters, every choice counted.
    fn add_phrase(&mut self, text: &str, lists: &Lists) -> Result<usize, PhraseError> {
        let phrase = Phrase::parse(text, lists)?;
        let is_native = phrase.words().any(native::is_native);
        let (phrase, min) =
            if is_native { (phrase, NATIVE_LETTERS_MIN) } else { (phrase.map_words(latin_word)?, PHRASE_LETTERS_MIN) };
        if phrase.letters_min() < min {
            return Err(PhraseError::TooShort { min });
        }
        let letters = phrase.words().map(str::len).sum();
        if is_native {
            self.native.push((self.rules.len(), phrase));
        } else {
            self.latin.push((self.rules.len(), phrase));
        }
        Ok(letters)
    }

    fn add_marker(&mut self, marker: &str) -> Result<(), RuleFault> {
        if !marker.is_ascii() || marker.len() < MARKER_BYTES_MIN || !marker.contains(|c| MARKER_CHARS.contains(c)) {
            return Err(RuleFault::Marker(marker.to_owned()));
        }
        self.markers.push(marker.to_owned());
        self.marker_rules.push(self.rules.len());
        Ok(())
    }

    fn finish(self) -> Result<Rules, RulesError> {
        let phrases = PhraseMatcher::new(&self.latin).map_err(|_| RulesError::TooLarge)?;
        let native = NativeMatcher::new(&self.native).map_err(|_| RulesError::TooLarge)?;
        let markers = AhoCorasick::builder().ascii_case_insensitive(true).build(&self.markers);
        let markers = markers.map_err(|_| RulesError::TooLarge)?;
        let markers = (!self.markers.is_empty()).then_some((markers, self.marker_rules));
        let vocabulary = Vocabulary::new(self.latin.iter().flat_map(|(_, phrase)| phrase.words()));
        Ok(Rules { rules: self.rules, phrases, native, markers, vocabulary })
    }
}

impl From<&RuleShape> for Rule {
    fn from(shape: &RuleShape) -> Self {
        let kind = match shape.kind {
            KindShape::Injection => FindingKind::Injection,
        };
        let severity = match shape.severity {
            SeverityShape::Low => Severity::Low,
            SeverityShape::Medium => Severity::Medium,
            SeverityShape::High => Severity::High,
        };
        Self { id: shape.id.clone(), kind, severity }
    }
}

fn check_id(id: &str) -> Result<(), RuleFault> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(allowed) { Err(RuleFault::Id) } else { Ok(()) }
}

/// A word as it stands in a stream of symbols.
fn latin_word(word: &str) -> Result<String, PhraseError> {
    let mut folded = String::new();
    fold::fold_into(word, &mut folded);
    let folded = folded.to_ascii_lowercase();
    if folded.bytes().all(|byte| byte.is_ascii_lowercase()) {
        Ok(folded)
    } else {
        Err(PhraseError::Word(word.to_owned()))
    }
}

fn on_one_line(error: &toml::de::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Rules::parse(text).expect_err("not valid").to_string()
    }

    fn rule(body: &str) -> String {
        format!("[[rule]]\nid = \"one\"\nkind = \"injection\"\nseverity = \"high\"\n{body}")
    }

    #[test]
    fn the_built_in_rules_are_valid_and_of_bounded_size() {
        let rules = Rules::parse(BUILT_IN).expect("valid");
        assert!(!rules.rules.is_empty());
        assert!(rules.phrases.size_bytes() < 32 * 1024 * 1024, "{}", rules.phrases.size_bytes());
    }

    #[test]
    fn errors_name_the_rule() {
        for (body, expected) in [
            ("", "rule `one`: no phrase and no marker"),
            ("phrases = [\"be dan\"]", "rule `one`: phrase `be dan`: shorter than 8 letters in its shortest form"),
            (
                "phrases = [\"ignore <nobody> else\"]",
                "rule `one`: phrase `ignore <nobody> else`: no list is named `nobody`",
            ),
            (
                "markers = [\"abcdef\"]",
                "rule `one`: marker `abcdef` must be ASCII, at least 4 long, with one of `<[{#|`",
            ),
        ] {
            assert_eq!(fault(&rule(body)), expected);
        }
        let twice = rule("phrases = [\"ignore everything\"]");
        assert_eq!(fault(&format!("{twice}\n{twice}")), "rule `one`: the id is taken");
        assert!(fault(&twice.replace("one", "One!")).starts_with("rule `One!`: an id has"));
    }

    #[test]
    fn unknown_keys_kinds_and_severities_are_errors() {
        assert!(fault(&rule("phrase = \"x\"")).contains("unknown field `phrase`"));
        assert!(fault(&rule("").replace("high", "huge")).contains("huge"));
        assert!(fault(&rule("").replace("injection", "spam")).contains("spam"));
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(fault(&" ".repeat(FILE_BYTES_MAX + 1)), RulesError::FileTooLarge.to_string());
        let many: String = (0..=RULES_MAX)
            .map(|n| rule("markers = [\"<|x|>\"]").replace("one", &format!("r{n}")))
            .map(|r| r + "\n")
            .collect();
        assert_eq!(fault(&many), RulesError::TooManyRules.to_string());
    }

    #[test]
    fn a_file_without_rules_finds_nothing() {
        assert!(Rules::parse("").is_ok());
    }
}
