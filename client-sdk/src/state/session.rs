//! Operations on shared state, pipelined over one stream.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use serde::Serialize;
use tonic::Code;
use veribus_proto::v1::{
    self, GetRequest, ListRequest, SessionRequest, SessionResponse, StateOperation, StateResult,
    state_operation::Operation, state_result::Result as Told,
};

use super::{Deleted, StateDelete, StatePage, StatePut, StateValue, Written, outcome};
use crate::{
    Error,
    pipeline::{self, AnswerFault, Kind, Pipeline},
    present::Method,
    session::Session,
};

/// Operates on shared state without waiting for each answer.
///
/// Operations are carried out in the order of sending, each seeing what those before it did, and answered in that order; a
/// refused one does not hold up the rest. Where the stream breaks, reads without an answer are made again, and writes end
/// as [`Error::ChangeUnknown`]. A read of a value too large to be answered together with others is made again alone: it may
/// then see later writes. A fresh token is sent in the stream, which goes on. Dropping the session gives up what is
/// under way; [`StateSession::close`] waits for it.
///
/// ```no_run
/// # async fn share(client: veribus_client::Client) -> Result<(), veribus_client::Error> {
/// let session = client.state().session();
/// let written = session.put("tickets/4711", "resolved").await?; // under way
/// let read = session.get("tickets/4711").await?; // as well
/// println!("{:?} {:?}", written.await?, read.await?);
/// # Ok(())
/// # }
/// ```
pub struct StateSession {
    pub(super) session: Arc<Session>,
    pipeline: Pipeline<Operating>,
}

impl StateSession {
    pub(super) fn start(session: Arc<Session>) -> Self {
        Self { pipeline: Pipeline::start(Arc::clone(&session)), session }
    }

    /// Sends a read as soon as there is room among the operations under way. It resolves to `None` where there is no value.
    ///
    /// # Errors
    /// [`Error::Closed`]: it was not sent.
    pub async fn get(&self, key: impl Into<String>) -> Result<PendingState<Option<StateValue>>, Error> {
        self.send(get(key.into(), 0)).await
    }

    /// Sends a read of an earlier revision, which must not be 0.
    ///
    /// # Errors
    /// As [`StateSession::get`].
    pub async fn get_revision(
        &self,
        key: impl Into<String>,
        revision: u64,
    ) -> Result<PendingState<Option<StateValue>>, Error> {
        self.send(get(key.into(), revision)).await
    }

    /// Sends a write, once the returned builder is awaited.
    pub fn put(&self, key: impl Into<String>, value: impl Into<Bytes>) -> StatePut<&Self> {
        StatePut::new(self, key.into(), value.into())
    }

    /// Sends a write of JSON, once the returned builder is awaited.
    pub fn put_json<T: Serialize + ?Sized>(&self, key: impl Into<String>, value: &T) -> StatePut<&Self> {
        StatePut::json(self, key.into(), value)
    }

    /// Sends a deletion, once the returned builder is awaited.
    pub fn delete(&self, key: impl Into<String>) -> StateDelete<&Self> {
        StateDelete::new(self, key.into())
    }

    /// Asks for one page of a listing: the first, or the one that `page_token` names. 0: as large as pages are.
    ///
    /// # Errors
    /// As [`StateSession::get`].
    pub async fn list(
        &self,
        prefix: impl Into<String>,
        page_size: u32,
        page_token: Option<String>,
    ) -> Result<PendingState<StatePage>, Error> {
        let request = ListRequest { prefix: prefix.into(), page_size, page_token: page_token.unwrap_or_default() };
        self.send(StateOperation { operation: Some(Operation::List(request)) }).await
    }

    /// Takes no more operations and waits until each one that was sent is resolved.
    pub async fn close(self) {
        self.pipeline.close().await;
    }

    pub(super) async fn send<T: FromOutcome>(&self, operation: StateOperation) -> Result<PendingState<T>, Error> {
        let changed_key = Operating::changed_key(&operation).map(str::to_owned);
        let outcome = self.pipeline.send(operation, ()).await?;
        Ok(PendingState { changed_key, outcome, kind: PhantomData })
    }
}

fn get(key: String, revision: u64) -> StateOperation {
    StateOperation { operation: Some(Operation::Get(GetRequest { key, revision })) }
}

impl fmt::Debug for StateSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateSession").finish_non_exhaustive()
    }
}

/// The answer to come to an operation that was sent. It may be dropped; the operation is carried out all the same.
#[must_use = "it says what became of the operation"]
pub struct PendingState<T> {
    /// Of a write or a deletion.
    changed_key: Option<String>,
    outcome: pipeline::Outcome<Operating>,
    kind: PhantomData<fn() -> T>,
}

impl<T: FromOutcome> Future for PendingState<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.outcome).poll(cx));
        Poll::Ready(match outcome {
            Ok(outcome) => outcome.and_then(|outcome| T::from_outcome(outcome).ok_or(UNASKED)),
            // Without an outcome the driver itself is gone, with its runtime.
            Err(_) => Err(match &self.changed_key {
                Some(key) => Error::change_unknown(key, Error::Closed),
                None => Error::Closed,
            }),
        })
    }
}

impl<T> fmt::Debug for PendingState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingState").finish_non_exhaustive()
    }
}

const UNASKED: Error = Error::Protocol("an answer to another operation than the one sent");

/// The broker's word for a value that has no room in the answer beside those before it.
const ANSWER_TOO_LARGE: &str = "ANSWER_TOO_LARGE";

