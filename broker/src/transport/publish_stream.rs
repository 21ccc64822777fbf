//! `PublishStream`: pipelined, one result per message, in the order of sending.
//!
//! A task reads requests and carries their messages to the record; the response stream awaits the answers in order. What
//! may be in flight between the two is bounded in messages and bytes.

use std::{collections::HashMap, sync::Arc};

use futures_util::{Stream, stream};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use veribus_proto::v1::{Message, PublishResult, PublishStreamRequest, PublishStreamResponse};

use super::{convert, overruns::Overruns, refusals::Refusals, status};
use crate::{
    authenticate::{Caller, TokenError},
    model::Clock,
    publish::{PublishError, Publisher, Publishing},
    quota::Meter,
    record::{Draft, RecordError, Recorder},
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
    pub(super) refusals: Arc<Refusals>,
    pub(super) overruns: Arc<Overruns>,
    pub(super) clock: Clock,
    pub(super) limits: AgentLimits,
    pub(super) drain: CancellationToken,
}

/// One answer to come.
enum Answer {
    Results {
        ids: Vec<String>,
        /// `None` where no message went on.
        pending: Option<Result<Publishing, RecordError>>,
        over_quota: OverQuota,
        room: [OwnedSemaphorePermit; 2],
    },
    End(Status),
}

/// Messages of one request that did not go on, by their place in it, in rising order.
type OverQuota = Vec<(usize, PublishResult)>;

impl PublishStreams {
    /// Serves one stream.
    pub(super) fn serve(
        self,
        caller: Caller,
        mut meter: Meter,
        requests: Streaming<PublishStreamRequest>,
    ) -> impl Stream<Item = Result<PublishStreamResponse, Status>> + Send + 'static {
        let (answers, receiver) = mpsc::channel(self.limits.in_flight_messages_max);
        tokio::spawn(async move {
            let room = Room::new(self.limits);
            if let Err(end) = self.read(&caller, &mut meter, requests, &room, &answers).await {
                // An error means that the client is gone.
                drop(answers.send(Answer::End(end)).await);
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
        answers: &mpsc::Sender<Answer>,
    ) -> Result<(), Status> {
        loop {
            let request = tokio::select! {
                biased;
                () = self.drain.cancelled() => return Err(status::draining()),
                () = caller.session().ended() => return Ok(()),
                () = answers.closed() => return Ok(()),
                request = requests.message() => request,
            };
            match request {
                Ok(Some(request)) => {
                    let answer = self.publish(caller, meter, request, room).await?;
                    if answers.send(answer).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => return self.undecodable(caller, &error).await,
            }
        }
    }

    async fn publish(
        &self,
        caller: &Caller,
        meter: &mut Meter,
        request: PublishStreamRequest,
        room: &Room,
    ) -> Result<Answer, Status> {
        if request.messages.len() > self.limits.frame_messages_max {
            self.note(caller, "a request holds too many messages").await?;
            return Err(status::invalid("too many messages in one request"));
        }
        // All that the request takes, not only its payloads.
        let bytes = request.encoded_len();
        let taken = room.take(request.messages.len(), bytes).await.ok_or_else(status::draining)?;
        let (wire, over_quota) = self.within_quota(caller, meter, request.messages);
        let ids = wire.iter().map(|message| convert::cut(&message.id)).collect();
        let messages: Vec<_> = wire.into_iter().map(|message| convert::message(caller, message)).collect();
        if messages.is_empty() && !over_quota.is_empty() {
            return Ok(Answer::Results { ids, pending: None, over_quota, room: taken });
        }
        let pending = match self.publisher.publish(caller, messages).await {
            Ok(publishing) => Ok(publishing),
            Err(PublishError::Record(error)) => Err(error),
            Err(PublishError::Token(error)) => return Err(self.refused(caller, &error)),
        };
        Ok(Answer::Results { ids, pending: Some(pending), over_quota, room: taken })
    }

    /// Those messages that the sender's quota lets pass, and the answers to the others. What is over quota is not looked
    /// into; what comes after it and fits passes.
    fn within_quota(&self, caller: &Caller, meter: &mut Meter, messages: Vec<Message>) -> (Vec<Message>, OverQuota) {
        meter.follow(&caller.identity());
        if !meter.has_rates() {
            return (messages, OverQuota::new());
        }
        let now = self.clock.now();
        let (mut within, mut over, mut counts) = (Vec::with_capacity(messages.len()), OverQuota::new(), HashMap::new());
        for (place, message) in messages.into_iter().enumerate() {
            match meter.take(now, message.encoded_len()) {
                Ok(()) => within.push(message),
                Err(exceeded) => {
                    over.push((place, status::over_quota_in_stream(&exceeded, convert::cut(&message.id))));
                    *counts.entry(exceeded.kind).or_default() += 1;
                }
            }
        }
        counts.into_iter().for_each(|(kind, count)| self.overruns.note(caller, kind, count));
        (within, over)
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
    let (ids, pending, over_quota, room) = match answer {
        Answer::Results { ids, pending, over_quota, room } => (ids, pending, over_quota, room),
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
    let results = in_order(results, over_quota);
    drop(room);
    Ok(PublishStreamResponse { results, refreshed: None })
}

/// The answers in the order of the messages.
fn in_order(results: Vec<PublishResult>, over_quota: OverQuota) -> Vec<PublishResult> {
    if over_quota.is_empty() {
        return results;
    }
    let mut all = Vec::with_capacity(results.len() + over_quota.len());
    let mut results = results.into_iter();
    for (place, refusal) in over_quota {
        all.extend(results.by_ref().take(place - all.len()));
        all.push(refusal);
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
