//! Puts committed messages into the queues of their audience, in index order, on the writer's thread.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    DROPPED_OLDEST, NARROWED,
    queue::{EndReason, Pushed},
    router::{Router, Subscription},
    usage::Charges,
};
use crate::{
    model::SubscriptionId,
    record::{Draft, Handover, Recipient, Recorded, UndeliveredCount},
};

/// The writer's other end.
pub struct Deliverer(Arc<Router>);

impl Deliverer {
    /// Delivers to the subscriptions of `router`.
    #[must_use]
    pub const fn new(router: Arc<Router>) -> Self {
        Self(router)
    }
}

impl Handover for Deliverer {
    fn hand_over(&mut self, batch: Vec<Recorded>) -> Vec<Draft> {
        let mut round = Round {
            router: &self.0,
            reached: BTreeMap::new(),
            missed: BTreeMap::new(),
            charges: Charges::default(),
            queued: 0,
        };
        for recorded in batch {
            let recorded = Arc::new(recorded);
            round.charges.begin(&recorded);
            for recipient in recorded.audience().recipients() {
                round.push(recipient, &recorded);
            }
        }
        round.finish()
    }
}

/// A live subscription. One whose session is over, or whose token is no longer good, takes nothing in: looked at once for
/// each batch, since a revocation takes effect on this thread, between two batches.
fn find(router: &Router, id: SubscriptionId) -> Option<Arc<Subscription>> {
    let subscription = router.find(id)?;
    if let Err(end) = subscription.session.check(router.clock().now()) {
        subscription.queue.end(EndReason::from(&end));
    }
    Some(subscription)
}

/// One batch on its way.
struct Round<'a> {
    router: &'a Router,
    reached: BTreeMap<SubscriptionId, Option<Arc<Subscription>>>,
    missed: BTreeMap<(SubscriptionId, &'static str), (Recipient, UndeliveredCount)>,
    charges: Charges,
    queued: i64,
}

impl Round<'_> {
    fn push(&mut self, recipient: &Recipient, recorded: &Arc<Recorded>) {
        let id = recipient.subscription;
        let subscription = self.reached.entry(id).or_insert_with(|| find(self.router, id));
        let index = recorded.decision_id().audit_index();
        // Gone since the audience was fixed.
        let Some(subscription) = subscription.clone() else {
            return self.miss(recipient, self.router.came_too_late(id).as_str(), index);
        };
        match subscription.queue.push(recorded, &mut self.charges) {
            Pushed::Queued => self.queued += 1,
            Pushed::NotPermitted => return self.miss(recipient, NARROWED, index),
            Pushed::Ended(reason) => {
                self.retire(&subscription, reason);
                return self.miss(recipient, reason.as_str(), index);
            }
            Pushed::Dropped(indexes) => {
                self.queued += 1;
                indexes.into_iter().for_each(|index| self.dropped(recipient, index));
            }
        }
        if self.router.excess(&subscription).is_some() {
            self.make_room(&subscription, index);
        }
    }

    /// Queues give way until no bound is passed any more: the fullest of an agent, one after the other, and the oldest messages
    /// of all its queues together, since they may be the same ones.
    fn make_room(&mut self, subscription: &Subscription, index: u64) {
        loop {
            let queues = self.router.to_give_way(subscription);
            if queues.is_empty() {
                return;
            }
            for other in &queues {
                match other.queue.give_way(index) {
                    Ok(dropped) => dropped.into_iter().for_each(|index| self.dropped(&other.recipient, index)),
                    Err(reason) => self.retire(other, reason),
                }
                if self.router.excess(subscription).is_none() {
                    return;
                }
            }
        }
    }

    fn dropped(&mut self, recipient: &Recipient, index: u64) {
        self.queued -= 1;
        self.miss(recipient, DROPPED_OLDEST, index);
    }

    /// A queue at its end: its reader may be stuck and never come to close it, so it is taken out here, and what still
    /// waits in it is reported now.
    fn retire(&mut self, subscription: &Subscription, reason: EndReason) {
        self.router.take_out(subscription, reason);
        if reason != EndReason::Draining {
            for message in subscription.queue.close(reason) {
                self.queued -= 1;
                self.miss(&subscription.recipient, reason.as_str(), message.decision_id().audit_index());
            }
        }
    }

    fn miss(&mut self, recipient: &Recipient, reason: &'static str, index: u64) {
        let count = || (recipient.clone(), UndeliveredCount::default());
        self.missed.entry((recipient.subscription, reason)).or_insert_with(count).1.add(index);
    }

    fn finish(self) -> Vec<Draft> {
        self.reached.values().flatten().for_each(|subscription| subscription.queue.announce());
        self.router.metrics.queued_deliveries(self.queued);
        let report = |((_, reason), (recipient, count)): (_, (Recipient, UndeliveredCount))| {
            self.router.metrics.undelivered(reason, count.messages());
            Draft::undelivered(&recipient, reason, &count)
        };
        self.missed.into_iter().map(report).collect()
    }
}
