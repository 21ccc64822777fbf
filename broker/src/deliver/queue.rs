//! The bounded queue of one subscriber.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    router::Grant,
    usage::{Charge, Charges, Usage, memory_bytes},
};
use crate::{
    authenticate::{SessionEnd, TokenError},
    model::Clock,
    record::Recorded,
};

/// How much may wait for one subscriber, and for all, and what happens beyond.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// The bound of one queue in messages.
    pub messages_max: usize,
    /// The bound of one queue in bytes of memory. One message alone may be larger.
    pub bytes_max: usize,
    /// How long a queue may stay over its bound with nothing taken, before its subscriber is cut off.
    pub stall_max: Duration,
    /// What all queues may hold, in bytes of memory, at any time; those of one agent hold at most one
    /// [`QUEUES_SHARE`](crate::model::QUEUES_SHARE)th of that.
    pub all_bytes_max: usize,
    /// Whether the oldest give way, as soon as a bound is reached; if not, the subscriber is cut off.
    pub drop_oldest: bool,
}

/// Why a subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The client ended it or went away.
    ClientGone,
    /// The client did not keep up.
    SlowSubscriber,
    /// The token ran out.
    TokenExpired,
    /// The token was revoked.
    Revoked,
    /// The issuer no longer lists the token's key.
    KeyWithdrawn,
    /// A fresh token permits nothing of it.
    NotPermitted,
    /// An operator ended the session.
    Disconnected,
    /// The broker is shutting down.
    Draining,
}

impl EndReason {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::ClientGone,
        Self::SlowSubscriber,
        Self::TokenExpired,
        Self::Revoked,
        Self::KeyWithdrawn,
        Self::NotPermitted,
        Self::Disconnected,
        Self::Draining,
    ];

    /// The stable word in the log and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientGone => "client_gone",
            Self::SlowSubscriber => "slow_subscriber",
            Self::TokenExpired => "token_expired",
            Self::Revoked => "revoked",
            Self::KeyWithdrawn => "key_withdrawn",
            Self::NotPermitted => "not_permitted",
            Self::Disconnected => "disconnected",
            Self::Draining => "draining",
        }
    }
}

impl From<&SessionEnd> for EndReason {
    fn from(end: &SessionEnd) -> Self {
        match end {
            SessionEnd::Left => Self::ClientGone,
            SessionEnd::Token(TokenError::Revoked) => Self::Revoked,
            SessionEnd::Token(TokenError::KeyWithdrawn) => Self::KeyWithdrawn,
            SessionEnd::Token(_) => Self::TokenExpired,
            SessionEnd::Disconnected => Self::Disconnected,
        }
    }
}

/// What became of a push.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Queued,
    /// These had to give way, by their audit indexes.
    Dropped(Vec<u64>),
    /// Not taken: the queue is at its end, for this reason.
    Ended(EndReason),
    /// Not taken: the subscription was narrowed after the message's audience was fixed.
    NotPermitted,
}

/// How many places an empty queue keeps.
const PLACES_KEPT: usize = 256;

/// A message that waits, and what its agent is charged for it.
type Waiting = (Arc<Recorded>, Arc<Charge>);

pub(super) struct Queue {
    limits: QueueLimits,
    clock: Clock,
    pub(super) usage: Arc<Usage>,
    state: Mutex<State>,
    changed: Notify,
    ended: CancellationToken,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Since when it is over its bound with nothing taken, by the clock's running time.
    over_since: Option<Duration>,
    dropped: u64,
    end: Option<EndReason>,
    /// What was not handed over and does not wait any more: it came after the end, or waited at it.
    undelivered: u64,
    /// Where it was cut off as too slow: the index of the first message that could miss it in its audience.
    cut: Option<u64>,
    /// What the subscription was narrowed to.
    narrowed: Option<Arc<Grant>>,
}

impl Queue {
    /// For the agent whose usage this is.
    pub(super) fn new(limits: QueueLimits, clock: Clock, usage: Arc<Usage>) -> Self {
        let (changed, ended) = (Notify::new(), CancellationToken::new());
        Self { limits, clock, usage, state: Mutex::default(), changed, ended }
    }

    /// Takes a message in. Wakes nobody: a batch is announced once, by [`Queue::announce`].
    pub(super) fn push(&self, message: &Arc<Recorded>, charges: &mut Charges) -> Pushed {
        let mut state = self.state.lock();
        if let Some(end) = state.end {
            state.undelivered += 1;
            return Pushed::Ended(end);
        }
        if state.narrowed.as_ref().is_some_and(|grant| !grant.covers(message.permitted())) {
            return Pushed::NotPermitted;
        }
        let index = message.decision_id().audit_index();
        if self.is_stalled(&state) {
            state.undelivered += 1;
            self.cut_off(&mut state, index);
            return Pushed::Ended(EndReason::SlowSubscriber);
        }
        state.bytes += memory_bytes(message);
        state.waiting.push_back((Arc::clone(message), charges.of(&self.usage)));
        self.usage.take_places(1);
        let mut dropped = Vec::new();
        while self.is_over(&state) {
            if !self.limits.drop_oldest {
                state.over_since.get_or_insert_with(|| self.clock.running());
                break;
            }
            dropped.extend(self.drop_oldest(&mut state));
        }
        if dropped.is_empty() { Pushed::Queued } else { Pushed::Dropped(dropped) }
    }

    /// Gives way at a bound of all queues, to the message with the index `to`: the index of the message that it drops, if
    /// any waits, or why it is at its end.
    pub(super) fn give_way(&self, to: u64) -> Result<Option<u64>, EndReason> {
        let mut state = self.state.lock();
        if let Some(end) = state.end {
            return Err(end);
        }
        if self.limits.drop_oldest || state.waiting.is_empty() {
            return Ok(self.drop_oldest(&mut state));
        }
        self.cut_off(&mut state, to);
        Err(EndReason::SlowSubscriber)
    }

