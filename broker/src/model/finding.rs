//! What inspection saw in a message. A finding never quotes content.

/// One thing that inspection saw.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Finding {
    /// What sort of thing.
    pub kind: FindingKind,
    /// The rule that found it.
    pub rule: String,
    /// How sure and how grave.
    pub severity: Severity,
    /// Which part of the message, and under which view, for example `data/base64`.
    pub location: String,
}

/// What sort of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// Text that tries to take over the agent that reads it.
    Injection,
    /// The data is not what its content type says.
    Malformed,
    /// Inspection itself failed: the message is not known to be clean.
    ScannerFailure,
}

impl FindingKind {
    /// The stable word in policies and the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Injection => "injection",
            Self::Malformed => "malformed",
            Self::ScannerFailure => "scanner_failure",
        }
    }
}

/// How sure and how grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth a note.
    Low,
    /// Worth a look.
    Medium,
    /// Worth stopping the message.
    High,
}

impl Severity {
    /// The stable word in policies and the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}
