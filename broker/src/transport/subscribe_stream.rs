//! `Subscribe`: one subscription for the life of the stream.

use std::{pin::pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use veribus_proto::v1::{
    Credentials, DeliveryBatch, Refreshed, SubscribeRequest, SubscribeResponse, Subscribed, subscribe_request,
    subscribe_response,
};

use super::{
    convert,
    malformed::{FaultRecorder, decoding_fault},
    renewal::{Pace, Renewals, refused, taken},
    status,
};
use crate::{
    authenticate::Caller,
    deliver::{EndReason, Inbox, InboxError, InboxTerms},
    model::TopicPattern,
    quota::{Meter, OpenSubscription},
    record::AccessReceipt,
    subscribe::{Reading, Withdrawn},
};

/// How much one response carries, about. Of a reader who takes nothing in, two of them wait, encoded.
const BATCH_MESSAGES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// The patterns of the request that opens a subscription, or what is wrong with it.
///
/// # Errors
/// The client is gone.
pub(super) async fn opening(
    requests: &mut Streaming<SubscribeRequest>,
    patterns_max: usize,
) -> Result<Result<Vec<TopicPattern>, Status>, Status> {
    Ok(match requests.message().await {
        Ok(first) => patterns(first.and_then(|first| first.request), patterns_max),
        Err(error) => Err(decoding_fault(&error).ok_or(error)?.1),
    })
}

fn patterns(first: Option<subscribe_request::Request>, patterns_max: usize) -> Result<Vec<TopicPattern>, Status> {
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
    pub(super) meter: Meter,
    pub(super) reading: Arc<Reading>,
    /// From before it was decided.
    pub(super) policy_changes: watch::Receiver<()>,
    pub(super) renewals: Renewals,
    pub(super) faults: FaultRecorder,
}

/// The state between two responses.
struct Subscriber {
    _place: OpenSubscription,
    inbox: Inbox,
    /// Told first.
    receipt: Option<AccessReceipt>,
    drain: CancellationToken,
    requested: mpsc::Receiver<Promise>,
}

/// What will have come of a request of the client. Until then nothing is handed over: not what a fuller token permits
/// before that is recorded, nor what a lesser one takes away.
type Promise = oneshot::Receiver<Requested>;

/// What came of a request of the client: an answer, or the end of the stream, with or without a status.
type Requested = Result<Refreshed, Option<Status>>;

/// So many answers to fresh tokens may wait for a reader who is stuck.
const REFRESHED_WAITING_MAX: usize = 16;

/// Serves a live subscription: says that it stands, and hands over what comes.
pub(super) fn serve(
    opened: Opened,
    requests: Streaming<SubscribeRequest>,
    drain: CancellationToken,
) -> impl Stream<Item = Result<SubscribeResponse, Status>> + Send + 'static {
    let Opened { _place, inbox, receipt, caller, meter, reading, policy_changes, renewals, faults } = opened;
    let (answers, requested) = mpsc::channel(REFRESHED_WAITING_MAX);
    let listener = Listener { terms: inbox.terms().clone(), caller, meter, reading, policy_changes, renewals, faults };
    tokio::spawn(listener.listen(requests, answers));
    let subscriber = Subscriber { _place, inbox, receipt: Some(receipt), drain, requested };
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
                biased;
                Some(promise) = self.requested.recv() => {
                    return kept(promise).await.map(subscribe_response::Response::Refreshed);
                }
                taken = self.inbox.next(BATCH_MESSAGES_MAX, BATCH_BYTES_MAX) => match taken {
                    Ok((messages, dropped_total)) => {
                        let deliveries = messages.iter().map(|message| convert::delivery(message)).collect();
                        return Ok(subscribe_response::Response::Batch(DeliveryBatch { deliveries, dropped_total }));
                    }
                    Err(error) => return Err(self.end(error).await),
                },
                () = self.drain.cancelled() => {
                    self.inbox.drain();
                    self.drain = CancellationToken::new();
                }
            }
        }
    }

    /// How the stream ends. Where a fresh token was the reason, its answer names the decision.
    async fn end(&mut self, error: InboxError) -> Option<Status> {
        if error.reason == EndReason::NotPermitted {
            while let Some(promise) = self.requested.recv().await {
                if let Err(end) = kept(promise).await {
                    return end;
                }
            }
        }
        status::inbox_status(error)
    }
}

