//! The body of a call, gRPC message by gRPC message: none is read before there is memory for it, and none for longer than a
//! message may take.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};
use veribus_proto::{
    codec::{ATTRIBUTES_MAX, ITEMS_MAX},
    v1,
};

use super::status;
use crate::quota::{ReceiveBudget, Reservation};

/// A flag and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;
/// What an attribute takes besides its text: a place in a table, and two allocations.
pub(super) const ATTRIBUTE_BYTES: usize = 128;
/// What the smallest item takes, which is two bytes on the wire.
const DECODED_FACTOR: usize = size_of::<v1::Message>().div_ceil(2);
/// What the items of one request take at most besides their content. A vector that grows holds its old place meanwhile.
const DECODED_BYTES_MAX: usize = 2 * ITEMS_MAX * size_of::<v1::Message>() + ATTRIBUTES_MAX * ATTRIBUTE_BYTES;

/// How large messages may be, and how long they may take.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    /// The largest that is decoded, in bytes; larger ones are refused by whoever decodes.
    pub bytes_max: usize,
    /// From its first byte to its last, once there is memory for it.
    pub duration_max: Duration,
}

/// The reservation of the message that was read last, for whoever decoded it.
#[derive(Debug, Clone, Default)]
pub(super) struct Received(Arc<Mutex<Option<Reservation>>>);

impl Received {
    /// Takes it over.
    pub(super) fn take(&self) -> Option<Reservation> {
        self.0.lock().take()
    }

    fn put(&self, reservation: Reservation) {
        *self.0.lock() = Some(reservation);
    }
}

/// Until when a message's reservation is held that nobody takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldUntil {
    /// The next one is asked for: it was decoded, and little is kept of it.
    Decoded,
    /// The call is answered: it is the only one, and may be large.
    Answered,
}

/// What message and stream of a call are read under.
pub(super) struct FrameBody {
    inner: Body,
    limits: FrameLimits,
    held_until: HeldUntil,
    budget: ReceiveBudget,
    received: Received,
    state: State,
    /// Read, and not yet handed on.
    pending: Bytes,
}

type Reserving = Pin<Box<dyn Future<Output = Reservation> + Send>>;

enum State {
    /// Between two messages, or in a prefix: so many bytes of it came in earlier chunks.
    Prefix([u8; PREFIX_BYTES], usize),
    /// The prefix of a message of this length is there, and waits for memory.
    Reserving(Prefix, usize, Reserving),
    /// So much is missing. Where it has to be waited for, not beyond the deadline.
    Message(usize, Option<Pin<Box<Sleep>>>),
    /// What comes is not looked at any more.
    Passing,
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

/// What a message of this length may take while it is decoded, in bytes.
fn decoding_bytes(length: usize) -> usize {
    length.saturating_add(length.saturating_mul(DECODED_FACTOR).min(DECODED_BYTES_MAX))
}

impl FrameBody {
    pub(super) fn wrap(
        inner: Body,
        limits: FrameLimits,
        held_until: HeldUntil,
        budget: ReceiveBudget,
        received: Received,
    ) -> Body {
        Body::new(Self { inner, limits, held_until, budget, received, state: BEGIN, pending: Bytes::new() })
    }

    /// What may be handed on of what was read.
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.state {
                State::Prefix(bytes, filled) => {
                    let prefix = match self.pending.first_chunk() {
                        Some(whole) if *filled == 0 => Some((Prefix::Pending, length(whole))),
                        _ => fill(bytes, filled, &mut self.pending).then(|| (Prefix::Apart(*bytes), length(bytes))),
                    };
                    let Some((prefix, length)) = prefix else { return Poll::Ready(None) };
                    if length > self.limits.bytes_max {
                        self.state = State::Passing;
                        match prefix {
                            Prefix::Pending => continue,
                            Prefix::Apart(bytes) => return Poll::Ready(Some(Bytes::copy_from_slice(&bytes))),
                        }
                    }
                    // That of the message before.
                    drop(self.received.take());
                    let bytes = decoding_bytes(length);
                    if let Some(reservation) = self.budget.try_reserve(bytes) {
                        if let Some(begun) = self.begin_message(prefix, length, reservation) {
                            return Poll::Ready(Some(begun));
                        }
                        continue;
                    }
                    let budget = self.budget.clone();
                    let reserving = Box::pin(async move { budget.reserve(bytes).await });
                    self.state = State::Reserving(prefix, length, reserving);
                }
                State::Reserving(prefix, length, reserving) => {
                    let reservation = ready!(reserving.as_mut().poll(context));
                    let (prefix, length) = (*prefix, *length);
                    if let Some(begun) = self.begin_message(prefix, length, reservation) {
                        return Poll::Ready(Some(begun));
                    }
                }
                State::Message(missing, _) => {
                    let part = self.pending.split_to(self.pending.len().min(*missing));
                    *missing -= part.len();
                    if *missing == 0 {
                        self.state = BEGIN;
                    }
                    return Poll::Ready((!part.is_empty()).then_some(part));
                }
                State::Passing => {
                    let rest = std::mem::take(&mut self.pending);
                    return Poll::Ready((!rest.is_empty()).then_some(rest));
                }
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
        self.state = if missing == 0 { BEGIN } else { State::Message(missing, None) };
        begun
    }
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
            if let Some(bytes) = ready!(this.poll_pending(context)) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if matches!(this.state, State::Prefix(_, 0)) && this.held_until == HeldUntil::Decoded {
                drop(this.received.take());
            }
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.pending = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => {
                    let State::Message(_, deadline) = &mut this.state else { return Poll::Pending };
                    let deadline = deadline.get_or_insert_with(|| Box::pin(sleep(this.limits.duration_max)));
                    ready!(deadline.as_mut().poll(context));
                    this.state = State::Passing;
                    return Poll::Ready(Some(Err(status::frame_too_slow())));
                }
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

    const LIMITS: FrameLimits = FrameLimits { bytes_max: 10_000, duration_max: Duration::from_secs(30) };
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
        body_held(HeldUntil::Answered, chunks, meter, received)
    }

    fn body_held(held_until: HeldUntil, chunks: &[&[u8]], meter: &Meter, received: &Received) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect();
        let frames = stream::iter(chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))));
        let inner = Body::new(StreamBody::new(frames.chain(stream::pending())));
        FrameBody::wrap(inner, LIMITS, held_until, meter.receive_budget(), received.clone())
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
        // Too large: whoever decodes says so, and takes no memory for it.
        let sent = message(LIMITS.bytes_max + 1);
        assert_eq!(read_all(&mut body(&[&sent], &meter, &Received::default())), sent);
    }

    #[tokio::test]
    async fn a_message_is_not_read_before_there_is_memory_for_it() {
        let world = World::new(KeyKind::EdDsa);
        let quotas = quotas(&world);
        let (one, other) = (meter(&quotas, &world, "one"), meter(&quotas, &world, "other"));
        // The prefix of a message that never comes holds what the whole of it takes.
        let prefix = &message(2_000)[..PREFIX_BYTES];
        let per_message = decoding_bytes(2_000);
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
            let mut body = body_held(HeldUntil::Decoded, &[&message(2_000)], &one, &Received::default());
            assert_eq!(read_all(&mut body), message(2_000));
            open.push(body);
        }
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