/// What became of an operation that was not refused.
#[derive(Debug)]
pub enum Outcome {
    /// Of a write.
    Written(Written),
    /// Of a read.
    Read(Box<Option<StateValue>>),
    /// Of a deletion.
    Deleted(Deleted),
    /// Of a listing.
    Page(StatePage),
}

/// What an operation of one kind results in. Out of reach for other crates: the kinds are these four.
pub trait FromOutcome: Sized {
    /// `None` for an outcome of another kind.
    fn from_outcome(outcome: Outcome) -> Option<Self>;
}

impl FromOutcome for Written {
    fn from_outcome(outcome: Outcome) -> Option<Self> {
        if let Outcome::Written(written) = outcome { Some(written) } else { None }
    }
}

impl FromOutcome for Option<StateValue> {
    fn from_outcome(outcome: Outcome) -> Option<Self> {
        if let Outcome::Read(value) = outcome { Some(*value) } else { None }
    }
}

impl FromOutcome for Deleted {
    fn from_outcome(outcome: Outcome) -> Option<Self> {
        if let Outcome::Deleted(deleted) = outcome { Some(deleted) } else { None }
    }
}

impl FromOutcome for StatePage {
    fn from_outcome(outcome: Outcome) -> Option<Self> {
        if let Outcome::Page(page) = outcome { Some(page) } else { None }
    }
}

/// Operations out, results back. The broker does not know an operation that it has seen before.
struct Operating;

impl Operating {
    /// The key of a write or a deletion.
    fn changed_key(operation: &StateOperation) -> Option<&str> {
        match &operation.operation {
            Some(Operation::Put(put)) => Some(&put.key),
            Some(Operation::Delete(delete)) => Some(&delete.key),
            Some(Operation::Get(_) | Operation::List(_)) | None => None,
        }
    }

    fn refused(operation: &StateOperation, refusal: v1::StateRefusal) -> Result<Outcome, Error> {
        match &operation.operation {
            Some(Operation::Put(v1::PutRequest { key, .. }) | Operation::Delete(v1::DeleteRequest { key, .. })) => {
                let is_open = Code::from_i32(refusal.code) == Code::Unavailable;
                let error = outcome::of_refusal(key, refusal);
                Err(if is_open { Error::change_unknown(key, error) } else { error })
            }
            Some(Operation::Get(get)) => outcome::none_if_absent(outcome::of_refusal(&get.key, refusal))
                .map(|none| Outcome::Read(Box::new(none))),
            Some(Operation::List(list)) => Err(outcome::of_refusal(&list.prefix, refusal)),
            None => Err(UNASKED),
        }
    }

    fn told(operation: &StateOperation, told: Told) -> Result<Outcome, Error> {
        match (&operation.operation, told) {
            (Some(Operation::Put(_)), Told::Put(answer)) => Written::check(answer).map(Outcome::Written),
            (Some(Operation::Get(asked)), Told::Get(answer)) => {
                StateValue::of_get(answer, asked).map(|value| Outcome::Read(Box::new(Some(value))))
            }
            (Some(Operation::Delete(_)), Told::Delete(answer)) => Deleted::check(answer).map(Outcome::Deleted),
            (Some(Operation::List(asked)), Told::List(answer)) => {
                StatePage::check(answer, &asked.prefix).map(Outcome::Page)
            }
            _ => Err(UNASKED),
        }
    }
}

impl Kind for Operating {
    const METHOD: Method = Method::STATE_SESSION;
    const REQUEST_ITEMS_MAX: usize = 128;
    const IS_RECOGNISED: bool = false;
    type Item = StateOperation;
    type Aside = ();
    type Outcome = Outcome;
    type Request = SessionRequest;
    type Response = SessionResponse;
    type Result = StateResult;

    fn request(operations: Vec<StateOperation>, refresh: Option<v1::Credentials>) -> SessionRequest {
        SessionRequest { operations, refresh }
    }

    fn items(request: &SessionRequest) -> &[StateOperation] {
        &request.operations
    }

    fn items_mut(request: &mut SessionRequest) -> &mut [StateOperation] {
        &mut request.operations
    }

    fn parts(response: SessionResponse) -> (Option<v1::Refreshed>, Vec<StateResult>) {
        (response.refreshed, response.results)
    }

    /// An answer that does not fit its operation ends the stream: those that follow would not be trusted either.
    fn outcome(operation: &StateOperation, result: StateResult) -> Result<Result<Outcome, Error>, AnswerFault> {
        match result.result.ok_or(AnswerFault::Protocol(Error::Protocol("a result without an outcome")))? {
            Told::Refusal(refusal) => Ok(Self::refused(operation, refusal)),
            told => Self::told(operation, told).map(Ok).map_err(AnswerFault::Protocol),
        }
    }

    fn unknown(operation: &StateOperation, cause: Error) -> Error {
        match Self::changed_key(operation) {
            Some(key) => Error::change_unknown(key, cause),
            None => cause,
        }
    }

    fn is_about_the_token(_: &StateOperation, result: &StateResult) -> bool {
        let unauthenticated = |refusal: &v1::StateRefusal| Code::from_i32(refusal.code) == Code::Unauthenticated;
        matches!(&result.result, Some(Told::Refusal(refusal)) if unauthenticated(refusal))
    }

    /// The values of one request share the room that its answer has.
    fn is_to_go_alone(result: &StateResult) -> bool {
        matches!(&result.result, Some(Told::Refusal(refusal)) if refusal.reason == ANSWER_TOO_LARGE)
    }

    fn may_repeat(operation: &StateOperation) -> bool {
        Self::changed_key(operation).is_none()
    }
}
