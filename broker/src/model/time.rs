//! Points in time, and the clock that tells them: the system's, or one that a test moves.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Seconds since the Unix epoch (a JWT's `NumericDate` without fraction).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSeconds(pub i64);

/// Microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMicros(pub i64);

impl UnixMicros {
    /// The whole second that this lies in.
    #[must_use]
    pub const fn seconds(self) -> UnixSeconds {
        UnixSeconds(self.0.div_euclid(1_000_000))
    }
}

/// Tells the time, and how much of it passes: a clock may be set, and what it says for a moment must not decide anything for
/// good.
#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
    confirmed: Arc<Mutex<Confirmed>>,
}

#[derive(Debug, Clone)]
enum Source {
    System { started: Instant },
    Manual(Arc<Manual>),
}

/// In microseconds.
#[derive(Debug)]
struct Manual {
    now: AtomicI64,
    running: AtomicI64,
}

/// The latest moment that is known to have come, as of some running time.
#[derive(Debug)]
struct Confirmed {
    moment: UnixMicros,
    as_of: Duration,
    /// What the clock said then.
    said: UnixMicros,
    /// Since when the clock is ahead of what has passed.
    ahead_since: Option<Duration>,
    /// What the clock said when it was last set, or when this was made.
    steady_since: UnixMicros,
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// How long a clock that was set forward must go on saying so.
    pub const CONFIRMED_AFTER: Duration = Duration::from_secs(600);
    /// How far the clock and the time that passes may part before that counts as a step.
    const STEP_MIN: Duration = Duration::from_secs(2);

    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::of(Source::System { started: Instant::now() })
    }

    /// A clock that stands at `start` until [`Clock::advance`] or [`Clock::set`] moves it.
    #[must_use]
    pub fn manual(start: UnixSeconds) -> Self {
        let now = AtomicI64::new(start.0.saturating_mul(1_000_000));
        Self::of(Source::Manual(Arc::new(Manual { now, running: AtomicI64::new(0) })))
    }

    fn of(source: Source) -> Self {
        let now = source.now();
        let as_of = source.running();
        let confirmed = Confirmed { moment: now, as_of, said: now, ahead_since: None, steady_since: now };
        Self { source, confirmed: Arc::new(Mutex::new(confirmed)) }
    }

    /// Time passes on a manual clock, and every clone of it.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.source {
            let by = micros(by);
            manual.running.fetch_add(by, Ordering::SeqCst);
            manual.now.fetch_add(by, Ordering::SeqCst);
        }
    }

    /// A manual clock, and every clone of it, is set to another time. None passes.
    pub fn set(&self, to: UnixMicros) {
        if let Source::Manual(manual) = &self.source {
            manual.now.store(to.0, Ordering::SeqCst);
        }
    }

    /// What the clock says now.
    #[must_use]
    pub fn now(&self) -> UnixMicros {
        self.source.now()
    }

    /// How much time has passed since the clock was made, whatever it was set to.
    #[must_use]
    pub fn running(&self) -> Duration {
        self.source.running()
    }

    /// A moment that has come, as far as anybody can know: what the clock says, unless it was set forward less than
    /// [`Clock::CONFIRMED_AFTER`] ago. It never goes back. What cannot be undone goes by this.
    #[must_use]
    pub fn confirmed(&self) -> UnixMicros {
        self.look().moment
    }

    /// Nothing is known of the time before but that it had been `moment`: the clock may be wrong from the start.
    pub fn begin_at(&self, moment: UnixMicros) {
        let mut confirmed = self.look();
        confirmed.moment = confirmed.moment.min(moment);
    }

    /// Whether `end` has come, as far as anybody can know, for what began at `begun` by this clock: it is confirmed, or the
    /// clock was not set since `begun`.
    #[must_use]
    pub fn has_come(&self, end: UnixMicros, begun: UnixMicros) -> bool {
        let confirmed = self.look();
        end <= confirmed.said && (end <= confirmed.moment || confirmed.steady_since <= begun)
    }

    fn look(&self) -> MutexGuard<'_, Confirmed> {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, running) = (self.now(), self.running());
        let passed = micros(running.saturating_sub(confirmed.as_of));
        let expected = UnixMicros(confirmed.moment.0.saturating_add(passed));
        let step = now.0.saturating_sub(confirmed.said.0).saturating_sub(passed);
        if is_step(step) {
            confirmed.steady_since = now;
        }
        (confirmed.as_of, confirmed.said) = (running, now);
        if now.0 <= expected.0.saturating_add(micros(Self::STEP_MIN)) {
            confirmed.moment = confirmed.moment.max(now);
            confirmed.ahead_since = None;
        } else if running.saturating_sub(*confirmed.ahead_since.get_or_insert(running)) >= Self::CONFIRMED_AFTER {
            confirmed.moment = now;
            confirmed.ahead_since = None;
        } else {
            confirmed.moment = expected;
        }
        confirmed
    }
}

