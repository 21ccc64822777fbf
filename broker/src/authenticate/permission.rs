//! Permissions as a token grants them: `publish:PATTERN`, `subscribe:PATTERN`, `audit.read`, `admin.revoke`,
//! `admin.sessions`.

use std::fmt;

use crate::model::{Topic, TopicPattern};

/// One thing that a token permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// Publishing to the topics that the pattern names.
    Publish(TopicPattern),
    /// Subscribing to the pattern, or to any that it covers.
    Subscribe(TopicPattern),
    /// Reading the audit log.
    AuditRead,
    /// Revoking tokens, and lifting revocations.
    AdminRevoke,
    /// Seeing sessions and revocations, and ending sessions.
    AdminSessions,
}

impl Permission {
    /// Reads a permission; `None` where the text is none of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("publish", pattern)) => TopicPattern::parse(pattern).ok().map(Self::Publish),
            Some(("subscribe", pattern)) => TopicPattern::parse(pattern).ok().map(Self::Subscribe),
            None if text == "audit.read" => Some(Self::AuditRead),
            None if text == "admin.revoke" => Some(Self::AdminRevoke),
            None if text == "admin.sessions" => Some(Self::AdminSessions),
            _ => None,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(pattern) => write!(f, "publish:{pattern}"),
            Self::Subscribe(pattern) => write!(f, "subscribe:{pattern}"),
            Self::AuditRead => f.write_str("audit.read"),
            Self::AdminRevoke => f.write_str("admin.revoke"),
            Self::AdminSessions => f.write_str("admin.sessions"),
        }
    }
}

/// All that a token permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions(Vec<Permission>);

impl Permissions {
    /// The permissions listed.
    #[must_use]
    pub const fn new(permissions: Vec<Permission>) -> Self {
        Self(permissions)
    }

    /// Whether publishing to `topic` is permitted.
    #[must_use]
    pub fn publish(&self, topic: &Topic) -> bool {
        self.0.iter().any(|one| matches!(one, Permission::Publish(pattern) if pattern.matches(topic)))
    }

    /// Whether every topic that `wanted` names may be subscribed to, by one permission that covers it.
    #[must_use]
    pub fn subscribe(&self, wanted: &TopicPattern) -> bool {
        self.0.iter().any(|one| matches!(one, Permission::Subscribe(pattern) if pattern.covers(wanted)))
    }

    /// Whether the audit log may be read.
    #[must_use]
    pub fn audit_read(&self) -> bool {
        self.0.contains(&Permission::AuditRead)
    }

    /// Whether tokens may be revoked, and revocations lifted.
    #[must_use]
    pub fn admin_revoke(&self) -> bool {
        self.0.contains(&Permission::AdminRevoke)
    }

    /// Whether sessions may be seen and ended.
    #[must_use]
    pub fn admin_sessions(&self) -> bool {
        self.0.contains(&Permission::AdminSessions)
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Permission> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(texts: &[&str]) -> Permissions {
        Permissions::new(texts.iter().filter_map(|text| Permission::parse(text)).collect())
    }

    #[test]
    fn what_is_not_granted_is_not_permitted() {
        let none =
            permissions(&["publish", "publish:", "publish:a..b", "Publish:>", "audit.read:x", "admin", "admin.*", "*"]);
        assert_eq!(none, Permissions::new(vec![]));
        assert!(!none.publish(&Topic::parse("a").expect("topic")));
        assert!(!none.audit_read() && !none.admin_revoke() && !none.admin_sessions());
        let one = permissions(&["admin.sessions"]);
        assert!(one.admin_sessions() && !one.admin_revoke() && !one.audit_read());
    }

    #[test]
    fn a_subscription_wider_than_the_grant_is_not_permitted() {
        let finance = permissions(&["subscribe:finance.*"]);
        assert!(finance.subscribe(&TopicPattern::parse("finance.reports").expect("pattern")));
        assert!(finance.subscribe(&TopicPattern::parse("finance.*").expect("pattern")));
        for wider in ["finance.>", ">", "*.reports"] {
            assert!(!finance.subscribe(&TopicPattern::parse(wider).expect("pattern")), "{wider}");
        }
        assert!(!finance.publish(&Topic::parse("finance.reports").expect("topic")));
    }
}
