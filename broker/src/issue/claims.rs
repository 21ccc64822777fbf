//! What a token says.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The claims of a token (RFC 7519, section 4). Everything is open, so that a test can also make a wrong one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issues the token.
    pub iss: String,
    /// For whom it is meant.
    pub aud: String,
    /// The agent.
    pub sub: String,
    /// When it was issued, in seconds since the Unix epoch.
    pub iat: i64,
    /// From when on it counts, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// When it ceases to count, in seconds since the Unix epoch.
    pub exp: i64,
    /// The token's own id.
    pub jti: String,
    /// The agent's roles.
    #[serde(default)]
    pub roles: Vec<String>,
    /// What the agent may do, for example `publish:finance.>`.
    #[serde(default)]
    pub permissions: Vec<String>,
    /// The message types that the agent may send; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// Any other claims.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Claims {
    /// Adds a role.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.roles.push(role.into());
        self
    }

    /// Adds a permission.
    #[must_use]
    pub fn permission(mut self, permission: impl Into<String>) -> Self {
        self.permissions.push(permission.into());
        self
    }

    /// Adds a message type; from the first one on, the agent may send no others.
    #[must_use]
    pub fn message_type(mut self, message_type: impl Into<String>) -> Self {
        self.types.get_or_insert_default().push(message_type.into());
        self
    }

    /// Adds any other claim.
    #[must_use]
    pub fn claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.other.insert(name.into(), value.into());
        self
    }
}
