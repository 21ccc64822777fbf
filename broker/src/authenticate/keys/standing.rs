//! Until when a key counts.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::model::UnixMicros;

/// Until when a verification key counts. Whoever was recognised by the key holds on to this, so that a key that is
/// withdrawn, or whose issuer is silent for too long, ends what it vouched for.
#[derive(Debug)]
pub struct KeyStanding {
    good_until_us: AtomicI64,
}

impl KeyStanding {
    /// Of a key that is not withdrawn while the broker runs.
    pub(super) const fn lasting() -> Self {
        Self { good_until_us: AtomicI64::new(i64::MAX) }
    }

    /// Whether the key counts at this moment.
    #[must_use]
    pub fn is_good(&self, now: UnixMicros) -> bool {
        now.0 < self.good_until_us.load(Ordering::Acquire)
    }

    pub(super) fn count_until(&self, end: UnixMicros) {
        self.good_until_us.store(end.0, Ordering::Release);
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
        standing.count_until(UnixMicros(10));
        assert!(standing.is_good(UnixMicros(9)));
        assert!(!standing.is_good(UnixMicros(10)));
        standing.count_until(UnixMicros(20));
        assert!(standing.is_good(UnixMicros(10)));
        standing.withdraw();
        assert!(!standing.is_good(UnixMicros(10)));
    }
}
