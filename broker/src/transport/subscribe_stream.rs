//! `Subscribe`: one subscription for the life of the stream.

use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use veribus_proto::v1::{
    Credentials, DeliveryBatch, Refreshed, SubscribeRequest, SubscribeResponse, Subscribed, subscribe_request,
    subscribe_response,
};

use super::{convert, renewal::Renewals, status};
use crate::{
    authenticate::Caller, deliver::Inbox, model::TopicPattern, quota::OpenSubscription, record::AccessReceipt,
    subscribe::Reading,
};

/// How much one response carries, about.
const BATCH_MESSAGES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// The patterns of the request that opens a subscription.
pub(super) async fn opening(
    requests: &mut Streaming<SubscribeRequest>,
    patterns_max: usize,
) -> Result<Vec<TopicPattern>, Status> {
    let first = requests.message().await?.and_then(|first| first.request);
    let Some(subscribe_request::Request::Subscription(subscription)) = first else {
        return Err(status::invalid("the first request must open a subscription"));
    };
    if subscription.patterns.is_empty() || subscription.patterns.len() > patterns_max {
        return Err(status::invalid("a subscription takes at least one pattern, and not more than the broker's limit"));
    }
    let parse = |pattern: &String| TopicPattern::parse(pattern).map_err(status::argument);
    subscription.patterns.iter().map(parse).collect()
}

/// A subscription that stands, and who may go on with it under a fresh token.
pub(super) struct Opened {
    /// What it takes of the agent's quota. Given back before the inbox is closed: who reads in the log that a subscription
    /// ended may open another.
    pub(super) _place: OpenSubscription,
    pub(super) inbox: Inbox,
    pub(super) receipt: AccessReceipt,
    pub(super) caller: Caller,
    pub(super) reading: Arc<Reading>,
    pub(super) renewals: Renewals,
}

/// The state between two responses.
struct Subscriber {
    opened: Opened,
    requests: Streaming<SubscribeRequest>,
    drain: CancellationToken,
    is_announced: bool,
}

/// Serves a live subscription: says that it stands, and hands over what comes.
pub(super) fn serve(
    opened: Opened,
    requests: Streaming<SubscribeRequest>,
    drain: CancellationToken,
) -> impl Stream<Item = Result<SubscribeResponse, Status>> + Send + 'static {
    let subscriber = Subscriber { opened, requests, drain, is_announced: false };
    stream::unfold(Some(subscriber), |subscriber| async move {
        let mut subscriber = subscriber?;
        match subscriber.next().await {
            Ok(response) => Some((Ok(SubscribeResponse { response: Some(response) }), Some(subscriber))),
            Err(Some(end)) => Some((Err(end), None)),
            Err(None) => None,
        }
    })
}

impl Subscriber {
    /// Goes on under a fresh token, as far as that permits.
    async fn refresh(&mut self, credentials: Credentials) -> Result<Refreshed, Status> {
        let Opened { inbox, caller, reading, renewals, .. } = &mut self.opened;
        let fresh = renewals.recognise(caller, &credentials).await?;
        let token_expires_at = fresh.expires_at().0;
        let patterns = reading.renew(caller, inbox, fresh).await.map_err(|refusal| status::read_status(&refusal))?;
        let patterns = patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        Ok(Refreshed { token_expires_at, patterns })
    }

    /// The next response; an error is the end, with or without a status.
    async fn next(&mut self) -> Result<subscribe_response::Response, Option<Status>> {
        if !std::mem::replace(&mut self.is_announced, true) {
            let (inbox, receipt) = (&self.opened.inbox, &self.opened.receipt);
            return Ok(subscribe_response::Response::Subscribed(Subscribed {
                subscription_id: inbox.id().to_string(),
                audit_index: receipt.decision_id.audit_index(),
                decision_id: receipt.decision_id.to_string(),
            }));
        }
        loop {
            tokio::select! {
                taken = self.opened.inbox.next(BATCH_MESSAGES_MAX, BATCH_BYTES_MAX) => {
                    let (messages, dropped_total) = taken.map_err(status::inbox_status)?;
                    let deliveries = messages.iter().map(|message| convert::delivery(message)).collect();
                    return Ok(subscribe_response::Response::Batch(DeliveryBatch { deliveries, dropped_total }));
                }
                () = self.drain.cancelled() => {
                    self.opened.inbox.drain();
                    self.drain = CancellationToken::new();
                }
                asked = request_side(&mut self.requests) => {
                    let credentials = asked?;
                    return self.refresh(credentials).await.map(subscribe_response::Response::Refreshed).map_err(Some);
                }
            }
        }
    }
}

/// Waits for a fresh token, or for what ends a subscription from the client's side.
async fn request_side(requests: &mut Streaming<SubscribeRequest>) -> Result<Credentials, Option<Status>> {
    match requests.message().await {
        Ok(Some(SubscribeRequest { request: Some(subscribe_request::Request::Refresh(credentials)) })) => {
            Ok(credentials)
        }
        Ok(Some(_)) => Err(Some(status::invalid("a stream holds one subscription"))),
        Ok(None) | Err(_) => Err(None),
    }
}
