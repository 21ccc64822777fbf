//! Memory for what agents send, until it is answered.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What requests may take that are being received, in all and of one agent.
#[derive(Debug, Clone)]
pub struct ReceiveBudget {
    pub(super) total: Arc<Semaphore>,
    pub(super) of_agent: Arc<Semaphore>,
    pub(super) of_agent_max: u32,
}

/// The part of a [`ReceiveBudget`] that one request holds, until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    total: Option<OwnedSemaphorePermit>,
    of_agent: Option<OwnedSemaphorePermit>,
}

impl ReceiveBudget {
    /// Waits for so many bytes, first come, first served. What is larger than an agent's part takes all of that.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let permits = self.permits(bytes);
        // Neither is ever closed.
        let of_agent = Arc::clone(&self.of_agent).acquire_many_owned(permits).await.ok();
        let total = Arc::clone(&self.total).acquire_many_owned(permits).await.ok();
        Reservation { total, of_agent }
    }

    /// The same, where there is no need to wait.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let permits = self.permits(bytes);
        let of_agent = Arc::clone(&self.of_agent).try_acquire_many_owned(permits).ok()?;
        let total = Arc::clone(&self.total).try_acquire_many_owned(permits).ok()?;
        Some(Reservation { total: Some(total), of_agent: Some(of_agent) })
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.of_agent_max)
    }
}

impl Reservation {
    /// The request is received, and takes so many bytes of its agent's part, or what it has, until it is answered. Others are not kept waiting
    /// by an agent that takes no answers.
    pub fn received(&mut self, bytes: usize) {
        self.total = None;
        if let Some(held) = &mut self.of_agent {
            let surplus = held.num_permits().saturating_sub(bytes);
            drop(held.split(surplus));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(total: &Arc<Semaphore>) -> ReceiveBudget {
        ReceiveBudget { total: Arc::clone(total), of_agent: Arc::new(Semaphore::new(100)), of_agent_max: 100 }
    }

    #[tokio::test]
    async fn no_agent_takes_more_than_its_part_and_what_is_received_holds_up_no_other() {
        let total = Arc::new(Semaphore::new(150));
        let (one, other) = (budget(&total), budget(&total));
        let mut all = one.reserve(1_000_000).await;
        assert!(one.try_reserve(1).is_none() && other.try_reserve(51).is_none());
        let rest = other.try_reserve(50).expect("the rest");
        all.received(80);
        assert!(one.try_reserve(21).is_none() && one.try_reserve(20).is_some());
        assert_eq!(total.available_permits(), 100);
        drop((all, rest));
        assert_eq!((total.available_permits(), one.of_agent.available_permits()), (150, 100));
    }
}