    /// Ends it if it stayed over its bound for too long; whether this did.
    pub(super) fn end_if_stalled(&self) -> bool {
        let mut state = self.state.lock();
        let last = state.waiting.back().map(|(message, _)| message.decision_id().audit_index());
        let Some(last) = last.filter(|_| state.end.is_none() && self.is_stalled(&state)) else { return false };
        self.cut_off(&mut state, last);
        true
    }

    /// How much waits, in bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Wakes the reader.
    pub(super) fn announce(&self) {
        self.changed.notify_one();
    }

    /// Ends the queue; the first reason stands.
    pub(super) fn end(&self, reason: EndReason) {
        self.state.lock().end.get_or_insert(reason);
        self.ended.cancel();
        self.announce();
    }

    /// Why it ended, if it did.
    pub(super) fn end_reason(&self) -> Option<EndReason> {
        self.state.lock().end
    }

    /// Counts a message that came when nobody looked for this queue any more.
    pub(super) fn came_too_late(&self) {
        self.state.lock().undelivered += 1;
    }

    /// How many messages a queue at its end did not hand over, as far as they have come.
    pub(super) fn undelivered(&self) -> u64 {
        let state = self.state.lock();
        state.undelivered.saturating_add(state.waiting.len() as u64)
    }

    /// The index of the first message that could miss the subscriber since it was cut off as too slow. Told once.
    pub(super) fn take_cut(&self) -> Option<u64> {
        self.state.lock().cut.take()
    }

    /// Ends the queue, and takes out what waits: from now on nothing is handed to its reader. The first reason stands.
    pub(super) fn close(&self, reason: EndReason) -> Vec<Arc<Recorded>> {
        let mut state = self.state.lock();
        state.end.get_or_insert(reason);
        state.bytes = 0;
        self.usage.give_back_places(state.waiting.len());
        state.undelivered = state.undelivered.saturating_add(state.waiting.len() as u64);
        let waiting = state.waiting.drain(..).map(|(message, _)| message).collect();
        drop(state);
        self.ended.cancel();
        self.announce();
        waiting
    }

    /// From now on only what `grant` covers is taken in and handed on; returns what waited and is not covered.
    pub(super) fn narrow(&self, grant: Arc<Grant>) -> Vec<Arc<Recorded>> {
        let mut state = self.state.lock();
        let waiting = std::mem::take(&mut state.waiting);
        let (kept, dropped): (VecDeque<_>, VecDeque<_>) =
            waiting.into_iter().partition(|(message, _)| grant.covers(message.permitted()));
        state.waiting = kept;
        let dropped: Vec<_> = dropped.into_iter().map(|(message, _)| message).collect();
        self.usage.give_back_places(dropped.len());
        let bytes = dropped.iter().map(|message| memory_bytes(message)).sum();
        state.bytes = state.bytes.saturating_sub(bytes);
        if !self.is_over(&state) {
            state.over_since = None;
        }
        state.narrowed = Some(grant);
        dropped
    }

    /// Completes when the queue is at its end, whether or not its reader has noticed.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// What waits, up to `messages_max` and about `bytes_max` of payload and texts, with the number lost so far; or why
    /// there is no more. What waits at a drain is still handed over; at any other end it is not.
    pub(super) async fn take(
        &self,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Arc<Recorded>>, u64), EndReason> {
        loop {
            let changed = self.changed.notified();
            match self.try_take(messages_max, bytes_max) {
                Ok((messages, _)) if messages.is_empty() => changed.await,
                taken => return taken,
            }
        }
    }

    fn try_take(&self, messages_max: usize, bytes_max: usize) -> Result<(Vec<Arc<Recorded>>, u64), EndReason> {
        let mut state = self.state.lock();
        match state.end {
            Some(EndReason::Draining) if !state.waiting.is_empty() => {}
            Some(reason) => return Err(reason),
            None => {}
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < messages_max && bytes < bytes_max {
            let Some(message) = self.pop(&mut state) else { break };
            bytes += message.permitted().message().size_bytes();
            taken.push(message);
        }
        if state.waiting.is_empty() {
            // A burst does not keep its places.
            state.waiting.shrink_to(PLACES_KEPT);
        }
        if !taken.is_empty() {
            state.over_since = self.is_over(&state).then(|| self.clock.running());
        }
        Ok((taken, state.dropped))
    }

    fn pop(&self, state: &mut State) -> Option<Arc<Recorded>> {
        let (message, _) = state.waiting.pop_front()?;
        self.usage.give_back_places(1);
        state.bytes = state.bytes.saturating_sub(memory_bytes(&message));
        Some(message)
    }

    fn drop_oldest(&self, state: &mut State) -> Option<u64> {
        let oldest = self.pop(state)?;
        state.dropped += 1;
        Some(oldest.decision_id().audit_index())
    }

    /// Audiences are fixed before messages get their indexes: up to `index`, all found it there.
    fn cut_off(&self, state: &mut State, index: u64) {
        state.end = Some(EndReason::SlowSubscriber);
        state.cut = index.checked_add(1);
        self.ended.cancel();
    }

    fn is_over(&self, state: &State) -> bool {
        let waiting = state.waiting.len();
        waiting > self.limits.messages_max || (waiting > 1 && state.bytes > self.limits.bytes_max)
    }

    fn is_stalled(&self, state: &State) -> bool {
        let over = |since| self.clock.running().saturating_sub(since);
        state.over_since.is_some_and(|since| over(since) >= self.limits.stall_max)
    }
}
