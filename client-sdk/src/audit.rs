//! Reading the audit log. Needs the permission `audit.read`.
//!
//! In scope: entries in order, taken up again where a stream broke. Out of scope: proving that the log is whole; see
//! [`veribus_proto::chain`].

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
    vec,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use prost::Message as _;
use tonic::{Status, Streaming};
use veribus_proto::v1::{
    self, AuditEntry, EntryFilter, EntryKind, QueryRequest, QueryResponse, TailRequest, TailResponse,
};

use crate::{
    Error, Token,
    present::Method,
    retry::{Attempts, Failed},
    session::Session,
    status::Verdict,
};

/// Which entries. An entry must pass everything that is set.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct AuditFilter(EntryFilter);

impl AuditFilter {
    /// All entries.
    pub fn all() -> Self {
        Self::default()
    }

    /// From this time on.
    pub fn from_time(mut self, time: SystemTime) -> Self {
        self.0.from_time = Some(time.into());
        self
    }

    /// Before this time.
    pub fn to_time(mut self, time: SystemTime) -> Self {
        self.0.to_time = Some(time.into());
        self
    }

    /// By this agent.
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.0.agent = agent.into();
        self
    }

    /// About topics that a pattern names, or state in such scopes; or about exactly this text: a state key, the patterns of
    /// a subscription.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.0.topic = topic.into();
        self
    }

    /// Of this kind.
    pub fn kind(mut self, kind: EntryKind) -> Self {
        self.0.kind = kind.into();
        self
    }

    /// Where this was decided.
    pub fn decision(mut self, decision: v1::Decision) -> Self {
        self.0.decision = decision.into();
        self
    }

    /// About this message.
    pub fn message_id(mut self, message_id: impl Into<String>) -> Self {
        self.0.message_id = message_id.into();
        self
    }

    /// About messages with this subject.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.0.subject = subject.into();
        self
    }

    /// About messages with this correlation id.
    pub fn correlation_id(mut self, correlation_id: impl Into<String>) -> Self {
        self.0.correlation_id = correlation_id.into();
        self
    }
}

/// An entry and the bytes that were hashed for it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StoredEntry {
    /// Its place in the log.
    pub index: u64,
    /// As stored. [`veribus_proto::chain`] verifies these, never an encoding of `entry`.
    pub bytes: Bytes,
    /// The same, decoded.
    pub entry: AuditEntry,
}

/// The audit log of the broker.
#[derive(Clone)]
pub struct Audit {
    session: Arc<Session>,
}

impl Audit {
    pub(crate) const fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// Entries that are recorded already, from index `from_index` on, `limit` at most; 0 means all.
    ///
    /// The call is made when the stream is first polled, and made again from where it was if the connection breaks.
    /// The stream ends after the first error.
    #[must_use]
    pub fn query(&self, filter: AuditFilter, from_index: u64, limit: u64) -> AuditEntries {
        self.entries(filter, Reading::Query { limit, left: limit }, Some(from_index))
    }

    /// Entries as they are recorded, from index `from_index` on, or only those to come.
    ///
    /// Where the connection breaks before anything was received, a tail without `from_index` cannot know where it
    /// was, and ends with [`Error::ConnectionLost`] rather than leave entries out.
    #[must_use]
    pub fn tail(&self, from_index: Option<u64>, filter: AuditFilter) -> AuditEntries {
        self.entries(filter, Reading::Tail, from_index)
    }

