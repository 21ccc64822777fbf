//! The bounded queue of one subscriber.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::router::Grant;
use crate::{
    authenticate::{SessionEnd, TokenError},
    record::Recorded,
};

/// How much may wait for one subscriber, and what happens beyond.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Messages.
    pub messages_max: usize,
    /// Payload bytes. One message alone may be larger.
    pub bytes_max: usize,
    /// Whether the oldest give way; if not, the subscriber is cut off.
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

pub(super) struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
    changed: Notify,
    ended: CancellationToken,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Recorded>>,
    bytes: usize,
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
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { limits, state: Mutex::default(), changed: Notify::new(), ended: CancellationToken::new() }
    }

    /// Takes a message in. Wakes nobody: a batch is announced once, by [`Queue::announce`].
    pub(super) fn push(&self, message: &Arc<Recorded>) -> Pushed {
        let mut state = self.state.lock();
        if let Some(end) = state.end {
            state.undelivered += 1;
            return Pushed::Ended(end);
        }
        if state.narrowed.as_ref().is_some_and(|grant| !grant.covers(message.permitted())) {
            return Pushed::NotPermitted;
        }
        let mut dropped = Vec::new();
        while self.is_full(&state, size(message)) {
            if !self.limits.drop_oldest {
                state.end = Some(EndReason::SlowSubscriber);
                state.undelivered += 1;
                // Audiences are fixed before messages get their indexes: up to this one, all found it there.
                state.cut = message.decision_id().audit_index().checked_add(1);
                self.ended.cancel();
                return Pushed::Ended(EndReason::SlowSubscriber);
            }
            let Some(oldest) = state.take() else { break };
            dropped.push(oldest.decision_id().audit_index());
        }
        state.dropped += dropped.len() as u64;
        state.bytes += size(message);
        state.waiting.push_back(Arc::clone(message));
        if dropped.is_empty() { Pushed::Queued } else { Pushed::Dropped(dropped) }
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
        state.undelivered = state.undelivered.saturating_add(state.waiting.len() as u64);
        let waiting = state.waiting.drain(..).collect();
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
            waiting.into_iter().partition(|message| grant.covers(message.permitted()));
        state.waiting = kept;
        state.bytes = state.waiting.iter().map(|message| size(message)).sum();
        state.narrowed = Some(grant);
        dropped.into()
    }

    /// Completes when the queue is at its end, whether or not its reader has noticed.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// What waits, up to `messages_max` and about `bytes_max`, with the number lost so far; or why there is no more. What
    /// waits at a drain is still handed over; at any other end it is not.
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
            let Some(message) = state.take() else { break };
            bytes += size(&message);
            taken.push(message);
        }
        Ok((taken, state.dropped))
    }

    fn is_full(&self, state: &State, next_bytes: usize) -> bool {
        let waiting = state.waiting.len();
        waiting >= self.limits.messages_max || (waiting > 0 && state.bytes + next_bytes > self.limits.bytes_max)
    }
}

impl State {
    fn take(&mut self) -> Option<Arc<Recorded>> {
        let message = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(size(&message));
        Some(message)
    }
}

fn size(message: &Recorded) -> usize {
    message.permitted().message().size_bytes()
}
