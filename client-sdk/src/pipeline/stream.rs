//! One stream to the broker, from its opening to its end.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Status, Streaming};

use super::{
    AnswerFault, Kind, codec,
    driver::{Driver, StreamEnd},
};
use crate::{
    Token,
    retry::Failed,
    status::{self, may_have_happened},
    token::RunningToken,
};

/// How many requests wait for the connection. Few, so that items gather into larger requests while it is busy.
const REQUESTS_QUEUED_MAX: usize = 2;
/// How long the broker has to end a stream that was closed in good order.
const FAREWELL: Duration = Duration::from_secs(1);

type Answers<K> = Streaming<<K as Kind>::Response>;
type Requests<K> = mpsc::Sender<Arc<<K as Kind>::Request>>;

impl<K: Kind> Driver<K> {
    pub(super) async fn run_stream(&mut self) -> StreamEnd {
        let token = self.session.tokens.usable().await;
        let (requests, receiver) = mpsc::channel(REQUESTS_QUEUED_MAX);
        match self.open(&token, &requests, receiver).await {
            Ok(mut answers) => {
                let running = RunningToken::new(&self.session.tokens, token);
                let end = self.exchange(running, &requests, &mut answers).await;
                if matches!(end, StreamEnd::Finished) {
                    drop(requests);
                    part(answers).await;
                }
                end
            }
            Err(end) => end,
        }
    }

    /// The first requests go along with the opening, if the broker would know them again.
    async fn open(
        &mut self,
        token: &Token,
        requests: &Requests<K>,
        receiver: mpsc::Receiver<Arc<K::Request>>,
    ) -> Result<Answers<K>, StreamEnd> {
        if K::IS_RECOGNISED {
            self.outstanding.send_whole_requests(requests);
            if let Ok(room) = requests.try_reserve() {
                self.outstanding.send_next(room);
            }
        }
        let opened = tokio::select! {
            opened = self.attempts.in_time(codec::open::<K>(&self.session, token, receiver)) => opened,
            () = self.inbox.receive_until_abandoned(&mut self.outstanding) => return Err(StreamEnd::Abandoned),
        };
        match opened {
            Some(Ok(answers)) => {
                self.outstanding.stream_opened();
                Ok(answers)
            }
            Some(Err(status)) => Err(self.not_opened(status, token)),
            None => {
                self.outstanding.stream_opened();
                Err(StreamEnd::Failed(self.attempts.timed_out()))
            }
        }
    }

    fn not_opened(&mut self, status: Status, token: &Token) -> StreamEnd {
        if may_have_happened(&status) {
            self.outstanding.stream_opened();
        }
        StreamEnd::Lost(Failed { status, token: token.clone() })
    }

    /// Sends and receives until the stream ends. A fresh token goes before the items that are not sent yet.
    async fn exchange(
        &mut self,
        mut token: RunningToken,
        requests: &Requests<K>,
        answers: &mut Answers<K>,
    ) -> StreamEnd {
        let mut patience = pin!(sleep_until(self.attempts.deadline()));
        loop {
            let may_send = !requests.is_closed() && !token.is_due();
            if may_send {
                self.outstanding.send_whole_requests(requests);
            }
            if self.outstanding.is_empty() && !self.inbox.is_open() {
                return StreamEnd::Finished;
            }
            let has_more = may_send && self.outstanding.has_unsent();
            let was_empty = self.outstanding.is_empty();
            tokio::select! {
                biased;
                answer = answers.message() => {
                    if let Err(end) = self.take_answer(answer, &mut token) {
                        return end;
                    }
                }
                (fresh, room) = fresh_token::<K>(&mut token, requests) => {
                    match self.session.presenter.refresh(&fresh, K::METHOD) {
                        Ok(credentials) => room.send(Arc::new(K::request(Vec::new(), Some(credentials)))),
                        Err(status) => return StreamEnd::Lost(token.failed(status)),
                    }
                    token.sent(fresh);
                }
                () = self.inbox.receive(&mut self.outstanding), if self.inbox.is_open() => {
                    if self.inbox.is_abandoned() {
                        return StreamEnd::Abandoned;
                    }
                    if was_empty {
                        self.attempts.progressed();
                    }
                }
                Ok(room) = requests.reserve(), if has_more => self.outstanding.send_next(room),
                () = &mut patience => {
                    if !was_empty && self.attempts.deadline() <= Instant::now() {
                        return StreamEnd::Failed(self.attempts.timed_out());
                    }
                    if was_empty {
                        self.attempts.progressed();
                    }
                    patience.as_mut().reset(self.attempts.deadline());
                }
            }
        }
    }

    fn take_answer(
        &mut self,
        answer: Result<Option<K::Response>, Status>,
        token: &mut RunningToken,
    ) -> Result<(), StreamEnd> {
        let response = match answer {
            Ok(Some(response)) => response,
            Ok(None) => return Err(StreamEnd::Lost(token.failed(ended()))),
            Err(status) => return Err(StreamEnd::Lost(token.failed(status))),
        };
        let (refreshed, results) = K::parts(response);
        if let Some(refreshed) = refreshed {
            if refreshed.refused {
                self.session.tokens.hurry();
                token.refused().map_err(StreamEnd::Failed)?;
            } else {
                token.accepted().map_err(StreamEnd::Failed)?;
                tracing::debug!(until = refreshed.token_expires_at, "the stream goes on under a fresh token");
            }
            self.attempts.progressed();
        }
        self.take_results(results, token.token())
    }

    fn take_results(&mut self, results: Vec<K::Result>, token: &Token) -> Result<(), StreamEnd> {
        let (mut items, mut bytes, mut fault) = (0, 0, None);
        let mut has_expired = false;
        for result in results {
            has_expired |= self.outstanding.is_about_the_token(&result);
            match self.outstanding.answer(result) {
                Ok((resolved, freed)) => (items, bytes) = (items + resolved, bytes + freed),
                Err(found) => {
                    fault = Some(found);
                    break;
                }
            }
        }
        if items > 0 {
            self.outstanding.make_room(items, bytes);
            self.attempts.progressed();
        }
        if has_expired {
            self.session.tokens.hurry();
        }
        fault.map_or(Ok(()), |fault| Err(end_of(fault, token)))
    }
}

/// Waits for a fresh token and for room to send it in. Gives nothing up when it is dropped.
async fn fresh_token<'a, K: Kind>(
    token: &mut RunningToken,
    requests: &'a Requests<K>,
) -> (Token, mpsc::Permit<'a, Arc<K::Request>>) {
    let fresh = token.due().await;
    match requests.reserve().await {
        Ok(room) => (fresh, room),
        Err(_) => std::future::pending().await, // The stream has ended; how, its answers say.
    }
}

fn ended() -> Status {
    Status::unavailable("the broker ended the stream")
}

fn end_of(fault: AnswerFault, token: &Token) -> StreamEnd {
    match fault {
        AnswerFault::Again(refusal) => {
            StreamEnd::Lost(Failed { status: status::of_refusal(&refusal), token: token.clone() })
        }
        AnswerFault::Protocol(error) => StreamEnd::Failed(error),
    }
}

/// Lets the broker end a stream on which nothing is owed any more. What it still says is of no interest.
async fn part<A>(mut answers: Streaming<A>) {
    let _ = timeout(FAREWELL, async { while matches!(answers.message().await, Ok(Some(_))) {} }).await;
}
