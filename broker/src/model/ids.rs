//! Names and identifiers, each parsed once and bounded.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    sync::Arc,
};

use thiserror::Error;

/// Why a text is not the identifier it is meant to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// Nothing there.
    #[error("{what} is empty")]
    Empty {
        /// Which identifier.
        what: &'static str,
    },
    /// Longer than allowed.
    #[error("{what} is longer than {max} bytes")]
    TooLong {
        /// Which identifier.
        what: &'static str,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// A character that the identifier may not hold.
    #[error("{what} holds a character that is not allowed")]
    Character {
        /// Which identifier.
        what: &'static str,
    },
    /// The text would read as something else.
    #[error("{what} may not begin with `role:`")]
    Reserved {
        /// Which identifier.
        what: &'static str,
    },
}

pub(super) fn check(what: &'static str, text: &str, max: usize, allowed: impl Fn(char) -> bool) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > max {
        return Err(IdError::TooLong { what, max });
    }
    if !text.chars().all(allowed) {
        return Err(IdError::Character { what });
    }
    Ok(())
}

fn is_visible_ascii(c: char) -> bool {
    c.is_ascii_graphic()
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest allowed, in bytes.
            pub const LEN_BYTES_MAX: usize = $max;

            /// Parses the identifier.
            ///
            /// # Errors
            /// [`IdError`] where the text is empty, too long, or holds a character that is not allowed.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check($what, text, Self::LEN_BYTES_MAX, $allowed)?;
                Ok(Self(Arc::from(text)))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

identifier! {
    /// Who issued a token: the `iss` claim, compared byte by byte (RFC 7519, section 4.1.1).
    Issuer, "issuer", 255, is_visible_ascii
}
identifier! {
    /// A token's `jti` claim.
    TokenId, "token id", 128, is_visible_ascii
}
identifier! {
    /// The name of a role, as the issuer spells it.
    RoleName, "role name", 128, is_visible_ascii
}
identifier! {
    /// A message id: 1 to 128 visible ASCII characters, unique per sender.
    MessageId, "message id", 128, is_visible_ascii
}
identifier! {
    /// The name of a broker node, which stands in its log and in its decision ids.
    NodeName, "node name", 32, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// An agent's id: the `sub` claim, 1 to 255 visible ASCII characters, unique per issuer.
///
/// It may not begin with `role:`, since a message's destination names either.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(Arc<str>);

impl AgentId {
    /// The longest allowed, in bytes.
    pub const LEN_BYTES_MAX: usize = 255;

    /// Parses an agent id.
    ///
    /// # Errors
    /// [`IdError`], also where the id would read as a role.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check("agent id", text, Self::LEN_BYTES_MAX, is_visible_ascii)?;
        if text.starts_with(Destination::ROLE_PREFIX) {
            return Err(IdError::Reserved { what: "agent id" });
        }
        Ok(Self(Arc::from(text)))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A declared message type: at most 128 visible ASCII characters; may be empty, which no topic expects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageType(String);

impl MessageType {
    /// The longest allowed, in bytes.
    pub const LEN_BYTES_MAX: usize = 128;

    /// Parses a message type.
    ///
    /// # Errors
    /// [`IdError`] where it is too long or holds a character that is not allowed.
    pub fn parse(text: String) -> Result<Self, IdError> {
        if !text.is_empty() {
            check("message type", &text, Self::LEN_BYTES_MAX, is_visible_ascii)?;
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The media type of a message's data (RFC 9110, section 8.3.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentType(String);

impl ContentType {
    /// The longest allowed, in bytes.
    pub const LEN_BYTES_MAX: usize = 255;
    /// What an empty content type means.
    pub const DEFAULT: &'static str = "application/octet-stream";

    /// Parses a content type; an empty text gives [`ContentType::DEFAULT`].
    ///
    /// # Errors
    /// [`IdError`] where it is too long or holds a control or non-ASCII character.
    pub fn parse(text: String) -> Result<Self, IdError> {
        if text.is_empty() {
            return Ok(Self(Self::DEFAULT.to_owned()));
        }
        check("content type", &text, Self::LEN_BYTES_MAX, |c| is_visible_ascii(c) || c == ' ')?;
        Ok(Self(text))
    }

    /// The text as sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The type without parameters, in lower case: `application/json` of `Application/JSON; charset=utf-8`.
    #[must_use]
    pub fn essence(&self) -> Cow<'_, str> {
        let essence = self.0.split(';').next().unwrap_or_default().trim();
        // Nearly all are sent in lower case.
        if essence.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(essence.to_ascii_lowercase())
        } else {
            Cow::Borrowed(essence)
        }
    }

    /// Whether the data is JSON: `application/json`, `text/json`, or a type with the suffix `+json` (RFC 6839).
    #[must_use]
    pub fn is_json(&self) -> bool {
        let essence = self.essence();
        essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
    }

    /// Whether the data is text: `text/*` or JSON.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.is_json() || self.essence().starts_with("text/")
    }
}

/// For whom a message is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// One agent, by the `sub` of its token, of the sender's own issuer.
    Agent(AgentId),
    /// Every agent that holds this role.
    Role(RoleName),
}

impl Destination {
    const ROLE_PREFIX: &'static str = "role:";

    /// Parses `AGENT` or `role:NAME`.
    ///
    /// # Errors
    /// [`IdError`] where the agent or role name is not one.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        match text.strip_prefix(Self::ROLE_PREFIX) {
            Some(role) => RoleName::parse(role).map(Self::Role),
            None => AgentId::parse(text).map(Self::Agent),
        }
    }

    /// The text as parsed.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Agent(agent) => Cow::Borrowed(agent.as_str()),
            Self::Role(role) => Cow::Owned([Self::ROLE_PREFIX, role.as_str()].concat()),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// A decision's id: `NODE-INDEX`, the node that decided and the audit index of the record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DecisionId {
    node: NodeName,
    index: u64,
}

