//! `PublishStream`: pipelined, one result per message, in the order of sending.
//!
//! A task reads requests and carries their messages to the record; the response stream awaits the answers in order. What
//! may be in flight between the two is bounded in messages and bytes.

use std::sync::Arc;

use futures_util::{Stream, stream};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use veribus_proto::v1::{PublishStreamRequest, PublishStreamResponse, Refreshed};

use super::{convert, refusals::Refusals, renewal::Renewals, status};
use crate::{
    authenticate::{Caller, TokenError},
    publish::{PublishError, Publisher, Publishing},
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
    pub(super) renewals: Renewals,
    pub(super) limits: AgentLimits,
    pub(super) drain: CancellationToken,
}

/// One answer to come.
enum Answer {
    Results {
        refreshed: Option<Refreshed>,
        ids: Vec<String>,
        pending: Result<Publishing, RecordError>,
        room: [OwnedSemaphorePermit; 2],
    },
    End(Status),
}

impl PublishStreams {
    /// Serves one stream.
    pub(super) fn serve(
        self,
        caller: Caller,
        requests: Streaming<PublishStreamRequest>,
    ) -> impl Stream<Item = Result<PublishStreamResponse, Status>> + Send + 'static {
        let (answers, receiver) = mpsc::channel(self.limits.in_flight_messages_max);
        tokio::spawn(async move {
            let room = Room::new(self.limits);
            if let Err(end) = self.read(&caller, requests, &room, &answers).await {
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
                    let answer = self.publish(caller, request, room).await?;
                    if answers.send(answer).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => return self.undecodable(caller, &error).await,
            }
        }
    }

    async fn publish(&self, caller: &Caller, request: PublishStreamRequest, room: &Room) -> Result<Answer, Status> {
        if request.messages.len() > self.limits.frame_messages_max {
            self.note(caller, "a request holds too many messages").await?;
            return Err(status::invalid("too many messages in one request"));
        }
        let refreshed = match &request.refresh {
            Some(credentials) => Some(self.renewals.renew(caller, credentials).await?),
            None => None,
        };
        // All that the request takes, not only its payloads.
        let bytes = request.encoded_len();
        let taken = room.take(request.messages.len(), bytes).await.ok_or_else(status::draining)?;
        let ids = request.messages.iter().map(|message| convert::cut(&message.id)).collect();
        let messages = request.messages.into_iter().map(|message| convert::message(caller, message)).collect();
        let pending = match self.publisher.publish(caller, messages).await {
            Ok(publishing) => Ok(publishing),
            Err(PublishError::Record(error)) => Err(error),
            Err(PublishError::Token(error)) => return Err(self.refused(caller, &error)),
        };
        Ok(Answer::Results { refreshed, ids, pending, room: taken })
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
    let (refreshed, ids, pending, room) = match answer {
        Answer::Results { refreshed, ids, pending, room } => (refreshed, ids, pending, room),
        Answer::End(end) => return Err(end),
    };
    let outcomes = match pending {
        Ok(publishing) => publishing.outcomes().await,
        Err(error) => Err(error),
    };
    let results = match outcomes {
        Ok(outcomes) => outcomes.into_iter().map(status::streamed).collect(),
        Err(error) => ids.into_iter().map(|id| status::Told::from(error).refusal(id)).collect(),
    };
    drop(room);
    Ok(PublishStreamResponse { results, refreshed })
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
