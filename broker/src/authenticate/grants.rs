//! What a token grants, and what its issuer may grant at all.
//!
//! An issuer that is trusted to say who its agents are need not be trusted to make auditors and administrators of them.
//! What it grants beyond its limits is taken out here, before there is an [`Identity`](super::Identity): nobody who asks
//! what an identity may do can see it. Out of scope: the raw claims, which a policy sees as they came.

use std::sync::atomic::{AtomicBool, Ordering};

use super::permission::{Permission, Permissions};
use crate::model::{AgentId, Issuer, TopicPattern};

/// What a token grants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grants {
    pub(super) roles: Vec<String>,
    pub(super) permissions: Permissions,
    /// Scopes of shared state whose values may be seen in clear.
    pub(super) decrypt: Vec<TopicPattern>,
}

/// What an issuer may grant. Where nothing is said, that is everything.
#[derive(Debug, Default)]
pub struct GrantLimits {
    /// The permissions, each with all that it covers.
    pub permissions: Option<Vec<AllowedPermission>>,
    /// The roles.
    pub roles: Option<Vec<String>>,
    /// The scopes of shared state whose values its agents may see in clear, each with all that it covers.
    pub decrypt: Option<Vec<TopicPattern>>,
    /// Whether its operator was told that it grants more.
    pub exceeded: Exceeded,
}

/// Whether an issuer was found to grant more than it may.
#[derive(Debug, Default)]
pub struct Exceeded(AtomicBool);

/// What a setting allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedPermission {
    /// This one, and those that it covers.
    One(Permission),
    /// `admin.*`: every permission to administer.
    AnyAdmin,
    /// `audit.*`: every permission on the audit log.
    AnyAudit,
}

impl AllowedPermission {
    /// Reads a permission as it stands in tokens, or `admin.*` or `audit.*`; `None` where the text is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "admin.*" => Some(Self::AnyAdmin),
            "audit.*" => Some(Self::AnyAudit),
            _ => Permission::parse(text).map(Self::One),
        }
    }

    fn covers(&self, granted: &Permission) -> bool {
        match self {
            Self::One(allowed) => allowed.covers(granted),
            Self::AnyAdmin => granted.is_admin(),
            Self::AnyAudit => granted.is_audit(),
        }
    }
}

impl GrantLimits {
    /// What is left of the grants of a token. One that is not covered whole is dropped whole: half of it would be a
    /// permission that nobody wrote.
    pub(super) fn confine(&self, granted: Grants, issuer: &Issuer, agent: &AgentId) -> Grants {
        let (mut kept, mut dropped) = (granted, Vec::new());
        if let Some(allowed) = &self.permissions {
            let is_allowed = |one: &Permission| allowed.iter().any(|allowed| allowed.covers(one));
            kept.permissions = Permissions::new(keep(kept.permissions.into_vec(), is_allowed, &mut dropped));
        }
        if let Some(allowed) = &self.roles {
            kept.roles = keep(kept.roles, |role| allowed.contains(role), &mut dropped);
        }
        if let Some(allowed) = &self.decrypt {
            let is_allowed = |one: &TopicPattern| allowed.iter().any(|allowed| allowed.covers(one));
            kept.decrypt = keep(kept.decrypt, is_allowed, &mut dropped);
        }
        if !dropped.is_empty() {
            self.exceeded.tell(issuer, agent, &dropped);
        }
        kept
    }
}

impl Exceeded {
    /// Loud the first time; after that every agent of the issuer may be so.
    fn tell(&self, issuer: &Issuer, agent: &AgentId, dropped: &[String]) {
        const TEXT: &str = "an issuer grants more than it may: that does not count";
        if self.0.swap(true, Ordering::Relaxed) {
            tracing::debug!(%issuer, %agent, ?dropped, TEXT);
        } else {
            tracing::warn!(%issuer, %agent, ?dropped, "{TEXT}; further tokens are told of at level debug");
        }
    }
}

