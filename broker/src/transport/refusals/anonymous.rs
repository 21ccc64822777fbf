//! What callers of whom nothing is known may make the broker write: a budget of bytes for all of them, and a share of it for
//! each address prefix. What is beyond is counted.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU64,
    time::Duration,
};

use crate::quota::{Nanos, Rate};

/// What each entry is charged with, in bytes: more than any takes that names no agent.
pub const ANONYMOUS_ENTRY_BYTES_MAX: u64 = 512;
/// Which part of the budget one prefix has.
const SHARES: NonZeroU64 = NonZeroU64::MIN.saturating_add(15);
const PERIOD: Duration = Duration::from_secs(86_400);
/// For how many prefixes it is known what they used.
const PREFIXES_MAX: usize = 1_024;
/// How many pairs of cause and prefix are counted apart; beyond, the prefix is left out.
const COUNTED_APART_MAX: usize = 1_024;

/// Entries within the budget, and the counts of what has none yet.
pub(super) struct Anonymous<Cause> {
    total: Rate,
    share: Rate,
    total_due: Nanos,
    /// A prefix that finds no place takes that of the one which used least, with all that it used: so what is known is
    /// never less than what a prefix did use (Space-Saving; Metwally, Agrawal, El Abbadi 2005).
    shares_due: HashMap<IpAddr, Nanos>,
    counted: HashMap<(Cause, Option<IpAddr>), Count>,
    turns: u64,
    /// Counts wait for the budget of all.
    is_exhausted: bool,
}

struct Count {
    refusals: u64,
    /// What began to wait first is written first.
    turn: u64,
}

impl<Cause: Copy + Eq + Hash> Anonymous<Cause> {
    pub(super) fn new(bytes_per_day_max: NonZeroU64) -> Self {
        let share = NonZeroU64::new(bytes_per_day_max.get() / SHARES).unwrap_or(NonZeroU64::MIN);
        Self {
            total: Rate::within(bytes_per_day_max, PERIOD),
            share: Rate::within(share, PERIOD),
            total_due: Nanos::default(),
            shares_due: HashMap::new(),
            counted: HashMap::new(),
            turns: 0,
            is_exhausted: false,
        }
    }

    /// Whether a refusal may have an entry of its own at `running`, which is then charged. None has that while others of its
    /// cause and prefix wait, or others wait for the budget of all.
    pub(super) fn admit(&mut self, cause: Cause, peer: IpAddr, running: Duration) -> bool {
        let prefix = Some(prefix(peer));
        !self.is_exhausted && !self.counted.contains_key(&(cause, prefix)) && self.charge(prefix, running)
    }

    /// Counts a refusal that has no entry of its own.
    pub(super) fn count(&mut self, cause: Cause, peer: IpAddr) {
        let mut key = (cause, Some(prefix(peer)));
        if self.counted.len() >= COUNTED_APART_MAX && !self.counted.contains_key(&key) {
            key.1 = None;
        }
        let turn = self.turns;
        self.counted.entry(key).or_insert(Count { refusals: 0, turn }).refusals += 1;
        self.turns += 1;
    }

    /// The counts for which there is room at `running`, by cause and prefix.
    pub(super) fn due(&mut self, running: Duration) -> Vec<(Cause, Option<IpAddr>, u64)> {
        self.is_exhausted = false;
        let mut waiting: Vec<_> = self.counted.iter().map(|(key, count)| (count.turn, *key)).collect();
        waiting.sort_unstable_by_key(|(turn, _)| *turn);
        let mut due = Vec::new();
        for (_, key) in waiting {
            if self.charge(key.1, running) {
                due.extend(self.counted.remove(&key).map(|count| (key.0, key.1, count.refusals)));
            }
            if self.is_exhausted {
                break;
            }
        }
        due
    }

    /// All counts that wait, whether or not there is room.
    pub(super) fn rest(&mut self) -> Vec<(Cause, Option<IpAddr>, u64)> {
        self.counted.drain().map(|((cause, prefix), count)| (cause, prefix, count.refusals)).collect()
    }

    fn charge(&mut self, prefix: Option<IpAddr>, running: Duration) -> bool {
        let now = Nanos::from(running);
        let Ok(total_due) = self.total.take(self.total_due, now, ANONYMOUS_ENTRY_BYTES_MAX) else {
            self.is_exhausted = true;
            return false;
        };
        if prefix.is_some_and(|prefix| !self.charge_share(prefix, now)) {
            return false;
        }
        self.total_due = total_due;
        true
    }

    fn charge_share(&mut self, prefix: IpAddr, now: Nanos) -> bool {
        let known = self.shares_due.get(&prefix).copied();
        let is_full = known.is_none() && self.shares_due.len() >= PREFIXES_MAX;
        let least = self.shares_due.iter().filter(|_| is_full).min_by_key(|(_, due)| **due);
        let least = least.map(|(prefix, due)| (*prefix, *due));
        let due = known.or(least.map(|(_, due)| due)).unwrap_or_default();
        let Ok(due) = self.share.take(due, now, ANONYMOUS_ENTRY_BYTES_MAX) else { return false };
        if let Some((prefix, _)) = least {
            self.shares_due.remove(&prefix);
        }
        self.shares_due.insert(prefix, due);
        true
    }
}

