//! The task behind a watch: reads, checks, hands on, and opens anew.

use std::sync::Arc;

use tokio::sync::mpsc;
use tonic::Streaming;
use veribus_proto::v1::{
    self, StateGone, WatchBatch, WatchRequest, WatchResponse, WatchTarget, state_change::Change,
    watch_request::Request, watch_response::Response,
};

use super::{
    super::{StateValue, outcome::decided, value::is_under},
    Chunk, StateChange,
};
use crate::{
    Error, Token,
    present::Method,
    retry::{Attempts, Failed},
    session::Session,
    status::Verdict,
    upstream::{self, Done, LinkFault, Refreshing, Upstream, ended},
};

const REFRESHING: Refreshing<WatchRequest> = Refreshing {
    method: Method::STATE_WATCH,
    request: |credentials| WatchRequest { request: Some(Request::Refresh(credentials)) },
};

/// What is watched, and up to where it was seen.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) prefix: String,
    pub(super) revision: u64,
    /// How many changes the link at hand has left out.
    pub(super) skipped: u64,
}

impl Place {
    /// Takes a batch only if it follows what was seen, and moves on to its end.
    fn advance(&mut self, batch: WatchBatch) -> Result<Vec<StateChange>, Error> {
        let mut seen = self.revision;
        let mut changes = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            let change = checked(change, batch.audit_index)?;
            // It may be newer than the batch's end: the newest version of a key that changed again meanwhile.
            if change.revision() <= seen {
                return Err(Error::Protocol("changes are out of order"));
            }
            if !is_under(&self.prefix, change.key()) {
                return Err(Error::Protocol("a change of a key that was not asked for"));
            }
            seen = change.revision();
            changes.push(change);
        }
        if batch.through_revision < self.revision || batch.skipped_total < self.skipped {
            return Err(Error::Protocol("a watch went back"));
        }
        self.skipped = batch.skipped_total;
        self.revision = batch.through_revision;
        Ok(changes)
    }
}

fn checked(change: v1::StateChange, audit_index: u64) -> Result<StateChange, Error> {
    Ok(match change.change.ok_or(Error::Protocol("an empty change"))? {
        Change::Put(value) => StateChange::Put(Box::new(StateValue::check(value, audit_index)?)),
        Change::Gone(StateGone { key, revision, expired: true }) => StateChange::Expired { key, revision },
        Change::Gone(StateGone { key, revision, expired: false }) => StateChange::Deleted { key, revision },
        Change::Shredded(StateGone { key, revision, .. }) => StateChange::Shredded { key, revision },
    })
}

/// One server stream on which the watch stands.
pub(super) struct Link {
    responses: Streaming<WatchResponse>,
    upstream: Upstream<WatchRequest>,
}

impl Link {
    /// Tries until the watch stands.
    pub(super) async fn open(session: &Arc<Session>, place: &Place, attempts: &mut Attempts) -> Result<Self, Error> {
        upstream::open(session, attempts, Verdict::of_watch, |token| Self::open_once(session, place, token)).await
    }

    async fn open_once(session: &Arc<Session>, place: &Place, token: Token) -> Result<Self, LinkFault> {
        let target = WatchTarget { prefix: place.prefix.clone(), after_revision: place.revision };
        let first = WatchRequest { request: Some(Request::Target(target)) };
        let (upstream, requests) = Upstream::new(session, token.clone(), first, REFRESHING);
        let request = session.presenter.request(&token, Method::STATE_WATCH, requests)?;
        let mut responses = session.state().watch(request).await?.into_inner();
        match responses.message().await?.and_then(|first| first.response) {
            Some(Response::Opened(opened)) => {
                decided(&opened.decision_id, opened.audit_index)?;
                Ok(Self { responses, upstream })
            }
            Some(Response::Batch(_) | Response::Refreshed(_)) => {
                Err(LinkFault::Protocol(Error::Protocol("changes before the watch was opened")))
            }
            None => Err(ended().into()),
        }
    }

    /// The next batch, or `None` for the answer to a fresh token; meanwhile, fresh tokens go out.
    async fn next(&mut self) -> Result<Option<WatchBatch>, LinkFault> {
        match self.upstream.next(&mut self.responses).await?.response {
            Some(Response::Batch(batch)) => Ok(Some(batch)),
            Some(Response::Refreshed(refreshed)) => {
                self.upstream.answered(&refreshed)?;
                Ok(None)
            }
            Some(Response::Opened(_)) => Err(LinkFault::Protocol(Error::Protocol("a watch opened a second time"))),
            None => Err(LinkFault::Protocol(Error::Protocol("an empty response to a watch"))),
        }
    }
}

pub(super) struct Driver {
    session: Arc<Session>,
    place: Place,
    reader: mpsc::Sender<Chunk>,
    attempts: Attempts,
}

impl Driver {
    pub(super) fn new(session: Arc<Session>, place: Place, reader: mpsc::Sender<Chunk>) -> Self {
        let attempts = session.reconnect_attempts().outlasting_tokens();
        Self { session, place, reader, attempts }
    }

    pub(super) async fn run(mut self, mut link: Link) {
        let reader = self.reader.clone();
        let work = async {
            loop {
                let Ok(next) = self.follow(link).await else { return };
                link = next;
            }
        };
        tokio::select! {
            () = work => {}
            () = reader.closed() => {}
        }
    }

    /// Hands on what comes over one link, and opens the next one.
    async fn follow(&mut self, mut link: Link) -> Result<Link, Done> {
        match self.read(&mut link).await? {
            LinkFault::Protocol(error) => self.end(error).await,
            LinkFault::Status(status) => self.reopen(link.upstream.failed(status)).await,
        }
    }

    async fn read(&mut self, link: &mut Link) -> Result<LinkFault, Done> {
        loop {
            let batch = match link.next().await {
                Ok(batch) => batch,
                Err(fault) => return Ok(fault),
            };
            self.attempts.progressed();
            let Some(batch) = batch else { continue };
            match self.place.advance(batch) {
                Ok(changes) => {
                    let Place { revision: through_revision, skipped, .. } = self.place;
                    let chunk = Chunk::Batch { changes, through_revision, skipped };
                    link.upstream.meanwhile(self.send(chunk)).await?;
                }
                Err(error) => return Ok(error.into()),
            }
        }
    }

    async fn reopen(&mut self, failed: Failed) -> Result<Link, Done> {
        let verdict = Verdict::of_watch(&failed.status);
        self.attempts.restart_clock();
        if let Err(error) = self.attempts.after_verdict(&self.session, verdict, &failed.token).await {
            return self.end(error).await;
        }
        match Link::open(&self.session, &self.place, &mut self.attempts).await {
            Ok(link) => {
                self.place.skipped = 0;
                self.send(Chunk::Resumed).await?;
                Ok(link)
            }
            Err(error) => self.end(error).await,
        }
    }

    async fn end<T>(&self, error: Error) -> Result<T, Done> {
        self.send(Chunk::Ended(error)).await?;
        Err(Done)
    }

    async fn send(&self, chunk: Chunk) -> Result<(), Done> {
        self.reader.send(chunk).await.map_err(|_| Done)
    }
}
