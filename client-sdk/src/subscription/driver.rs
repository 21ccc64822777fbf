//! The task behind a subscription: reads, checks, hands on, and opens anew.

use std::sync::Arc;

use tokio::sync::mpsc;
use tonic::Streaming;
use veribus_proto::v1::{
    self, DeliveryBatch, SubscribeRequest, SubscribeResponse, subscribe_request::Request, subscribe_response::Response,
};

use super::{Chunk, delivery::Checker};
use crate::{
    Error, Token,
    present::Method,
    retry::{Attempts, Failed},
    session::Session,
    status::Verdict,
    upstream::{self, Done, LinkFault, Refreshing, Upstream, ended},
};

const REFRESHING: Refreshing<SubscribeRequest> = Refreshing {
    method: Method::SUBSCRIBE,
    request: |credentials| SubscribeRequest { request: Some(Request::Refresh(credentials)) },
};

/// One server stream on which the subscription stands.
pub(super) struct Link {
    subscription_id: String,
    responses: Streaming<SubscribeResponse>,
    upstream: Upstream<SubscribeRequest>,
}

impl Link {
    /// Tries until the subscription stands.
    pub(super) async fn open(
        session: &Arc<Session>,
        patterns: &[String],
        attempts: &mut Attempts,
    ) -> Result<Self, Error> {
        upstream::open(session, attempts, Verdict::of_subscription, |token| Self::open_once(session, patterns, token))
            .await
    }

    async fn open_once(session: &Arc<Session>, patterns: &[String], token: Token) -> Result<Self, LinkFault> {
        let subscription = Request::Subscription(v1::Subscription { patterns: patterns.to_vec() });
        let first = SubscribeRequest { request: Some(subscription) };
        let (upstream, requests) = Upstream::new(session, token.clone(), first, REFRESHING);
        let request = session.presenter.request(&token, Method::SUBSCRIBE, requests)?;
        let mut responses = session.broker().subscribe(request).await?.into_inner();
        let first = responses.message().await?.and_then(|first| first.response);
        match first {
            Some(Response::Subscribed(subscribed)) => {
                Ok(Self { subscription_id: subscribed.subscription_id, responses, upstream })
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

    /// The next response; meanwhile, fresh tokens go out.
    async fn next(&mut self) -> Result<Heard, LinkFault> {
        match self.upstream.next(&mut self.responses).await?.response {
            Some(Response::Batch(batch)) => Ok(Heard::Batch(batch)),
            Some(Response::Refreshed(refreshed)) => {
                let is_taken = self.upstream.answered(&refreshed)?;
                Ok(if is_taken { Heard::Refreshed(refreshed) } else { Heard::TokenRefused })
            }
            Some(Response::Subscribed(_)) => Err(LinkFault::Protocol(Error::Protocol("subscribed a second time"))),
            None => Err(LinkFault::Protocol(Error::Protocol("an empty response to a subscription"))),
        }
    }
}

/// What comes over a link that stands.
enum Heard {
    Batch(DeliveryBatch),
    Refreshed(v1::Refreshed),
    TokenRefused,
}

pub(super) struct Driver {
    session: Arc<Session>,
    /// Those that were asked for.
    patterns: Arc<[String]>,
    /// Those that the token at hand permits.
    served: Vec<String>,
    reader: mpsc::Sender<Chunk>,
    attempts: Attempts,
}

impl Driver {
    pub(super) fn new(session: Arc<Session>, patterns: Vec<String>, reader: mpsc::Sender<Chunk>) -> Self {
        let attempts = session.reconnect_attempts().outlasting_tokens();
        Self { session, patterns: patterns.as_slice().into(), served: patterns, reader, attempts }
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
            LinkFault::Status(status) => self.reopen(link.upstream.failed(status)).await,
        }
    }

    async fn read(&mut self, link: &mut Link) -> Result<LinkFault, Done> {
        let (mut dropped_before, mut token_refused) = (0, false);
        let patterns = Arc::clone(&self.patterns);
        let mut checker = Checker::new(&patterns);
        loop {
            let heard = match link.next().await {
                Ok(heard) => heard,
                Err(fault) => return Ok(fault),
            };
            self.attempts.progressed();
            match heard {
                Heard::Batch(batch) => {
                    let dropped = batch.dropped_total.saturating_sub(dropped_before);
                    dropped_before = batch.dropped_total;
                    self.hand_on(batch, dropped, &mut checker, &mut link.upstream).await?;
                }
                Heard::Refreshed(refreshed) => {
                    token_refused = false;
                    self.refreshed(refreshed).await?;
                }
                // Once for each time that tokens are not taken, so that nobody has to read to get the next one offered.
                Heard::TokenRefused if token_refused => {}
                Heard::TokenRefused => {
                    token_refused = true;
                    link.upstream.meanwhile(self.send(Chunk::TokenRefused)).await?;
                }
            }
        }
    }

    async fn hand_on(
        &self,
        batch: DeliveryBatch,
        dropped: u64,
        checker: &mut Checker<'_>,
        upstream: &mut Upstream<SubscribeRequest>,
    ) -> Result<(), Done> {
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
        upstream.meanwhile(self.send(Chunk::Batch { deliveries, dropped })).await?;
        match fault {
            Some(error) => self.end(error).await,
            None => Ok(()),
        }
    }

    /// The broker decided anew which patterns it serves.
    async fn refreshed(&mut self, refreshed: v1::Refreshed) -> Result<(), Done> {
        let was_asked_for = |pattern: &String| self.patterns.contains(pattern);
        if refreshed.patterns.is_empty() || !refreshed.patterns.iter().all(was_asked_for) {
            return self.end(Error::Protocol("a fresh token for other patterns than those asked for")).await;
        }
        if refreshed.patterns != self.served {
            tracing::warn!(patterns = ?refreshed.patterns, "the fresh token changes what the subscription gets");
            self.served = refreshed.patterns;
            self.send(Chunk::Patterns(self.served.clone())).await?;
        }
        Ok(())
    }

    async fn reopen(&mut self, failed: Failed) -> Result<Link, Done> {
        let verdict = Verdict::of_subscription(&failed.status);
        let cause = verdict.to_error();
        if let Some(undelivered) = undelivered(&cause) {
            self.send(Chunk::CutOff { undelivered }).await?;
        }
        self.attempts.restart_clock();
        if let Err(error) = self.attempts.after_verdict(&self.session, verdict, &failed.token).await {
            return self.end(error).await;
        }
        match Link::open(&self.session, &self.patterns, &mut self.attempts).await {
            Ok(link) => {
                self.served = self.patterns.to_vec();
                let subscription_id = link.subscription_id.clone();
                self.send(Chunk::Resubscribed { subscription_id, patterns: self.served.clone(), cause }).await?;
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

/// What the broker had for a subscription that it cut off as too slow.
fn undelivered(cause: &Error) -> Option<u64> {
    match cause {
        Error::Refused(refusal) => refusal.undelivered.filter(|undelivered| *undelivered > 0),
        _ => None,
    }
}
