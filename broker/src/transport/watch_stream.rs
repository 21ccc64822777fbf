//! `Watch`: one watch for the life of the stream.

use futures_util::{Stream, stream};
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

/// Serves an open watch: says that it is open, and shows what changes.
pub(super) fn serve(watcher: Watcher) -> impl Stream<Item = Result<WatchResponse, Status>> + Send + 'static {
    let opened = Response::Opened(WatchOpened {
        decision_id: watcher.watch.opened_by().to_string(),
        audit_index: watcher.watch.opened_by().audit_index(),
        through_revision: watcher.watch.began_at().0,
    });
    let pace = Pace::new(watcher.meter.clone(), watcher.faults.clock.clone());
    stream::unfold(Some((watcher, pace, Some(opened))), |state| async move {
        let (mut watcher, mut pace, opened) = state?;
        let response = match opened {
            Some(opened) => Ok(opened),
            None => watcher.next(&mut pace).await,
        };
        match response {
            Ok(response) => Some((Ok(WatchResponse { response: Some(response) }), Some((watcher, pace, None)))),
            Err(Some(end)) => Some((Err(end), None)),
            Err(None) => None,
        }
    })
}

impl Watcher {
    /// The next response; an error is the end, with or without a status. A fresh token is taken between two batches, so
    /// what follows its answer was read under it.
    async fn next(&mut self, pace: &mut Pace) -> Result<Response, Option<Status>> {
        loop {
            tokio::select! {
                biased;
                () = self.drain.cancelled() => return Err(Some(status::draining())),
                asked = asked(&mut self.requests) => {
                    pace.next(&self.caller).await;
                    let asked = match asked {
                        Ok(asked) => asked,
                        Err(Some(fault)) => return Err(Some(self.malformed(fault).await)),
                        Err(None) => return Err(None),
                    };
                    let refreshed = self.renewals.renew(&self.caller, &asked).await;
                    return refreshed.map(Response::Refreshed).map_err(Some);
                }
                changed = self.watch.changed() => changed.map_err(|end| Some(status::watch_status(end)))?,
            }
            let shown = self.watch.advance().await.map_err(|end| Some(status::watch_status(end)))?;
            if let Some(shown) = shown {
                return Ok(Response::Batch(batch(shown)));
            }
        }
    }
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