/// The first address of the /24 (IPv4, also mapped into IPv6) or /48 (IPv6) that this lies in.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() >> 8 << 8).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 80 << 80).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 64 * 1024 * 1024;

    fn budget() -> Anonymous<()> {
        Anonymous::new(NonZeroU64::new(TOTAL).expect("some"))
    }

    /// In a /24 of its own.
    fn address(prefix: u32) -> IpAddr {
        Ipv4Addr::from_bits((10 << 24) + (prefix << 8) + 7).into()
    }

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    /// How many entries of their own so many attempts get.
    fn admitted(budget: &mut Anonymous<()>, peer: IpAddr, attempts: u64, at: Duration) -> u64 {
        (0..attempts).filter(|_| budget.admit((), peer, at)).count() as u64
    }

    #[test]
    fn a_day_long_flood_from_twenty_prefixes_writes_no_more_than_the_bytes_of_a_day() {
        let mut budget = budget();
        let (mut entries, mut refusals, mut told) = (0, 0, 0);
        for at in (0..86_400).step_by(4) {
            for number in (0..20).chain(0..20) {
                refusals += 1;
                match budget.admit((), address(number), second(at)) {
                    true => (entries, told) = (entries + 1, told + 1),
                    false => budget.count((), address(number)),
                }
            }
            for (.., count) in budget.due(second(at)) {
                (entries, told) = (entries + 1, told + count);
            }
        }
        let bytes = entries * ANONYMOUS_ENTRY_BYTES_MAX;
        assert!((TOTAL / 10 * 9..=TOTAL).contains(&bytes), "{bytes}");
        let rest = budget.rest();
        assert!(rest.len() <= 20, "{}", rest.len());
        assert_eq!(told + rest.iter().map(|(.., count)| count).sum::<u64>(), refusals);
    }

    #[test]
    fn one_prefix_has_a_sixteenth_at_most_and_leaves_the_others_theirs() {
        let mut budget = budget();
        let (mut entries, mut others) = (0, 0);
        for at in 0..86_400 {
            entries += admitted(&mut budget, address(1), 10, second(at));
            others += u64::from(at % 3_600 == 0 && budget.admit((), address(2), second(at)));
        }
        let bytes = entries * ANONYMOUS_ENTRY_BYTES_MAX;
        assert!((TOTAL / 17..=TOTAL / 16).contains(&bytes), "{bytes}");
        assert_eq!(others, 24);
    }

    #[test]
    fn neighbours_share_a_prefix() {
        for (one, neighbour, other) in [
            ("192.0.2.1", "192.0.2.255", "192.0.3.1"),
            ("192.0.2.1", "::ffff:192.0.2.9", "::ffff:192.0.3.9"),
            ("2001:db8:1:ffff::1", "2001:db8:1::", "2001:db8:2::1"),
        ] {
            let [one, neighbour, other] = [one, neighbour, other].map(|text| text.parse().expect("an address"));
            assert_eq!(prefix(one), prefix(neighbour));
            let mut budget = budget();
            admitted(&mut budget, one, 100_000, second(0));
            assert!(!budget.admit((), neighbour, second(0)), "{neighbour}");
            assert!(budget.admit((), other, second(0)), "{other}");
        }
    }

    #[test]
    fn however_many_prefixes_there_are_the_tables_and_the_bytes_are_bounded() {
        let mut budget = budget();
        let mut entries = 0;
        for number in 0..100_000 {
            match budget.admit((), address(number), second(0)) {
                true => entries += 1,
                false => budget.count((), address(number)),
            }
            assert!(budget.shares_due.len() <= PREFIXES_MAX && budget.counted.len() <= COUNTED_APART_MAX + 1);
        }
        assert_eq!(entries, TOTAL / 2 / ANONYMOUS_ENTRY_BYTES_MAX, "half of a day at once");
        assert_eq!(budget.shares_due.len(), PREFIXES_MAX);
        let rest = budget.rest();
        assert_eq!(rest.len(), COUNTED_APART_MAX + 1, "the others together");
        assert_eq!(entries + rest.iter().map(|(.., count)| count).sum::<u64>(), 100_000);
    }

    /// All others use more than it does before one comes for which a place is made.
    #[test]
    fn a_prefix_that_is_forgotten_has_no_new_share() {
        let mut budget = budget();
        let others = u32::try_from(PREFIXES_MAX).expect("few");
        let mut entries = 0;
        for number in 1..=others {
            admitted(&mut budget, address(number), 20, second(0));
        }
        for number in 0..1_000 {
            entries += admitted(&mut budget, address(0), 19, second(0));
            admitted(&mut budget, address(1 + others + number), 1, second(0));
        }
        assert!(!budget.is_exhausted);
        let bytes = entries * ANONYMOUS_ENTRY_BYTES_MAX;
        assert!(bytes <= TOTAL / 32, "{bytes}");
    }

    #[test]
    fn what_has_waited_longest_is_written_first_and_nothing_new_overtakes_it() {
        let mut budget = budget();
        for number in 0..16 {
            while budget.admit((), address(number), second(0)) {}
        }
        for number in [50, 51, 51, 50, 52, 51] {
            budget.count((), address(number));
        }
        let mut written = Vec::new();
        for at in 1.. {
            written.extend(budget.due(second(at)).into_iter().map(|(_, prefix, count)| (prefix, count)));
            if budget.counted.is_empty() {
                break;
            }
            let before_the_next = second(at) + Duration::from_millis(500);
            assert!(!budget.admit((), address(60), before_the_next), "{written:?}");
        }
        assert_eq!(written, [(50, 2), (51, 3), (52, 1)].map(|(number, count)| (Some(prefix(address(number))), count)));
        budget.due(second(100));
        assert!(budget.admit((), address(60), second(100)));
    }
}
