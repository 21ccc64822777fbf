//! How much may be done for one message: a budget of steps, spent by every pass over any of its views.
//!
//! A *step* is one byte that one pass looks at, or what costs about as much. A pass spends before it runs where its work
//! is linear in what it is given, and as it goes where it may look at a byte again or gives more than it takes.

/// Steps for each byte of a message,
pub const WORK_FACTOR: usize = 128;
/// and these on top, for what small messages unpack to.
pub const WORK_FLOOR: usize = 2 * 1024 * 1024;

/// What it costs to note a finding, in steps.
pub(super) const HIT_STEPS: usize = 128;

/// The steps that a message of the given size, in bytes, may take.
#[must_use]
pub const fn work_max(size_bytes: usize) -> usize {
    size_bytes.saturating_mul(WORK_FACTOR).saturating_add(WORK_FLOOR)
}

/// The steps that one message may take, and those that are left.
#[derive(Debug)]
pub(super) struct Work {
    max: usize,
    left: usize,
    exhausted: bool,
}

impl Work {
    /// For a message of the given size, in bytes.
    pub(super) const fn new(size_bytes: usize) -> Self {
        let max = work_max(size_bytes);
        Self { max, left: max, exhausted: false }
    }

    /// Takes steps. `false` if too few are left: then none are, and nothing more is to be done for the message.
    #[inline]
    pub(super) const fn spend(&mut self, steps: usize) -> bool {
        self.exhausted |= steps > self.left;
        self.left = if self.exhausted { 0 } else { self.left - steps };
        !self.exhausted
    }

    /// How many steps are left.
    pub(super) const fn left(&self) -> usize {
        self.left
    }

    /// How many steps were spent.
    pub(super) const fn spent(&self) -> usize {
        self.max - self.left
    }

    /// Whether something was not looked at.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.exhausted
    }
}

/// Counts what the loop of a pass really looks at, in bytes, which tests compare with what the pass spent.
#[cfg(not(test))]
#[inline(always)]
pub(super) const fn looked_at(_: usize) {}

#[cfg(test)]
pub(super) use counted::looked_at;

#[cfg(test)]
pub(super) mod counted {
    use std::cell::Cell;

    thread_local! {
        static BYTES: Cell<usize> = const { Cell::new(0) };
    }

    pub(in crate::inspect) fn looked_at(bytes: usize) {
        BYTES.set(BYTES.get() + bytes);
    }

    /// What this thread looked at since the last call.
    pub(in crate::inspect) fn take() -> usize {
        BYTES.take()
    }
}
