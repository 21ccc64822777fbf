//! The request side of a stream that is mostly read: as long as it is here the stream is open, and fresh tokens go out by it.

use std::{future::Future, pin::pin, sync::Arc};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use veribus_proto::v1;

use crate::{
    Error, Token,
    present::Method,
    retry::{Attempts, Failed},
    session::Session,
    status::Verdict,
    token::RunningToken,
};

/// How many requests wait for the connection: the first, or a fresh token.
const REQUESTS_QUEUED_MAX: usize = 1;

/// How one call is refreshed.
#[derive(Debug)]
pub(crate) struct Refreshing<Q> {
    /// The call that proofs name.
    pub(crate) method: Method,
    /// Makes a request of a fresh token.
    pub(crate) request: fn(v1::Credentials) -> Q,
}

pub(crate) struct Upstream<Q> {
    session: Arc<Session>,
    requests: mpsc::Sender<Q>,
    token: RunningToken,
    refreshing: Refreshing<Q>,
}

impl<Q> Upstream<Q> {
    /// The request side of a call to be made with `token`, and the requests to make it with, `first` ahead.
    pub(crate) fn new(
        session: &Arc<Session>,
        token: Token,
        first: Q,
        refreshing: Refreshing<Q>,
    ) -> (Self, ReceiverStream<Q>) {
        let (requests, receiver) = mpsc::channel(REQUESTS_QUEUED_MAX);
        // There is room for one, and the receiver is at hand: this cannot fail.
        let _ = requests.try_send(first);
        let token = RunningToken::new(&session.tokens, token);
        (Self { session: Arc::clone(session), requests, token, refreshing }, ReceiverStream::new(receiver))
    }

    /// Sends fresh tokens as they come, until one cannot be sent. May be dropped while it waits.
    pub(crate) async fn keep_fresh(&mut self) -> Status {
        loop {
            let fresh = self.token.due().await;
            let Ok(room) = self.requests.reserve().await else {
                return std::future::pending().await; // The stream has ended; how, its responses say.
            };
            match self.session.presenter.refresh(&fresh, self.refreshing.method) {
                Ok(credentials) => room.send((self.refreshing.request)(credentials)),
                Err(status) => return status,
            }
            self.token.sent(fresh);
        }
    }

    /// The next response; meanwhile, fresh tokens go out. May be dropped while it waits.
    pub(crate) async fn next<R>(&mut self, responses: &mut Streaming<R>) -> Result<R, LinkFault> {
        tokio::select! {
            biased;
            response = responses.message() => Ok(response?.ok_or_else(ended)?),
            status = self.keep_fresh() => Err(status.into()),
        }
    }

    /// Waits for `sending`, and meanwhile sees to it that the broker has a token that is good.
    pub(crate) async fn meanwhile<T>(&mut self, sending: impl Future<Output = T>) -> T {
        let mut sending = pin!(sending);
        tokio::select! {
            biased;
            sent = &mut sending => sent,
            status = self.keep_fresh() => {
                tracing::warn!(%status, "a fresh token could not be sent");
                sending.await
            }
        }
    }

    /// The broker answered to the oldest fresh token. Whether it took it.
    pub(crate) fn answered(&mut self, answer: &v1::Refreshed) -> Result<bool, Error> {
        if !answer.refused {
            return self.token.accepted().map(|()| true);
        }
        self.session.tokens.hurry();
        self.token.refused().map(|()| false)
    }

    /// The stream failed, with the token that it stood on.
    pub(crate) fn failed(&self, status: Status) -> Failed {
        self.token.failed(status)
    }
}

/// Why such a stream ended or never came to be.
pub(crate) enum LinkFault {
    Status(Status),
    Protocol(Error),
}

impl From<Status> for LinkFault {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Error> for LinkFault {
    fn from(error: Error) -> Self {
        Self::Protocol(error)
    }
}

/// The broker has nothing more to say, and did not say why.
pub(crate) fn ended() -> Status {
    Status::unavailable("the broker ended the stream")
}

/// Whoever reads is gone, or was told of the end.
pub(crate) struct Done;

/// Tries with `open_once` until such a stream stands.
pub(crate) async fn open<L, F: Future<Output = Result<L, LinkFault>>>(
    session: &Arc<Session>,
    attempts: &mut Attempts,
    verdict: fn(&Status) -> Verdict,
    open_once: impl Fn(Token) -> F,
) -> Result<L, Error> {
    loop {
        let token = session.tokens.usable().await;
        let failure = match attempts.in_time(open_once(token.clone())).await {
            Some(Ok(link)) => return Ok(link),
            Some(Err(LinkFault::Status(status))) => status,
            Some(Err(LinkFault::Protocol(error))) => return Err(error),
            None => return Err(attempts.timed_out()),
        };
        attempts.after_verdict(session, verdict(&failure), &token).await?;
    }
}
