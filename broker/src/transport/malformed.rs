//! Requests of recognised callers that cannot be read as what they should be: recorded like any other, and answered only after
//! the permission for such a request was looked at.

use std::{error::Error as _, iter, sync::Arc};

use tonic::{Code, Status};

use super::{overruns::Overruns, status};
use crate::{
    authenticate::{Caller, Permissions},
    model::{Clock, RefusalReason},
    quota::Meter,
    record::{Draft, RecordError, Recorder},
    subscribe::ReadRefusal,
};

/// What was read of a request, if it could be. If not, that is recorded: as a denial where the caller has not even the
/// permission to make such a request, which is then all that it is told.
pub(super) async fn well_formed<T>(
    recorder: &Recorder,
    caller: &Caller,
    is_permitted: impl FnOnce(&Permissions) -> bool,
    read: Result<T, Status>,
) -> Result<T, Status> {
    let fault = match read {
        Ok(request) => return Ok(request),
        Err(fault) => fault,
    };
    let identity = caller.identity();
    let draft = draft(caller, fault.message());
    let missing = RefusalReason::MissingPermission;
    let (draft, reason) = match is_permitted(identity.permissions()) {
        true => (draft, None),
        false => (draft.denied("native/permission", missing), Some(missing)),
    };
    let receipt = recorder.access(draft, identity).await.map_err(status::record_status)?;
    Err(match reason.or(receipt.refused) {
        Some(reason) => status::read_status(&ReadRefusal::Denied { decision_id: receipt.decision_id, reason }),
        None => fault,
    })
}

/// Records requests that cannot be read, of callers who may make such requests and paid nothing for them yet. Over quota
/// they are only counted.
#[derive(Clone)]
pub struct FaultRecorder {
    pub(super) recorder: Recorder,
    pub(super) overruns: Arc<Overruns>,
    pub(super) clock: Clock,
}

impl FaultRecorder {
    /// Records by `recorder`, or counts by `overruns`.
    #[must_use]
    pub const fn new(recorder: Recorder, overruns: Arc<Overruns>, clock: Clock) -> Self {
        Self { recorder, overruns, clock }
    }

    pub(super) async fn note(&self, caller: &Caller, meter: &Meter, fault: &str) -> Result<(), RecordError> {
        match meter.take_entry(self.clock.now()) {
            Ok(()) => self.recorder.complaint(draft(caller, fault)).await,
            Err(exceeded) => {
                self.overruns.note(caller, exceeded.kind, 1);
                Ok(())
            }
        }
    }
}

fn draft(caller: &Caller, fault: &str) -> Draft {
    Draft::undecodable(&caller.identity(), caller.peer(), caller.session().method(), fault)
}

/// What was wrong with a message that the decoder refused, and how that is told; `None` where the connection broke instead.
pub(super) fn decoding_fault(error: &Status) -> Option<(&'static str, Status)> {
    // Ours, which may have been wrapped on the way, is at the root of what comes from the decoder or the body; at the root of
    // what comes from the transport stands something else.
    let root = iter::successors(error.source(), |inner| (*inner).source()).last();
    if root.is_some_and(|root| !root.is::<Status>()) {
        return None;
    }
    match error.code() {
        Code::OutOfRange => Some(("a request is larger than the decoder's limit", status::frame_too_large())),
        Code::ResourceExhausted => Some(("a request holds too many items", status::too_many_items())),
        Code::DeadlineExceeded => Some(("a request took too long to arrive", status::frame_too_slow())),
        Code::Unavailable => Some(("a request finds too many others waiting", status::receive_limit())),
        Code::Internal => Some(("a request is not valid protobuf", status::invalid("the request cannot be decoded"))),
        _ => None,
    }
}
