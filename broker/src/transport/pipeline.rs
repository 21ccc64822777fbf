//! A pipelined stream: requests that hold several items each, one result for each item, in the order of sending.
//!
//! One task reads requests and sets each on its way through the stages before the record, where several may be at once; a
//! second one takes them from there to the record, in order; the response stream awaits the answers, in order. What may be
//! in flight between the three is bounded in items and bytes.

use std::{collections::HashMap, sync::Arc};

use futures_util::{Stream, stream};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Status, Streaming};
use veribus_proto::v1::{Credentials, Refreshed};

use super::{
    frame_body::Received,
    malformed::{self, FaultRecorder},
    overruns::Overruns,
    refusals::Refusals,
    renewal::{Pace, Renewals},
    status,
};
use crate::{
    authenticate::{Caller, Identity, TokenError},
    model::Clock,
    quota::{Meter, QuotaExceeded, Reservation},
    record::{RecordError, Recorder, SubmitError},
};

/// How much an agent may have in flight on one stream, and ask for at once.
#[derive(Debug, Clone, Copy)]
pub struct AgentLimits {
    /// Messages or operations in one request.
    pub frame_messages_max: usize,
    /// Messages or operations that wait for their record.
    pub in_flight_messages_max: usize,
    /// Bytes that wait for their record.
    pub in_flight_bytes_max: usize,
    /// Patterns in one subscription.
    pub subscription_patterns_max: usize,
}

/// What goes through a pipelined stream.
pub(super) trait Traffic: Clone + Send + Sync + 'static {
    type Request: Message + Default + 'static;
    type Item: Message + 'static;
    /// What an item is called in an answer that is given without its outcome.
    type Name: Send + 'static;
    /// The items of one request, ready for the record.
    type Ready: Send + 'static;
    /// The items of one request, on their way to the record.
    type Pending: Send + 'static;
    type Result: Send + 'static;
    type Response: Send + 'static;

    fn open(request: Self::Request) -> (Vec<Self::Item>, Option<Credentials>);

    /// What an item takes in memory until it is answered, in bytes, about.
    fn memory(item: &Self::Item) -> usize;

    /// The answer to an item that the caller's quota does not let pass.
    fn over_quota(&self, exceeded: &QuotaExceeded, item: &Self::Item) -> Self::Result;

    /// Carries what is not settled yet through the stages before the record.
    fn route(
        &self,
        caller: &Caller,
        identity: &Arc<Identity>,
        items: Vec<Self::Item>,
        settled: Settled<Self::Result>,
    ) -> impl Future<Output = Result<OnTheWay<Self>, SubmitError>> + Send;

    fn record(&self, ready: Self::Ready) -> impl Future<Output = Result<Self::Pending, RecordError>> + Send;

    fn results(&self, pending: Self::Pending) -> impl Future<Output = Result<Vec<Self::Result>, RecordError>> + Send;

    /// The answer to an item that was not recorded, or of which that is not known.
    fn failed(name: Self::Name, error: RecordError) -> Self::Result;

    fn response(results: Vec<Self::Result>, refreshed: Option<Refreshed>) -> Self::Response;
}

/// Items of one request that do not go on, by their place in it, in rising order.
pub(super) type Settled<R> = Vec<(usize, R)>;

/// The items of one request before their record.
pub(super) struct OnTheWay<T: Traffic> {
    /// `None` where no item goes on.
    pub(super) ready: Option<T::Ready>,
    /// The names of those that go on.
    pub(super) names: Vec<T::Name>,
    pub(super) settled: Settled<T::Result>,
}

/// Everything that a stream of requests needs of the broker.
#[derive(Clone)]
pub struct Pipelines {
    /// Records what is wrong with a request.
    pub faults: FaultRecorder,
    /// Records.
    pub recorder: Recorder,
    /// Notes tokens that are no good.
    pub refusals: Arc<Refusals>,
    /// Takes fresh tokens.
    pub renewals: Renewals,
    /// Notes what is over quota.
    pub overruns: Arc<Overruns>,
    /// Tells the time.
    pub clock: Clock,
    /// How much may be in flight.
    pub limits: AgentLimits,
    /// Cancelled when the broker ends.
    pub drain: CancellationToken,
}

/// One stream.
struct Pipeline<T> {
    common: Pipelines,
    traffic: T,
}

/// One request on its way to the record.
enum Step<T: Traffic> {
    Items {
        refreshed: Option<Refreshed>,
        /// Ends with the stream: what is on the way may wait for an issuer, item after item, and takes room that is given
        /// back when the stream is gone.
        on_the_way: AbortOnDropHandle<Result<OnTheWay<T>, SubmitError>>,
        room: Taken,
    },
    End(Status),
}

