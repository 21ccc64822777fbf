//! Receiving messages.
//!
//! A driver task keeps the subscription alive and checks each delivery; the [`Subscription`] hands them on in order.
//! Out of scope: messages sent while nobody was subscribed. Those are lost to topics that are not retained, which is
//! why each gap shows.

mod delivery;
mod driver;
mod pattern;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use futures_util::Stream;
use tokio::sync::mpsc;

pub use delivery::{Delivery, VerifiedSender};

use crate::{Error, session::Session};
use driver::{Driver, Link};

/// How many batches wait for a slow reader before the broker is made to wait.
const BATCHES_QUEUED_MAX: usize = 4;

/// What the driver hands on.
#[derive(Debug)]
enum Chunk {
    /// Deliveries, and how many messages were dropped before them.
    Batch { deliveries: Vec<Delivery>, dropped: u64 },
    /// The subscription stands again, under this id, with all patterns.
    Resubscribed { subscription_id: String, patterns: Vec<String>, cause: Error },
    /// Under a fresh token, the broker serves these patterns.
    Patterns(Vec<String>),
    /// The broker did not take a fresh token.
    TokenRefused,
    /// The broker cut it off as too slow, and had so many messages for it.
    CutOff { undelivered: u64 },
    /// There is nothing more.
    Ended(Error),
}

/// Something that happened to a subscription.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SubscriptionEvent {
    /// A message arrived.
    Delivery(Box<Delivery>),
    /// Messages may be missing between the delivery before and the one after.
    Gap(Gap),
    /// A fresh token permits more or less than the one before: from here on, the broker serves these of the patterns that
    /// were asked for.
    PatternsChanged {
        /// As they were asked for.
        patterns: Vec<String>,
    },
    /// The broker did not take a fresh token, for example since it does not know the key of its issuer yet. The subscription
    /// goes on under the one before until that runs out; another one is asked for, and offered. Told once until one is taken.
    TokenRefused,
}

/// Why messages may be missing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Gap {
    /// The connection was lost, and the subscription opened anew. What was sent meanwhile did not get here.
    Resubscribed {
        /// Why it was lost.
        cause: Error,
    },
    /// The queue that the broker keeps for this subscription was full.
    Dropped {
        /// How many messages were dropped.
        messages: u64,
    },
    /// The broker cut the subscription off as too slow. It is opened anew.
    CutOff {
        /// How many messages it had for the subscription and did not deliver. What is sent until it stands anew is not
        /// among them.
        undelivered: u64,
    },
}

/// A live subscription: a stream of deliveries in the order of the audit log.
///
/// It goes on under fresh tokens without a gap, for those patterns that the token at hand permits: see
/// [`Subscription::patterns`]. It comes back by itself after the connection was lost or the broker asked to come again. It ends with an error
/// where the broker says no, does not accept the token, breaks its word about a delivery, or stays away for too long.
/// Delivery is at most once: what was sent during a gap is not here. [`Subscription::reconnects`],
/// [`Subscription::dropped_total`] and [`Subscription::undelivered_total`] count the gaps; [`Subscription::events`] shows where they are. Dropping it
/// unsubscribes.
pub struct Subscription {
    chunks: mpsc::Receiver<Chunk>,
    current: vec::IntoIter<Delivery>,
    id: String,
    patterns: Vec<String>,
    reconnects: u64,
    dropped_total: u64,
    undelivered_total: u64,
    has_ended: bool,
}

impl Subscription {
    pub(crate) async fn open(session: Arc<Session>, patterns: Vec<String>) -> Result<Self, Error> {
        let mut attempts = session.publish_attempts();
        let link = Link::open(&session, &patterns, &mut attempts).await?;
        let id = link.subscription_id().to_owned();
        let (sender, chunks) = mpsc::channel(BATCHES_QUEUED_MAX);
        tokio::spawn(Driver::new(session, patterns.clone(), sender).run(link));
        let current = Vec::new().into_iter();
        Ok(Self {
            chunks,
            current,
            id,
            patterns,
            reconnects: 0,
            dropped_total: 0,
            undelivered_total: 0,
            has_ended: false,
        })
    }

