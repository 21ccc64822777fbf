//! The body of a call, gRPC message by gRPC message: none is read before there is memory for it, and none for longer than a
//! message may take.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};
use veribus_proto::{
    codec::{ATTRIBUTES_MAX, ATTRIBUTES_OF_ONE_MAX, ITEMS_MAX},
    v1,
};

use super::status;
use crate::quota::{ReceiveBudget, Reservation};

/// A flag and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;
/// What an attribute takes besides its text: a place in a table, and two allocations.
pub(super) const ATTRIBUTE_BYTES: usize = 128;
/// What an item takes on its way to its answer besides its content: as decided, its entry, its outcome.
pub(super) const IN_FLIGHT_BYTES: usize = 1_024;
/// What the smallest item takes, which is two bytes on the wire.
const DECODED_FACTOR: usize = size_of::<v1::Message>().div_ceil(2);
/// The same of an attribute or a pattern, of four bytes.
const DECODED_ONE_FACTOR: usize = ATTRIBUTE_BYTES / 4;
/// What the items of one request take at most besides their content. A vector that grows holds its old place meanwhile.
const DECODED_BYTES_MAX: usize = 2 * ITEMS_MAX * size_of::<v1::Message>() + ATTRIBUTES_MAX * ATTRIBUTE_BYTES;
/// The same of a request that holds one item.
const DECODED_ONE_BYTES_MAX: usize = size_of::<v1::Message>() + ATTRIBUTES_OF_ONE_MAX * ATTRIBUTE_BYTES;
/// A shorter message is there as soon as its prefix, and waits without a turn.
const SHORT_BYTES_MAX: usize = 16 * 1024;
/// The largest request of a call that brings no content: names, patterns, a token.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// How large messages may be, and how long they may take.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    /// The largest that is decoded, in bytes; larger ones are refused by whoever decodes.
    pub bytes_max: usize,
    /// From its first byte to its last, once there is memory for it.
    pub duration_max: Duration,
    /// So many calls of one connection may wait for memory.
    pub waiting_max: usize,
}

/// The reservation of the message that was read last, for whoever decoded it.
#[derive(Debug, Clone, Default)]
pub(super) struct Received(Arc<Mutex<Option<Reservation>>>);

impl Received {
    /// Takes it over.
    pub(super) fn take(&self) -> Option<Reservation> {
        self.0.lock().take()
    }

    /// The memory of all agents is for what is being received.
    fn settle(&self) {
        if let Some(reservation) = &mut *self.0.lock() {
            reservation.received(usize::MAX);
        }
    }

    fn put(&self, reservation: Reservation) {
        *self.0.lock() = Some(reservation);
    }
}

/// What a call brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requests {
    /// One, with content.
    One,
    /// One, without.
    OneSmall,
    /// Any number, with content; whoever reads them takes over what is reserved.
    Many,
    /// Any number, without.
    ManySmall,
}

impl Requests {
    /// What the call at this path brings.
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/veribus.v1.BrokerService/Publish" | "/veribus.v1.StateService/Put" => Self::One,
            "/veribus.v1.BrokerService/PublishStream" | "/veribus.v1.StateService/Session" => Self::Many,
            "/veribus.v1.BrokerService/Subscribe" | "/veribus.v1.StateService/Watch" => Self::ManySmall,
            _ => Self::OneSmall,
        }
    }

    const fn is_one(self) -> bool {
        matches!(self, Self::One | Self::OneSmall)
    }

    fn bytes_max(self, limits: FrameLimits) -> usize {
        match self {
            Self::One | Self::Many => limits.bytes_max,
            Self::OneSmall | Self::ManySmall => limits.bytes_max.min(SMALL_BYTES_MAX),
        }
    }

    /// What a message of this length may take while it is decoded, in bytes.
    fn decoding_bytes(self, length: usize) -> usize {
        let (factor, items_max) = match self {
            Self::Many => (DECODED_FACTOR, DECODED_BYTES_MAX),
            Self::One | Self::OneSmall | Self::ManySmall => (DECODED_ONE_FACTOR, DECODED_ONE_BYTES_MAX),
        };
        length.saturating_add(length.saturating_mul(factor).min(items_max))
    }
}

/// What message and stream of a call are read under.
pub(super) struct FrameBody {
    inner: Body,
    limits: FrameLimits,
    requests: Requests,
    waiting: Waiting,
    budget: ReceiveBudget,
    received: Received,
    state: State,
    /// By when what is under way must have come; set when it has to be waited for.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Read, and not yet handed on.
    pending: Bytes,
}

