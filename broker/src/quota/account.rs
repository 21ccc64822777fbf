//! What one agent uses at the moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    exceeded::{QuotaExceeded, QuotaKind},
    quotas::ReceiveLimits,
    rate::{Burst, Nanos, Rate, Shortage},
    receive::ReceiveBudget,
    table::{Allowance, QuotaTable},
};
use crate::{
    authenticate::Identity,
    model::{Ceiling, UnixMicros},
};

/// When to come again where nobody can know when something ends.
pub(super) const RETRY_LATER: Duration = Duration::from_secs(1);

/// Shared by all calls of an agent.
#[derive(Debug)]
pub(super) struct Account {
    /// What its requests may take that are not answered yet, in bytes.
    received: Arc<Semaphore>,
    dues: Mutex<Dues>,
    streams: AtomicU64,
    subscriptions: AtomicU64,
}

/// Up to when each rate is used.
#[derive(Debug, Clone, Copy, Default)]
struct Dues {
    messages: Nanos,
    bytes: Nanos,
    /// The longest burst under which anything was taken. An agent may hold tokens with different terms: what it took under
    /// those of one is not forgiven under the shorter burst of another, or it would have the long one again at once.
    longest: Burst,
}

impl Account {
    pub(super) fn new(received_bytes_max: u32) -> Self {
        Self {
            received: Arc::new(Semaphore::new(received_bytes_max as usize)),
            dues: Mutex::default(),
            streams: AtomicU64::new(0),
            subscriptions: AtomicU64::new(0),
        }
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_idle(self: &Arc<Self>, now: UnixMicros) -> bool {
        let Dues { messages, bytes, .. } = *self.dues.lock();
        Arc::strong_count(self) == 1 && messages.max(bytes) <= now.into()
    }

    fn take(&self, allowance: &Allowance, now: UnixMicros, bytes: u64) -> Result<(), QuotaExceeded> {
        let mut dues = self.dues.lock();
        let bursts = [allowance.messages, allowance.bytes].into_iter().flatten().map(Rate::burst);
        dues.longest = bursts.fold(dues.longest, Ord::max);
        dues.messages = dues.longest.settle(dues.messages, now.into());
        dues.bytes = dues.longest.settle(dues.bytes, now.into());
        let of_messages = due(QuotaKind::Messages, allowance.messages, dues.messages, now, 1);
        let of_bytes = due(QuotaKind::Bytes, allowance.bytes, dues.bytes, now, bytes);
        match (of_messages, of_bytes) {
            (Ok(messages), Ok(bytes)) => {
                *dues = Dues { messages, bytes, ..*dues };
                Ok(())
            }
            (Err(one), Ok(_)) | (Ok(_), Err(one)) => Err(one),
            (Err(one), Err(other)) => Err(worse(one, other)),
        }
    }
}

fn due(kind: QuotaKind, rate: Option<Rate>, due: Nanos, now: UnixMicros, units: u64) -> Result<Nanos, QuotaExceeded> {
    let Some(rate) = rate else { return Ok(due) };
    rate.take(due, now.into(), units).map_err(|shortage| match shortage {
        Shortage::For(wait) => QuotaExceeded { kind, retry_after: Some(wait) },
        Shortage::ForEver => QuotaExceeded { kind, retry_after: None },
    })
}

/// The one that lasts longer.
fn worse(one: QuotaExceeded, other: QuotaExceeded) -> QuotaExceeded {
    let lasts = |exceeded: &QuotaExceeded| exceeded.retry_after.unwrap_or(Duration::MAX);
    if lasts(&one) >= lasts(&other) { one } else { other }
}

/// One of a bounded number, until it is dropped.
#[derive(Debug)]
struct Place {
    account: Arc<Account>,
    counter: fn(&Account) -> &AtomicU64,
}

impl Place {
    fn take(
        account: &Arc<Account>,
        counter: fn(&Account) -> &AtomicU64,
        max: Ceiling,
        kind: QuotaKind,
    ) -> Result<Self, QuotaExceeded> {
        let next = |taken: u64| match max {
            Ceiling::Max(max) if taken >= max.get() => None,
            Ceiling::Max(_) | Ceiling::Unlimited => taken.checked_add(1),
        };
        let refused = |_| QuotaExceeded { kind, retry_after: Some(RETRY_LATER) };
        counter(account).fetch_update(Ordering::AcqRel, Ordering::Acquire, next).map_err(refused)?;
        Ok(Self { account: Arc::clone(account), counter })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.counter)(&self.account).fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call's place among those that its agent has open.
#[derive(Debug)]
pub struct OpenCall {
    _place: Place,
    meter: Meter,
}

/// A subscription's place among those that its agent has open.
#[derive(Debug)]
pub struct OpenSubscription {
    _place: Place,
}

/// Measures what passes in one call.
#[derive(Debug, Clone)]
pub struct Meter {
    account: Arc<Account>,
    tables: Arc<ArcSwap<QuotaTable>>,
    receive: Arc<ReceiveLimits>,
    /// By which the allowance was looked up.
    table: Arc<QuotaTable>,
    identity: Arc<Identity>,
    allowance: Allowance,
}

impl OpenCall {
    pub(super) fn open(
        account: Arc<Account>,
        tables: &Arc<ArcSwap<QuotaTable>>,
        receive: &Arc<ReceiveLimits>,
        identity: Arc<Identity>,
    ) -> Result<Self, QuotaExceeded> {
        let table = tables.load_full();
        let allowance = table.allowance(&identity);
        let place = Place::take(&account, |account| &account.streams, allowance.streams, QuotaKind::Streams)?;
        let (tables, receive) = (Arc::clone(tables), Arc::clone(receive));
        Ok(Self { _place: place, meter: Meter { account, tables, receive, table, identity, allowance } })
    }

