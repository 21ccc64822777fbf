//! The phrases of the rule file: `{ignore|disregard} {all|any}? <earlier> instructions`.
//!
//! A phrase is a row of slots. A slot is a word, a choice `{a|b c|d}` or a named list `<name>`; a `?` behind it, or an
//! empty choice, makes it optional. Braces do not nest. Out of scope: how a phrase is matched.

use std::collections::BTreeMap;

use thiserror::Error;

/// The longest phrase as written, in bytes.
pub(super) const PHRASE_BYTES_MAX: usize = 1024;
/// The most slots in a phrase.
pub(super) const SLOTS_MAX: usize = 12;
/// The most choices in a slot, those of named lists included.
pub(super) const CHOICES_MAX: usize = 128;

/// Named lists of choices.
pub(super) type Lists = BTreeMap<String, Vec<String>>;

/// Why a text is not a phrase.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PhraseError {
    /// Longer than a phrase may be.
    #[error("longer than {PHRASE_BYTES_MAX} bytes")]
    TooLong,
    /// More slots than a phrase may have.
    #[error("more than {SLOTS_MAX} slots")]
    TooManySlots,
    /// More choices than a slot may have.
    #[error("more than {CHOICES_MAX} choices in one slot")]
    TooManyChoices,
    /// A brace without its counterpart, or one within another.
    #[error("braces that do not pair up")]
    Braces,
    /// A list that the file does not define.
    #[error("no list is named `{0}`")]
    UnknownList(String),
    /// A word without letters, or with more than letters, hyphens and apostrophes.
    #[error("`{0}` is not a word")]
    Word(String),
    /// So short that ordinary text would hold it by accident.
    #[error("shorter than {min} letters in its shortest form")]
    TooShort {
        /// The fewest letters allowed.
        min: usize,
    },
}

/// A row of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phrase {
    pub(super) slots: Vec<Slot>,
}

/// One place in a phrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// What may stand here, each a row of words.
    pub(super) choices: Vec<Vec<String>>,
    /// Whether nothing may stand here as well.
    pub(super) optional: bool,
}

impl Phrase {
    /// Reads a phrase.
    pub(super) fn parse(text: &str, lists: &Lists) -> Result<Self, PhraseError> {
        if text.len() > PHRASE_BYTES_MAX {
            return Err(PhraseError::TooLong);
        }
        let slots: Vec<Slot> =
            tokens(text)?.into_iter().map(|token| Slot::parse(token, lists)).collect::<Result<_, _>>()?;
        if slots.len() > SLOTS_MAX {
            return Err(PhraseError::TooManySlots);
        }
        Ok(Self { slots })
    }

    /// Every word that may stand somewhere in it.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().flat_map(|slot| slot.choices.iter().flatten().map(String::as_str))
    }

    /// The letters of its shortest form.
    pub(super) fn letters_min(&self) -> usize {
        self.slots.iter().map(Slot::letters_min).sum()
    }

    /// The same phrase with every word passed through `change`.
    pub(super) fn map_words(&self, change: impl Fn(&str) -> Result<String, PhraseError>) -> Result<Self, PhraseError> {
        let map_choice = |choice: &Vec<String>| choice.iter().map(|word| change(word)).collect::<Result<Vec<_>, _>>();
        let map_slot = |slot: &Slot| {
            let choices = slot.choices.iter().map(map_choice).collect::<Result<Vec<_>, _>>()?;
            Ok(Slot { choices, optional: slot.optional })
        };
        Ok(Self { slots: self.slots.iter().map(map_slot).collect::<Result<_, _>>()? })
    }
}

impl Slot {
    fn parse(token: &str, lists: &Lists) -> Result<Self, PhraseError> {
        let (body, marked_optional) = token.strip_suffix('?').map_or((token, false), |body| (body, true));
        let texts: Vec<&str> = if let Some(inner) = body.strip_prefix('{') {
            inner.trim_end_matches('}').split('|').collect()
        } else if let Some(name) = body.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
            let list = lists.get(name).ok_or_else(|| PhraseError::UnknownList(name.to_owned()))?;
            list.iter().map(String::as_str).collect()
        } else {
            vec![body]
        };
        Self::of_choices(&texts, marked_optional)
    }

    fn of_choices(texts: &[&str], marked_optional: bool) -> Result<Self, PhraseError> {
        if texts.len() > CHOICES_MAX {
            return Err(PhraseError::TooManyChoices);
        }
        let rows: Vec<Vec<String>> = texts.iter().map(|text| words(text)).collect::<Result<_, _>>()?;
        let optional = marked_optional || rows.iter().any(Vec::is_empty);
        let choices: Vec<_> = rows.into_iter().filter(|row| !row.is_empty()).collect();
        if choices.is_empty() { Err(PhraseError::Word(String::new())) } else { Ok(Self { choices, optional }) }
    }

    fn letters_min(&self) -> usize {
        let letters = |choice: &Vec<String>| choice.iter().map(|word| word.chars().count()).sum();
        if self.optional { 0 } else { self.choices.iter().map(letters).min().unwrap_or(0) }
    }
}

