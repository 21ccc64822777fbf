//! Who may use how much.

use std::num::NonZeroU32;

use super::rate::Rate;
use crate::{
    authenticate::Identity,
    model::{Ceiling, QuotaOverrides, QuotaTerms},
};

/// What the settings give to everybody, and what the policy's data gives to some instead.
///
/// Each term is looked for by itself: with the agent's own terms first; then with those of its roles, of which the most
/// generous counts; then with everybody's. A term that is found nowhere is unlimited.
#[derive(Debug, Clone, Default)]
pub struct QuotaTable {
    everybody: QuotaTerms,
    overrides: QuotaOverrides,
}

/// What one identity may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) messages: Option<Rate>,
    pub(super) bytes: Option<Rate>,
    pub(super) streams: Ceiling,
    pub(super) subscriptions: Ceiling,
}

impl QuotaTable {
    /// `everybody`'s terms, and those of some.
    #[must_use]
    pub const fn new(everybody: QuotaTerms, overrides: QuotaOverrides) -> Self {
        Self { everybody, overrides }
    }

    pub(super) const fn with_overrides(&self, overrides: QuotaOverrides) -> Self {
        Self { everybody: self.everybody, overrides }
    }

    pub(super) fn allowance(&self, identity: &Identity) -> Allowance {
        let terms = Terms {
            agent: self.overrides.agents.get(identity.agent()),
            roles: identity.roles().iter().filter_map(|role| self.overrides.roles.get(role.as_str())).collect(),
            everybody: &self.everybody,
        };
        let burst_s = terms.find(|terms| terms.burst_s).unwrap_or(NonZeroU32::MIN);
        let rate = |term: fn(&QuotaTerms) -> Option<Ceiling>| match terms.find(term) {
            Some(Ceiling::Max(per_s)) => Some(Rate::new(per_s, burst_s)),
            Some(Ceiling::Unlimited) | None => None,
        };
        Allowance {
            messages: rate(|terms| terms.messages_per_s),
            bytes: rate(|terms| terms.bytes_per_s),
            streams: terms.find(|terms| terms.streams).unwrap_or(Ceiling::Unlimited),
            subscriptions: terms.find(|terms| terms.subscriptions).unwrap_or(Ceiling::Unlimited),
        }
    }
}

/// Where to look for a term, for one identity.
struct Terms<'a> {
    agent: Option<&'a QuotaTerms>,
    roles: Vec<&'a QuotaTerms>,
    everybody: &'a QuotaTerms,
}

impl Terms<'_> {
    fn find<T: Ord>(&self, term: impl Fn(&QuotaTerms) -> Option<T>) -> Option<T> {
        let of_roles = || self.roles.iter().filter_map(|terms| term(terms)).max();
        self.agent.and_then(&term).or_else(of_roles).or_else(|| term(self.everybody))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::{
        fixtures::World,
        issue::KeyKind,
        model::{AgentId, RoleName},
    };

    fn max(value: u64) -> Ceiling {
        Ceiling::Max(NonZeroU64::new(value).expect("some"))
    }

    fn streams(ceiling: Ceiling) -> QuotaTerms {
        QuotaTerms { streams: Some(ceiling), ..QuotaTerms::default() }
    }

    fn table() -> QuotaTable {
        let role = |name| RoleName::parse(name).expect("a role");
        let subscriptions = QuotaTerms { subscriptions: Some(max(9)), ..QuotaTerms::default() };
        let overrides = QuotaOverrides {
            agents: [(AgentId::parse("own").expect("an agent"), streams(max(2)))].into(),
            roles: [(role("small"), streams(max(3))), (role("big"), streams(max(5))), (role("inbox"), subscriptions)]
                .into(),
        };
        QuotaTable::new(QuotaTerms { subscriptions: Some(max(1)), ..streams(max(4)) }, overrides)
    }

    fn allowed(agent: &str, roles: &[&str]) -> (Ceiling, Ceiling) {
        let world = World::new(KeyKind::EdDsa);
        let claims = roles.iter().fold(world.claims(agent), |claims, role| claims.role(*role));
        let allowance = table().allowance(&world.identity(&claims));
        assert_eq!((allowance.messages, allowance.bytes), (None, None));
        (allowance.streams, allowance.subscriptions)
    }

    #[test]
    fn the_agent_comes_before_its_roles_and_they_before_everybody() {
        assert_eq!(allowed("other", &[]), (max(4), max(1)));
        assert_eq!(allowed("other", &["unknown"]), (max(4), max(1)));
        assert_eq!(allowed("other", &["small"]), (max(3), max(1)));
        assert_eq!(allowed("own", &["big"]), (max(2), max(1)));
    }

    #[test]
    fn of_several_roles_the_most_generous_counts_for_each_term() {
        assert_eq!(allowed("other", &["small", "big"]), (max(5), max(1)));
        assert_eq!(allowed("own", &["small", "inbox"]), (max(2), max(9)));
        assert!(Ceiling::Unlimited > max(u64::MAX));
    }
}
