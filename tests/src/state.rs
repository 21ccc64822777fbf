//! Operations on shared state by hand: nothing is retried or taken up again.

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use veribus_proto::v1::{
    DeleteRequest, GetRequest, ListRequest, PutRequest, SessionRequest, SessionResponse, StateChange, StateOperation,
    WatchBatch, WatchRequest, WatchResponse, WatchTarget, state_operation::Operation, state_result::Result as Answer,
    watch_request, watch_response::Response,
};

use crate::{patiently, raw::Raw, streams::credentials};

/// A write of a text, whatever stands there.
#[must_use]
pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned(),
        value: value.to_owned().into(),
        content_type: "text/plain".to_owned(),
        ..PutRequest::default()
    }
}

/// The same, if this is the current revision.
#[must_use]
pub fn put_if(key: &str, value: &str, revision: u64) -> PutRequest {
    PutRequest { expected_revision: Some(revision), ..put(key, value) }
}

/// A read of the newest version.
#[must_use]
pub fn get(key: &str) -> GetRequest {
    GetRequest { key: key.to_owned(), revision: 0 }
}

/// A deletion, whatever stands there.
#[must_use]
pub fn delete(key: &str) -> DeleteRequest {
    DeleteRequest { key: key.to_owned(), expected_revision: None }
}

/// A first page.
#[must_use]
pub fn list(prefix: &str) -> ListRequest {
    ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() }
}

/// An open `Session`.
pub struct StateSession {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<SessionResponse>,
}

impl StateSession {
    /// Opens it.
    ///
    /// # Errors
    /// The broker's, if it does not let it open.
    pub async fn open(raw: &Raw) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(64);
        let responses = raw.state().session(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// Sends one request, with a fresh token if there is one.
    ///
    /// # Errors
    /// Where the stream is over.
    pub async fn send(&self, operations: Vec<Operation>, refresh: Option<&str>) -> Result<()> {
        let operation = |operation| StateOperation { operation: Some(operation) };
        let operations = operations.into_iter().map(operation).collect();
        let request = SessionRequest { operations, refresh: refresh.map(credentials) };
        self.requests.send(request).await.context("the stream is over")
    }

    /// The results of the next request; `None` at the end of the stream.
    ///
    /// # Errors
    /// The status that ended it.
    pub async fn answers(&mut self) -> Result<Option<Vec<Answer>>, Status> {
        let response =
            patiently(self.responses.message()).await.map_err(|_| Status::deadline_exceeded("no answer"))??;
        Ok(response.map(|response| response.results.into_iter().filter_map(|result| result.result).collect()))
    }

    /// Sends operations and waits for their results.
    ///
    /// # Errors
    /// Where the stream is over, or ends.
    pub async fn run(&mut self, operations: Vec<Operation>) -> Result<Vec<Answer>> {
        self.send(operations, None).await?;
        self.answers().await?.context("the stream is over")
    }
}

/// An open `Watch`.
pub struct StateWatch {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    /// The last change as the watch began.
    pub began_at: u64,
}

impl StateWatch {
    /// Opens it.
    ///
    /// # Errors
    /// The broker's, if it does not let it open.
    pub async fn open(raw: &Raw, prefix: &str, after_revision: u64) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let target = WatchTarget { prefix: prefix.to_owned(), after_revision };
        let opening = WatchRequest { request: Some(watch_request::Request::Target(target)) };
        requests.send(opening).await.map_err(|_| Status::cancelled("the stream is over"))?;
        let responses = raw.state().watch(ReceiverStream::new(receiver)).await?.into_inner();
        let mut watch = Self { requests, responses, began_at: 0 };
        match watch.response().await? {
            Some(Response::Opened(opened)) => watch.began_at = opened.through_revision,
            other => return Err(Status::internal(format!("not opened: {other:?}"))),
        }
        Ok(watch)
    }

    /// Sends a fresh token.
    ///
    /// # Errors
    /// Where the stream is over.
    pub async fn refresh(&self, token: &str) -> Result<()> {
        let request = WatchRequest { request: Some(watch_request::Request::Refresh(credentials(token))) };
        self.requests.send(request).await.context("the stream is over")
    }

    /// The next response; `None` at the end of the stream.
    ///
    /// # Errors
    /// The status that ended it.
    pub async fn response(&mut self) -> Result<Option<Response>, Status> {
        let response =
            patiently(self.responses.message()).await.map_err(|_| Status::deadline_exceeded("nothing"))??;
        Ok(response.and_then(|response| response.response))
    }

    /// The next batch.
    ///
    /// # Errors
    /// Where the stream ends, or something else comes.
    pub async fn batch(&mut self) -> Result<WatchBatch> {
        match self.response().await? {
            Some(Response::Batch(batch)) => Ok(batch),
            other => bail!("not a batch: {other:?}"),
        }
    }

    /// All that was there as the watch began.
    ///
    /// # Errors
    /// As [`StateWatch::batch`].
    pub async fn initial(&mut self) -> Result<Vec<StateChange>> {
        let mut changes = Vec::new();
        loop {
            let batch = self.batch().await?;
            changes.extend(batch.changes);
            if batch.through_revision >= self.began_at {
                return Ok(changes);
            }
        }
    }
}
