//! What a token says.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Confirmation;

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

    /// Adds a scope whose content the agent may read in clear.
    #[must_use]
    pub fn decrypt(mut self, scope: impl Into<Value>) -> Self {
        let scopes = self.other.entry("decrypt").or_insert_with(|| json!([]));
        if let Value::Array(scopes) = scopes {
            scopes.push(scope.into());
        }
        self
    }

    /// The scopes whose content the agent may read in clear.
    #[must_use]
    pub fn decrypts(&self) -> Vec<&str> {
        let scopes = self.other.get("decrypt").and_then(Value::as_array);
        scopes.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Binds the token to a certificate or key (RFC 7800).
    #[must_use]
    pub fn confirmed_by(self, confirmation: &Confirmation) -> Self {
        self.claim("cnf", confirmation.to_claim())
    }

    /// Says who acts for the agent, the current actor first, and before it those for whom it acts (RFC 8693, section 4.1).
    #[must_use]
    pub fn acted_by(self, actors: &[impl AsRef<str>]) -> Self {
        let nested = actors.iter().rfold(None, |inner: Option<Value>, actor| {
            let mut act = json!({ "sub": actor.as_ref() });
            if let (Some(inner), Value::Object(members)) = (inner, &mut act) {
                members.insert("act".to_owned(), inner);
            }
            Some(act)
        });
        match nested {
            Some(act) => self.claim("act", act),
            None => self,
        }
    }

    /// Adds any other claim.
    #[must_use]
    pub fn claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.other.insert(name.into(), value.into());
        self
    }
}
