//! `PublishStream`: pipelined, one result per message, in the order of sending.
//!
//! One task reads requests and sets each on its way through inspection and policy, where several may be at once; a second
//! one takes them from there to the record, in order; the response stream awaits the answers, in order. What may be in
//! flight between the three is bounded in messages and bytes.

use std::{collections::HashMap, sync::Arc};

use futures_util::{Stream, stream};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Code, Status, Streaming};
use veribus_proto::v1::{self, PublishResult, PublishStreamRequest, PublishStreamResponse, Refreshed};

use super::{
    convert,
    overruns::Overruns,
    refusals::Refusals,
    renewal::{Pace, Renewals},
    senders::{Senders, Unrecognised},
    status,
};
use crate::{
    authenticate::{Caller, Identity, TokenError},
    model::Clock,
    publish::{Publisher, Publishing},
    quota::Meter,
    record::{Draft, RecordError, Recorder, Routed},
};

const METHOD: &str = "/veribus.v1.BrokerService/PublishStream";

/// How much an agent may have in flight on one stream, and ask for at once.
#[derive(Debug, Clone, Copy)]
pub struct AgentLimits {
    /// Messages in one request.
    pub frame_messages_max: usize,
    /// Messages that wait for their record.
    pub in_flight_messages_max: usize,
    /// Bytes that wait for their record.
    pub in_flight_bytes_max: usize,
    /// Patterns in one subscription.
    pub subscription_patterns_max: usize,
}

/// Everything that a publish stream needs of the broker.
#[derive(Clone)]
pub(super) struct PublishStreams {
    pub(super) publisher: Arc<Publisher>,
    pub(super) recorder: Recorder,
    pub(super) senders: Senders,
    pub(super) refusals: Arc<Refusals>,
    pub(super) renewals: Renewals,
    pub(super) overruns: Arc<Overruns>,
    pub(super) clock: Clock,
    pub(super) limits: AgentLimits,
    pub(super) drain: CancellationToken,
}

/// One request on its way to the record.
enum Step {
    Publish {
        refreshed: Option<Refreshed>,
        /// Ends with the stream: what is on the way may wait for an issuer, message after message, and takes room
        /// that is given back when the stream is gone.
        on_the_way: AbortOnDropHandle<Result<OnTheWay, TokenError>>,
        room: [OwnedSemaphorePermit; 2],
    },
    End(Status),
}

/// The messages of one request, ready for the record, with their ids as sent.
struct OnTheWay {
    routed: Vec<Routed>,
    ids: Vec<String>,
    settled: Settled,
}

/// Messages of one request that do not go on, by their place in it, in rising order.
type Settled = Vec<(usize, PublishResult)>;

/// One answer to come.
enum Answer {
    Results {
        refreshed: Option<Refreshed>,
        ids: Vec<String>,
        settled: Settled,
        /// `None` where no message went on.
        pending: Option<Result<Publishing, RecordError>>,
        room: [OwnedSemaphorePermit; 2],
    },
    End(Status),
}

