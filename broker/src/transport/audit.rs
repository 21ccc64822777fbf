//! `AuditService`: auditors read the log, in the bytes that were hashed.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use veribus_proto::v1::{
    AuditEntry, Decision, EntryFilter, EntryKind, QueryRequest, QueryResponse, StoredEntry, TailRequest, TailResponse,
    audit_service_server::AuditService,
};

use super::{
    broker::{Responses, caller},
    convert,
    malformed::well_formed,
    refusals::Refusals,
    status,
};
use crate::{
    authenticate::{Caller, Permissions, TokenError},
    engine::ReadError,
    model::{Clock, Topic, TopicPattern, UnixMicros},
    record::{Fingerprints, LogReader, RecordedText, Recorder},
    subscribe::Reading,
};

/// How much one response carries at most, and how many entries are looked at for it.
const BATCH_ENTRIES_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 512 * 1024;
const BATCH_LOOKED_AT_MAX: u64 = 16_384;

/// The service.
pub struct Audit {
    reading: Arc<Reading>,
    log: LogReader,
    recorder: Recorder,
    fingerprints: Fingerprints,
    refusals: Arc<Refusals>,
    clock: Clock,
    drain: CancellationToken,
}

impl Audit {
    /// Serves readings of `log`, until `drain` is cancelled.
    #[must_use]
    pub const fn new(
        reading: Arc<Reading>,
        log: LogReader,
        recorder: Recorder,
        fingerprints: Fingerprints,
        refusals: Arc<Refusals>,
        clock: Clock,
        drain: CancellationToken,
    ) -> Self {
        Self { reading, log, recorder, fingerprints, refusals, clock, drain }
    }

    async fn permitted(&self, caller: &Caller, what: String) -> Result<(), Status> {
        permitted(&self.reading, caller, what).await
    }

    async fn filter(&self, caller: &Caller, asked: Option<EntryFilter>) -> Result<Filter, Status> {
        let filter = Filter::new(asked.unwrap_or_default(), &self.fingerprints);
        well_formed(&self.recorder, caller, Permissions::audit_read, filter).await
    }

