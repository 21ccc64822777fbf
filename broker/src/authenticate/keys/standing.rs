//! Until when a key counts.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use crate::model::UnixMicros;

/// Until when a verification key counts. Whoever was recognised by the key holds on to this, so that a key that is
/// withdrawn, or whose issuer is silent for too long, ends what it vouched for.
#[derive(Debug)]
pub struct KeyStanding {
    /// Before this, the clock was set back since the issuer listed the key: how old that is cannot be said.
    good_from_us: AtomicI64,
    good_until_us: AtomicI64,
}

impl KeyStanding {
    /// Of a key that is not withdrawn while the broker runs.
    pub(super) const fn lasting() -> Self {
        Self { good_from_us: AtomicI64::new(i64::MIN), good_until_us: AtomicI64::new(i64::MAX) }
    }

    /// Whether the key counts at this moment.
    #[must_use]
    pub fn is_good(&self, now: UnixMicros) -> bool {
        now.0 < self.good_until_us.load(Ordering::Acquire) && now.0 >= self.good_from_us.load(Ordering::Acquire)
    }

    /// For this long after it was listed, and no longer if the clock was ahead then and is set right: not for more than the
    /// same time before.
    pub(super) fn count_for(&self, ttl: Duration, listed_at: UnixMicros) {
        let ttl_us = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
        self.good_from_us.store(listed_at.0.saturating_sub(ttl_us), Ordering::Release);
        self.good_until_us.store(listed_at.0.saturating_add(ttl_us), Ordering::Release);
    }

    /// For good: a key that is listed again later gets a standing of its own.
    pub(super) fn withdraw(&self) {
        self.good_until_us.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_until_its_end_or_its_withdrawal() {
        let standing = KeyStanding::lasting();
        assert!(standing.is_good(UnixMicros(i64::MAX - 1)));
        let ttl = Duration::from_micros(5);
        standing.count_for(ttl, UnixMicros(5));
        assert!(standing.is_good(UnixMicros(9)));
        assert!(!standing.is_good(UnixMicros(10)));
        standing.count_for(ttl, UnixMicros(15));
        assert!(standing.is_good(UnixMicros(10)) && standing.is_good(UnixMicros(19)));
        assert!(!standing.is_good(UnixMicros(9)), "listed by a clock that was ahead, it does not count for longer");
        standing.withdraw();
        assert!(!standing.is_good(UnixMicros(10)));
    }
}
