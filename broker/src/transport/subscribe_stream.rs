//! `Subscribe`: one subscription for the life of the stream.

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use veribus_proto::v1::{
    DeliveryBatch, SubscribeRequest, SubscribeResponse, Subscribed, subscribe_request, subscribe_response,
};

use super::{convert, status};
use crate::{deliver::Inbox, model::TopicPattern, quota::OpenSubscription, record::AccessReceipt};

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
    let parse = |pattern: &String| TopicPattern::parse(pattern).map_err(status::topic_status);
    subscription.patterns.iter().map(parse).collect()
}

/// The state between two responses.
struct Subscriber {
    inbox: Inbox,
    requests: Streaming<SubscribeRequest>,
    drain: CancellationToken,
    receipt: Option<AccessReceipt>,
    _place: OpenSubscription,
}

/// Serves a live subscription: says that it stands, and hands over what comes.
pub(super) fn serve(
    inbox: Inbox,
    receipt: AccessReceipt,
    place: OpenSubscription,
    requests: Streaming<SubscribeRequest>,
    drain: CancellationToken,
) -> impl Stream<Item = Result<SubscribeResponse, Status>> + Send + 'static {
    let subscriber = Subscriber { inbox, requests, drain, receipt: Some(receipt), _place: place };
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
    /// The next response; an error is the end, with or without a status.
    async fn next(&mut self) -> Result<subscribe_response::Response, Option<Status>> {
        if let Some(receipt) = self.receipt.take() {
            return Ok(subscribe_response::Response::Subscribed(Subscribed {
                subscription_id: self.inbox.id().to_string(),
                audit_index: receipt.decision_id.audit_index(),
                decision_id: receipt.decision_id.to_string(),
            }));
        }
        loop {
            tokio::select! {
                taken = self.inbox.next(BATCH_MESSAGES_MAX, BATCH_BYTES_MAX) => {
                    let (messages, dropped_total) = taken.map_err(status::inbox_status)?;
                    let deliveries = messages.iter().map(|message| convert::delivery(message)).collect();
                    return Ok(subscribe_response::Response::Batch(DeliveryBatch { deliveries, dropped_total }));
                }
                () = self.drain.cancelled() => {
                    self.inbox.drain();
                    self.drain = CancellationToken::new();
                }
                end = request_side(&mut self.requests) => return Err(end),
            }
        }
    }
}

/// Waits for what ends a subscription from the client's side.
async fn request_side(requests: &mut Streaming<SubscribeRequest>) -> Option<Status> {
    match requests.message().await {
        Ok(Some(_)) => Some(status::invalid("a stream holds one subscription")),
        Ok(None) | Err(_) => None,
    }
}
