//! The bound of an evaluation: counted in steps, so that a busy machine decides as an idle one does.
//!
//! `regorus` asks a clock every so many units of work whether to go on. The clock that it is given here counts these
//! questions instead of reading time, one meter a thread, and says that time is over when the steps are. Wall-clock time
//! is the last net only, two orders of magnitude wider than what a policy takes.

use std::{
    cell::Cell,
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
    time::{Duration, Instant},
};

use regorus::utils::limits::{ExecutionTimerConfig, TimeSource, set_time_source};
use thiserror::Error;

/// How many steps pass between two looks: each takes a lock that all evaluations share.
const STEPS_PER_LOOK: u32 = 64;
/// Longest that an evaluation may take, however busy the machine is.
const WALL_CLOCK_MAX: Duration = Duration::from_secs(5);
/// What an evaluation finds free of stack, in bytes: the deepest policy that loads takes less than a quarter of it.
pub(super) const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Why an evaluation was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Interruption {
    /// It took more steps than it may.
    #[error("took more than {0} steps")]
    Steps(u64),
    /// It took longer than any evaluation should, in few steps.
    #[error("took longer than {WALL_CLOCK_MAX:?}")]
    WallClock,
    /// The engine panicked.
    #[error("the engine panicked")]
    Panic,
}

#[derive(Clone, Copy)]
struct Meter {
    steps: u64,
    steps_max: u64,
    started: Instant,
    interruption: Option<Interruption>,
}

thread_local! {
    static METER: Cell<Option<Meter>> = const { Cell::new(None) };
}

struct StepCounter;

impl TimeSource for StepCounter {
    fn now(&self) -> Option<Duration> {
        METER.with(|cell| {
            let Some(mut meter) = cell.get() else { return Some(Duration::ZERO) };
            meter.steps += u64::from(STEPS_PER_LOOK);
            if meter.steps > meter.steps_max {
                meter.interruption.get_or_insert(Interruption::Steps(meter.steps_max));
            } else if meter.started.elapsed() > WALL_CLOCK_MAX {
                meter.interruption.get_or_insert(Interruption::WallClock);
            }
            cell.set(Some(meter));
            Some(if meter.interruption.is_some() { Duration::MAX } else { Duration::ZERO })
        })
    }
}

/// Makes the steps be counted, once for the process.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        if let Err(error) = set_time_source(&StepCounter) {
            tracing::error!(%error, "steps of policies are not counted");
        }
    });
}

pub(super) fn timer() -> ExecutionTimerConfig {
    let check_interval = NonZeroU32::new(STEPS_PER_LOOK).unwrap_or(NonZeroU32::MIN);
    ExecutionTimerConfig { limit: Duration::from_secs(1), check_interval }
}

/// Runs one evaluation within its bounds: steps, stack, and what a panic may end.
///
/// # Errors
/// [`Interruption`]; the engine that was in use is not to be used again.
pub(super) fn run<T>(steps_max: u64, evaluation: impl FnOnce() -> T) -> Result<(T, u64), Interruption> {
    METER.set(Some(Meter { steps: 0, steps_max, started: Instant::now(), interruption: None }));
    let outcome = stacker::maybe_grow(STACK_BYTES, STACK_BYTES, || catch_unwind(AssertUnwindSafe(evaluation)));
    let meter = METER.take();
    if let Some(interruption) = meter.and_then(|meter| meter.interruption) {
        return Err(interruption);
    }
    outcome.map(|value| (value, meter.map_or(0, |meter| meter.steps))).map_err(|_| Interruption::Panic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_its_own_evaluation_only() {
        assert_eq!(run(1_000, || panic!("as a builtin does")), Err::<((), u64), _>(Interruption::Panic));
        assert_eq!(run(1_000, || 7), Ok((7, 0)));
    }
}