/// One answer to come.
enum Answer<T: Traffic> {
    Results {
        refreshed: Option<Refreshed>,
        names: Vec<T::Name>,
        settled: Settled<T::Result>,
        /// `None` where no item went on.
        pending: Option<Result<T::Pending, RecordError>>,
        room: Taken,
    },
    End(Status),
}

impl Pipelines {
    /// Serves one stream.
    pub(super) fn serve<T: Traffic>(
        &self,
        traffic: T,
        caller: Caller,
        mut meter: Meter,
        received: Received,
        requests: Streaming<T::Request>,
    ) -> impl Stream<Item = Result<T::Response, Status>> + Send + 'static {
        let this = Arc::new(Pipeline { common: self.clone(), traffic: traffic.clone() });
        let (steps, next_steps) = mpsc::channel(self.limits.in_flight_messages_max);
        let (answers, receiver) = mpsc::channel(self.limits.in_flight_messages_max);
        let (reading, by) = (Arc::clone(&this), caller.clone());
        tokio::spawn(async move { this.record(caller, next_steps, answers).await });
        tokio::spawn(async move {
            let room = Room::new(reading.common.limits, received);
            if let Err(end) = reading.read(&by, &mut meter, requests, &room, &steps).await {
                // An error means that the client is gone.
                drop(steps.send(Step::End(end)).await);
            }
        });
        stream::unfold((receiver, traffic), |(mut receiver, traffic)| async move {
            let answer = receiver.recv().await?;
            Some((respond(&traffic, answer).await, (receiver, traffic)))
        })
    }
}