impl PublishStreams {
    /// Serves one stream.
    pub(super) fn serve(
        self,
        caller: Caller,
        mut meter: Meter,
        requests: Streaming<PublishStreamRequest>,
    ) -> impl Stream<Item = Result<PublishStreamResponse, Status>> + Send + 'static {
        let (steps, next_steps) = mpsc::channel(self.limits.in_flight_messages_max);
        let (answers, receiver) = mpsc::channel(self.limits.in_flight_messages_max);
        tokio::spawn(self.clone().record(caller.clone(), next_steps, answers));
        tokio::spawn(async move {
            let room = Room::new(self.limits);
            if let Err(end) = self.read(&caller, &mut meter, requests, &room, &steps).await {
                // An error means that the client is gone.
                drop(steps.send(Step::End(end)).await);
            }
        });
        stream::unfold(receiver, |mut receiver| async move {
            let answer = receiver.recv().await?;
            Some((respond(answer).await, receiver))
        })
    }

    /// Reads until the client is done; an error is how the stream ends.
    async fn read(
        &self,
        caller: &Caller,
        meter: &mut Meter,
        mut requests: Streaming<PublishStreamRequest>,
        room: &Room,
        steps: &mpsc::Sender<Step>,
    ) -> Result<(), Status> {
        let mut pace = Pace::new();
        loop {
            let request = tokio::select! {
                biased;
                () = self.drain.cancelled() => return Err(status::draining()),
                () = caller.session().ended() => return Ok(()),
                () = steps.closed() => return Ok(()),
                request = requests.message() => request,
            };
            match request {
                Ok(Some(request)) => {
                    if request.refresh.is_some() {
                        pace.next().await;
                    }
                    let step = self.set_out(caller, meter, request, room).await?;
                    if steps.send(step).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => return self.undecodable(caller, &error).await,
            }
        }
    }

    /// Brings what was read to the record, in the order of reading.
    async fn record(self, caller: Caller, mut steps: mpsc::Receiver<Step>, answers: mpsc::Sender<Answer>) {
        while let Some(step) = steps.recv().await {
            let answer = match step {
                Step::Publish { refreshed, on_the_way, room } => match tokio::select! {
                    arrived = on_the_way => arrived,
                    () = answers.closed() => return,
                } {
                    Ok(Ok(arrived)) => self.results(refreshed, arrived, room).await,
                    Ok(Err(error)) => Answer::End(self.refused(&caller, &error)),
                    // A stage that broke off: nothing of this request, and nothing after it, is recorded.
                    Err(_) => Answer::End(status::record_status(RecordError::Failed)),
                },
                Step::End(status) => Answer::End(status),
            };
            let ends = matches!(answer, Answer::End(_));
            // An error means that the client is gone.
            if answers.send(answer).await.is_err() || ends {
                return;
            }
        }
    }

    async fn results(
        &self,
        refreshed: Option<Refreshed>,
        arrived: OnTheWay,
        room: [OwnedSemaphorePermit; 2],
    ) -> Answer {
        let OnTheWay { routed, ids, settled } = arrived;
        let is_all_settled = routed.is_empty() && !settled.is_empty();
        let pending = if is_all_settled { None } else { Some(self.publisher.record(routed).await) };
        Answer::Results { refreshed, ids, settled, pending, room }
    }

    /// Sets a request on its way through the stages before the record.
    async fn set_out(
        &self,
        caller: &Caller,
        meter: &mut Meter,
        mut request: PublishStreamRequest,
        room: &Room,
    ) -> Result<Step, Status> {
        if request.messages.len() > self.limits.frame_messages_max {
            self.note(caller, "a request holds too many messages").await?;
            return Err(status::invalid("too many messages in one request"));
        }
        let refreshed = match request.refresh.take() {
            Some(credentials) => Some(self.renewals.renew(caller, &credentials).await?),
            None => None,
        };
        // All that the request takes, not only its payloads.
        let bytes = request.encoded_len();
        let taken = room.take(request.messages.len(), bytes).await.ok_or_else(status::draining)?;
        let over_quota = self.over_quota(caller, meter, &request.messages);
        // As it is now: a fresh token speaks for what comes after it.
        let identity = caller.identity();
        let (this, caller) = (self.clone(), caller.clone());
        let on_the_way =
            tokio::spawn(async move { this.route(&caller, &identity, request.messages, over_quota).await });
        Ok(Step::Publish { refreshed, on_the_way: AbortOnDropHandle::new(on_the_way), room: taken })
    }

    /// Answers to the messages that the caller's quota does not let pass. They are not looked into; what comes after them
    /// and fits passes.
    fn over_quota(&self, caller: &Caller, meter: &mut Meter, messages: &[v1::Message]) -> Settled {
        meter.follow(&caller.identity());
        if !meter.has_rates() {
            return Settled::new();
        }
        let now = self.clock.now();
        let (mut over, mut counts) = (Settled::new(), HashMap::new());
        for (place, message) in messages.iter().enumerate() {
            if let Err(exceeded) = meter.take(now, message.encoded_len()) {
                over.push((place, status::over_quota_in_stream(&exceeded, convert::cut(&message.id))));
                *counts.entry(exceeded.kind).or_default() += 1;
            }
        }
        counts.into_iter().for_each(|(kind, count)| self.overruns.note(caller, kind, count));
        over
    }

    /// Carries through the stages before the record what is not settled yet and whose sender is known.
    async fn route(
        &self,
        caller: &Caller,
        identity: &Arc<Identity>,
        messages: Vec<v1::Message>,
        mut settled: Settled,
    ) -> Result<OnTheWay, TokenError> {
        let over_quota: Vec<usize> = settled.iter().map(|(place, _)| *place).collect();
        let (mut posted, mut ids) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        for (place, mut message) in messages.into_iter().enumerate() {
            if over_quota.binary_search(&place).is_ok() {
                continue;
            }
            let id = convert::cut(&message.id);
            match self.senders.recognise(caller, message.credentials.take()).await {
                Ok(sender) => {
                    posted.push(convert::message(identity, caller.peer(), sender, message));
                    ids.push(id);
                }
                Err(Unrecognised) => settled.push((place, status::UNAUTHENTICATED.refusal(id))),
            }
        }
        settled.sort_unstable_by_key(|(place, _)| *place);
        Ok(OnTheWay { routed: self.publisher.route(identity, caller.peer(), posted)?, ids, settled })
    }

    /// A caller whose token was good when the call began.
    fn refused(&self, caller: &Caller, error: &TokenError) -> Status {
        self.refusals.note_session(caller.session(), error);
        status::unauthenticated()
    }

    /// A request that could not be decoded ends the stream, and is recorded; a connection that broke is not.
    async fn undecodable(&self, caller: &Caller, error: &Status) -> Result<(), Status> {
        let (detail, told) = match error.code() {
            Code::OutOfRange => ("a request is larger than the decoder's limit", status::frame_too_large()),
            Code::Internal | Code::InvalidArgument => {
                ("a request is not valid protobuf", status::invalid("the request cannot be decoded"))
            }
            _ => return Ok(()),
        };
        self.note(caller, detail).await?;
        Err(told)
    }

    async fn note(&self, caller: &Caller, detail: &str) -> Result<(), Status> {
        let draft = Draft::undecodable(&caller.identity(), caller.peer(), METHOD, detail);
        self.recorder.complaint(draft).await.map_err(status::record_status)
    }
}