    /// The broker's name for the subscription, as in the audit log. Another one after each reconnect.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The patterns that the broker serves: those that were asked for, less what a fresh token did not permit, up to the
    /// last delivery taken from this stream. After a reconnect, all of them again.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// How often the subscription had to be opened anew, up to the last delivery taken from this stream.
    #[must_use]
    pub const fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// How many messages the broker dropped for want of room, up to the last delivery taken from this stream. What
    /// was sent while there was no connection is not among them: nobody counted it.
    #[must_use]
    pub const fn dropped_total(&self) -> u64 {
        self.dropped_total
    }

    /// How many messages the broker had for the subscription when it cut it off as too slow and did not deliver, up to the
    /// last delivery taken from this stream, or to its end.
    #[must_use]
    pub const fn undelivered_total(&self) -> u64 {
        self.undelivered_total
    }

    /// The same stream with the gaps in it, each at its place.
    #[must_use]
    pub const fn events(self) -> SubscriptionEvents {
        SubscriptionEvents { subscription: self }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        loop {
            if let Some(delivery) = self.current.next() {
                return Poll::Ready(Some(Ok(Event::Delivery(delivery))));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            let Some(chunk) = std::task::ready!(self.chunks.poll_recv(cx)) else {
                self.has_ended = true;
                return Poll::Ready(Some(Err(Error::Closed))); // The runtime of the driver is gone.
            };
            if let Some(event) = self.take(chunk) {
                return Poll::Ready(Some(event));
            }
        }
    }

    fn take(&mut self, chunk: Chunk) -> Option<Result<Event, Error>> {
        match chunk {
            Chunk::Batch { deliveries, dropped } => {
                self.current = deliveries.into_iter();
                self.dropped_total = self.dropped_total.saturating_add(dropped);
                (dropped > 0).then_some(Ok(Event::Gap(Gap::Dropped { messages: dropped })))
            }
            Chunk::Resubscribed { subscription_id, patterns, cause } => {
                self.id = subscription_id;
                self.patterns = patterns;
                self.reconnects = self.reconnects.saturating_add(1);
                Some(Ok(Event::Gap(Gap::Resubscribed { cause })))
            }
            Chunk::TokenRefused => Some(Ok(Event::TokenRefused)),
            Chunk::Patterns(patterns) => {
                self.patterns.clone_from(&patterns);
                Some(Ok(Event::Patterns(patterns)))
            }
            Chunk::CutOff { undelivered } => {
                self.undelivered_total = self.undelivered_total.saturating_add(undelivered);
                Some(Ok(Event::Gap(Gap::CutOff { undelivered })))
            }
            Chunk::Ended(error) => {
                self.has_ended = true;
                Some(Err(error))
            }
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "a box would cost an allocation for each message")]
enum Event {
    Delivery(Delivery),
    Gap(Gap),
    Patterns(Vec<String>),
    TokenRefused,
}

impl Stream for Subscription {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::task::ready!(self.poll_event(cx)) {
                Some(Ok(Event::Delivery(delivery))) => return Poll::Ready(Some(Ok(delivery))),
                Some(Ok(Event::Gap(_) | Event::Patterns(_) | Event::TokenRefused)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("id", &self.id)
            .field("patterns", &self.patterns)
            .field("reconnects", &self.reconnects)
            .field("dropped_total", &self.dropped_total)
            .field("undelivered_total", &self.undelivered_total)
            .finish_non_exhaustive()
    }
}

/// A subscription's deliveries and gaps, in order. See [`Subscription::events`].
#[derive(Debug)]
pub struct SubscriptionEvents {
    subscription: Subscription,
}

impl SubscriptionEvents {
    /// The subscription itself, for its id and counters.
    #[must_use]
    pub const fn subscription(&self) -> &Subscription {
        &self.subscription
    }
}

impl Stream for SubscriptionEvents {
    type Item = Result<SubscriptionEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.subscription.poll_event(cx).map(|event| {
            event.map(|event| {
                event.map(|event| match event {
                    Event::Delivery(delivery) => SubscriptionEvent::Delivery(Box::new(delivery)),
                    Event::Gap(gap) => SubscriptionEvent::Gap(gap),
                    Event::Patterns(patterns) => SubscriptionEvent::PatternsChanged { patterns },
                    Event::TokenRefused => SubscriptionEvent::TokenRefused,
                })
            })
        })
    }
}