/// The phrase cut at the spaces outside braces.
fn tokens(text: &str) -> Result<Vec<&str>, PhraseError> {
    let mut depth = 0u8;
    for c in text.chars() {
        depth = match (c, depth) {
            ('{', 0) => 1,
            ('}', 1) => 0,
            ('{' | '}', _) => return Err(PhraseError::Braces),
            _ => depth,
        };
    }
    if depth != 0 {
        return Err(PhraseError::Braces);
    }
    let mut inside = false;
    let outside_space = |c: char| {
        inside = if c == '{' {
            true
        } else if c == '}' {
            false
        } else {
            inside
        };
        c.is_whitespace() && !inside
    };
    let tokens: Vec<&str> = text.split(outside_space).filter(|token| !token.is_empty()).collect();
    let glued = |token: &&str| {
        token.contains(['{', '}']) && !(token.starts_with('{') && token.trim_end_matches('?').ends_with('}'))
    };
    if tokens.iter().any(glued) { Err(PhraseError::Braces) } else { Ok(tokens) }
}

/// The words of a choice, without the hyphens and apostrophes in them.
fn words(text: &str) -> Result<Vec<String>, PhraseError> {
    text.split_whitespace().map(word).collect()
}

fn word(text: &str) -> Result<String, PhraseError> {
    let bare: String = text.chars().filter(|c| !matches!(c, '-' | '\'' | '’')).collect();
    let is_mark = |c: char| unicode_normalization::char::is_combining_mark(c);
    if bare.is_empty() || !bare.chars().all(|c| c.is_alphabetic() || is_mark(c)) {
        return Err(PhraseError::Word(text.to_owned()));
    }
    Ok(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(text: &str) -> Vec<String> {
        let lists = Lists::from([("earlier".to_owned(), vec!["above".to_owned(), "from before".to_owned()])]);
        Phrase::parse(text, &lists).expect("a phrase").slots.iter().fold(vec![String::new()], |forms, slot| {
            let mut longer = if slot.optional { forms.clone() } else { Vec::new() };
            longer.extend(
                slot.choices.iter().flat_map(|choice| forms.iter().map(|form| format!("{form}{}", choice.concat()))),
            );
            longer
        })
    }

    fn error(text: &str) -> PhraseError {
        Phrase::parse(text, &Lists::new()).expect_err("not a phrase")
    }

    #[test]
    fn slots_are_words_choices_and_lists() {
        assert_eq!(forms("{ignore|do not follow} all"), ["ignoreall", "donotfollowall"]);
        assert_eq!(forms("don't <earlier>"), ["dontabove", "dontfrombefore"]);
    }

    #[test]
    fn a_question_mark_or_an_empty_choice_makes_a_slot_optional() {
        assert_eq!(forms("a {b|}"), ["a", "ab"]);
        assert_eq!(forms("a {b|c}?"), ["a", "ab", "ac"]);
        assert_eq!(forms("a b? c"), ["ac", "abc"]);
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(error("{a|b"), PhraseError::Braces);
        assert_eq!(error("{a|{b}}"), PhraseError::Braces);
        assert_eq!(error("x{a|b} c"), PhraseError::Braces);
        assert_eq!(error("<nobody> c"), PhraseError::UnknownList("nobody".to_owned()));
        assert_eq!(error("mode 2"), PhraseError::Word("2".to_owned()));
        assert_eq!(error(&"a ".repeat(13)), PhraseError::TooManySlots);
        assert_eq!(error(&"a".repeat(2000)), PhraseError::TooLong);
        assert_eq!(error(&format!("{{{}}}", ["a"; 129].join("|"))), PhraseError::TooManyChoices);
    }
}
