//! The task behind a subscription: reads, checks, hands on, and opens anew.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use veribus_proto::v1::{
    self, DeliveryBatch, SubscribeRequest, SubscribeResponse, subscribe_request::Request, subscribe_response::Response,
};

use super::{Chunk, delivery::Checker};
use crate::{Error, retry::Attempts, session::Session, status::Verdict, token::Token};

/// One server stream on which the subscription stands.
pub(super) struct Link {
    token: Token,
    subscription_id: String,
    responses: Streaming<SubscribeResponse>,
    /// As long as it is here, the request side is open, and with it the subscription.
    _requests: mpsc::Sender<SubscribeRequest>,
}

impl Link {
    /// Tries until the subscription stands.
    pub(super) async fn open(session: &Session, patterns: &[String], attempts: &mut Attempts) -> Result<Self, Error> {
        loop {
            let token = session.tokens.current();
            let failure = match attempts.in_time(Self::open_once(session, patterns, token.clone())).await {
                Some(Ok(link)) => return Ok(link),
                Some(Err(LinkFault::Status(status))) => status,
                Some(Err(LinkFault::Protocol(error))) => return Err(error),
                None => return Err(attempts.timed_out()),
            };
            attempts.after_verdict(session, Verdict::of_subscription(&failure), &token).await?;
        }
    }

    async fn open_once(session: &Session, patterns: &[String], token: Token) -> Result<Self, LinkFault> {
        let (requests, receiver) = mpsc::channel(1);
        let subscription = v1::Subscription { patterns: patterns.to_vec() };
        // There is room for one, and the receiver is at hand: this cannot fail.
        let _ = requests.try_send(SubscribeRequest { request: Some(Request::Subscription(subscription)) });
        let request = Session::request(&token, ReceiverStream::new(receiver));
        let mut responses = session.broker().subscribe(request).await?.into_inner();
        let first = responses.message().await?.and_then(|first| first.response);
        match first {
            Some(Response::Subscribed(subscribed)) => {
                let subscription_id = subscribed.subscription_id;
                Ok(Self { token, subscription_id, responses, _requests: requests })
            }
            Some(Response::Batch(_) | Response::Refreshed(_)) => {
                Err(LinkFault::Protocol(Error::Protocol("deliveries before a subscription")))
            }
            None => Err(ended().into()),
        }
    }

    pub(super) fn subscription_id(&self) -> &str {
        &self.subscription_id
    }

    async fn next(&mut self) -> Result<DeliveryBatch, LinkFault> {
        let response = self.responses.message().await?.ok_or_else(ended)?;
        match response.response {
            Some(Response::Batch(batch)) => Ok(batch),
            Some(Response::Subscribed(_) | Response::Refreshed(_)) => {
                Err(LinkFault::Protocol(Error::Protocol("subscribed a second time")))
            }
            None => Err(LinkFault::Protocol(Error::Protocol("an empty response to a subscription"))),
        }
    }
}

/// Why a link ended or never came to be.
enum LinkFault {
    Status(Status),
    Protocol(Error),
}

impl From<Status> for LinkFault {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn ended() -> Status {
    Status::unavailable("the broker ended the subscription")
}

/// The reader is gone, or was told of the end.
struct Done;

pub(super) struct Driver {
    session: Arc<Session>,
    patterns: Vec<String>,
    reader: mpsc::Sender<Chunk>,
    attempts: Attempts,
}

impl Driver {
    pub(super) fn new(session: Arc<Session>, patterns: Vec<String>, reader: mpsc::Sender<Chunk>) -> Self {
        let attempts = session.reconnect_attempts();
        Self { session, patterns, reader, attempts }
    }

    pub(super) async fn run(mut self, mut link: Link) {
        let reader = self.reader.clone();
        let work = async {
            loop {
                let Ok(next) = self.follow(link).await else { return };
                link = next;
            }
        };
        tokio::select! {
            () = work => {}
            () = reader.closed() => {}
        }
    }

    /// Hands on what comes over one link, and opens the next one.
    async fn follow(&mut self, mut link: Link) -> Result<Link, Done> {
        match self.read(&mut link).await? {
            LinkFault::Protocol(error) => self.end(error).await,
            LinkFault::Status(status) => self.reopen(status, link.token).await,
        }
    }

    async fn read(&mut self, link: &mut Link) -> Result<LinkFault, Done> {
        let mut dropped_before = 0;
        let patterns = self.patterns.clone();
        let mut checker = Checker::new(&patterns);
        loop {
            let batch = match link.next().await {
                Ok(batch) => batch,
                Err(fault) => return Ok(fault),
            };
            let dropped = batch.dropped_total.saturating_sub(dropped_before);
            dropped_before = batch.dropped_total;
            self.attempts.progressed();
            self.hand_on(batch, dropped, &mut checker).await?;
        }
    }

    async fn hand_on(&self, batch: DeliveryBatch, dropped: u64, checker: &mut Checker<'_>) -> Result<(), Done> {
        let mut deliveries = Vec::with_capacity(batch.deliveries.len());
        let mut fault = None;
        for delivery in batch.deliveries {
            match checker.check(delivery) {
                Ok(delivery) => deliveries.push(delivery),
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        self.send(Chunk::Batch { deliveries, dropped }).await?;
        match fault {
            Some(error) => self.end(error).await,
            None => Ok(()),
        }
    }

    async fn reopen(&mut self, status: Status, token: Token) -> Result<Link, Done> {
        let verdict = Verdict::of_subscription(&status);
        let cause = verdict.to_error();
        self.attempts.restart_clock();
        if let Err(error) = self.attempts.after_verdict(&self.session, verdict, &token).await {
            return self.end(error).await;
        }
        match Link::open(&self.session, &self.patterns, &mut self.attempts).await {
            Ok(link) => {
                let subscription_id = link.subscription_id.clone();
                self.send(Chunk::Resubscribed { subscription_id, cause }).await?;
                Ok(link)
            }
            Err(error) => self.end(error).await,
        }
    }

    async fn end<T>(&self, error: Error) -> Result<T, Done> {
        self.send(Chunk::Ended(error)).await?;
        Err(Done)
    }

    async fn send(&self, chunk: Chunk) -> Result<(), Done> {
        self.reader.send(chunk).await.map_err(|_| Done)
    }
}
