//! Publish streams and subscriptions by hand: nothing is retried, checked or taken up again.

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use veribus_proto::v1::{
    Credentials, Delivery, Message, PublishResult, PublishStreamRequest, PublishStreamResponse, Receipt, Refusal,
    SubscribeRequest, SubscribeResponse, Subscribed, Subscription, publish_result::Outcome, subscribe_request,
    subscribe_response,
};

use crate::{patiently, raw::Raw};

/// An open `PublishStream`.
pub struct PublishStream {
    requests: mpsc::Sender<PublishStreamRequest>,
    responses: Streaming<PublishStreamResponse>,
}

impl PublishStream {
    /// Opens it.
    ///
    /// # Errors
    /// The broker's, if it does not let it open.
    pub async fn open(raw: &Raw) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(64);
        let responses = raw.broker().publish_stream(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// Sends one request.
    ///
    /// # Errors
    /// Where the stream is over.
    pub async fn send(&self, messages: Vec<Message>) -> Result<()> {
        self.requests.send(PublishStreamRequest { messages, refresh: None }).await.context("the stream is over")
    }

    /// Sends a fresh token, and messages under it.
    ///
    /// # Errors
    /// Where the stream is over.
    pub async fn refresh(&self, token: &str, messages: Vec<Message>) -> Result<()> {
        let request = PublishStreamRequest { messages, refresh: Some(credentials(token)) };
        self.requests.send(request).await.context("the stream is over")
    }

    /// The whole next answer; `None` at the end of the stream.
    ///
    /// # Errors
    /// The status that ended it.
    pub async fn answer(&mut self) -> Result<Option<PublishStreamResponse>, Status> {
        patiently(self.responses.message()).await.map_err(|_| Status::deadline_exceeded("no answer"))?
    }

    /// The results of one request; `None` at the end of the stream.
    ///
    /// # Errors
    /// The status that ended it.
    pub async fn results(&mut self) -> Result<Option<Vec<Outcome>>, Status> {
        Ok(self.answer().await?.map(|response| response.results.into_iter().filter_map(outcome).collect()))
    }

    /// Sends one request and waits for its results.
    ///
    /// # Errors
    /// Where there are none.
    pub async fn publish(&mut self, messages: Vec<Message>) -> Result<Vec<Outcome>> {
        self.send(messages).await?;
        self.results().await?.context("the stream is over")
    }

    /// Says that nothing more will be sent.
    #[must_use]
    pub fn done(self) -> Streaming<PublishStreamResponse> {
        self.responses
    }
}

fn outcome(result: PublishResult) -> Option<Outcome> {
    result.outcome
}

/// The receipt of a message that was not refused.
///
/// # Errors
/// Where it was.
pub fn receipt(outcome: &Outcome) -> Result<&Receipt> {
    match outcome {
        Outcome::Receipt(receipt) => Ok(receipt),
        Outcome::Refusal(refusal) => bail!("refused: {refusal:?}"),
    }
}

/// The refusal of a message that was refused.
///
/// # Errors
/// Where it was not.
pub fn refusal(outcome: &Outcome) -> Result<&Refusal> {
    match outcome {
        Outcome::Refusal(refusal) => Ok(refusal),
        Outcome::Receipt(receipt) => bail!("not refused: {receipt:?}"),
    }
}

/// An open `Subscribe`.
pub struct RawSubscription {
    requests: mpsc::Sender<SubscribeRequest>,
    responses: Streaming<SubscribeResponse>,
    subscribed: Subscribed,
    dropped_total: u64,
}

impl RawSubscription {
    /// Opens it, and waits until it stands.
    ///
    /// # Errors
    /// The broker's, if it does not.
    pub async fn open(raw: &Raw, patterns: &[&str]) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(1);
        requests.send(opening(patterns)).await.map_err(|_| Status::internal("no channel"))?;
        let mut responses = raw.broker().subscribe(ReceiverStream::new(receiver)).await?.into_inner();
        let first = responses.message().await?.and_then(|first| first.response);
        let Some(subscribe_response::Response::Subscribed(subscribed)) = first else {
            return Err(Status::internal("the first response does not say that the subscription stands"));
        };
        Ok(Self { requests, responses, subscribed, dropped_total: 0 })
    }

    /// Sends a fresh token.
    ///
    /// # Errors
    /// Where the stream is over.
    pub async fn refresh(&self, token: &str) -> Result<()> {
        let request = Some(subscribe_request::Request::Refresh(credentials(token)));
        self.requests.send(SubscribeRequest { request }).await.context("the stream is over")
    }

    /// The next response, whatever it is; `None` at the end of the stream.
    ///
    /// # Errors
    /// The status that ended it.
    pub async fn response(&mut self) -> Result<Option<subscribe_response::Response>, Status> {
        let answer =
            patiently(self.responses.message()).await.map_err(|_| Status::deadline_exceeded("no response"))??;
        Ok(answer.and_then(|answer| answer.response))
    }

    /// How the broker said that it stands.
    #[must_use]
    pub const fn subscribed(&self) -> &Subscribed {
        &self.subscribed
    }

    /// How many messages were dropped, as the last batch said.
    #[must_use]
    pub const fn dropped_total(&self) -> u64 {
        self.dropped_total
    }

    /// The next batch; `None` at the end of the stream.
    ///
    /// # Errors
    /// The status that ended it.
    pub async fn batch(&mut self) -> Result<Option<Vec<Delivery>>, Status> {
        let answer = patiently(self.responses.message()).await.map_err(|_| Status::deadline_exceeded("no batch"))??;
        let Some(response) = answer.and_then(|answer| answer.response) else { return Ok(None) };
        let subscribe_response::Response::Batch(batch) = response else {
            return Err(Status::internal("the subscription was opened twice"));
        };
        self.dropped_total = batch.dropped_total;
        Ok(Some(batch.deliveries))
    }
}

/// The request that goes on with a subscription under a fresh token.
#[must_use]
pub fn refreshing(token: &str) -> SubscribeRequest {
    SubscribeRequest { request: Some(subscribe_request::Request::Refresh(credentials(token))) }
}

pub(crate) fn credentials(token: &str) -> Credentials {
    Credentials { token: token.to_owned(), ..Credentials::default() }
}

/// The request that opens a subscription.
#[must_use]
pub fn opening(patterns: &[&str]) -> SubscribeRequest {
    let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    SubscribeRequest { request: Some(subscribe_request::Request::Subscription(Subscription { patterns })) }
}
