//! The body of an answer, as long as its session lasts: every frame is handed over under the session's lock, so once the
//! session is ended nothing more is. What the body would still have said is dropped, and the call ends with a status.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
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

/// An answer under way. Dropping it closes the session and gives its place back.
pub(super) struct SessionBody {
    open: OpenSession,
    /// Given back before the client can see that the call is over.
    place: Option<OpenCall>,
    /// `None` once there is nothing more to say.
    inner: Option<Body>,
    clock: Clock,
    refusals: Arc<Refusals>,
    wakers: Option<Wakers>,
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
        Body::new(Self { open, place: Some(place), inner: Some(inner), clock, refusals, wakers: None })
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
            match this.open.session().pass(now, || Pin::new(inner).poll_frame(context)) {
                Ok(Poll::Ready(frame)) => {
                    let last = frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
                    if last {
                        this.inner = None;
                        this.place = None;
                    }
                    return Poll::Ready(frame);
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
