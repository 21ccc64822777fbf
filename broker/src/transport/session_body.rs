//! The body of an answer, as long as its session lasts: every frame is handed over under the session's lock, so once the
//! session is ended nothing more is. What the body would still have said is dropped, and the call ends with a status.
//!
//! A body says nothing more while too much of it waits to be sent. HTTP/2 asks for more as long as the client's window is
//! open, however slowly the client reads: `hyper` holds up to 400 KiB of a stream, `tonic` has no setting for it.

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
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, body::Body};

use super::{refusals::Refusals, status};
use crate::{
    authenticate::{OpenSession, SessionEnd},
    model::Clock,
    quota::OpenCall,
};

/// The shortest pause between two looks at a token.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// How many bytes of a body may wait to be sent before it is asked for more.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// An answer under way. Dropping it closes the session and gives its place back.
pub(super) struct SessionBody {
    open: OpenSession,
    /// Given back before the client can see that the call is over.
    place: Option<OpenCall>,
    /// `None` once there is nothing more to say.
    inner: Option<Body>,
    clock: Clock,
    refusals: Arc<Refusals>,
    unsent: Arc<Unsent>,
    wakers: Option<Wakers>,
}

/// What of a body waits to be sent.
#[derive(Default)]
struct Unsent {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

impl Unsent {
    /// Waits until less than [`UNSENT_BYTES_MAX`] wait.
    fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // What was sent before the waker was there woke nobody.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_room(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) < UNSENT_BYTES_MAX
    }

    /// Counts these bytes until they are dropped, as they are when they are written to the connection.
    fn track(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.bytes.fetch_add(bytes.len(), Ordering::SeqCst);
        Bytes::from_owner(Tracked { bytes, unsent: Arc::clone(self) })
    }
}

struct Tracked {
    bytes: Bytes,
    unsent: Arc<Unsent>,
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.unsent.bytes.fetch_sub(self.bytes.len(), Ordering::SeqCst) >= UNSENT_BYTES_MAX {
            self.unsent.waker.wake();
        }
    }
}

/// What wakes a body that waits: the end of its session, and the end of its token.
struct Wakers {
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    timer: Pin<Box<Sleep>>,
    /// For which of the session's tokens the timer is set.
    renewals: u32,
}

impl SessionBody {
    pub(super) fn wrap(open: OpenSession, place: OpenCall, inner: Body, clock: Clock, refusals: Arc<Refusals>) -> Body {
        if inner.is_end_stream() {
            return inner;
        }
        let unsent = Arc::default();
        Body::new(Self { open, place: Some(place), inner: Some(inner), clock, refusals, unsent, wakers: None })
    }

    /// Waits for what may end the session; `Ready` where it may have come.
    fn poll_wakers(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let session = self.open.session();
        let renewals = session.renewals();
        let deadline = || Instant::now() + session.identity().remaining(self.clock.now()).max(PAUSE_MIN);
        let wakers = self.wakers.get_or_insert_with(|| Wakers {
            ended: Box::pin(session.ended_token().clone().cancelled_owned()),
            timer: Box::pin(sleep_until(deadline())),
            renewals,
        });
        if wakers.renewals != renewals {
            wakers.timer.as_mut().reset(deadline());
            wakers.renewals = renewals;
        }
        if wakers.ended.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        ready!(wakers.timer.as_mut().poll(context));
        // Should the token still be good, a new timer is set for it.
        self.wakers = None;
        Poll::Ready(())
    }

    /// The last frame: how the session ended.
    fn finish(&mut self, end: &SessionEnd) -> Frame<Bytes> {
        self.inner = None;
        self.place = None;
        if let SessionEnd::Token(error) = end {
            self.refusals.note_session(self.open.session(), error);
        }
        Frame::trailers(trailers(&status::ended(end)))
    }
}