    fn scan(&self, caller: Caller, filter: Filter, from: u64) -> Scan {
        let (log, refusals, clock) = (self.log.clone(), Arc::clone(&self.refusals), self.clock.clone());
        Scan { log, refusals, caller, clock, filter, next: from, end: u64::MAX, left: u64::MAX }
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    type QueryStream = Responses<QueryResponse>;
    type TailStream = Responses<TailResponse>;

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let filter = self.filter(&caller, request.filter).await?;
        // The end is fixed before the reading is recorded: a query does not see itself.
        let end = self.log.committed();
        self.permitted(&caller, format!("query {filter} from {}", request.from_index)).await?;
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        let mut scan = Scan { end, left, ..self.scan(caller, filter, request.from_index) };
        scan.seek().await?;
        let responses = stream::unfold(Some(scan), |scan| async {
            let mut scan = scan.filter(|scan| scan.left > 0 && scan.next < scan.end)?;
            match scan.batch().await {
                Ok(entries) => Some((Ok(QueryResponse { entries, next_index: scan.next }), Some(scan))),
                Err(end) => Some((Err(end), None)),
            }
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let filter = self.filter(&caller, request.filter).await?;
        let from = request.from_index.unwrap_or_else(|| self.log.committed());
        let policy_changes = self.reading.policy_changes();
        self.permitted(&caller, format!("tail {filter} from {from}")).await?;
        let scan = self.scan(caller, filter, from);
        // The first response is empty and says where the tail begins, so that it can be taken up again from there.
        let begun = stream::once(std::future::ready(Ok(TailResponse { entries: Vec::new(), next_index: from })));
        let tail = Tail { scan, reading: Arc::clone(&self.reading), policy_changes, drain: self.drain.clone() };
        let news = stream::unfold(Some(tail), |tail| async {
            let mut tail = tail?;
            match tail.wait_for_batch().await {
                Ok(entries) => Some((Ok(TailResponse { entries, next_index: tail.scan.next }), Some(tail))),
                Err(end) => Some((Err(end), None)),
            }
        });
        let responses = begun.chain(news);
        Ok(Response::new(Box::pin(responses)))
    }
}

/// A reading under way.
struct Scan {
    log: LogReader,
    refusals: Arc<Refusals>,
    caller: Caller,
    clock: Clock,
    filter: Filter,
    next: u64,
    end: u64,
    left: u64,
}

impl Scan {
    /// Skips what lies before the time asked for.
    async fn seek(&mut self) -> Result<(), Status> {
        if let Some(time) = self.filter.from_time {
            let log = self.log.clone();
            self.next = self.next.max(blocking(move || log.seek(time)).await?);
        }
        Ok(())
    }

    /// Some entries that pass; none if none of those looked at do.
    async fn batch(&mut self) -> Result<Vec<StoredEntry>, Status> {
        self.caller.identity().check_standing(self.clock.now()).map_err(|error| self.refused(&error))?;
        let (log, filter) = (self.log.clone(), self.filter.clone());
        let (from, end, left) = (self.next, self.end, self.left);
        let (entries, next) = blocking(move || read(&log, &filter, from, end, left)).await?;
        self.next = next;
        self.left -= entries.len() as u64;
        Ok(entries)
    }

    /// A caller whose token was good when the call began.
    fn refused(&self, error: &TokenError) -> Status {
        self.refusals.note_session(self.caller.session(), error);
        status::unauthenticated()
    }
}

async fn permitted(reading: &Reading, caller: &Caller, what: String) -> Result<(), Status> {
    reading.read_log(caller, what).await.map(drop).map_err(|refusal| status::read_status(&refusal))
}

/// A reading without an end.
struct Tail {
    scan: Scan,
    reading: Arc<Reading>,
    policy_changes: watch::Receiver<()>,
    drain: CancellationToken,
}

impl Tail {
    /// Waits for entries that pass.
    async fn wait_for_batch(&mut self) -> Result<Vec<StoredEntry>, Status> {
        loop {
            let there = tokio::select! {
                biased;
                () = self.drain.cancelled() => return Err(status::draining()),
                Ok(()) = self.policy_changes.changed() => {
                    let Scan { caller, filter, next, .. } = &self.scan;
                    permitted(&self.reading, caller, format!("tail {filter} from {next}")).await?;
                    continue;
                }
                there = self.scan.log.wait_for(self.scan.next) => there,
            };
            if !there {
                return Err(status::draining());
            }
            let entries = self.scan.batch().await?;
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
    }
}

fn read(
    log: &LogReader,
    filter: &Filter,
    from: u64,
    end: u64,
    left: u64,
) -> Result<(Vec<StoredEntry>, u64), ReadError> {
    let (mut entries, mut bytes, mut next) = (Vec::new(), 0, from);
    let stop = end.min(from.saturating_add(BATCH_LOOKED_AT_MAX));
    'chunks: while next < stop {
        let found = log.read(next)?;
        if found.is_empty() {
            break;
        }
        for entry in found {
            if next >= end || entries.len() >= BATCH_ENTRIES_MAX || bytes >= BATCH_BYTES_MAX {
                break 'chunks;
            }
            if entries.len() as u64 >= left {
                break 'chunks;
            }
            next = entry.index.saturating_add(1);
            let decoded = AuditEntry::decode(entry.bytes.clone()).map_err(|_| ReadError::Damaged(entry.index))?;
            if filter.passes(&decoded) {
                bytes += entry.bytes.len();
                entries.push(StoredEntry { index: entry.index, entry: entry.bytes });
            }
        }
    }
    Ok((entries, next))
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(|error| status::log_status(&error)),
        Err(_) => Err(status::draining()),
    }
}

/// Which entries are asked for.
#[derive(Clone)]
struct Filter {
    wire: EntryFilter,
    from_time: Option<UnixMicros>,
    to_time: Option<UnixMicros>,
    pattern: Option<TopicPattern>,
    subject: Option<RecordedText>,
    correlation_id: Option<RecordedText>,
}

impl Filter {
    fn new(wire: EntryFilter, fingerprints: &Fingerprints) -> Result<Self, Status> {
        let time = |time: &Option<prost_types::Timestamp>| match time {
            Some(time) => convert::micros(time).map(Some).ok_or_else(|| status::invalid("a time is out of range")),
            None => Ok(None),
        };
        let (from_time, to_time) = (time(&wire.from_time)?, time(&wire.to_time)?);
        if EntryKind::try_from(wire.kind).is_err() || Decision::try_from(wire.decision).is_err() {
            return Err(status::invalid("the filter names a kind or decision that does not exist"));
        }
        let pattern = TopicPattern::parse(&wire.topic).ok();
        let subject = (!wire.subject.is_empty()).then(|| fingerprints.subject(&wire.subject));
        let correlation_id =
            (!wire.correlation_id.is_empty()).then(|| fingerprints.correlation_id(&wire.correlation_id));
        Ok(Self { wire, from_time, to_time, pattern, subject, correlation_id })
    }

