//! One rate: the generic cell rate algorithm, virtual scheduling (ITU-T I.371, appendix).
//!
//! What is kept is the moment at which everything taken so far would have arrived, had it come evenly: up to `burst`
//! ahead of now there is room.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use crate::model::UnixMicros;

const NS_PER_S: u64 = 1_000_000_000;

/// A moment in nanoseconds since the Unix epoch, or of running time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(u64);

impl From<UnixMicros> for Nanos {
    fn from(UnixMicros(micros): UnixMicros) -> Self {
        Self(u64::try_from(micros).unwrap_or(0).saturating_mul(1_000))
    }
}

impl From<Duration> for Nanos {
    fn from(running: Duration) -> Self {
        Self(nanos(running))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// So many units in each period, of which what comes in some time may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    units: NonZeroU64,
    period_ns: u64,
    burst_ns: u64,
}

/// How far ahead of now what was taken may be. None to begin with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Burst(u64);

impl Burst {
    /// What is owed at most: after a burst everything is owed. To be kept, so that a clock that was set back keeps nobody
    /// out for longer than that.
    pub(super) fn settle(self, due: Nanos, now: Nanos) -> Nanos {
        due.min(Nanos(now.0.saturating_add(self.0)))
    }
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// There will be after this long.
    For(Duration),
    /// There never will be: it is more than comes in a whole burst.
    ForEver,
}

impl Rate {
    /// So many units a second, of which some seconds' worth may come at once.
    pub(super) const fn new(per_s: NonZeroU64, burst_s: NonZeroU32) -> Self {
        Self { units: per_s, period_ns: NS_PER_S, burst_ns: burst_s.get() as u64 * NS_PER_S }
    }

    /// At most so many units in any stretch of time as long as `period`: half of them may come at once, and half evenly.
    #[must_use]
    pub fn within(units: NonZeroU64, period: Duration) -> Self {
        let burst_ns = nanos(period);
        Self { units, period_ns: burst_ns.saturating_mul(2), burst_ns }
    }

    /// What may come at once.
    pub(super) const fn burst(self) -> Burst {
        Burst(self.burst_ns)
    }

    /// What a settled `due` becomes when so many units are taken now.
    ///
    /// # Errors
    ///
    /// There is no room for them.
    pub fn take(self, due: Nanos, now: Nanos, units: u64) -> Result<Nanos, Shortage> {
        let cost = u128::from(units) * u128::from(self.period_ns) / u128::from(self.units.get());
        let Some(cost) = u64::try_from(cost).ok().filter(|cost| *cost <= self.burst_ns) else {
            return Err(Shortage::ForEver);
        };
        let next = due.max(now).0.saturating_add(cost);
        match (next - now.0).checked_sub(self.burst_ns) {
            None | Some(0) => Ok(Nanos(next)),
            Some(short) => Err(Shortage::For(Duration::from_nanos(short))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_s: u64, burst_s: u32) -> Rate {
        Rate::new(NonZeroU64::new(per_s).expect("some"), NonZeroU32::new(burst_s).expect("some"))
    }

    fn ms(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_evenly() {
        for per_s in [1, 3, 7, 1_000] {
            let rate = rate(per_s, 2);
            let mut due = Nanos::default();
            for _ in 0..2 * per_s {
                due = rate.take(due, ms(5_000), 1).expect("within the burst");
            }
            let Err(Shortage::For(wait)) = rate.take(due, ms(5_000), 1) else { panic!("beyond the burst") };
            let later = Nanos(ms(5_000).0 + u64::try_from(wait.as_nanos()).expect("short"));
            assert!(rate.take(due, Nanos(later.0 - 1), 1).is_err());
            assert!(rate.take(due, later, 1).is_ok());
        }
    }

    #[test]
    fn more_than_a_burst_never_passes() {
        assert_eq!(rate(1_000, 2).take(Nanos(0), ms(0), 2_001), Err(Shortage::ForEver));
        assert!(rate(1_000, 2).take(Nanos(0), ms(0), 2_000).is_ok());
        assert_eq!(rate(1, 1).take(Nanos(0), ms(0), u64::MAX), Err(Shortage::ForEver));
    }

    #[test]
    fn no_stretch_as_long_as_the_period_takes_more_than_the_units() {
        let day = Rate::within(NonZeroU64::new(1_000).expect("some"), Duration::from_secs(86_400));
        let (mut due, mut taken) = (Nanos::default(), 0);
        for second in 0..86_400 {
            while let Ok(next) = day.take(due, ms(second * 1_000), 1) {
                (due, taken) = (next, taken + 1);
            }
            assert!(second > 0 || taken == 500, "half of it at once: {taken}");
        }
        assert!((999..=1_000).contains(&taken), "{taken}");
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nobody_out_for_longer_than_a_burst() {
        let rate = rate(10, 3);
        let due = rate.take(Nanos(0), ms(1_000_000), 30).expect("a burst");
        let due = rate.burst().settle(due, ms(0));
        assert_eq!(rate.take(due, ms(0), 1), Err(Shortage::For(Duration::from_millis(100))));
        assert!(rate.take(rate.burst().settle(due, ms(100)), ms(100), 1).is_ok());
    }

    proptest! {
        /// In any stretch of time no more passes than the burst and what comes in it; and nothing is refused that would
        /// have fitted.
        #[test]
        fn no_more_and_no_less_than_the_rate_passes(
            per_s in 1_u64..5_000,
            burst_s in 1_u32..4,
            steps in prop::collection::vec((0_u64..700, 1_u64..3_000), 1..80),
        ) {
            let rate = rate(per_s, burst_s);
            let (mut due, mut now) = (Nanos::default(), 1_000);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (pause, units) in steps {
                now += pause;
                let fits = |taken: &[(u64, u64)]| (0..=taken.len()).all(|from| {
                    let since = taken.get(from).map_or(now, |(at, _)| *at);
                    let sum: u64 = units + taken[from.min(taken.len())..].iter().map(|(_, units)| units).sum::<u64>();
                    sum * 1_000 <= per_s * (u64::from(burst_s) * 1_000 + (now - since)) + taken.len() as u64
                });
                match rate.take(due, ms(now), units) {
                    Ok(next) => {
                        prop_assert!(fits(&taken));
                        due = next;
                        taken.push((now, units));
                    }
                    Err(Shortage::ForEver) => prop_assert!(units > per_s * u64::from(burst_s)),
                    Err(Shortage::For(wait)) => {
                        prop_assert!(wait > Duration::ZERO && wait <= Duration::from_secs(burst_s.into()));
                        let later = Nanos(ms(now).0 + u64::try_from(wait.as_nanos()).expect("short"));
                        prop_assert!(rate.take(due, later, units).is_ok());
                        prop_assert!(!fits(&taken) || wait < Duration::from_micros(1));
                    }
                }
            }
        }
    }
}
