//! The accounts of all agents.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    account::{Account, OpenCall, RETRY_LATER},
    exceeded::{QuotaExceeded, QuotaKind},
    table::QuotaTable,
};
use crate::{
    authenticate::Identity,
    model::{AgentId, Clock, Issuer, UnixMicros},
};

/// How many accounts are kept before anybody looks which of them are idle.
const LOOKED_AT_MIN: usize = 1_024;
/// How long nobody looks again where there was nothing to forget.
const LOOK_AGAIN_US: i64 = 1_000_000;

/// Keeps an account for each agent.
pub struct Quotas {
    table: Arc<QuotaTable>,
    agents_max: usize,
    accounts: Mutex<Accounts>,
    clock: Clock,
}

struct Accounts {
    by_agent: HashMap<(Issuer, AgentId), Arc<Account>>,
    /// How many there may be before the next look.
    look_at: usize,
    /// Not before this moment, where all are needed.
    look_after: UnixMicros,
}

impl Quotas {
    /// Goes by `table`, for at most `agents_max` agents at the same time.
    #[must_use]
    pub fn new(table: QuotaTable, agents_max: usize, clock: Clock) -> Self {
        let accounts = Accounts { by_agent: HashMap::new(), look_at: LOOKED_AT_MIN, look_after: UnixMicros(i64::MIN) };
        Self { table: Arc::new(table), agents_max, accounts: Mutex::new(accounts), clock }
    }

    /// Takes a call's place.
    ///
    /// # Errors
    /// [`QuotaExceeded`]: the agent has as many as it may, or there is no room for another agent.
    pub fn open_call(&self, identity: Arc<Identity>) -> Result<OpenCall, QuotaExceeded> {
        let account = self.account(&identity)?;
        OpenCall::open(account, &self.table, identity)
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
                return Ok(Arc::default());
            }
            return Err(QuotaExceeded { kind: QuotaKind::Agents, retry_after: Some(RETRY_LATER) });
        }
        Ok(Arc::clone(accounts.by_agent.entry(agent).or_default()))
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
