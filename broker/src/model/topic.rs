//! Topics and topic patterns: dot-separated levels, with the NATS wildcards in patterns.

use std::{fmt, sync::Arc};

use thiserror::Error;

/// Why a text is not a topic or pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TopicError {
    /// Nothing there.
    #[error("the topic is empty")]
    Empty,
    /// Longer than [`Topic::LEN_BYTES_MAX`].
    #[error("the topic is longer than 255 bytes")]
    TooLong,
    /// More than [`Topic::LEVELS_MAX`] levels.
    #[error("the topic has more than 16 levels")]
    TooDeep,
    /// Two dots in a row, or one at an end.
    #[error("the topic has an empty level")]
    EmptyLevel,
    /// Something other than `[A-Za-z0-9_-]`, or a wildcard where none may stand.
    #[error("a topic level may hold only A-Z a-z 0-9 _ and -")]
    Character,
    /// `>` before the end of a pattern.
    #[error("the wildcard `>` may stand only at the end of a pattern")]
    RestNotLast,
}

/// A topic: 1 to [`Topic::LEN_BYTES_MAX`] bytes, dot-separated levels of `[A-Za-z0-9_-]`, checked once.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The longest allowed, in bytes.
    pub const LEN_BYTES_MAX: usize = 255;
    /// How many levels at most.
    pub const LEVELS_MAX: usize = 16;

    /// Parses a topic.
    ///
    /// # Errors
    /// [`TopicError`]; wildcards are not allowed.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text)?;
        if !text.split('.').all(is_literal) {
            return Err(TopicError::Character);
        }
        Ok(Self(Arc::from(text)))
    }

    /// A name that no text parses to, for what is the broker's own.
    pub(super) fn reserved(name: &'static str) -> Self {
        Self(Arc::from(name))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels, outermost first.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A topic pattern: like a topic, but a level may be `*` (exactly one level) and the last may be `>` (one or more).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPattern(Arc<str>);

impl TopicPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`TopicError`].
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text)?;
        let mut levels = text.split('.').peekable();
        while let Some(level) = levels.next() {
            match level {
                ">" if levels.peek().is_some() => return Err(TopicError::RestNotLast),
                ">" | "*" => {}
                literal if is_literal(literal) => {}
                _ => return Err(TopicError::Character),
            }
        }
        Ok(Self(Arc::from(text)))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels, wildcards included.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether the topic is one of those that the pattern names.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut topic_levels = topic.levels();
        for level in self.levels() {
            match (level, topic_levels.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(found)) if literal == found => {}
                _ => return false,
            }
        }
        topic_levels.next().is_none()
    }

    /// Whether every topic that `other` names is named by this pattern too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut others = other.levels();
        for level in self.levels() {
            match (level, others.next()) {
                (">", Some(_)) => return true,
                (_, Some(">")) => return false,
                ("*", Some(_)) => {}
                (literal, Some(found)) if literal == found => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

fn check(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > Topic::LEN_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    if text.split('.').count() > Topic::LEVELS_MAX {
        return Err(TopicError::TooDeep);
    }
    if text.split('.').any(str::is_empty) {
        return Err(TopicError::EmptyLevel);
    }
    Ok(())
}

fn is_literal(level: &str) -> bool {
    level.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::parse(text).expect("a topic")
    }

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::parse(text).expect("a pattern")
    }

    #[test]
    fn topics_take_no_wildcards_and_no_empty_levels() {
        for text in ["", ".", "a.", ".a", "a..b", "a.*", "a.>", "a b", "a/b", "ü"] {
            assert!(Topic::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Topic::parse(&"a".repeat(256)), Err(TopicError::TooLong));
        assert_eq!(Topic::parse(&["a"; 17].join(".")), Err(TopicError::TooDeep));
    }

    #[test]
    fn the_rest_wildcard_stands_only_at_the_end() {
        assert_eq!(TopicPattern::parse("a.>.b"), Err(TopicError::RestNotLast));
        assert_eq!(TopicPattern::parse("a.b>"), Err(TopicError::Character));
    }

    #[test]
    fn wildcards_match_as_in_nats() {
        assert!(pattern("a.*.c").matches(&topic("a.b.c")));
        assert!(!pattern("a.*").matches(&topic("a.b.c")));
        assert!(pattern("a.>").matches(&topic("a.b.c")));
        assert!(!pattern("a.>").matches(&topic("a")));
        assert!(pattern(">").matches(&topic("a")));
        assert!(!pattern("a.b").matches(&topic("a")));
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one_only() {
        for (wide, narrow) in [(">", "a.>"), (">", ">"), ("a.*", "a.b"), ("a.>", "a.*.c"), ("*.*", "a.*")] {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        }
        for (narrow, wide) in [("a.>", ">"), ("a.b", "a.*"), ("a.*", "a.>"), ("*", ">"), ("a.*.c", "a.>")] {
            assert!(!pattern(narrow).covers(&pattern(wide)), "{narrow} {wide}");
        }
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("*".to_owned())]
    }

    fn any_pattern() -> impl Strategy<Value = TopicPattern> {
        (prop::collection::vec(level(), 1..4), any::<bool>()).prop_map(|(mut levels, rest)| {
            if rest {
                levels.push(">".to_owned());
            }
            pattern(&levels.join("."))
        })
    }

    fn any_topic() -> impl Strategy<Value = Topic> {
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..5).prop_map(|l| topic(&l.join(".")))
    }

    proptest! {
        #[test]
        fn what_covers_a_pattern_matches_all_that_it_matches(
            wide in any_pattern(), narrow in any_pattern(), topic in any_topic()
        ) {
            if wide.covers(&narrow) && narrow.matches(&topic) {
                prop_assert!(wide.matches(&topic));
            }
        }
    }
}
