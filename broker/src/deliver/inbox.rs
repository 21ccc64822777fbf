//! The end of a subscription from which a stream reads. Dropping it ends the subscription and reports what still waited.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    NARROWED,
    queue::EndReason,
    router::{Grant, Router, Subscription},
};
use crate::{
    authenticate::{Identity, Session},
    model::{DecisionId, SubscriptionId, TopicPattern},
    record::{Draft, Recorded, Recorder, UndeliveredCount},
};

/// How long a reader may take to leave after the end.
const LEAVE_MAX: Duration = Duration::from_secs(10);

/// How long the end of a subscription that was too slow waits for messages on their way to it, so that they are counted.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Why no more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the subscription ended: {}", .reason.as_str())]
pub struct InboxError {
    /// The reason.
    pub reason: EndReason,
    /// Of one that was too slow: how many messages it did not get that name it in their audience.
    pub undelivered: u64,
}

/// A live subscription, seen from its reader.
pub struct Inbox {
    terms: InboxTerms,
    reason: EndReason,
    _open: DropGuard,
}

/// On which terms a subscription stands. They can change while its reader is stuck.
#[derive(Clone)]
pub struct InboxTerms {
    router: Arc<Router>,
    subscription: Arc<Subscription>,
    /// What was asked for. It is never widened beyond that.
    asked: Arc<[TopicPattern]>,
    recorder: Recorder,
    tasks: TaskTracker,
}

impl Inbox {
    /// Makes a recorded subscription live; `decision` is its record. A reader that is told the end by its queue or its
    /// session and does not leave, because its client takes nothing in, has its connection closed by `cut_off`.
    #[must_use]
    pub fn open(
        router: Arc<Router>,
        recorder: Recorder,
        tasks: TaskTracker,
        decision: &DecisionId,
        session: Arc<Session>,
        patterns: Vec<TopicPattern>,
        cut_off: CancellationToken,
    ) -> Self {
        let id = SubscriptionId(decision.audit_index());
        let subscription = router.add(id, session, patterns.clone());
        let open = CancellationToken::new();
        tokio::spawn(watch(Arc::clone(&subscription), open.clone(), cut_off));
        let terms = InboxTerms { router, subscription, asked: patterns.into(), recorder, tasks };
        Self { terms, reason: EndReason::ClientGone, _open: open.drop_guard() }
    }

    /// The subscription's id.
    #[must_use]
    pub fn id(&self) -> SubscriptionId {
        self.terms.id()
    }

    /// Its terms.
    #[must_use]
    pub const fn terms(&self) -> &InboxTerms {
        &self.terms
    }

    /// What waits, at least one message and at most `messages_max` and about `bytes_max`, in index order; and how many
    /// were lost to the bounded queue so far. Whether anything may still pass is the session's to say.
    ///
    /// # Errors
    /// [`InboxError`]: no more comes.
    pub async fn next(
        &mut self,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Arc<Recorded>>, u64), InboxError> {
        match self.terms.subscription.queue.take(messages_max, bytes_max).await {
            Ok((messages, dropped)) => {
                self.terms.router.metrics.queued_deliveries(-count(&messages));
                Ok((messages, dropped))
            }
            Err(reason) => Err(self.finish(reason).await),
        }
    }

    /// Lets what waits be handed over, and then no more.
    pub fn drain(&self) {
        self.terms.subscription.queue.end(EndReason::Draining);
    }

    async fn finish(&mut self, reason: EndReason) -> InboxError {
        self.reason = reason;
        let queue = &self.terms.subscription.queue;
        queue.end(reason);
        if reason != EndReason::SlowSubscriber {
            return InboxError { reason, undelivered: 0 };
        }
        // Without an answer in time it is told what is known.
        let _ = tokio::time::timeout(SETTLE_MAX, self.terms.recorder.caught_up()).await;
        InboxError { reason, undelivered: queue.undelivered() }
    }
}

impl InboxTerms {
    /// The subscription's id.
    #[must_use]
    pub fn id(&self) -> SubscriptionId {
        self.subscription.recipient.subscription
    }

    /// The patterns that were asked for.
    #[must_use]
    pub fn asked(&self) -> &[TopicPattern] {
        &self.asked
    }

    /// The patterns that are granted now.
    #[must_use]
    pub fn granted(&self) -> Vec<TopicPattern> {
        self.subscription.grant.load().patterns.clone()
    }

    /// Goes on under a fresh token that permits these of the patterns asked for. What waits and is not among them, or not
    /// meant for the fresh token's roles, is dropped and reported.
    pub fn regrant(&self, identity: Arc<Identity>, patterns: Vec<TopicPattern>) {
        let dropped = self.router.regrant(&self.subscription, Grant { identity, patterns });
        if let Some(draft) = self.router.missed(&self.subscription.recipient, NARROWED, &dropped) {
            self.note(draft);
        }
    }

    /// Ends it because a fresh token, or another policy, does not permit it.
    pub fn end_not_permitted(&self) {
        self.subscription.queue.end(EndReason::NotPermitted);
    }

    fn note(&self, draft: Draft) {
        let recorder = self.recorder.clone();
        self.tasks.spawn(async move {
            if recorder.note(draft).await.is_err() {
                tracing::error!("the end of a subscription could not be recorded: the log has ended");
            }
        });
    }
}

/// Waits for the end of a subscription, and then gives its reader some time to leave.
async fn watch(subscription: Arc<Subscription>, left: CancellationToken, cut_off: CancellationToken) {
    let session = &subscription.session;
    tokio::select! {
        () = left.cancelled() => return,
        () = subscription.queue.ended() => {}
        () = session.ended() => subscription.queue.end(reason(session)),
    }
    tokio::select! {
        () = left.cancelled() => {}
        () = tokio::time::sleep(LEAVE_MAX) => cut_off.cancel(),
    }
}

fn reason(session: &Session) -> EndReason {
    session.end_reason().map_or(EndReason::ClientGone, EndReason::from)
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let InboxTerms { router, subscription, .. } = &self.terms;
        if self.reason == EndReason::ClientGone {
            // Its reader did not come to see it.
            let unseen = [EndReason::NotPermitted, EndReason::SlowSubscriber];
            let unseen = subscription.queue.end_reason().filter(|reason| unseen.contains(reason));
            self.reason = unseen.unwrap_or_else(|| reason(&subscription.session));
        }
        let leftover = subscription.queue.close(self.reason);
        router.take_out(subscription, self.reason);
        let undelivered = undelivered(&leftover);
        router.metrics.queued_deliveries(-count(&leftover));
        router.metrics.undelivered(self.reason.as_str(), undelivered.messages());
        self.terms.note(Draft::unsubscribed(&subscription.recipient, self.reason.as_str(), &undelivered));
    }
}

fn undelivered(messages: &[Arc<Recorded>]) -> UndeliveredCount {
    let mut count = UndeliveredCount::default();
    messages.iter().for_each(|message| count.add(message.decision_id().audit_index()));
    count
}

fn count(messages: &[Arc<Recorded>]) -> i64 {
    i64::try_from(messages.len()).unwrap_or(i64::MAX)
}
