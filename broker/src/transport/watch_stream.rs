//! `Watch`: one watch for the life of the stream.

use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use veribus_proto::v1::{
    Credentials, StateChange, StateGone, WatchBatch, WatchOpened, WatchRequest, WatchResponse, state_change::Change,
    watch_request, watch_response::Response,
};

use super::{
    malformed::{FaultRecorder, decoding_fault},
    renewal::{Pace, Renewals},
    state_session::value_of,
    status,
};
use crate::{
    authenticate::Caller,
    model::{Revision, StateKey, StatePrefix},
    quota::{Meter, OpenSubscription},
    share::{Shown, ShownChange, Watch},
    workers::driven,
};

/// What the request that opens a watch asks for, or what is wrong with it.
///
/// # Errors
/// The client is gone.
pub(super) async fn opening(
    requests: &mut Streaming<WatchRequest>,
) -> Result<Result<(StatePrefix, Revision), Status>, Status> {
    Ok(match requests.message().await {
        Ok(first) => target(first.and_then(|first| first.request)),
        Err(error) => Err(decoding_fault(&error).ok_or(error)?.1),
    })
}

fn target(first: Option<watch_request::Request>) -> Result<(StatePrefix, Revision), Status> {
    let Some(watch_request::Request::Target(target)) = first else {
        return Err(status::invalid("the first request must open a watch"));
    };
    let prefix = StatePrefix::parse(&target.prefix).map_err(status::argument)?;
    Ok((prefix, Revision(target.after_revision)))
}

/// A watch that is open, and who may go on with it under a fresh token.
pub(super) struct Watcher {
    /// What it takes of the agent's quota.
    pub(super) _place: OpenSubscription,
    pub(super) watch: Watch,
    pub(super) caller: Caller,
    pub(super) meter: Meter,
    pub(super) requests: Streaming<WatchRequest>,
    pub(super) renewals: Renewals,
    pub(super) faults: FaultRecorder,
    pub(super) drain: CancellationToken,
}

/// So many responses may wait for a client that does not read: one batch, or answers to fresh tokens.
const RESPONSES_WAITING_MAX: usize = 16;

/// Serves an open watch: says that it is open, and shows what changes. It is driven by itself, since it waits for turns to
/// scan, to decide and to decrypt.
pub(super) fn serve(watcher: Watcher) -> impl Stream<Item = Result<WatchResponse, Status>> + Send + 'static {
    let (responses, receiver) = mpsc::channel(RESPONSES_WAITING_MAX);
    let watching = driven(watcher.watch(responses));
    stream::unfold((receiver, watching), |(mut receiver, watching)| async move {
        Some((receiver.recv().await?, (receiver, watching)))
    })
}

type Responses = mpsc::Sender<Result<WatchResponse, Status>>;

impl Watcher {
    async fn watch(mut self, responses: Responses) {
        let opened = WatchOpened {
            decision_id: self.watch.opened_by().to_string(),
            audit_index: self.watch.opened_by().audit_index(),
            through_revision: self.watch.began_at().0,
        };
        let mut pace = Pace::new(self.meter.clone(), self.faults.clock.clone());
        let mut next = respond(&responses, Response::Opened(opened));
        while next.is_ok() {
            next = self.advance(&mut pace, &responses).await;
        }
        // What it holds is given back first: whoever does not read may not read that either.
        drop(self);
        if let Err(Some(end)) = next {
            // An error means that the client is gone.
            drop(responses.send(Err(end)).await);
        }
    }

    /// Up to the next response; an error is the end, with or without a status. A fresh token is taken between two batches, so
    /// what follows its answer was read under it.
    async fn advance(&mut self, pace: &mut Pace, responses: &Responses) -> Result<(), Option<Status>> {
        let changed = async {
            self.watch.changed().await.map_err(|end| Some(status::watch_status(end)))?;
            // Nothing is read for a client that has not read what was read before.
            responses.reserve_many(RESPONSES_WAITING_MAX).await.map_err(|_| None)
        };
        let room = tokio::select! {
            biased;
            () = self.drain.cancelled() => return Err(Some(status::draining())),
            // The body says why, where it is asked.
            () = self.caller.session().ended() => return Err(None),
            asked = asked(&mut self.requests) => {
                pace.next(&self.caller).await;
                let asked = match asked {
                    Ok(asked) => asked,
                    Err(Some(fault)) => return Err(Some(self.malformed(fault).await)),
                    Err(None) => return Err(None),
                };
                let refreshed = self.renewals.renew(&self.caller, &asked).await.map_err(Some)?;
                return respond(responses, Response::Refreshed(refreshed));
            }
            changed = changed => changed?,
        };
        let shown = self.watch.advance().await.map_err(|end| Some(status::watch_status(end)))?;
        if let (Some(shown), Some(permit)) = (shown, { room }.next()) {
            permit.send(Ok(WatchResponse { response: Some(Response::Batch(batch(shown))) }));
        }
        Ok(())
    }
}

/// Without waiting: a client that reads no answers is given no more.
fn respond(responses: &Responses, response: Response) -> Result<(), Option<Status>> {
    use mpsc::error::TrySendError::{Closed, Full};
    responses.try_send(Ok(WatchResponse { response: Some(response) })).map_err(|error| match error {
        Full(_) => Some(status::answers_unread()),
        Closed(_) => None,
    })
}

impl Watcher {
    /// A request that is none of those that may follow: recorded, and the end.
    async fn malformed(&self, fault: Status) -> Status {
        let noted = self.faults.note(&self.caller, &self.meter, fault.message()).await;
        noted.map_or_else(status::record_status, |()| fault)
    }
}

/// Waits for a fresh token, or for what ends a watch from the client's side.
async fn asked(requests: &mut Streaming<WatchRequest>) -> Result<Credentials, Option<Status>> {
    match requests.message().await {
        Ok(Some(WatchRequest { request: Some(watch_request::Request::Refresh(credentials)) })) => Ok(credentials),
        Ok(Some(_)) => Err(Some(status::invalid("a stream holds one watch"))),
        Ok(None) => Err(None),
        Err(error) => Err(decoding_fault(&error).map(|(_, told)| told)),
    }
}

fn batch(shown: Shown) -> WatchBatch {
    WatchBatch {
        changes: shown.changes.into_iter().map(|change| StateChange { change: Some(wired(change)) }).collect(),
        through_revision: shown.through.0,
        skipped_total: shown.skipped,
        audit_index: shown.decision_id.map_or(0, |id| id.audit_index()),
    }
}

fn wired(change: ShownChange) -> Change {
    let gone =
        |key: StateKey, revision: Revision, expired| StateGone { key: key.to_string(), revision: revision.0, expired };
    match change {
        ShownChange::Put(value) => Change::Put(value_of(value)),
        ShownChange::Gone { key, revision, expired } => Change::Gone(gone(key, revision, expired)),
        ShownChange::Shredded { key, revision } => Change::Shredded(gone(key, revision, false)),
    }
}