    /// What measures the call.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }
}

impl Meter {
    /// Goes by the token and the terms that are in force now: a fresh token may give other roles.
    pub fn follow(&mut self, identity: &Arc<Identity>) {
        let table = self.tables.load();
        if !Arc::ptr_eq(&self.identity, identity) || !Arc::ptr_eq(&self.table, &table) {
            self.allowance = table.allowance(identity);
            self.identity = Arc::clone(identity);
            self.table = Arc::clone(&table);
        }
    }

    /// Whether messages are measured at all.
    #[must_use]
    pub const fn has_rates(&self) -> bool {
        self.allowance.messages.is_some() || self.allowance.bytes.is_some()
    }

    /// Takes one message of this many bytes, or nothing.
    ///
    /// # Errors
    /// [`QuotaExceeded`]: it may not pass now.
    pub fn take(&self, now: UnixMicros, bytes: usize) -> Result<(), QuotaExceeded> {
        self.account.take(&self.allowance, now, bytes as u64)
    }

    /// Takes what an entry costs that a call leaves in the log, as if it were a message. Auditors and operators are always
    /// heard.
    ///
    /// # Errors
    /// [`QuotaExceeded`]: it may not be made now.
    pub fn take_entry(&self, now: UnixMicros) -> Result<(), QuotaExceeded> {
        if !self.has_rates() || self.identity.permissions().oversees() {
            return Ok(());
        }
        self.take(now, 0)
    }

    /// What the agent's requests are received under.
    #[must_use]
    pub fn receive_budget(&self) -> ReceiveBudget {
        ReceiveBudget {
            total: Arc::clone(&self.receive.total),
            of_agent: Arc::clone(&self.account.received),
            of_agent_max: self.receive.of_agent_bytes_max,
        }
    }

    /// Takes a subscription's place.
    ///
    /// # Errors
    /// [`QuotaExceeded`]: the agent has as many as it may.
    pub fn open_subscription(&self) -> Result<OpenSubscription, QuotaExceeded> {
        let (max, kind) = (self.allowance.subscriptions, QuotaKind::Subscriptions);
        let place = Place::take(&self.account, |account| &account.subscriptions, max, kind)?;
        Ok(OpenSubscription { _place: place })
    }
}