/// What was promised. One who cannot keep it any more ends the stream.
async fn kept(promise: Promise) -> Requested {
    promise.await.unwrap_or(Err(None))
}

/// Hears what the client asks for, also while it takes nothing in.
struct Listener {
    terms: InboxTerms,
    caller: Caller,
    meter: Meter,
    reading: Arc<Reading>,
    policy_changes: watch::Receiver<()>,
    renewals: Renewals,
    faults: FaultRecorder,
}

impl Listener {
    /// Listens until the client is done, or the stream is, or another policy does not permit the subscription.
    async fn listen(mut self, requests: Streaming<SubscribeRequest>, answers: mpsc::Sender<Promise>) {
        if let Err(withdrawn) = self.answer(requests, &answers).await {
            self.withdrawn(withdrawn, &answers).await;
        }
    }

    async fn answer(
        &mut self,
        mut requests: Streaming<SubscribeRequest>,
        answers: &mpsc::Sender<Promise>,
    ) -> Result<(), Withdrawn> {
        let mut pace = Pace::new(self.meter.clone(), self.faults.clock.clone());
        let caller = self.caller.clone();
        loop {
            let requested = self.unless_withdrawn(async {
                tokio::select! {
                    () = answers.closed() => None,
                    requested = request_side(&mut requests) => Some(requested),
                }
            });
            let Some(requested) = requested.await? else { return Ok(()) };
            if requested.is_ok() {
                self.unless_withdrawn(pace.next(&caller)).await?;
            }
            let (keep, promise) = oneshot::channel();
            // An error means that the stream is over.
            if self.unless_withdrawn(answers.send(promise)).await?.is_err() {
                return Ok(());
            }
            let answer = match requested {
                Ok(credentials) => self.refresh(&credentials).await.map_err(Some),
                Err(Some(fault)) => Err(Some(self.malformed(fault).await)),
                Err(None) => Err(None),
            };
            let ends = answer.is_err();
            if keep.send(answer).is_err() || ends {
                return Ok(());
            }
        }
    }

    /// Waits for what the client can delay as long as it likes. A new policy does not wait for that.
    async fn unless_withdrawn<T>(&mut self, waiting: impl Future<Output = T>) -> Result<T, Withdrawn> {
        let mut waiting = pin!(waiting);
        loop {
            tokio::select! {
                biased;
                Ok(()) = self.policy_changes.changed() => self.reading.reconsider(&self.caller, &self.terms).await?,
                done = &mut waiting => return Ok(done),
            }
        }
    }

    /// Another policy does not permit the subscription: recorded, and the end.
    async fn withdrawn(&self, withdrawn: Withdrawn, answers: &mpsc::Sender<Promise>) {
        let (keep, promise) = oneshot::channel();
        // Where no more answers fit, the end comes without the decision's id.
        let is_promised = answers.try_send(promise).is_ok();
        let refusal = self.reading.record_end(&self.caller, &self.terms, withdrawn).await;
        if is_promised {
            drop(keep.send(Err(Some(status::read_status(&refusal)))));
        }
    }

    /// A request that is none of those that may follow: recorded, and the end.
    async fn malformed(&self, fault: Status) -> Status {
        let noted = self.faults.note(&self.caller, &self.meter, fault.message()).await;
        noted.map_or_else(status::record_status, |()| fault)
    }

    /// Goes on under a fresh token, as far as that permits.
    async fn refresh(&self, credentials: &Credentials) -> Result<Refreshed, Status> {
        let Some(fresh) = self.renewals.recognise(&self.caller, credentials).await else {
            return Ok(refused(&self.caller, &self.terms.granted()));
        };
        let renewed = self.reading.renew(&self.caller, &self.terms, Arc::clone(&fresh)).await;
        renewed.map(|patterns| taken(&fresh, &patterns)).map_err(|refusal| status::read_status(&refusal))
    }
}

/// Waits for a fresh token, or for what ends a subscription from the client's side.
async fn request_side(requests: &mut Streaming<SubscribeRequest>) -> Result<Credentials, Option<Status>> {
    match requests.message().await {
        Ok(Some(SubscribeRequest { request: Some(subscribe_request::Request::Refresh(credentials)) })) => {
            Ok(credentials)
        }
        Ok(Some(_)) => Err(Some(status::invalid("a stream holds one subscription"))),
        Ok(None) => Err(None),
        Err(error) => Err(decoding_fault(&error).map(|(_, told)| told)),
    }
}
