use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use super::*;
use crate::{
    fixtures::World,
    issue::KeyKind,
    model::{Ceiling, QuotaOverrides, QuotaTerms, RoleName},
    quota::Meter,
};

const SECOND: Duration = Duration::from_secs(1);

struct Fixture {
    world: World,
    quotas: Quotas,
}

fn max(value: u64) -> Option<Ceiling> {
    Some(Ceiling::Max(NonZeroU64::new(value).expect("some")))
}

fn fixture(terms: QuotaTerms) -> Fixture {
    with_overrides(terms, QuotaOverrides::default(), 8)
}

fn with_overrides(terms: QuotaTerms, overrides: QuotaOverrides, agents_max: usize) -> Fixture {
    let world = World::new(KeyKind::EdDsa);
    let quotas = Quotas::new(QuotaTable::new(terms, overrides), agents_max, 1 << 20, world.clock.clone());
    Fixture { world, quotas }
}

impl Fixture {
    fn identity(&self, agent: &str, roles: &[&str]) -> Arc<Identity> {
        let claims = roles.iter().fold(self.world.claims(agent), |claims, role| claims.role(*role));
        self.world.identity(&claims)
    }

    fn open(&self, agent: &str) -> Result<OpenCall, QuotaExceeded> {
        self.quotas.open_call(self.identity(agent, &[]))
    }

    fn meter(&self, agent: &str) -> Meter {
        self.open(agent).expect("open").meter()
    }

    fn take(&self, meter: &Meter, bytes: usize) -> Result<(), QuotaExceeded> {
        meter.take(self.world.clock.now(), bytes)
    }
}

fn exceeded(kind: QuotaKind, retry_after: Duration) -> Result<(), QuotaExceeded> {
    Err(QuotaExceeded { kind, retry_after: Some(retry_after) })
}

#[test]
fn messages_pass_at_their_rate() {
    let fixture = fixture(QuotaTerms { messages_per_s: max(2), ..QuotaTerms::default() });
    let meter = fixture.meter("a");
    assert!(meter.has_rates());
    assert_eq!([0; 2].map(|bytes| fixture.take(&meter, bytes)), [Ok(()); 2]);
    let half = SECOND / 2;
    assert_eq!(fixture.take(&meter, 0), exceeded(QuotaKind::Messages, half));
    fixture.world.clock.advance(half);
    assert_eq!(fixture.take(&meter, 0), Ok(()));
    assert_eq!(fixture.take(&meter, 0), exceeded(QuotaKind::Messages, half));
}

#[test]
fn a_burst_is_seconds_worth() {
    let terms = QuotaTerms { messages_per_s: max(2), burst_s: NonZeroU32::new(3), ..QuotaTerms::default() };
    let fixture = fixture(terms);
    let meter = fixture.meter("a");
    assert_eq!([0; 6].map(|bytes| fixture.take(&meter, bytes)), [Ok(()); 6]);
    assert!(fixture.take(&meter, 0).is_err());
}

#[test]
fn a_message_that_is_refused_for_its_bytes_takes_no_message() {
    let fixture = fixture(QuotaTerms { messages_per_s: max(2), bytes_per_s: max(1_000), ..QuotaTerms::default() });
    let meter = fixture.meter("a");
    assert_eq!(fixture.take(&meter, 900), Ok(()));
    for _ in 0..10 {
        assert_eq!(fixture.take(&meter, 300), exceeded(QuotaKind::Bytes, SECOND / 5));
    }
    assert_eq!(fixture.take(&meter, 100), Ok(()));
    // Both run short: the longer wait counts.
    assert_eq!(fixture.take(&meter, 1), exceeded(QuotaKind::Messages, SECOND / 2));
    assert_eq!(fixture.take(&meter, 900), exceeded(QuotaKind::Bytes, SECOND * 9 / 10));
}

#[test]
fn a_message_that_is_larger_than_a_burst_never_passes_and_takes_nothing() {
    let fixture = fixture(QuotaTerms { bytes_per_s: max(1_000), ..QuotaTerms::default() });
    let meter = fixture.meter("a");
    let never = QuotaExceeded { kind: QuotaKind::Bytes, retry_after: None };
    assert_eq!(fixture.take(&meter, 1_001), Err(never));
    assert_eq!(fixture.take(&meter, 1_000), Ok(()));
}

#[test]
fn all_calls_of_an_agent_share_what_it_may_use_and_nobody_else_does() {
    let fixture = fixture(QuotaTerms { messages_per_s: max(1), ..QuotaTerms::default() });
    let (one, two, other) = (fixture.meter("a"), fixture.meter("a"), fixture.meter("b"));
    assert_eq!(fixture.take(&one, 0), Ok(()));
    assert!(fixture.take(&two, 0).is_err());
    assert_eq!(fixture.take(&other, 0), Ok(()));
}

#[test]
fn an_agent_of_the_same_name_of_another_issuer_is_another_agent() {
    let ours = World::new(KeyKind::EdDsa);
    let elsewhere = crate::fixtures::issuer("https://elsewhere.example", KeyKind::EdDsa);
    let world = World::of(elsewhere, ours.clock.clone());
    let quotas = fixture(QuotaTerms { streams: max(1), ..QuotaTerms::default() }).quotas;
    let _one = quotas.open_call(ours.identity(&ours.claims("a"))).expect("open");
    let _other = quotas.open_call(world.identity(&world.claims("a"))).expect("open");
    assert!(quotas.open_call(ours.identity(&ours.claims("a"))).is_err());
}

