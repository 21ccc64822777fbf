//! What is no longer accepted, although its signature is good.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use super::{AHEAD_S_MAX, Identity};
use crate::model::{AgentId, Issuer, TokenId, UnixSeconds};

/// What a revocation names, of one issuer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationTarget {
    /// One token, by its `jti`.
    Token(TokenId),
    /// All tokens of one agent.
    Agent(AgentId),
    /// The tokens of one agent whose `iat`, less [`AHEAD_S_MAX`], lies before a moment: the issuer's clock may be ahead.
    IssuedBefore(AgentId, UnixSeconds),
    /// All tokens.
    WholeIssuer,
}

/// Whose tokens are revoked, until when, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Whose tokens.
    pub issuer: Issuer,
    /// Which of them.
    pub target: RevocationTarget,
    /// When it ends by itself; `None`: not before it is lifted.
    pub expires_at: Option<UnixSeconds>,
    /// Why, in the operator's words.
    pub reason: String,
}

impl Revocation {
    /// The longest reason, in bytes.
    pub const REASON_BYTES_MAX: usize = 256;
    /// The times that it may name, in seconds since the Unix epoch: the years 1 to 9999, which is all that a timestamp on
    /// the wire, and so what is kept of a revocation, can say.
    pub const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

    /// Whether it names the token of `identity`.
    #[must_use]
    pub fn names(&self, identity: &Identity) -> bool {
        self.issuer == *identity.issuer()
            && match &self.target {
                RevocationTarget::Token(token) => token == identity.token_id(),
                RevocationTarget::Agent(agent) => agent == identity.agent(),
                RevocationTarget::IssuedBefore(agent, moment) => {
                    agent == identity.agent() && identity.issued_at().0.saturating_sub(AHEAD_S_MAX) < moment.0
                }
                RevocationTarget::WholeIssuer => true,
            }
    }

    /// From which `iat` on a token passes; `None` where that is not what decides.
    #[must_use]
    pub const fn passes_from(&self) -> Option<UnixSeconds> {
        match self.target {
            RevocationTarget::IssuedBefore(_, moment) => Some(UnixSeconds(moment.0.saturating_add(AHEAD_S_MAX))),
            RevocationTarget::Token(_) | RevocationTarget::Agent(_) | RevocationTarget::WholeIssuer => None,
        }
    }

    fn is_over(&self, now: UnixSeconds) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    fn key(&self) -> Key {
        let issuer = self.issuer.clone();
        match &self.target {
            RevocationTarget::Token(token) => Key::Token(issuer, token.clone()),
            RevocationTarget::Agent(agent) | RevocationTarget::IssuedBefore(agent, _) => {
                Key::Agent(issuer, agent.clone())
            }
            RevocationTarget::WholeIssuer => Key::Issuer(issuer),
        }
    }
}

impl fmt::Display for Revocation {
    /// What it names, for the entry that records it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            RevocationTarget::Token(token) => write!(f, "token {token}")?,
            RevocationTarget::Agent(agent) => write!(f, "agent {agent}")?,
            RevocationTarget::IssuedBefore(agent, moment) => write!(f, "agent {agent} issued before {}", moment.0)?,
            RevocationTarget::WholeIssuer => f.write_str("everybody")?,
        }
        write!(f, " of {}", self.issuer)
    }
}

/// A revocation with its place in the log, which is its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// The audit index of its entry.
    pub index: u64,
    /// The decision id of its entry.
    pub id: String,
    /// What it says.
    pub revocation: Revocation,
}

/// The revocations in force.
///
/// An identity remembers at which generation it was last found good, so that asking again costs two loads until something
/// changes.
pub struct Revocations {
    table: RwLock<Table>,
    generation: AtomicU64,
    /// When the first of them ends, in seconds since the Unix epoch.
    next_end: AtomicI64,
}

#[derive(Default)]
struct Table {
    by_index: BTreeMap<u64, Arc<Revoked>>,
    by_key: HashMap<Key, Vec<Arc<Revoked>>>,
}

/// Under what an identity is looked up.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Token(Issuer, TokenId),
    Agent(Issuer, AgentId),
    Issuer(Issuer),
}

impl Default for Revocations {
    fn default() -> Self {
        Self { table: RwLock::default(), generation: AtomicU64::new(1), next_end: AtomicI64::new(i64::MAX) }
    }
}