impl DecisionId {
    /// The decision that stands at `index` in the log of `node`.
    #[must_use]
    pub const fn new(node: NodeName, index: u64) -> Self {
        Self { node, index }
    }

    /// The audit index of the decision's record.
    #[must_use]
    pub const fn audit_index(&self) -> u64 {
        self.index
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.node, self.index)
    }
}

/// A live subscription, numbered by the broker process that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub u64);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_cannot_be_named_like_a_role() {
        assert_eq!(AgentId::parse("role:compliance"), Err(IdError::Reserved { what: "agent id" }));
    }

    #[test]
    fn identifiers_refuse_what_is_empty_too_long_or_invisible() {
        assert_eq!(MessageId::parse(""), Err(IdError::Empty { what: "message id" }));
        assert_eq!(MessageId::parse(&"x".repeat(129)), Err(IdError::TooLong { what: "message id", max: 128 }));
        for text in ["a b", "a\nb", "a\u{200b}b", "é"] {
            assert_eq!(MessageId::parse(text), Err(IdError::Character { what: "message id" }), "{text:?}");
        }
    }

    #[test]
    fn a_content_type_is_compared_without_case_and_parameters() {
        let json = ContentType::parse("Application/JSON; charset=utf-8".to_owned()).expect("valid");
        assert_eq!(json.essence(), "application/json");
        assert_eq!(ContentType::parse("text/plain ;x".to_owned()).expect("valid").essence(), "text/plain");
        assert!(json.is_json());
        assert!(ContentType::parse("application/cloudevents+json".to_owned()).expect("valid").is_json());
        assert!(!ContentType::parse("application/jsonx".to_owned()).expect("valid").is_json());
    }

    #[test]
    fn a_destination_is_a_role_or_an_agent() {
        assert!(matches!(Destination::parse("role:compliance"), Ok(Destination::Role(_))));
        assert!(matches!(Destination::parse("compliance"), Ok(Destination::Agent(_))));
        for text in ["role:compliance", "compliance"] {
            assert_eq!(Destination::parse(text).map(|destination| destination.to_string()).as_deref(), Ok(text));
        }
        assert!(Destination::parse("role:").is_err());
        assert!(Destination::parse("").is_err());
    }
}
