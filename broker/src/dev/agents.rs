//! The example agents, one for each role of the default policy.

/// An agent that gets a token in a development directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExampleAgent {
    /// Its id, and the name of its token file without `.jwt`.
    pub name: &'static str,
    /// Its role.
    pub role: &'static str,
    /// What its token permits.
    pub permissions: &'static [&'static str],
    /// The scopes of shared state that it may see in clear.
    pub decrypt: &'static [&'static str],
}

impl ExampleAgent {
    const fn new(name: &'static str, role: &'static str, permissions: &'static [&'static str]) -> Self {
        Self { name, role, permissions, decrypt: &[] }
    }

    const fn who_decrypts(self, decrypt: &'static [&'static str]) -> Self {
        Self { decrypt, ..self }
    }
}

/// Whose token `env` names.
pub const DEFAULT_AGENT: &str = "finance-agent";

/// All of them. The external agent may read tickets as far as its permission goes, and lacks the claim to see them.
pub const EXAMPLE_AGENTS: [ExampleAgent; 8] = [
    ExampleAgent::new(
        DEFAULT_AGENT,
        "finance",
        &["publish:finance.>", "subscribe:finance.>", "state.read:finance.>", "state.write:finance.>"],
    )
    .who_decrypts(&["finance.>"]),
    ExampleAgent::new(
        "compliance-agent",
        "compliance",
        &["publish:compliance.>", "subscribe:finance.>", "subscribe:documents.>", "state.read:finance.>"],
    )
    .who_decrypts(&["finance.>"]),
    ExampleAgent::new(
        "support-agent",
        "support",
        &["publish:tickets.>", "subscribe:tickets.>", "state.read:tickets", "state.write:tickets"],
    )
    .who_decrypts(&["tickets"]),
    ExampleAgent::new("billing-agent", "billing", &["publish:billing.>", "subscribe:tickets.>", "state.read:tickets"])
        .who_decrypts(&["tickets"]),
    ExampleAgent::new("external-agent", "external", &["subscribe:external.>", "state.read:tickets"]),
    ExampleAgent::new("document-agent", "documents", &["publish:documents.>"]),
    ExampleAgent::new("auditor", "auditor", &["audit.read"]),
    ExampleAgent::new("operator", "operator", &["admin.revoke", "admin.sessions", "admin.keys", "admin.backup"]),
];