impl<T: Traffic> Pipeline<T> {
    /// Reads until the client is done; an error is how the stream ends.
    async fn read(
        &self,
        caller: &Caller,
        meter: &mut Meter,
        mut requests: Streaming<T::Request>,
        room: &Room,
        steps: &mpsc::Sender<Step<T>>,
    ) -> Result<(), Status> {
        let mut pace = Pace::new(meter.clone(), self.common.clock.clone());
        loop {
            let request = tokio::select! {
                biased;
                () = self.common.drain.cancelled() => return Err(status::draining()),
                () = caller.session().ended() => return Ok(()),
                () = steps.closed() => return Ok(()),
                request = requests.message() => request,
            };
            match request {
                Ok(Some(request)) => {
                    let step = self.set_out(caller, meter, request, room, &mut pace).await?;
                    if steps.send(step).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => return self.undecodable(caller, meter, &error).await,
            }
        }
    }

    /// Brings what was read to the record, in the order of reading.
    async fn record(&self, caller: Caller, mut steps: mpsc::Receiver<Step<T>>, answers: mpsc::Sender<Answer<T>>) {
        while let Some(step) = steps.recv().await {
            let answer = match step {
                Step::Items { refreshed, on_the_way, room } => match tokio::select! {
                    arrived = on_the_way => arrived,
                    () = answers.closed() => return,
                } {
                    Ok(Ok(arrived)) => self.results(refreshed, arrived, room).await,
                    Ok(Err(SubmitError::Token(error))) => Answer::End(self.refused(&caller, &error)),
                    Ok(Err(SubmitError::Record(error))) => Answer::End(status::record_status(error)),
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

    async fn results(&self, refreshed: Option<Refreshed>, arrived: OnTheWay<T>, room: Taken) -> Answer<T> {
        let OnTheWay { ready, names, settled } = arrived;
        let pending = match ready {
            Some(ready) => Some(self.traffic.record(ready).await),
            None => None,
        };
        Answer::Results { refreshed, names, settled, pending, room }
    }

    /// Sets a request on its way through the stages before the record.
    async fn set_out(
        &self,
        caller: &Caller,
        meter: &mut Meter,
        request: T::Request,
        room: &Room,
        pace: &mut Pace,
    ) -> Result<Step<T>, Status> {
        let (items, refresh) = T::open(request);
        // All that the request takes, not only its payloads.
        let bytes = items.iter().map(T::memory).sum();
        let reservation = room.received.take().map(|mut reservation| {
            reservation.received(bytes);
            reservation
        });
        if refresh.is_some() {
            pace.next(caller).await;
        }
        if items.len() > self.common.limits.frame_messages_max {
            self.note(caller, meter, "a request holds too many items").await?;
            return Err(status::invalid("too many items in one request"));
        }
        let refreshed = match refresh {
            Some(credentials) => Some(self.common.renewals.renew(caller, &credentials).await?),
            None => None,
        };
        // One that brings nothing leaves no entry, and is not for nothing all the same.
        if items.is_empty()
            && refreshed.is_none()
            && let Err(exceeded) = meter.take_entry(self.common.clock.now())
        {
            self.common.overruns.note(caller, exceeded.kind, 1);
            return Err(status::over_quota(&exceeded));
        }
        let taken = room.take(items.len(), bytes, reservation).await.ok_or_else(status::draining)?;
        let settled = self.over_quota(caller, meter, &items);
        // As it is now: a fresh token speaks for what comes after it.
        let identity = caller.identity();
        let (traffic, caller) = (self.traffic.clone(), caller.clone());
        let on_the_way = tokio::spawn(async move { traffic.route(&caller, &identity, items, settled).await });
        Ok(Step::Items { refreshed, on_the_way: AbortOnDropHandle::new(on_the_way), room: taken })
    }

    /// Answers to the items that the caller's quota does not let pass. They are not looked into; what comes after them
    /// and fits passes.
    fn over_quota(&self, caller: &Caller, meter: &mut Meter, items: &[T::Item]) -> Settled<T::Result> {
        meter.follow(&caller.identity());
        if !meter.has_rates() {
            return Settled::new();
        }
        let now = self.common.clock.now();
        let (mut over, mut counts) = (Settled::new(), HashMap::new());
        for (place, item) in items.iter().enumerate() {
            if let Err(exceeded) = meter.take(now, item.encoded_len()) {
                over.push((place, self.traffic.over_quota(&exceeded, item)));
                *counts.entry(exceeded.kind).or_default() += 1;
            }
        }
        counts.into_iter().for_each(|(kind, count)| self.common.overruns.note(caller, kind, count));
        over
    }

    /// A caller whose token was good when the call began.
    fn refused(&self, caller: &Caller, error: &TokenError) -> Status {
        self.common.refusals.note_session(caller.session(), error);
        status::unauthenticated()
    }

    /// A request that could not be decoded ends the stream, and is recorded; a connection that broke is not.
    async fn undecodable(&self, caller: &Caller, meter: &Meter, error: &Status) -> Result<(), Status> {
        let Some((fault, told)) = malformed::decoding_fault(error) else { return Ok(()) };
        self.note(caller, meter, fault).await?;
        Err(told)
    }

    async fn note(&self, caller: &Caller, meter: &Meter, fault: &str) -> Result<(), Status> {
        self.common.faults.note(caller, meter, fault).await.map_err(status::record_status)
    }
}

async fn respond<T: Traffic>(traffic: &T, answer: Answer<T>) -> Result<T::Response, Status> {
    let (refreshed, names, settled, pending, room) = match answer {
        Answer::Results { refreshed, names, settled, pending, room } => (refreshed, names, settled, pending, room),
        Answer::End(end) => return Err(end),
    };
    let results = match pending {
        Some(Ok(pending)) => traffic.results(pending).await,
        Some(Err(error)) => Err(error),
        None => Ok(Vec::new()),
    };
    let results = results.unwrap_or_else(|error| names.into_iter().map(|name| T::failed(name, error)).collect());
    let results = in_order(results, settled);
    drop(room);
    Ok(T::response(results, refreshed))
}

/// The answers in the order of the items.
fn in_order<R>(results: Vec<R>, settled: Settled<R>) -> Vec<R> {
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

/// What a request takes until it is answered: of its stream, and of what its agent may have sent.
struct Taken {
    _of_stream: [OwnedSemaphorePermit; 2],
    _of_agent: Option<Reservation>,
}

/// What may still come into flight.
struct Room {
    received: Received,
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    limits: AgentLimits,
}

impl Room {
    fn new(limits: AgentLimits, received: Received) -> Self {
        let bound = |max: usize| Arc::new(Semaphore::new(max.min(u32::MAX as usize)));
        let (messages, bytes) = (bound(limits.in_flight_messages_max), bound(limits.in_flight_bytes_max));
        Self { received, messages, bytes, limits }
    }

    /// Waits until there is room. What is larger than all the room there is takes all of it.
    async fn take(&self, messages: usize, bytes: usize, reservation: Option<Reservation>) -> Option<Taken> {
        let permits = |wanted: usize, max: usize| u32::try_from(wanted.min(max)).unwrap_or(u32::MAX);
        let messages = permits(messages, self.limits.in_flight_messages_max);
        let bytes = permits(bytes, self.limits.in_flight_bytes_max);
        let of_stream = [
            Arc::clone(&self.messages).acquire_many_owned(messages).await.ok()?,
            Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok()?,
        ];
        Some(Taken { _of_stream: of_stream, _of_agent: reservation })
    }
}
