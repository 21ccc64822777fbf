//! Which subscriptions are live, and who is the audience of a message.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use lru::LruCache;
use parking_lot::Mutex;

use super::{
    absences::{Absence, Absences},
    queue::{EndReason, Queue, QueueLimits},
    usage::{Excess, Usage},
};
use crate::{
    authenticate::{Identity, Session},
    decide::Permitted,
    metrics::Metrics,
    model::{Clock, SubscriptionId, Topic, TopicPattern},
    record::{Audience, Draft, Recipient, Recorded, UndeliveredCount},
};

/// How many recipients are remembered over all topics, until subscriptions change; a topic counts as one more.
const REMEMBERED_RECIPIENTS_MAX: usize = 262_144;

/// Of how many subscriptions it is remembered how they ended.
const DEPARTED_MAX: NonZeroUsize = match NonZeroUsize::new(4_096) {
    Some(max) => max,
    None => NonZeroUsize::MIN,
};

/// The live subscriptions.
pub struct Router {
    table: ArcSwap<Table>,
    changes: Mutex<()>,
    /// How subscriptions ended of late, for those who still find them in an audience.
    departed: Mutex<LruCache<SubscriptionId, Departed>>,
    absences: Arc<Absences>,
    limits: QueueLimits,
    /// What all queues hold, in bytes of memory.
    usage: Arc<AtomicUsize>,
    clock: Clock,
    pub(super) metrics: Metrics,
}

/// How a subscription ended, and itself as long as its reader has it.
struct Departed {
    reason: EndReason,
    subscription: Weak<Subscription>,
}

/// A live subscription.
pub(super) struct Subscription {
    pub(super) recipient: Recipient,
    pub(super) session: Arc<Session>,
    pub(super) grant: ArcSwap<Grant>,
    pub(super) queue: Queue,
}

/// What a subscriber may have, under the token that is in force.
pub(super) struct Grant {
    pub(super) identity: Arc<Identity>,
    pub(super) patterns: Vec<TopicPattern>,
}

impl Grant {
    /// Whether a message is among what was granted, and its destination means the subscriber.
    pub(super) fn covers(&self, permitted: &Permitted) -> bool {
        self.matches(&permitted.message().topic) && self.is_meant(permitted)
    }

    fn matches(&self, topic: &Topic) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(topic))
    }

    fn is_meant(&self, permitted: &Permitted) -> bool {
        let destination = permitted.message().destination.as_ref();
        destination.is_none_or(|to| self.identity.is_meant_by(to, permitted.sender()))
    }
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
    grants: Vec<(Recipient, Arc<Grant>)>,
    everybody: Audience,
}

impl Router {
    /// Without subscriptions.
    #[must_use]
    pub fn new(limits: QueueLimits, clock: Clock, metrics: Metrics) -> Self {
        let departed = Mutex::new(LruCache::new(DEPARTED_MAX));
        let (table, absences) = (ArcSwap::default(), Absences::new());
        Self { table, changes: Mutex::default(), departed, absences, limits, usage: Arc::default(), clock, metrics }
    }

    /// Everybody who is to get the message: whose subscription matches its topic, whose verified identity matches its
    /// destination, and whose token is still good.
    #[must_use]
    pub fn audience(&self, permitted: &Permitted) -> Audience {
        let route = self.table.load().route(&permitted.message().topic);
        let now = self.clock.now();
        let may_have = |grant: &Grant| grant.is_meant(permitted) && grant.identity.check_standing(now).is_ok();
        if route.grants.iter().all(|(_, grant)| may_have(grant)) {
            return route.everybody.clone();
        }
        let chosen = route.grants.iter().filter(|(_, grant)| may_have(grant));
        Audience::new(chosen.map(|(recipient, _)| recipient.clone()).collect())
    }