fn is_step(us: i64) -> bool {
    us.unsigned_abs() >= u64::try_from(Clock::STEP_MIN.as_micros()).unwrap_or(u64::MAX)
}

impl Source {
    fn now(&self) -> UnixMicros {
        match self {
            Self::Manual(manual) => UnixMicros(manual.now.load(Ordering::SeqCst)),
            Self::System { .. } => {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                UnixMicros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
            }
        }
    }

    fn running(&self) -> Duration {
        match self {
            Self::Manual(manual) => {
                Duration::from_micros(u64::try_from(manual.running.load(Ordering::SeqCst)).unwrap_or_default())
            }
            Self::System { started } => started.elapsed(),
        }
    }
}

/// Notices when a clock is set.
#[derive(Debug)]
pub struct StepWatch {
    clock: Clock,
    now: UnixMicros,
    running: Duration,
}

impl StepWatch {
    /// From now on.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let (now, running) = (clock.now(), clock.running());
        Self { clock, now, running }
    }

    /// By how much the clock was set since this was last asked, in microseconds: forward (positive) or back.
    pub fn step_us(&mut self) -> Option<i64> {
        let (now, running) = (self.clock.now(), self.clock.running());
        let passed = micros(running.saturating_sub(self.running));
        let step = now.0.saturating_sub(self.now.0).saturating_sub(passed);
        (self.now, self.running) = (now, running);
        is_step(step).then_some(step)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixSeconds = UnixSeconds(1_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(seconds: i64) -> UnixMicros {
        UnixMicros(seconds * 1_000_000)
    }

    #[test]
    fn what_the_clock_says_for_a_moment_is_not_confirmed() {
        let clock = Clock::manual(START);
        clock.advance(DAY);
        assert_eq!(clock.confirmed(), at(START.0 + 86_400), "time that passes is");
        clock.set(at(START.0 + 10 * 86_400));
        assert_eq!(clock.confirmed(), at(START.0 + 86_400));
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.confirmed(), at(START.0 + 86_402));
        clock.set(at(START.0 + 86_403));
        assert_eq!(clock.confirmed(), at(START.0 + 86_403));
    }

    #[test]
    fn a_clock_that_goes_on_saying_so_is_believed_and_none_takes_it_back() {
        let clock = Clock::manual(START);
        clock.set(at(START.0 + 86_400));
        assert_eq!(clock.confirmed(), at(START.0));
        clock.advance(Clock::CONFIRMED_AFTER);
        assert_eq!(clock.confirmed(), at(START.0 + 87_000));
        clock.set(at(START.0));
        assert_eq!(clock.confirmed(), at(START.0 + 87_000));
    }

    #[test]
    fn a_clock_may_be_wrong_from_the_start_and_what_began_under_it_ends_under_it() {
        let clock = Clock::manual(START);
        clock.begin_at(at(START.0 - 86_400));
        assert_eq!(clock.confirmed(), at(START.0 - 86_400));
        clock.advance(Duration::from_secs(60));
        let has_come = |end, begun| clock.has_come(at(START.0 + end), at(START.0 + begun));
        assert!(has_come(60, 0) && !has_come(61, 0), "a minute of this clock");
        assert!(!has_come(60, -1), "begun before that, it may have a day to go");
        clock.advance(Clock::CONFIRMED_AFTER);
        assert!(has_come(60, -1));
        clock.begin_at(at(START.0 + 9_000_000));
        assert_eq!(clock.confirmed(), at(START.0 + 660), "it never begins ahead");
    }

    #[test]
    fn a_step_is_told_from_time_that_passes_and_from_a_clock_that_is_slewed() {
        let clock = Clock::manual(START);
        let mut watch = StepWatch::new(clock.clone());
        clock.advance(DAY);
        assert_eq!(watch.step_us(), None);
        clock.set(UnixMicros(clock.now().0 + 1_999_999));
        assert_eq!(watch.step_us(), None);
        clock.set(UnixMicros(clock.now().0 + 90_000_000_000));
        assert_eq!((watch.step_us(), watch.step_us()), (Some(90_000_000_000), None));
        clock.advance(Duration::from_secs(1));
        clock.set(UnixMicros(clock.now().0 - 90_000_000_000));
        assert_eq!(watch.step_us(), Some(-90_000_000_000));
    }
}