impl Revocations {
    /// Grows with each change.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the token of `identity` is revoked; if not, for which generation that is true whatever the clock says later:
    /// `None` where a revocation names it that is over by the clock as it is now.
    ///
    /// # Errors
    /// The revocation that names it.
    pub fn look_up(&self, identity: &Identity, now: UnixSeconds) -> Result<Option<u64>, Arc<Revoked>> {
        let table = self.table.read();
        let keys = [
            Key::Token(identity.issuer().clone(), identity.token_id().clone()),
            Key::Agent(identity.issuer().clone(), identity.agent().clone()),
            Key::Issuer(identity.issuer().clone()),
        ];
        let listed = keys.iter().filter_map(|key| table.by_key.get(key)).flatten();
        let mut is_over = false;
        for one in listed.filter(|one| one.revocation.names(identity)) {
            if !one.revocation.is_over(now) {
                return Err(Arc::clone(one));
            }
            is_over = true;
        }
        Ok((!is_over).then(|| self.generation()))
    }

    /// Puts revocations in force and lifts others, as one change.
    pub fn change(&self, put: Vec<Revoked>, lifted: &[u64]) {
        let mut table = self.table.write();
        lifted.iter().for_each(|index| table.lift(*index));
        put.into_iter().for_each(|one| table.put(one));
        self.next_end.store(table.next_end(), Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Those that have ended by themselves, as the clock is now, and when.
    #[must_use]
    pub fn over(&self, now: UnixSeconds) -> Vec<(u64, UnixSeconds)> {
        if self.next_end.load(Ordering::Relaxed) > now.0 {
            return Vec::new();
        }
        let table = self.table.read();
        let over = table.by_index.values().filter(|one| one.revocation.is_over(now));
        over.filter_map(|one| Some((one.index, one.revocation.expires_at?))).collect()
    }

    /// The one whose entry has this index, in force or not.
    #[must_use]
    pub fn at(&self, index: u64) -> Option<Arc<Revoked>> {
        self.table.read().by_index.get(&index).cloned()
    }

    /// The one of this name, if it is in force.
    #[must_use]
    pub fn find(&self, id: &str, now: UnixSeconds) -> Option<Arc<Revoked>> {
        let index = id.rsplit_once('-')?.1.parse().ok()?;
        let found = self.table.read().by_index.get(&index).cloned()?;
        (found.id == id && !found.revocation.is_over(now)).then_some(found)
    }

    /// Whether this very one is in force.
    #[must_use]
    pub fn holds(&self, one: &Arc<Revoked>) -> bool {
        self.table.read().by_index.get(&one.index).is_some_and(|found| Arc::ptr_eq(found, one))
    }

    /// The first `max` in force from `from` on, in the order of the log.
    #[must_use]
    pub fn list(&self, from: u64, max: usize, now: UnixSeconds) -> Vec<Arc<Revoked>> {
        let table = self.table.read();
        let in_force = table.by_index.range(from..).map(|(_, one)| one).filter(|one| !one.revocation.is_over(now));
        in_force.take(max).cloned().collect()
    }

    /// How many there are, also those that are over.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.read().by_index.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    fn put(&mut self, one: Revoked) {
        let one = Arc::new(one);
        self.lift(one.index);
        self.by_key.entry(one.revocation.key()).or_default().push(Arc::clone(&one));
        self.by_index.insert(one.index, one);
    }

    fn lift(&mut self, index: u64) {
        let Some(one) = self.by_index.remove(&index) else { return };
        let key = one.revocation.key();
        if let Some(listed) = self.by_key.get_mut(&key) {
            listed.retain(|other| other.index != index);
            if listed.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    fn next_end(&self) -> i64 {
        self.by_index.values().filter_map(|one| one.revocation.expires_at).map(|end| end.0).min().unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        authenticate::TokenError,
        fixtures::{NOW, World},
        issue::KeyKind,
        model::UnixMicros,
    };

    fn revoked(index: u64, target: RevocationTarget, expires_at: Option<UnixSeconds>) -> Revoked {
        let issuer = Issuer::parse("https://issuer.example").expect("an issuer");
        let revocation = Revocation { issuer, target, expires_at, reason: String::new() };
        Revoked { index, id: format!("test-{index}"), revocation }
    }

    fn agent(name: &str) -> AgentId {
        AgentId::parse(name).expect("an agent")
    }

    #[test]
    fn each_target_names_what_it_says_and_nothing_else() {
        let world = World::new(KeyKind::EdDsa);
        let (one, other) = (world.identity(&world.claims("one")), world.identity(&world.claims("other")));
        let before = |seconds| RevocationTarget::IssuedBefore(agent("one"), UnixSeconds(NOW.0 + seconds));
        for (target, names_one, names_other) in [
            (RevocationTarget::Token(one.token_id().clone()), true, false),
            (RevocationTarget::Agent(agent("one")), true, false),
            (RevocationTarget::Agent(agent("three")), false, false),
            (before(1 - AHEAD_S_MAX), true, false),
            (before(-AHEAD_S_MAX), false, false),
            (RevocationTarget::WholeIssuer, true, true),
        ] {
            let revocations = world.verifier.revocations();
            revocations.change(vec![revoked(7, target.clone(), None)], &[]);
            let refused = |identity: &Identity| identity.check_standing(world.clock.now()) == Err(TokenError::Revoked);
            assert_eq!((refused(&one), refused(&other)), (names_one, names_other), "{target:?}");
            revocations.change(vec![], &[7]);
            assert!(!refused(&one) && !refused(&other), "lifted: {target:?}");
        }
    }

    #[test]
    fn a_namesake_of_another_issuer_is_untouched() {
        let world = World::new(KeyKind::EdDsa);
        let one = world.identity(&world.claims("one"));
        for target in [
            RevocationTarget::Token(one.token_id().clone()),
            RevocationTarget::Agent(agent("one")),
            RevocationTarget::IssuedBefore(agent("one"), UnixSeconds(i64::MAX)),
            RevocationTarget::WholeIssuer,
        ] {
            let mut elsewhere = revoked(7, target, None);
            elsewhere.revocation.issuer = Issuer::parse("https://elsewhere.example").expect("an issuer");
            world.verifier.revocations().change(vec![elsewhere], &[]);
            assert_eq!(one.check_standing(world.clock.now()), Ok(()));
        }
    }

    #[test]
    fn what_is_over_for_a_moment_only_revokes_again_when_the_clock_is_set_right() {
        let world = World::new(KeyKind::EdDsa);
        let one = world.identity(&world.claims("one"));
        let end = UnixSeconds(NOW.0 + 60);
        world.verifier.revocations().change(vec![revoked(7, RevocationTarget::WholeIssuer, Some(end))], &[]);
        world.clock.set(UnixMicros(end.0 * 1_000_000));
        assert_eq!(one.check_standing(world.clock.now()), Ok(()), "as the clock is now");
        world.clock.set(UnixMicros(NOW.0 * 1_000_000));
        assert_eq!(one.check_standing(world.clock.now()), Err(TokenError::Revoked), "and that was not remembered");
    }

    #[test]
    fn one_that_is_over_revokes_nothing_and_is_to_be_forgotten() {
        let world = World::new(KeyKind::EdDsa);
        let one = world.identity(&world.claims("one"));
        let revocations = world.verifier.revocations();
        let end = UnixSeconds(NOW.0 + 60);
        revocations.change(vec![revoked(7, RevocationTarget::WholeIssuer, Some(end))], &[]);
        assert_eq!(one.check_standing(world.clock.now()), Err(TokenError::Revoked));
        assert_eq!((revocations.over(NOW), revocations.list(0, 9, NOW).len()), (vec![], 1));
        world.clock.advance(Duration::from_secs(60));
        assert_eq!(one.check_standing(world.clock.now()), Ok(()));
        assert_eq!((revocations.over(end), revocations.list(0, 9, end).len()), (vec![(7, end)], 0));
        assert!(revocations.find("test-7", end).is_none() && revocations.find("test-7", NOW).is_some());
        assert!(revocations.find("other-7", NOW).is_none(), "of another node");
    }

    #[test]
    fn two_that_name_the_same_are_lifted_one_by_one() {
        let world = World::new(KeyKind::EdDsa);
        let one = world.identity(&world.claims("one"));
        let revocations = world.verifier.revocations();
        let both = [7, 8].map(|index| revoked(index, RevocationTarget::Agent(agent("one")), None));
        revocations.change(both.to_vec(), &[]);
        revocations.change(vec![], &[7]);
        assert_eq!(one.check_standing(world.clock.now()), Err(TokenError::Revoked));
        revocations.change(vec![], &[8]);
        assert_eq!((one.check_standing(world.clock.now()), revocations.len()), (Ok(()), 0));
    }
}