    /// How many subscriptions are live.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.table.load().subscriptions.len()
    }

    /// Since when an agent has been in no audience who was cut off as too slow and comes back.
    #[must_use]
    pub fn absence(&self, identity: &Identity) -> Option<Absence> {
        self.absences.end(identity)
    }

    pub(super) fn add(
        &self,
        id: SubscriptionId,
        session: Arc<Session>,
        patterns: Vec<TopicPattern>,
    ) -> Arc<Subscription> {
        let identity = session.identity();
        let recipient =
            Recipient { subscription: id, issuer: identity.issuer().clone(), agent: identity.agent().clone() };
        let grant = ArcSwap::from_pointee(Grant { identity, patterns });
        let subscription = self.change(|subscriptions| {
            let same_agent = |other: &&Arc<Subscription>| {
                (&other.recipient.issuer, &other.recipient.agent) == (&recipient.issuer, &recipient.agent)
            };
            let usage = subscriptions.values().find(same_agent).map(|other| Arc::clone(&other.queue.usage));
            let usage = usage.unwrap_or_else(|| Arc::new(Usage::new(Arc::clone(&self.usage))));
            let queue = Queue::new(self.limits, self.clock.clone(), usage);
            let subscription = Arc::new(Subscription { recipient, session, grant, queue });
            subscriptions.insert(id, Arc::clone(&subscription));
            subscription
        });
        self.metrics.subscriptions(1);
        subscription
    }

    /// Whose queues are to give way after a message was put into that of `subscription`, the fullest first: where its agent
    /// holds more than its share, that agent's, and where all hold too much, those of the agent that holds most.
    pub(super) fn to_give_way(&self, subscription: &Subscription) -> Vec<Arc<Subscription>> {
        let Some(excess) = self.excess(subscription) else { return Vec::new() };
        let table = self.table.load();
        let all = || table.subscriptions.values();
        let most = || all().map(|one| &one.queue.usage).max_by_key(|usage| usage.bytes());
        let usage = match excess {
            Excess::Agent => Some(&subscription.queue.usage),
            Excess::All => most(),
        };
        let of_agent = all().filter(|one| usage.is_some_and(|usage| Arc::ptr_eq(&one.queue.usage, usage)));
        let mut queues: Vec<_> = of_agent.map(|one| (one.queue.bytes(), Arc::clone(one))).collect();
        queues.sort_by_key(|(bytes, _)| Reverse(*bytes));
        queues.into_iter().filter(|(bytes, _)| *bytes > 0).map(|(_, one)| one).collect()
    }

    /// Which bound is passed by the agent of a subscription, or by all.
    pub(super) fn excess(&self, subscription: &Subscription) -> Option<Excess> {
        subscription.queue.usage.excess(self.limits.all_bytes_max)
    }

    /// Narrows a subscription, or widens it again: later audiences go by what is granted now, and so does what waits in
    /// its queue. Returns what waited and is no longer permitted.
    pub(super) fn regrant(&self, subscription: &Subscription, grant: Grant) -> Vec<Arc<Recorded>> {
        let grant = Arc::new(grant);
        subscription.grant.store(Arc::clone(&grant));
        self.change(|_| {});
        subscription.queue.narrow(grant)
    }

    /// Takes subscriptions out for which `end` has a reason: when this returns, nothing more of their queues is handed
    /// over. Returns what is to be recorded of what they did not get.
    #[must_use]
    pub fn retire(&self, end: impl Fn(&Session) -> Option<EndReason>) -> Vec<Draft> {
        let table = self.table.load();
        let ending = table.subscriptions.values().filter_map(|one| Some((one, end(&one.session)?)));
        let (mut retired, mut drafts) = (Vec::new(), Vec::new());
        for (subscription, reason) in ending {
            let missed = subscription.queue.close(reason);
            drafts.extend(self.missed(&subscription.recipient, reason.as_str(), &missed));
            retired.push((subscription.recipient.subscription, reason));
        }
        self.remove(&retired);
        drafts
    }

    /// Cuts off the subscribers whose queues stayed over their bound for too long, whether or not anything more comes for
    /// them. Returns what is to be recorded of what they did not get.
    #[must_use]
    pub fn retire_stalled(&self) -> Vec<Draft> {
        let table = self.table.load();
        let stalled = table.subscriptions.values().filter(|one| one.queue.end_if_stalled());
        let retire = |one: &Arc<Subscription>| {
            self.take_out(one, EndReason::SlowSubscriber);
            let missed = one.queue.close(EndReason::SlowSubscriber);
            self.missed(&one.recipient, EndReason::SlowSubscriber.as_str(), &missed)
        };
        stalled.filter_map(retire).collect()
    }

    /// Counts what waited for a subscriber and was not handed over; what is to be recorded of it.
    pub(super) fn missed(
        &self,
        recipient: &Recipient,
        reason: &'static str,
        missed: &[Arc<Recorded>],
    ) -> Option<Draft> {
        let mut count = UndeliveredCount::default();
        missed.iter().for_each(|message| count.add(message.decision_id().audit_index()));
        self.metrics.queued_deliveries(-i64::try_from(missed.len()).unwrap_or(i64::MAX));
        self.metrics.undelivered(reason, count.messages());
        (count.messages() > 0).then(|| Draft::undelivered(recipient, reason, &count))
    }

    /// Takes one subscription out. If it was cut off as too slow, its agent's next one finds since when.
    pub(super) fn take_out(&self, subscription: &Subscription, reason: EndReason) {
        self.absences.begin(&subscription.recipient, &subscription.queue);
        self.remove(&[(subscription.recipient.subscription, reason)]);
    }

    /// Takes subscriptions out, so that no later audience names them. Harmless for those that are out already.
    fn remove(&self, ended: &[(SubscriptionId, EndReason)]) {
        if ended.iter().all(|(id, _)| self.find(*id).is_none()) {
            return;
        }
        let mut removed = Vec::new();
        self.change(|subscriptions| {
            removed = ended.iter().filter_map(|(id, reason)| Some((subscriptions.remove(id)?, *reason))).collect();
        });
        self.metrics.subscriptions(-i64::try_from(removed.len()).unwrap_or(i64::MAX));
        let mut departed = self.departed.lock();
        for (subscription, reason) in removed {
            let id = subscription.recipient.subscription;
            departed.put(id, Departed { reason, subscription: Arc::downgrade(&subscription) });
        }
    }

    /// A message came for a subscription that is not live any more: it counts among what that did not get. Why it ended, as
    /// far as that is remembered.
    pub(super) fn came_too_late(&self, id: SubscriptionId) -> EndReason {
        let mut departed = self.departed.lock();
        let Some(Departed { reason, subscription }) = departed.get(&id) else { return EndReason::ClientGone };
        if let Some(subscription) = subscription.upgrade() {
            subscription.queue.came_too_late();
        }
        *reason
    }

    pub(super) fn find(&self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        self.table.load().subscriptions.get(&id).cloned()
    }

    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<SubscriptionId, Arc<Subscription>>) -> T) -> T {
        let _one_at_a_time = self.changes.lock();
        let mut subscriptions = self.table.load().subscriptions.clone();
        let changed = change(&mut subscriptions);
        self.table.store(Arc::new(Table { subscriptions, ..Table::default() }));
        changed
    }
}

impl Table {
    fn route(&self, topic: &Topic) -> Arc<Route> {
        if let Some(route) = self.routes.get(topic) {
            return Arc::clone(&route);
        }
        let grants = self.subscriptions.values().map(|one| (one.recipient.clone(), one.grant.load_full()));
        let grants: Vec<_> = grants.filter(|(_, grant)| grant.matches(topic)).collect();
        let everybody = Audience::new(grants.iter().map(|(recipient, _)| recipient.clone()).collect());
        let route = Arc::new(Route { grants, everybody });
        let size = route.grants.len() + 1;
        if self.remembered.fetch_add(size, Ordering::Relaxed) + size <= REMEMBERED_RECIPIENTS_MAX {
            self.routes.insert(topic.clone(), Arc::clone(&route));
        } else {
            self.remembered.fetch_sub(size, Ordering::Relaxed);
        }
        route
    }
}