impl http_body::Body for SessionBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
            let now = this.clock.now();
            let unsent = &this.unsent;
            let next = |context: &mut Context<'_>| {
                ready!(unsent.poll_room(context));
                Pin::new(inner).poll_frame(context)
            };
            match this.open.session().pass(now, || next(context)) {
                Ok(Poll::Ready(frame)) => {
                    let last = frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
                    if last {
                        this.inner = None;
                        this.place = None;
                    }
                    return Poll::Ready(
                        frame.map(|frame| frame.map(|frame| frame.map_data(|data| this.unsent.track(data)))),
                    );
                }
                Ok(Poll::Pending) => ready!(this.poll_wakers(context)),
                Err(end) => return Poll::Ready(Some(Ok(this.finish(&end)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        tracing::error!("a status could not be written as trailers");
    }
    trailers
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use futures_util::{future::poll_fn, poll};
    use tonic::Code;

    use super::*;
    use crate::{
        authenticate::Sessions,
        fixtures::{LIFETIME, World, peer},
        issue::KeyKind,
        metrics::Metrics,
        model::{QuotaOverrides, QuotaTerms},
        quota::{QuotaTable, Quotas},
        transport::refusals::RefusalLimits,
    };

    const FRAME_BYTES: usize = UNSENT_BYTES_MAX / 4;

    /// A body that never ends.
    struct Endless;

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; FRAME_BYTES])))))
        }
    }

    /// A body that never says anything.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    struct Bench {
        world: World,
        session: Arc<crate::authenticate::Session>,
        body: Body,
    }

    impl Bench {
        fn new() -> Self {
            Self::of(Body::new(Silent))
        }

        fn of(inner: Body) -> Self {
            let world = World::new(KeyKind::EdDsa);
            let clock = world.clock.clone();
            let identity = world.identity(&world.claims("one"));
            let quotas = Quotas::new(
                QuotaTable::new(QuotaTerms::default(), QuotaOverrides::default()),
                10,
                1 << 20,
                clock.clone(),
            );
            let place = quotas.open_call(Arc::clone(&identity)).expect("a place");
            let open = Sessions::new(clock.clone()).open(identity, peer(), "/x/Y");
            let session = Arc::clone(open.session());
            let limits = RefusalLimits { recorded_per_s_max: 10, anonymous_bytes_per_day_max: NonZeroU64::MIN };
            let refusals = Refusals::new(limits, clock.clone(), Metrics::default());
            let body = SessionBody::wrap(open, place, inner, clock, refusals);
            Self { world, session, body }
        }

        async fn pass_time(&self, time: Duration) {
            self.world.clock.advance(time);
            tokio::time::advance(time).await;
        }

        /// The gRPC code in the next frame, if there is one now.
        async fn code(&mut self) -> Option<Code> {
            let body = &mut self.body;
            let next = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
            match poll!(Box::pin(next)) {
                Poll::Pending => None,
                Poll::Ready(frame) => {
                    let trailers = frame?.ok()?.into_trailers().ok()?;
                    Status::from_header_map(&trailers).map(|status| status.code())
                }
            }
        }
    }

    async fn next_data(body: &mut Body) -> Bytes {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        frame.expect("not over").expect("no error").into_data().expect("data")
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_taken_of_a_body_than_may_wait_to_be_sent() {
        let mut bench = Bench::of(Body::new(Endless));
        let mut unsent = Vec::new();
        for _ in 0..UNSENT_BYTES_MAX / FRAME_BYTES {
            unsent.push(next_data(&mut bench.body).await);
        }
        assert_eq!(bench.code().await, None);
        let mut body = bench.body;
        let waiting = tokio::spawn(async move { (next_data(&mut body).await, body) });
        // The connection sends a frame part by part.
        drop(unsent[0].split_to(1));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(unsent.remove(0));
        let (next, body) = tokio::time::timeout(LIFETIME / 2, waiting).await.expect("woken").expect("no panic");
        unsent.push(next);
        bench.body = body;
        assert!(poll!(Box::pin(next_data(&mut bench.body))).is_pending());
        bench.session.end(&SessionEnd::Disconnected);
        assert_eq!(bench.code().await, Some(Code::Unavailable), "a body that waits hears of the end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_waits_ends_with_its_token() {
        let mut bench = Bench::new();
        assert_eq!(bench.code().await, None);
        bench.pass_time(LIFETIME - Duration::from_secs(1)).await;
        assert_eq!(bench.code().await, None);
        bench.pass_time(Duration::from_secs(1)).await;
        assert_eq!(bench.code().await, Some(Code::Unauthenticated));
        assert_eq!(bench.code().await, None, "and says nothing more");
    }

    /// Nobody polls a body that waits but for what it asked to be woken by.
    #[tokio::test(start_paused = true)]
    async fn a_fresh_token_sets_the_timer_anew() {
        for (lifetime, ends_after) in [(LIFETIME / 4, LIFETIME / 4), (LIFETIME * 2, LIFETIME * 2)] {
            let mut bench = Bench::new();
            assert_eq!(bench.code().await, None);
            let claims = bench.world.issuer.claims("one", crate::fixtures::NOW, lifetime);
            bench.session.renew(bench.world.identity(&claims)).expect("the same agent");
            assert_eq!(bench.code().await, None);
            let (clock, begun) = (bench.world.clock.clone(), Instant::now());
            let moving = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    clock.advance(Duration::from_secs(1));
                }
            });
            let frame = poll_fn(|context| Pin::new(&mut bench.body).poll_frame(context)).await;
            moving.abort();
            assert!(frame.expect("a frame").expect("no error").is_trailers());
            let late = begun.elapsed().saturating_sub(ends_after);
            assert!(begun.elapsed() >= ends_after && late <= Duration::from_secs(2), "{:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn a_session_that_is_ended_wakes_its_body() {
        let mut bench = Bench::new();
        assert_eq!(bench.code().await, None);
        let session = Arc::clone(&bench.session);
        let frame = poll_fn(|context| Pin::new(&mut bench.body).poll_frame(context));
        let ending = async {
            tokio::task::yield_now().await;
            session.end(&SessionEnd::Disconnected)
        };
        let (frame, was_open) = tokio::join!(frame, ending);
        let trailers = frame.expect("a frame").expect("no error").into_trailers().expect("trailers");
        let code = Status::from_header_map(&trailers).map(|status| status.code());
        assert_eq!((code, was_open), (Some(Code::Unavailable), true));
    }
}
