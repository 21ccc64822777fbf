//! `Backup`: everything in the store, part by part, to whoever takes it in fast enough.
//!
//! One task reads ahead by one part. It ends with its session, with the broker, and where nothing is taken in: what is kept
//! for a backup under way is not kept for one that stands still.

use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::{
    sync::mpsc::{self, error::SendTimeoutError},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use veribus_proto::v1::{BackupChunk, BackupEnd, BackupRecord, BackupResponse};

use super::status;
use crate::{
    authenticate::Caller,
    record::{CopyPart, Copying},
};

/// How long one part may take to be taken in.
const PART_MAX: Duration = Duration::from_secs(60);

/// Serves a backup that was permitted and recorded.
pub(super) fn serve(
    copying: Copying,
    caller: Caller,
    drain: CancellationToken,
) -> impl Stream<Item = Result<BackupResponse, Status>> + Send + 'static {
    let (parts, receiver) = mpsc::channel(1);
    tokio::spawn(read(copying, caller, drain.clone(), parts));
    stream::unfold(Some((receiver, drain)), |state| async move {
        let (mut receiver, drain) = state?;
        match receiver.recv().await {
            Some(Ok(part)) if part.end.is_some() => Some((Ok(part), None)),
            Some(Ok(part)) => Some((Ok(part), Some((receiver, drain)))),
            Some(Err(end)) => Some((Err(end), None)),
            None if drain.is_cancelled() => Some((Err(status::draining()), None)),
            None => Some((Err(status::backup_stalled()), None)),
        }
    })
}

/// Reads until the copy is complete, or nobody wants it any more.
async fn read(
    mut copying: Copying,
    caller: Caller,
    drain: CancellationToken,
    parts: mpsc::Sender<Result<BackupResponse, Status>>,
) {
    loop {
        let reading = spawn_blocking(move || {
            let part = copying.next_part();
            (copying, part)
        });
        let Ok((read, part)) = reading.await else { return };
        copying = read;
        let response = match part {
            Ok(Some(part)) => Ok(response(part)),
            Ok(None) => return,
            Err(error) => Err(status::copy_status(&error)),
        };
        let is_end = response.is_err();
        tokio::select! {
            biased;
            () = drain.cancelled() => return,
            () = caller.session().ended() => return,
            sent = parts.send_timeout(response, PART_MAX) => match sent {
                Ok(()) if !is_end => {}
                Ok(()) | Err(SendTimeoutError::Closed(_) | SendTimeoutError::Timeout(_)) => return,
            },
        }
    }
}

fn response(part: CopyPart) -> BackupResponse {
    let chunks = part.chunks.into_iter();
    let records = part.records.into_iter();
    BackupResponse {
        chunks: chunks.map(|one| BackupChunk { first_index: one.first_index, entries: one.bytes }).collect(),
        records: records.map(|one| BackupRecord { key: one.key, value: one.value }).collect(),
        end: part.end.map(|end| BackupEnd { next_index: end.next_index, head: end.head.to_vec() }),
    }
}
