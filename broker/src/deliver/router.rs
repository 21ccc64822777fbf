//! Which subscriptions are live, and who is the audience of a message.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;

use super::queue::{Queue, QueueLimits};
use crate::{
    authenticate::Identity,
    decide::Permitted,
    metrics::Metrics,
    model::{Clock, SubscriptionId, Topic, TopicPattern},
    record::{Audience, Recipient},
};

/// How many recipients are remembered over all topics, until subscriptions change; a topic counts as one more.
const REMEMBERED_RECIPIENTS_MAX: usize = 262_144;

/// The live subscriptions.
pub struct Router {
    table: ArcSwap<Table>,
    changes: Mutex<()>,
    limits: QueueLimits,
    clock: Clock,
    pub(super) metrics: Metrics,
}

/// A live subscription.
pub(super) struct Subscription {
    pub(super) recipient: Recipient,
    pub(super) identity: Arc<Identity>,
    pub(super) patterns: Vec<TopicPattern>,
    pub(super) queue: Queue,
}

/// All subscriptions at one moment. A change makes a new table, so that readers never wait.
#[derive(Default)]
struct Table {
    subscriptions: BTreeMap<SubscriptionId, Arc<Subscription>>,
    routes: DashMap<Topic, Arc<Route>>,
    remembered: AtomicUsize,
}

/// Who listens to a topic, whatever the destination.
struct Route {
    subscriptions: Vec<Arc<Subscription>>,
    everybody: Arc<[Recipient]>,
}

impl Router {
    /// Without subscriptions.
    #[must_use]
    pub fn new(limits: QueueLimits, clock: Clock, metrics: Metrics) -> Self {
        Self { table: ArcSwap::default(), changes: Mutex::default(), limits, clock, metrics }
    }

    /// Everybody who is to get the message: whose subscription matches its topic, whose verified identity matches its
    /// destination, and whose token is still good.
    #[must_use]
    pub fn audience(&self, permitted: &Permitted) -> Audience {
        let message = permitted.message();
        let route = self.table.load().route(&message.topic);
        let now = self.clock.now();
        let may_have = |subscription: &Subscription| {
            let meant = message.destination.as_ref();
            meant.is_none_or(|to| subscription.identity.is_meant_by(to, permitted.sender()))
                && subscription.identity.check_standing(now).is_ok()
        };
        if route.subscriptions.iter().all(|subscription| may_have(subscription)) {
            return Audience::new(Arc::clone(&route.everybody));
        }
        let chosen = route.subscriptions.iter().filter(|subscription| may_have(subscription));
        Audience::new(chosen.map(|subscription| subscription.recipient.clone()).collect())
    }

    /// How many subscriptions are live.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.table.load().subscriptions.len()
    }

    pub(super) fn add(
        &self,
        id: SubscriptionId,
        identity: Arc<Identity>,
        patterns: Vec<TopicPattern>,
    ) -> Arc<Subscription> {
        let recipient =
            Recipient { subscription: id, issuer: identity.issuer().clone(), agent: identity.agent().clone() };
        let subscription = Arc::new(Subscription { recipient, identity, patterns, queue: Queue::new(self.limits) });
        self.change(|subscriptions| {
            subscriptions.insert(id, Arc::clone(&subscription));
        });
        self.metrics.subscriptions(1);
        subscription
    }

    /// Takes a subscription out, so that no later audience names it. Harmless if it is out already.
    pub(super) fn remove(&self, id: SubscriptionId) {
        if self.find(id).is_none() {
            return;
        }
        let mut was_there = false;
        self.change(|subscriptions| was_there = subscriptions.remove(&id).is_some());
        if was_there {
            self.metrics.subscriptions(-1);
        }
    }

    pub(super) fn find(&self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        self.table.load().subscriptions.get(&id).cloned()
    }

    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<SubscriptionId, Arc<Subscription>>)) {
        let _one_at_a_time = self.changes.lock();
        let mut subscriptions = self.table.load().subscriptions.clone();
        change(&mut subscriptions);
        self.table.store(Arc::new(Table { subscriptions, ..Table::default() }));
    }
}

impl Table {
    fn route(&self, topic: &Topic) -> Arc<Route> {
        if let Some(route) = self.routes.get(topic) {
            return Arc::clone(&route);
        }
        let listening =
            self.subscriptions.values().filter(|one| one.patterns.iter().any(|pattern| pattern.matches(topic)));
        let subscriptions: Vec<_> = listening.cloned().collect();
        let everybody = subscriptions.iter().map(|one| one.recipient.clone()).collect();
        let route = Arc::new(Route { subscriptions, everybody });
        let size = route.subscriptions.len() + 1;
        if self.remembered.fetch_add(size, Ordering::Relaxed) + size <= REMEMBERED_RECIPIENTS_MAX {
            self.routes.insert(topic.clone(), Arc::clone(&route));
        } else {
            self.remembered.fetch_sub(size, Ordering::Relaxed);
        }
        route
    }
}