#[test]
fn a_place_is_free_again_when_its_call_is_over() {
    let fixture = fixture(QuotaTerms { streams: max(2), subscriptions: max(1), ..QuotaTerms::default() });
    let (one, two) = (fixture.open("a").expect("open"), fixture.open("a").expect("open"));
    let refused = fixture.open("a").map(drop);
    assert_eq!(refused, exceeded(QuotaKind::Streams, RETRY_LATER));
    let subscription = one.meter().open_subscription().expect("open");
    assert_eq!(two.meter().open_subscription().map(drop), exceeded(QuotaKind::Subscriptions, RETRY_LATER));
    drop((one, subscription));
    assert!(fixture.open("a").is_ok());
    assert!(two.meter().open_subscription().is_ok());
}

#[test]
fn a_fresh_token_with_another_role_changes_the_quota_and_not_what_is_used() {
    let role = RoleName::parse("trusted").expect("a role");
    let terms = QuotaTerms { messages_per_s: max(4), ..QuotaTerms::default() };
    let overrides = QuotaOverrides { roles: [(role, terms)].into(), ..QuotaOverrides::default() };
    let terms = QuotaTerms { messages_per_s: max(1), ..QuotaTerms::default() };
    let fixture = with_overrides(terms, overrides, 8);
    let mut meter = fixture.meter("a");
    assert_eq!(fixture.take(&meter, 0), Ok(()));
    meter.follow(&fixture.identity("a", &["trusted"]));
    assert_eq!(fixture.take(&meter, 0), exceeded(QuotaKind::Messages, SECOND / 4));
    fixture.world.clock.advance(SECOND / 2);
    assert_eq!([0; 3].map(|bytes| fixture.take(&meter, bytes).is_ok()), [true, true, false]);
}

#[test]
fn without_rates_nothing_is_measured() {
    let fixture = fixture(QuotaTerms { streams: max(9), ..QuotaTerms::default() });
    let meter = fixture.meter("a");
    assert!(!meter.has_rates());
    assert_eq!(fixture.take(&meter, usize::MAX), Ok(()));
}

#[test]
fn accounts_are_bounded_and_idle_ones_make_room() {
    let terms = QuotaTerms { messages_per_s: max(1), ..QuotaTerms::default() };
    let fixture = with_overrides(terms, QuotaOverrides::default(), 2);
    let open = fixture.open("open").expect("open");
    fixture.take(&fixture.meter("owes"), 0).expect("taken");
    let refused = fixture.open("new").map(drop);
    assert_eq!(refused, exceeded(QuotaKind::Agents, RETRY_LATER));
    assert!(fixture.open("open").is_ok());
    fixture.world.clock.advance(SECOND);
    let new = fixture.open("new").expect("the one that owes nothing any more made room");
    assert_eq!(fixture.quotas.accounts(), 2);
    assert!(fixture.open("owes").is_err());
    drop((open, new));
    fixture.world.clock.advance(SECOND);
    assert!(fixture.open("owes").is_ok());
    assert_eq!(fixture.quotas.accounts(), 1);
}

#[test]
fn who_may_revoke_is_let_in_however_many_agents_there_are() {
    let fixture = with_overrides(QuotaTerms::default(), QuotaOverrides::default(), 1);
    let _open = fixture.open("open").expect("open");
    assert!(fixture.open("new").is_err());
    let operator = fixture.world.identity(&fixture.world.claims("operator").permission("admin.revoke"));
    assert!(fixture.quotas.open_call(operator).is_ok());
    assert_eq!(fixture.quotas.accounts(), 1);
}

#[test]
fn an_account_that_still_owes_is_not_forgotten() {
    let terms = QuotaTerms { messages_per_s: max(1), burst_s: NonZeroU32::new(5), ..QuotaTerms::default() };
    let fixture = with_overrides(terms, QuotaOverrides::default(), 1);
    let meter = fixture.meter("a");
    (0..5).for_each(|_| fixture.take(&meter, 0).expect("within the burst"));
    drop(meter);
    fixture.world.clock.advance(SECOND);
    assert!(fixture.open("b").is_err());
    let again = fixture.meter("a");
    assert_eq!([0; 2].map(|bytes| fixture.take(&again, bytes).is_ok()), [true, false]);
}

#[test]
fn a_clock_that_was_set_back_keeps_nobody_out_for_longer_than_a_burst() {
    let fixture = fixture(QuotaTerms { messages_per_s: max(1), ..QuotaTerms::default() });
    let meter = fixture.meter("a");
    let UnixMicros(now) = fixture.world.clock.now();
    assert_eq!(meter.take(UnixMicros(now), 0), Ok(()));
    let earlier = now - 3_600_000_000;
    assert!(meter.take(UnixMicros(earlier), 0).is_err());
    assert_eq!(meter.take(UnixMicros(earlier + 1_000_000), 0), Ok(()));
}

#[test]
fn tokens_with_different_terms_do_not_give_a_long_burst_again() {
    let terms = |per_s, burst_s| QuotaTerms {
        messages_per_s: max(per_s),
        burst_s: NonZeroU32::new(burst_s),
        ..QuotaTerms::default()
    };
    let bulk = [(RoleName::parse("bulk").expect("a role"), terms(2, 10))].into();
    let overrides = QuotaOverrides { roles: bulk, ..QuotaOverrides::default() };
    let fixture = with_overrides(terms(2, 1), overrides, 8);
    let open = |roles: &[&str]| fixture.quotas.open_call(fixture.identity("a", roles)).expect("open").meter();
    let (long, short) = (open(&["bulk"]), open(&[]));
    let taken = || std::iter::from_fn(|| fixture.take(&long, 1).ok()).count();
    assert_eq!(taken(), 20);
    assert!(fixture.take(&short, 1).is_err(), "one account");
    fixture.world.clock.advance(SECOND);
    assert!(fixture.take(&short, 1).is_err());
    assert_eq!(taken(), 2, "what comes in a second");
}