    fn entries(&self, filter: AuditFilter, reading: Reading, next_index: Option<u64>) -> AuditEntries {
        let attempts = match reading {
            Reading::Query { .. } => self.session.publish_attempts(),
            Reading::Tail => self.session.reconnect_attempts(),
        };
        let buffered = Vec::new().into_iter();
        let session = Arc::clone(&self.session);
        let reader =
            Reader { session, filter: filter.0, reading, next_index, attempts, call: None, buffered, has_ended: false };
        let entries = stream::unfold(reader, |mut reader| async { reader.next().await.map(|item| (item, reader)) });
        AuditEntries { entries: Box::pin(entries) }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

/// A stream of audit entries in index order.
pub struct AuditEntries {
    entries: Pin<Box<dyn Stream<Item = Result<StoredEntry, Error>> + Send>>,
}

impl Stream for AuditEntries {
    type Item = Result<StoredEntry, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.entries.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for AuditEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditEntries").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
enum Reading {
    Query { limit: u64, left: u64 },
    Tail,
}

enum Answers {
    Query(Streaming<QueryResponse>),
    Tail(Streaming<TailResponse>),
}

/// Some entries, and where to go on.
struct Part {
    entries: Vec<v1::StoredEntry>,
    next_index: u64,
}

impl Answers {
    async fn next(&mut self) -> Result<Option<Part>, Status> {
        match self {
            Self::Query(answers) => {
                Ok(answers.message().await?.map(|QueryResponse { entries, next_index }| Part { entries, next_index }))
            }
            Self::Tail(answers) => match answers.message().await? {
                Some(TailResponse { entries, next_index }) => Ok(Some(Part { entries, next_index })),
                None => Err(Status::unavailable("the broker ended the stream")),
            },
        }
    }
}

struct Reader {
    session: Arc<Session>,
    filter: EntryFilter,
    reading: Reading,
    next_index: Option<u64>,
    attempts: Attempts,
    call: Option<(Token, Answers)>,
    buffered: vec::IntoIter<v1::StoredEntry>,
    has_ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<StoredEntry, Error>> {
        loop {
            if let Some(entry) = self.buffered.next() {
                return Some(self.decoded(entry));
            }
            if self.has_ended {
                return None;
            }
            if let Err(error) = self.fill().await {
                self.has_ended = true;
                return Some(Err(error));
            }
        }
    }

    /// Receives the next part, calling the broker where need be.
    async fn fill(&mut self) -> Result<(), Error> {
        let (token, mut answers) = match self.call.take() {
            Some(call) => call,
            None => self.open().await?,
        };
        match answers.next().await {
            Ok(Some(part)) => {
                self.take(part)?;
                self.call = Some((token, answers));
                Ok(())
            }
            Ok(None) => {
                self.has_ended = true;
                Ok(())
            }
            Err(status) => self.lost(Failed { status, token }).await,
        }
    }

    /// Calls until the broker listens.
    async fn open(&mut self) -> Result<(Token, Answers), Error> {
        loop {
            let token = self.session.tokens.usable().await;
            let Some(answer) = self.attempts.in_time(self.call_once(&token)).await else {
                return Err(self.attempts.timed_out());
            };
            match answer {
                Ok(answers) => {
                    self.session.tokens.standing().took(&token);
                    return Ok((token, answers));
                }
                Err(status) => self.attempts.after(&self.session, &Failed { status, token }).await?,
            }
        }
    }

    async fn call_once(&self, token: &Token) -> Result<Answers, Status> {
        let (mut auditor, filter) = (self.session.auditor(), Some(self.filter.clone()));
        match self.reading {
            Reading::Query { left, .. } => {
                let from_index = self.next_index.unwrap_or(0);
                let request = self.session.presenter.request(
                    token,
                    Method::QUERY,
                    QueryRequest { filter, from_index, limit: left },
                )?;
                Ok(Answers::Query(auditor.query(request).await?.into_inner()))
            }
            Reading::Tail => {
                let tail = TailRequest { filter, from_index: self.next_index };
                let request = self.session.presenter.request(token, Method::TAIL, tail)?;
                Ok(Answers::Tail(auditor.tail(request).await?.into_inner()))
            }
        }
    }

    /// Waits until it is time to call again, if that loses nothing.
    async fn lost(&mut self, failed: Failed) -> Result<(), Error> {
        if self.next_index.is_none() {
            return Err(Verdict::of(&failed.status).to_error());
        }
        if matches!(self.reading, Reading::Tail) {
            self.attempts.restart_clock();
        }
        self.attempts.after(&self.session, &failed).await
    }

    fn take(&mut self, part: Part) -> Result<(), Error> {
        let mut lowest = self.next_index.unwrap_or(0);
        for entry in &part.entries {
            if entry.index < lowest || entry.index >= part.next_index {
                return Err(Error::Protocol("audit entries are out of order"));
            }
            lowest = entry.index.saturating_add(1);
        }
        self.next_index = Some(part.next_index.max(lowest));
        self.attempts.progressed();
        self.count(part.entries.len())?;
        self.buffered = part.entries.into_iter();
        Ok(())
    }

    /// Keeps account of a limit, so that a query that is taken up again does not give more.
    fn count(&mut self, entries: usize) -> Result<(), Error> {
        let Reading::Query { limit, left } = &mut self.reading else { return Ok(()) };
        if *limit == 0 {
            return Ok(());
        }
        let entries = u64::try_from(entries).unwrap_or(u64::MAX);
        *left = left.checked_sub(entries).ok_or(Error::Protocol("more audit entries than asked for"))?;
        self.has_ended = *left == 0;
        Ok(())
    }

    fn decoded(&mut self, stored: v1::StoredEntry) -> Result<StoredEntry, Error> {
        let decoded = AuditEntry::decode(stored.entry.clone())
            .map_err(|_| Error::Protocol("an audit entry cannot be decoded"))
            .and_then(|entry| match entry.index == stored.index {
                true => Ok(StoredEntry { index: stored.index, bytes: stored.entry, entry }),
                false => Err(Error::Protocol("an audit entry names another index than its own")),
            });
        if decoded.is_err() {
            self.has_ended = true;
            self.buffered = Vec::new().into_iter();
        }
        decoded
    }
}
