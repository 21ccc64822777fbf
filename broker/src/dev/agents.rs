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
}

const fn agent(name: &'static str, role: &'static str, permissions: &'static [&'static str]) -> ExampleAgent {
    ExampleAgent { name, role, permissions }
}

/// Whose token `env` names.
pub const DEFAULT_AGENT: &str = "finance-agent";

/// All of them.
pub const EXAMPLE_AGENTS: [ExampleAgent; 8] = [
    agent(DEFAULT_AGENT, "finance", &["publish:finance.>", "subscribe:finance.>"]),
    agent("compliance-agent", "compliance", &["publish:compliance.>", "subscribe:finance.>", "subscribe:documents.>"]),
    agent("support-agent", "support", &["publish:tickets.>", "subscribe:tickets.>"]),
    agent("billing-agent", "billing", &["publish:billing.>", "subscribe:tickets.>"]),
    agent("external-agent", "external", &["subscribe:external.>"]),
    agent("document-agent", "documents", &["publish:documents.>"]),
    agent("auditor", "auditor", &["audit.read"]),
    agent("operator", "operator", &["admin.revoke", "admin.sessions"]),
];