fn keep<T: ToString>(granted: Vec<T>, is_allowed: impl Fn(&T) -> bool, dropped: &mut Vec<String>) -> Vec<T> {
    let (kept, beyond): (Vec<_>, Vec<_>) = granted.into_iter().partition(is_allowed);
    dropped.extend(beyond.iter().map(ToString::to_string));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(texts: &[&str]) -> Permissions {
        Permissions::new(texts.iter().map(|text| Permission::parse(text).expect("a permission")).collect())
    }

    fn patterns(texts: &[&str]) -> Vec<TopicPattern> {
        texts.iter().map(|text| TopicPattern::parse(text).expect("a pattern")).collect()
    }

    fn roles(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn allow(texts: &[&str]) -> GrantLimits {
        let allowed = texts.iter().map(|text| AllowedPermission::parse(text).expect("allowed")).collect();
        GrantLimits { permissions: Some(allowed), ..GrantLimits::default() }
    }

    fn confined(limits: &GrantLimits, granted: Grants) -> Grants {
        let issuer = Issuer::parse("https://partner.example").expect("an issuer");
        limits.confine(granted, &issuer, &AgentId::parse("agent").expect("an agent"))
    }

    fn left(limits: &GrantLimits, granted: &[&str]) -> Vec<String> {
        let granted = Grants { roles: vec![], permissions: permissions(granted), decrypt: vec![] };
        confined(limits, granted).permissions.iter().map(ToString::to_string).collect()
    }

    const ALL: [&str; 9] = [
        "publish:>",
        "subscribe:a.>",
        "state.read:a",
        "state.write:a.*",
        "audit.read",
        "admin.revoke",
        "admin.sessions",
        "admin.keys",
        "admin.backup",
    ];

    #[test]
    fn an_issuer_without_limits_grants_everything_and_one_with_an_empty_list_nothing() {
        assert_eq!(left(&GrantLimits::default(), &ALL), ALL);
        assert_eq!(left(&allow(&[]), &ALL), [""; 0]);
    }

    #[test]
    fn a_permission_that_is_not_covered_whole_is_dropped_whole() {
        let limits = allow(&["publish:finance.>", "subscribe:a.*", "state.read:>"]);
        for (granted, is_kept) in [
            ("publish:finance.x", true),
            ("publish:finance.*", true),
            ("publish:finance.>", true),
            ("publish:finance", false),
            ("publish:>", false),
            ("publish:*.x", false),
            ("subscribe:finance.x", false),
            ("subscribe:a.b", true),
            ("subscribe:a.>", false),
            ("state.read:a.b", true),
            ("state.write:a.b", false),
            ("audit.read", false),
            ("admin.revoke", false),
        ] {
            assert_eq!(!left(&limits, &[granted]).is_empty(), is_kept, "{granted}");
        }
    }

    #[test]
    fn a_kind_stands_for_all_of_its_permissions_and_for_no_other() {
        assert_eq!(left(&allow(&["admin.*"]), &ALL), ["admin.revoke", "admin.sessions", "admin.keys", "admin.backup"]);
        assert_eq!(left(&allow(&["audit.*"]), &ALL), ["audit.read"]);
        assert_eq!(left(&allow(&["admin.keys"]), &ALL), ["admin.keys"]);
        for text in ["publish.*", "*", "admin", "admin.", "admin.everything", "state.*", "publish:", "publish:a..b"] {
            assert_eq!(AllowedPermission::parse(text), None, "{text}");
        }
    }

    #[test]
    fn roles_and_scopes_are_confined_likewise_and_each_for_itself() {
        let granted = || Grants {
            roles: roles(&["security", "partner"]),
            permissions: permissions(&["audit.read"]),
            decrypt: patterns(&[">", "shared.x"]),
        };
        let limits = GrantLimits { roles: Some(roles(&["partner", "guest"])), ..GrantLimits::default() };
        assert_eq!(confined(&limits, granted()), Grants { roles: roles(&["partner"]), ..granted() });
        let limits = GrantLimits { decrypt: Some(patterns(&["shared.>"])), ..GrantLimits::default() };
        assert_eq!(confined(&limits, granted()), Grants { decrypt: patterns(&["shared.x"]), ..granted() });
    }
}
