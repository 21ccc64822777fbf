//! The names of shared state: `scope/name`, and the numbers that tell its versions apart.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use super::{ContentType, IdError, Topic, TopicError, ids::check};

/// Why a text is not the key of a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateKeyError {
    /// No `/` between scope and name.
    #[error("a state key looks like `scope/name`")]
    NoName,
    /// The scope is not one.
    #[error("the scope: {0}")]
    Scope(#[from] TopicError),
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] IdError),
}

/// What is shared under one key hierarchy, named like a topic: `tickets`, `finance.reports`. Permissions and `decrypt`
/// claims name scopes by topic patterns.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(Topic);

impl Scope {
    /// The longest allowed, in bytes.
    pub const LEN_BYTES_MAX: usize = 128;

    /// Parses a scope.
    ///
    /// # Errors
    /// [`TopicError`].
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text.len() > Self::LEN_BYTES_MAX {
            return Err(TopicError::TooLong);
        }
        Topic::parse(text).map(Self)
    }

    /// Where a broker node keeps the key of its own. [`Scope::parse`] refuses the name, so no caller can say it.
    #[must_use]
    pub fn of_node() -> Self {
        Self(Topic::reserved(Self::NODE))
    }

    const NODE: &str = "$node";

    /// Parses a scope as the store names it, one of the broker's own too.
    #[must_use]
    pub fn parse_stored(text: &str) -> Option<Self> {
        if text == Self::NODE { Some(Self::of_node()) } else { Self::parse(text).ok() }
    }

    /// Whether it is the broker's own.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.as_str() == Self::NODE
    }

    /// As patterns match it.
    #[must_use]
    pub const fn as_topic(&self) -> &Topic {
        &self.0
    }

    /// What stands before the first dot.
    #[must_use]
    pub fn first_level(&self) -> &str {
        self.0.levels().next().unwrap_or_default()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The key of a value: a [`Scope`] and a name of 1 to [`StateKey::NAME_BYTES_MAX`] visible ASCII characters, written
/// `scope/name`. A name may hold further slashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    scope: Scope,
    name: Box<str>,
}

impl StateKey {
    /// The longest name, in bytes.
    pub const NAME_BYTES_MAX: usize = 256;

    /// Parses `scope/name`.
    ///
    /// # Errors
    /// [`StateKeyError`].
    pub fn parse(text: &str) -> Result<Self, StateKeyError> {
        let (scope, name) = text.split_once('/').ok_or(StateKeyError::NoName)?;
        let scope = Scope::parse(scope)?;
        check("state name", name, Self::NAME_BYTES_MAX, |c| c.is_ascii_graphic())?;
        Ok(Self { scope, name: name.into() })
    }

    /// What it is shared under.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The name within the scope.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope, self.name)
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Some keys of one scope: those whose name begins with a text, which may be empty. Written `scope/beginning`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StatePrefix {
    scope: Scope,
    beginning: Box<str>,
}

impl StatePrefix {
    /// Parses `scope/beginning`; `scope/` and `scope` name the whole scope.
    ///
    /// # Errors
    /// [`StateKeyError`].
    pub fn parse(text: &str) -> Result<Self, StateKeyError> {
        let (scope, beginning) = text.split_once('/').unwrap_or((text, ""));
        let scope = Scope::parse(scope)?;
        if !beginning.is_empty() {
            check("state name", beginning, StateKey::NAME_BYTES_MAX, |c| c.is_ascii_graphic())?;
        }
        Ok(Self { scope, beginning: beginning.into() })
    }

    /// The scope.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// How the names begin.
    #[must_use]
    pub fn beginning(&self) -> &str {
        &self.beginning
    }

    /// Whether it names this key.
    #[must_use]
    pub fn matches(&self, key: &StateKey) -> bool {
        self.scope == key.scope && key.name.starts_with(&*self.beginning)
    }
}

impl fmt::Display for StatePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope, self.beginning)
    }
}

/// The most versions that are kept of a value, the newest among them.
pub const HISTORY_MAX: usize = 64;

/// A value on its way into shared state: its key is parsed. Nothing is said yet about who writes it or what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where it goes.
    pub key: StateKey,
    /// The media type of `value`.
    pub content_type: ContentType,
    /// The value.
    pub value: Bytes,
    /// The write happens only if this is the current revision; [`Revision::NONE`]: only if there is no value.
    pub expected: Option<Revision>,
    /// After so many seconds it is gone.
    pub ttl_s: Option<u64>,
}

/// Which version of a value: the audit index of the entry that wrote it. Revisions of one key rise, over all keys of a broker
/// they order all writes, and none comes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl Revision {
    /// No value. The first entry of a log is never a write: it says that the broker started.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which key of a scope, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The first of a scope.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_scope_and_a_name_with_the_first_slash_between_them() {
        let key = StateKey::parse("tickets.open/4711/notes").expect("a key");
        assert_eq!((key.scope().as_str(), key.name()), ("tickets.open", "4711/notes"));
        assert_eq!(key.to_string(), "tickets.open/4711/notes");
        assert_eq!(StateKey::parse("tickets"), Err(StateKeyError::NoName));
        let long = "x".repeat(StateKey::NAME_BYTES_MAX + 1);
        for text in ["/name", "tickets/", "tickets.*/a", "a..b/c", "a/b c", "a/\u{e9}", "a/b\0", &format!("a/{long}")] {
            assert!(StateKey::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Scope::parse(&"x".repeat(129)), Err(TopicError::TooLong));
    }

    #[test]
    fn a_prefix_stays_within_its_scope() {
        let prefix = StatePrefix::parse("tickets/47").expect("a prefix");
        assert!(prefix.matches(&StateKey::parse("tickets/4711").expect("a key")));
        assert!(!prefix.matches(&StateKey::parse("tickets/5").expect("a key")));
        assert!(!prefix.matches(&StateKey::parse("tickets.eu/4711").expect("a key")));
        assert_eq!(StatePrefix::parse("tickets"), StatePrefix::parse("tickets/"));
        assert!(StatePrefix::parse("tickets/ ").is_err());
    }
}