type Reserving = Pin<Box<dyn Future<Output = Reservation> + Send>>;

enum State {
    /// Between two messages, or in a prefix: so many bytes of it came in earlier chunks.
    Prefix([u8; PREFIX_BYTES], usize),
    /// The prefix of a message of this length is there, and waits for memory.
    Reserving(Prefix, usize, Reserving),
    /// So much is missing.
    Message(usize),
    /// The only message was read: nothing more may come.
    Done,
    /// It ended with an error.
    Failed,
}

/// Where a whole prefix stands.
#[derive(Clone, Copy)]
enum Prefix {
    /// At the beginning of what was read and is not handed on.
    Pending,
    /// Here: it came in several chunks.
    Apart([u8; PREFIX_BYTES]),
}

const BEGIN: State = State::Prefix([0; PREFIX_BYTES], 0);

/// How many calls of a connection wait for memory. What was sent for them lies unread in the connection's window: were it full
/// of them, those that have memory could not come to their end.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    /// Of this connection.
    pub(super) calls: Arc<AtomicUsize>,
    /// At most so many.
    pub(super) max: usize,
}

/// One of those that wait.
struct Turn(Arc<AtomicUsize>);

impl Waiting {
    fn enter(&self) -> Option<Turn> {
        let more = |waiting: usize| (waiting < self.max).then_some(waiting + 1);
        self.calls.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Turn(Arc::clone(&self.calls)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl FrameBody {
    pub(super) fn wrap(
        inner: Body,
        limits: FrameLimits,
        requests: Requests,
        waiting: Waiting,
        budget: ReceiveBudget,
        received: Received,
    ) -> Body {
        let (state, deadline, pending) = (BEGIN, None, Bytes::new());
        Body::new(Self { inner, limits, requests, waiting, budget, received, state, deadline, pending })
    }

    /// What may be handed on of what was read.
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            match &mut self.state {
                State::Prefix(bytes, filled) => {
                    let prefix = match self.pending.first_chunk() {
                        Some(whole) if *filled == 0 => Some((Prefix::Pending, length(whole))),
                        _ => fill(bytes, filled, &mut self.pending).then(|| (Prefix::Apart(*bytes), length(bytes))),
                    };
                    let Some((prefix, length)) = prefix else { return Poll::Ready(Ok(None)) };
                    if length > self.requests.bytes_max(self.limits) {
                        return Poll::Ready(Err(too_large()));
                    }
                    // That of the message before.
                    drop(self.received.take());
                    let bytes = self.requests.decoding_bytes(length);
                    if let Some(reservation) = self.budget.try_reserve(bytes) {
                        if let Some(begun) = self.begin_message(prefix, length, reservation) {
                            return Poll::Ready(Ok(Some(begun)));
                        }
                        continue;
                    }
                    let turn = (length > SHORT_BYTES_MAX).then(|| self.waiting.enter());
                    if matches!(turn, Some(None)) {
                        return Poll::Ready(Err(status::receive_limit()));
                    }
                    let budget = self.budget.clone();
                    let reserving = Box::pin(async move {
                        let reservation = budget.reserve(bytes).await;
                        drop(turn);
                        reservation
                    });
                    self.state = State::Reserving(prefix, length, reserving);
                }
                State::Reserving(prefix, length, reserving) => {
                    let reservation = ready!(reserving.as_mut().poll(context));
                    let (prefix, length) = (*prefix, *length);
                    if let Some(begun) = self.begin_message(prefix, length, reservation) {
                        return Poll::Ready(Ok(Some(begun)));
                    }
                }
                State::Message(missing) => {
                    let part = self.pending.split_to(self.pending.len().min(*missing));
                    *missing -= part.len();
                    if *missing == 0 {
                        self.end_message();
                    }
                    return Poll::Ready(Ok((!part.is_empty()).then_some(part)));
                }
                State::Done if self.pending.is_empty() => return Poll::Ready(Ok(None)),
                State::Done => return Poll::Ready(Err(one_too_many())),
                State::Failed => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Lets a message in; returns its prefix where that stands apart.
    fn begin_message(&mut self, prefix: Prefix, length: usize, reservation: Reservation) -> Option<Bytes> {
        self.received.put(reservation);
        let (missing, begun) = match prefix {
            Prefix::Pending => (PREFIX_BYTES + length, None),
            Prefix::Apart(bytes) => (length, Some(Bytes::copy_from_slice(&bytes))),
        };
        self.state = State::Message(missing);
        if missing == 0 {
            self.end_message();
        }
        begun
    }

    fn end_message(&mut self) {
        self.deadline = None;
        self.state = if self.requests.is_one() { State::Done } else { BEGIN };
    }

    /// More is asked for: what was read last is decoded by now.
    fn decoded(&self) {
        match (&self.state, self.requests) {
            (State::Done, _) => self.received.settle(),
            (State::Prefix(_, 0), Requests::Many | Requests::ManySmall) => drop(self.received.take()),
            _ => {}
        }
    }

    /// Whether the peer makes us wait in the middle of something.
    const fn is_under_way(&self) -> bool {
        match self.state {
            State::Message(_) => true,
            State::Prefix(_, filled) => self.requests.is_one() || filled > 0,
            State::Done => true,
            State::Reserving(..) | State::Failed => false,
        }
    }

    fn fail(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.state = State::Failed;
        self.pending = Bytes::new();
        Poll::Ready(Some(Err(status)))
    }
}

/// As `tonic` says it, and [`decoding_fault`](super::malformed::decoding_fault) takes it.
fn too_large() -> Status {
    Status::out_of_range("the message is larger than what is decoded")
}

/// The same.
fn one_too_many() -> Status {
    Status::internal("the call takes one message")
}

/// Takes what is missing of a prefix out of a chunk; `true` once it is whole.
fn fill(prefix: &mut [u8; PREFIX_BYTES], filled: &mut usize, chunk: &mut Bytes) -> bool {
    let missing = prefix.get_mut(*filled..).unwrap_or_default();
    let part = chunk.split_to(missing.len().min(chunk.len()));
    missing.iter_mut().zip(&part).for_each(|(to, from)| *to = *from);
    *filled += part.len();
    *filled == PREFIX_BYTES
}

/// The length that a prefix states.
fn length([_, length @ ..]: &[u8; PREFIX_BYTES]) -> usize {
    usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX)
}

impl http_body::Body for FrameBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            match ready!(this.poll_pending(context)) {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) if matches!(this.state, State::Failed) => return Poll::Ready(None),
                Ok(None) => this.decoded(),
                Err(status) => return this.fail(status),
            }
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.pending = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending if this.is_under_way() => {
                    let duration_max = this.limits.duration_max;
                    let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep(duration_max)));
                    ready!(deadline.as_mut().poll(context));
                    return this.fail(status::frame_too_slow());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && !matches!(self.state, State::Reserving(..)) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt as _, StreamExt as _, future::poll_fn, stream};
    use http_body::Body as _;
    use http_body_util::StreamBody;
    use prost::Message as _;
    use tonic::{Code, Streaming, codec::Codec as _};
    use veribus_proto::codec::BoundedCodec;

    use super::*;
    use crate::{
        fixtures::World,
        issue::KeyKind,
        model::{QuotaOverrides, QuotaTerms},
        quota::{Meter, QuotaTable, Quotas},
    };

    const LIMITS: FrameLimits =
        FrameLimits { bytes_max: 10_000, duration_max: Duration::from_secs(30), waiting_max: 1 };
    /// Of all agents; an eighth of one.
    const RECEIVE_BYTES_MAX: usize = 8 * 1_000_000;

    fn meter(quotas: &Quotas, world: &World, agent: &str) -> Meter {
        quotas.open_call(world.identity(&world.claims(agent))).expect("a place").meter()
    }

    fn quotas(world: &World) -> Quotas {
        let table = QuotaTable::new(QuotaTerms::default(), QuotaOverrides::default());
        Quotas::new(table, 10, RECEIVE_BYTES_MAX, world.clock.clone())
    }

    fn message(bytes: usize) -> Vec<u8> {
        let length = u32::try_from(bytes).expect("short").to_be_bytes();
        [&[0], &length[..], &vec![b'x'; bytes]].concat()
    }

    /// A body of these chunks, after which nothing comes.
    fn body(chunks: &[&[u8]], meter: &Meter, received: &Received) -> Body {
        body_of(Requests::Many, chunks, meter, received)
    }

    fn body_of(requests: Requests, chunks: &[&[u8]], meter: &Meter, received: &Received) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect();
        let frames = stream::iter(chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))));
        let inner = Body::new(StreamBody::new(frames.chain(stream::pending())));
        let waiting = Waiting { calls: Arc::default(), max: 1 };
        FrameBody::wrap(inner, LIMITS, requests, waiting, meter.receive_budget(), received.clone())
    }

    /// What comes next; `None` where one would have to wait.
    fn next(body: &mut Body) -> Option<Result<Bytes, Status>> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).now_or_never()??;
        Some(frame.map(|frame| frame.into_data().expect("data")))
    }

    fn read_all(body: &mut Body) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = next(body) {
            all.extend(bytes.expect("no error"));
        }
        all
    }

    #[tokio::test]
    async fn whatever_the_chunks_are_the_bytes_come_through() {
        let (world, received) = (World::new(KeyKind::EdDsa), Received::default());
        let meter = meter(&quotas(&world), &world, "one");
        let sent = [message(10), message(0), message(2_000), message(1)].concat();
        for size in [1, 4, 5, 7, 100, 10_000] {
            let chunks: Vec<&[u8]> = sent.chunks(size).collect();
            assert_eq!(read_all(&mut body(&chunks, &meter, &received)), sent, "{size}");
        }
        let mut large = body(&[&message(LIMITS.bytes_max + 1)], &meter, &Received::default());
        assert_eq!(next(&mut large).expect("an end").expect_err("too large").code(), Code::OutOfRange);
    }

    #[tokio::test]
    async fn a_message_is_not_read_before_there_is_memory_for_it() {
        let world = World::new(KeyKind::EdDsa);
        let quotas = quotas(&world);
        let (one, other) = (meter(&quotas, &world, "one"), meter(&quotas, &world, "other"));
        // The prefix of a message that never comes holds what the whole of it takes.
        let prefix = &message(2_000)[..PREFIX_BYTES];
        let per_message = Requests::Many.decoding_bytes(2_000);
        let fit = RECEIVE_BYTES_MAX / 8 / per_message;
        let mut open = Vec::new();
        for _ in 0..fit {
            let received = Received::default();
            let mut waiting = body(&[prefix, b"x"], &one, &received);
            assert_eq!(read_all(&mut waiting), [prefix, b"x"].concat());
            open.push((waiting, received));
        }
        let received = Received::default();
        let mut late = body(&[&message(2_000)], &one, &received);
        assert_eq!(read_all(&mut late), Vec::<u8>::new());
        let mut others = body(&[&message(2_000)], &other, &Received::default());
        assert_eq!(read_all(&mut others), message(2_000), "another agent has memory of its own");
        // A message that was decoded holds what it takes, until it is answered.
        let (_, received) = &open[0];
        let mut reservation = received.take().expect("it was read");
        reservation.received(per_message);
        assert_eq!(read_all(&mut late), Vec::<u8>::new());
        drop(reservation);
        assert_eq!(read_all(&mut late), message(2_000));
    }

    #[tokio::test]
    async fn a_stream_that_is_asked_for_more_holds_nothing_of_what_was_decoded() {
        let world = World::new(KeyKind::EdDsa);
        let one = meter(&quotas(&world), &world, "one");
        let mut open = Vec::new();
        for _ in 0..1_000 {
            let mut body = body_of(Requests::ManySmall, &[&message(2_000)], &one, &Received::default());
            assert_eq!(read_all(&mut body), message(2_000));
            open.push(body);
        }
    }

    /// Nothing comes after the only message of a call: neither another, which would give back what the first one holds, nor
    /// nothing for ever.
    #[tokio::test(start_paused = true)]
    async fn a_call_of_one_message_ends_after_it() {
        let world = World::new(KeyKind::EdDsa);
        let one = meter(&quotas(&world), &world, "one");
        let received = Received::default();
        let mut two = body_of(Requests::One, &[&message(10), &message(0)], &one, &received);
        assert_eq!(next(&mut two).expect("the first").expect("it comes").len(), 15);
        assert_eq!(next(&mut two).expect("the end").expect_err("one too many").code(), Code::Internal);
        assert!(received.take().is_some(), "the first is held until it is answered");
        for begun in [&message(10)[..], &message(10)[..8], &[]] {
            let mut open = body_of(Requests::One, &[begun], &one, &received);
            assert_eq!(read_all(&mut open), begun);
            tokio::time::advance(LIMITS.duration_max + Duration::from_millis(1)).await;
            let end = next(&mut open).expect("the end").expect_err("it does not end");
            assert_eq!(end.code(), Code::DeadlineExceeded);
        }
    }

    /// Once decoded, the only message of a call holds what it takes of its agent, and nothing of all.
    #[tokio::test]
    async fn a_call_that_waits_for_its_answer_holds_up_no_other_agent() {
        let world = World::new(KeyKind::EdDsa);
        let quotas = Quotas::new(
            QuotaTable::new(QuotaTerms::default(), QuotaOverrides::default()),
            100,
            8 * 10_000,
            world.clock.clone(),
        );
        let mut open = Vec::new();
        for agent in 0..20 {
            let (meter, received) = (meter(&quotas, &world, &format!("agent-{agent}")), Received::default());
            let mut body = body_of(Requests::One, &[&message(9_000)], &meter, &received);
            assert_eq!(read_all(&mut body).len(), 9_005, "{agent}");
            let again = &mut body_of(Requests::One, &[&message(9_000)], &meter, &Received::default());
            assert_eq!(read_all(again).len(), 0, "its own agent has no more");
            open.push((body, received));
        }
    }

    /// Calls that wait lie unread in the window of their connection: no more of them do than leave room for the others.
    #[tokio::test]
    async fn no_more_calls_of_a_connection_wait_than_may() {
        let world = World::new(KeyKind::EdDsa);
        let one = meter(&quotas(&world), &world, "one");
        let held = one.receive_budget().reserve(RECEIVE_BYTES_MAX).await;
        let waiting = Waiting { calls: Arc::default(), max: 1 };
        let long = SHORT_BYTES_MAX + 1;
        let limits = FrameLimits { bytes_max: long, ..LIMITS };
        let open = || {
            let inner =
                Body::new(StreamBody::new(stream::iter([Ok::<_, Infallible>(Frame::data(message(long).into()))])));
            FrameBody::wrap(inner, limits, Requests::One, waiting.clone(), one.receive_budget(), Received::default())
        };
        let (mut first, mut second) = (open(), open());
        assert!(next(&mut first).is_none());
        let refused = next(&mut second).expect("at once").expect_err("no place");
        assert_eq!(refused.code(), Code::Unavailable);
        drop(held);
        assert_eq!(read_all(&mut first), message(long));
        assert_eq!(read_all(&mut open()), message(long));
    }

    #[tokio::test]
    async fn the_next_message_gives_back_what_the_one_before_held() {
        let world = World::new(KeyKind::EdDsa);
        let one = meter(&quotas(&world), &world, "one");
        let received = Received::default();
        let all: Vec<u8> = (0..1_000).flat_map(|_| message(2_000)).collect();
        assert_eq!(read_all(&mut body(&[&all], &one, &received)).len(), all.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_come_to_its_end_ends_the_call() {
        let world = World::new(KeyKind::EdDsa);
        let one = meter(&quotas(&world), &world, "one");
        let received = Received::default();
        // Between two messages there is no hurry.
        let mut idle = body(&[&message(10)], &one, &received);
        assert_eq!(read_all(&mut idle), message(10));
        let mut slow = body(&[&message(10)[..8]], &one, &received);
        assert_eq!(read_all(&mut slow), &message(10)[..8]);
        tokio::time::advance(LIMITS.duration_max - Duration::from_millis(1)).await;
        assert!(next(&mut slow).is_none());
        tokio::time::advance(Duration::from_millis(2)).await;
        let end = next(&mut slow).expect("the end").expect_err("too slow");
        assert_eq!(end.code(), Code::DeadlineExceeded);
        assert!(next(&mut idle).is_none());
    }

    /// A small payload that is kept does not keep the whole request that it came in.
    #[tokio::test]
    async fn what_is_kept_of_a_request_is_no_part_of_it() {
        let payload = |id: &str, bytes| v1::Message {
            id: id.to_owned(),
            data: vec![b'x'; bytes].into(),
            ..v1::Message::default()
        };
        let request = v1::PublishStreamRequest { messages: vec![payload("1", 10), payload("2", 5_000)], refresh: None };
        let encoded = request.encode_to_vec();
        let framed = [&[0], &u32::try_from(encoded.len()).expect("short").to_be_bytes()[..], &encoded].concat();
        let world = World::new(KeyKind::EdDsa);
        let body = body(&[&framed], &meter(&quotas(&world), &world, "one"), &Received::default());
        let decoder = BoundedCodec::<v1::PublishStreamResponse, v1::PublishStreamRequest>::default().decoder();
        let mut requests = Streaming::new_request(decoder, body, None, None);
        let decoded = requests.message().await.expect("decoded").expect("a request");
        assert!(decoded.messages.iter().all(|message| message.data.is_unique()));
        assert_eq!(decoded, request);
    }
}
