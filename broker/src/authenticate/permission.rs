//! Permissions as a token grants them: `publish:PATTERN`, `subscribe:PATTERN`, `state.read:PATTERN`,
//! `state.write:PATTERN`, `audit.read`, `admin.revoke`, `admin.sessions`, `admin.keys`, `admin.backup`.

use std::fmt;

use crate::model::{Scope, Topic, TopicPattern};

/// One thing that a token permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// Publishing to the topics that the pattern names.
    Publish(TopicPattern),
    /// Subscribing to the pattern, or to any that it covers.
    Subscribe(TopicPattern),
    /// Reading shared state in the scopes that the pattern names.
    StateRead(TopicPattern),
    /// Writing and deleting there.
    StateWrite(TopicPattern),
    /// Reading the audit log.
    AuditRead,
    /// Revoking tokens, and lifting revocations.
    AdminRevoke,
    /// Seeing sessions and revocations, and ending sessions.
    AdminSessions,
    /// Seeing which keys there are, rotating, rewrapping and shredding them.
    AdminKeys,
    /// Copying all data, values encrypted.
    AdminBackup,
}

impl Permission {
    /// Reads a permission; `None` where the text is none of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("publish", pattern)) => TopicPattern::parse(pattern).ok().map(Self::Publish),
            Some(("subscribe", pattern)) => TopicPattern::parse(pattern).ok().map(Self::Subscribe),
            Some(("state.read", pattern)) => TopicPattern::parse(pattern).ok().map(Self::StateRead),
            Some(("state.write", pattern)) => TopicPattern::parse(pattern).ok().map(Self::StateWrite),
            None if text == "audit.read" => Some(Self::AuditRead),
            None if text == "admin.revoke" => Some(Self::AdminRevoke),
            None if text == "admin.sessions" => Some(Self::AdminSessions),
            None if text == "admin.keys" => Some(Self::AdminKeys),
            None if text == "admin.backup" => Some(Self::AdminBackup),
            _ => None,
        }
    }

    /// Whether whoever has this one has no more by having `other` too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Publish(wide), Self::Publish(narrow))
            | (Self::Subscribe(wide), Self::Subscribe(narrow))
            | (Self::StateRead(wide), Self::StateRead(narrow))
            | (Self::StateWrite(wide), Self::StateWrite(narrow)) => wide.covers(narrow),
            _ => self == other,
        }
    }

    /// Whether it is one to administer.
    pub(super) const fn is_admin(&self) -> bool {
        match self {
            Self::AdminRevoke | Self::AdminSessions | Self::AdminKeys | Self::AdminBackup => true,
            Self::Publish(_) | Self::Subscribe(_) | Self::StateRead(_) | Self::StateWrite(_) | Self::AuditRead => false,
        }
    }

    /// Whether it is one on the audit log.
    pub(super) const fn is_audit(&self) -> bool {
        matches!(self, Self::AuditRead)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(pattern) => write!(f, "publish:{pattern}"),
            Self::Subscribe(pattern) => write!(f, "subscribe:{pattern}"),
            Self::StateRead(pattern) => write!(f, "state.read:{pattern}"),
            Self::StateWrite(pattern) => write!(f, "state.write:{pattern}"),
            Self::AuditRead => f.write_str("audit.read"),
            Self::AdminRevoke => f.write_str("admin.revoke"),
            Self::AdminSessions => f.write_str("admin.sessions"),
            Self::AdminKeys => f.write_str("admin.keys"),
            Self::AdminBackup => f.write_str("admin.backup"),
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

    /// Whether anything may be subscribed to.
    #[must_use]
    pub fn subscribe_any(&self) -> bool {
        self.0.iter().any(|one| matches!(one, Permission::Subscribe(_)))
    }

    /// Whether shared state in any scope may be read.
    #[must_use]
    pub fn state_read_any(&self) -> bool {
        self.0.iter().any(|one| matches!(one, Permission::StateRead(_)))
    }

    /// Whether shared state in `scope` may be read.
    #[must_use]
    pub fn state_read(&self, scope: &Scope) -> bool {
        self.0.iter().any(|one| matches!(one, Permission::StateRead(pattern) if pattern.matches(scope.as_topic())))
    }

    /// Whether shared state in `scope` may be written.
    #[must_use]
    pub fn state_write(&self, scope: &Scope) -> bool {
        self.0.iter().any(|one| matches!(one, Permission::StateWrite(pattern) if pattern.matches(scope.as_topic())))
    }

    /// Whether keys may be seen and changed.
    #[must_use]
    pub fn admin_keys(&self) -> bool {
        self.0.contains(&Permission::AdminKeys)
    }

    /// Whether all data may be copied.
    #[must_use]
    pub fn admin_backup(&self) -> bool {
        self.0.contains(&Permission::AdminBackup)
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

    /// Whether they are those of an auditor or an operator, of any kind.
    #[must_use]
    pub fn oversees(&self) -> bool {
        self.0.iter().any(|one| match one {
            Permission::AuditRead
            | Permission::AdminRevoke
            | Permission::AdminSessions
            | Permission::AdminKeys
            | Permission::AdminBackup => true,
            Permission::Publish(_)
            | Permission::Subscribe(_)
            | Permission::StateRead(_)
            | Permission::StateWrite(_) => false,
        })
    }

    /// Those that administer nothing.
    pub(super) fn without_admin(mut self) -> Self {
        self.0.retain(|one| !one.is_admin());
        self
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_vec(self) -> Vec<Permission> {
        self.0
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
    fn reading_state_is_not_writing_it_and_neither_goes_beyond_its_scopes() {
        let scope = |text: &str| Scope::parse(text).expect("a scope");
        let one = permissions(&["state.read:tickets.>", "state.write:notes"]);
        assert!(one.state_read(&scope("tickets.open")) && one.state_write(&scope("notes")));
        assert!(!one.state_write(&scope("tickets.open")) && !one.state_read(&scope("notes")));
        assert!(!one.state_read(&scope("tickets")) && !one.state_write(&scope("notes.a")));
        assert!(!one.admin_keys() && !one.admin_backup());
        let admin = permissions(&["admin.keys"]);
        assert!(admin.admin_keys() && !admin.admin_backup());
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