    fn passes(&self, entry: &AuditEntry) -> bool {
        let wire = &self.wire;
        let actors = entry.actor.iter().map(|actor| &actor.agent);
        let mut agents = actors.chain(entry.state.iter().flat_map(|state| &state.readers).map(|reader| &reader.agent));
        let message_id = entry.message.as_ref().map_or("", |message| &message.id);
        let decision = entry.decision.as_ref().map_or(0, |decision| decision.decision);
        let time = entry.clock_unix_us.unwrap_or(entry.time_unix_us);
        self.from_time.is_none_or(|from| time >= from.0)
            && self.to_time.is_none_or(|to| time < to.0)
            && (wire.agent.is_empty() || agents.any(|agent| wire.agent == *agent))
            && (wire.topic.is_empty() || self.is_about(&entry.resource))
            && self.subject.as_ref().is_none_or(|subject| {
                entry.message.as_ref().is_some_and(|facts| subject.is(&facts.subject, &facts.subject_hmac))
            })
            && self.correlation_id.as_ref().is_none_or(|id| {
                entry.message.as_ref().is_some_and(|facts| id.is(&facts.correlation_id, &facts.correlation_id_hmac))
            })
            && (wire.kind == 0 || wire.kind == entry.kind)
            && (wire.decision == 0 || wire.decision == decision)
            && (wire.message_id.is_empty() || wire.message_id == message_id)
    }
}

impl Filter {
    /// The resource itself, or one that the pattern names: a topic, or a value of shared state by its scope.
    fn is_about(&self, resource: &str) -> bool {
        let Some(pattern) = &self.pattern else { return self.wire.topic == resource };
        let scope = resource.split_once('/').map_or(resource, |(scope, _)| scope);
        self.wire.topic == resource || Topic::parse(scope).is_ok_and(|topic| pattern.matches(&topic))
    }
}

impl std::fmt::Display for Filter {
    /// For the entry that records the reading: names only, each cut short.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wire = &self.wire;
        f.write_str("{")?;
        for (name, text) in [("agent", &wire.agent), ("topic", &wire.topic), ("message_id", &wire.message_id)] {
            if !text.is_empty() {
                write!(f, " {name}={}", text.chars().take(128).collect::<String>())?;
            }
        }
        // What they are may be no business of whoever reads the log.
        for (name, text) in [("subject", &wire.subject), ("correlation_id", &wire.correlation_id)] {
            if !text.is_empty() {
                write!(f, " {name}=…")?;
            }
        }
        for (name, number) in [("kind", wire.kind), ("decision", wire.decision)] {
            if number != 0 {
                write!(f, " {name}={number}")?;
            }
        }
        for (name, time) in [("from_us", self.from_time), ("to_us", self.to_time)] {
            if let Some(time) = time {
                write!(f, " {name}={}", time.0)?;
            }
        }
        f.write_str(" }")
    }
}