async fn respond(answer: Answer) -> Result<PublishStreamResponse, Status> {
    let (refreshed, ids, settled, pending, room) = match answer {
        Answer::Results { refreshed, ids, settled, pending, room } => (refreshed, ids, settled, pending, room),
        Answer::End(end) => return Err(end),
    };
    let outcomes = match pending {
        Some(Ok(publishing)) => publishing.outcomes().await,
        Some(Err(error)) => Err(error),
        None => Ok(Vec::new()),
    };
    let results = match outcomes {
        Ok(outcomes) => outcomes.into_iter().map(status::streamed).collect(),
        Err(error) => ids.into_iter().map(|id| status::Told::from(error).refusal(id)).collect(),
    };
    let results = in_order(results, settled);
    drop(room);
    Ok(PublishStreamResponse { results, refreshed })
}

/// The answers in the order of the messages.
fn in_order(results: Vec<PublishResult>, settled: Settled) -> Vec<PublishResult> {
    if settled.is_empty() {
        return results;
    }
    let mut all = Vec::with_capacity(results.len() + settled.len());
    let mut results = results.into_iter();
    for (place, result) in settled {
        all.extend(results.by_ref().take(place - all.len()));
        all.push(result);
    }
    all.extend(results);
    all
}

/// What may still come into flight.
struct Room {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    limits: AgentLimits,
}

impl Room {
    fn new(limits: AgentLimits) -> Self {
        let bound = |max: usize| Arc::new(Semaphore::new(max.min(u32::MAX as usize)));
        Self { messages: bound(limits.in_flight_messages_max), bytes: bound(limits.in_flight_bytes_max), limits }
    }

    /// Waits until there is room. What is larger than all the room there is takes all of it.
    async fn take(&self, messages: usize, bytes: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        let permits = |wanted: usize, max: usize| u32::try_from(wanted.min(max)).unwrap_or(u32::MAX);
        let messages = permits(messages, self.limits.in_flight_messages_max);
        let bytes = permits(bytes, self.limits.in_flight_bytes_max);
        Some([
            Arc::clone(&self.messages).acquire_many_owned(messages).await.ok()?,
            Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok()?,
        ])
    }
}
