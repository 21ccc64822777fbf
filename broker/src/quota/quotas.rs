//! The accounts of all agents.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    account::{Account, OpenCall, RETRY_LATER},
    exceeded::{QuotaExceeded, QuotaKind},
    table::QuotaTable,
};
use crate::{
    authenticate::Identity,
    model::{AgentId, Clock, Issuer, QuotaOverrides, RECEIVE_SHARE, UnixMicros},
};

/// How many accounts are kept before anybody looks which of them are idle.
const LOOKED_AT_MIN: usize = 1_024;
/// How long nobody looks again where there was nothing to forget.
const LOOK_AGAIN_US: i64 = 1_000_000;

/// Keeps an account for each agent.
pub struct Quotas {
    table: Arc<ArcSwap<QuotaTable>>,
    agents_max: usize,
    receive: Arc<ReceiveLimits>,
    accounts: Mutex<Accounts>,
    clock: Clock,
}

/// What requests may take that are being received.
#[derive(Debug)]
pub(super) struct ReceiveLimits {
    /// Of all agents, in bytes.
    pub(super) total: Arc<Semaphore>,
    /// Of one: also until they are answered.
    pub(super) of_agent_bytes_max: u32,
}

struct Accounts {
    by_agent: HashMap<(Issuer, AgentId), Arc<Account>>,
    /// How many there may be before the next look.
    look_at: usize,
    /// Not before this moment, where all are needed.
    look_after: UnixMicros,
}

impl Quotas {
    /// Goes by `table`, for at most `agents_max` agents at the same time, whose requests take at most `receive_bytes_max`
    /// while they are received, and an agent's one [`RECEIVE_SHARE`]th of that.
    #[must_use]
    pub fn new(table: QuotaTable, agents_max: usize, receive_bytes_max: usize, clock: Clock) -> Self {
        let receive = Arc::new(ReceiveLimits {
            total: Arc::new(Semaphore::new(receive_bytes_max.min(Semaphore::MAX_PERMITS))),
            of_agent_bytes_max: u32::try_from(receive_bytes_max / RECEIVE_SHARE).unwrap_or(u32::MAX),
        });
        let accounts = Accounts { by_agent: HashMap::new(), look_at: LOOKED_AT_MIN, look_after: UnixMicros(i64::MIN) };
        Self {
            table: Arc::new(ArcSwap::from_pointee(table)),
            agents_max,
            receive,
            accounts: Mutex::new(accounts),
            clock,
        }
    }

    /// Goes by these terms of some from now on, and by everybody's as before.
    pub fn set_overrides(&self, overrides: QuotaOverrides) {
        self.table.store(Arc::new(self.table.load().with_overrides(overrides)));
    }

    /// Takes a call's place.
    ///
    /// # Errors
    /// [`QuotaExceeded`]: the agent has as many as it may, or there is no room for another agent.
    pub fn open_call(&self, identity: Arc<Identity>) -> Result<OpenCall, QuotaExceeded> {
        let account = self.account(&identity)?;
        OpenCall::open(account, &self.table, &self.receive, identity)
    }

    /// How many accounts are kept.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.accounts.lock().by_agent.len()
    }

    fn account(&self, identity: &Identity) -> Result<Arc<Account>, QuotaExceeded> {
        let agent = (identity.issuer().clone(), identity.agent().clone());
        let mut accounts = self.accounts.lock();
        if let Some(account) = accounts.by_agent.get(&agent) {
            return Ok(Arc::clone(account));
        }
        if accounts.by_agent.len() >= accounts.look_at.min(self.agents_max) {
            accounts.forget_idle(self.clock.now());
        }
        if accounts.by_agent.len() >= self.agents_max {
            // Whoever fills the table, by an issuer that mints agents, must not keep out who can stop that.
            if identity.permissions().admin_revoke() {
                return Ok(self.new_account());
            }
            return Err(QuotaExceeded { kind: QuotaKind::Agents, retry_after: Some(RETRY_LATER) });
        }
        Ok(Arc::clone(accounts.by_agent.entry(agent).or_insert_with(|| self.new_account())))
    }

    fn new_account(&self) -> Arc<Account> {
        Arc::new(Account::new(self.receive.of_agent_bytes_max))
    }
}

impl Accounts {
    /// Costs as much as there are accounts, so it is done once for each doubling, or once a second where all are needed.
    fn forget_idle(&mut self, now: UnixMicros) {
        if now < self.look_after {
            return;
        }
        self.by_agent.retain(|_, account| !account.is_idle(now));
        self.look_at = self.by_agent.len().saturating_mul(2).max(LOOKED_AT_MIN);
        self.look_after = UnixMicros(now.0.saturating_add(LOOK_AGAIN_US));
    }
}

#[cfg(test)]
mod tests;
