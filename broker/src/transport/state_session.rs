//! `Session`: operations on shared state, pipelined, one result for each, in the order of sending.

use std::{net::SocketAddr, sync::Arc};

use prost::Message as _;
use veribus_proto::v1::{
    self, Credentials, Refreshed, SessionRequest, SessionResponse, StateOperation, StateResult,
    state_operation::Operation as Wire, state_result::Result as Wired,
};

use super::{
    frame_body::IN_FLIGHT_BYTES,
    pipeline::{OnTheWay, Settled, Traffic},
    status,
};
use crate::{
    authenticate::{Caller, Identity},
    model::{ContentType, Revision, StateKey, StatePrefix, Write},
    quota::QuotaExceeded,
    record::{Malformed, RecordError, SubmitError, timestamp},
    share::{Answer, ListQuery, Operating, Operation, Ordered, Sharing},
    state::{Metadata, OpenedValue},
    workers::TimeSlice,
};

/// The most keys that one answer lists.
const LISTED_MAX: usize = 1_000;

/// The longest time to live, in seconds: a hundred years.
const TTL_S_MAX: u64 = 100 * 366 * 86_400;

/// Operations on shared state.
#[derive(Clone)]
pub(super) struct Operations {
    pub(super) sharing: Sharing,
}

impl Traffic for Operations {
    type Request = SessionRequest;
    type Item = StateOperation;
    type Name = ();
    type Ready = Ordered;
    type Pending = Operating;
    type Result = StateResult;
    type Response = SessionResponse;

    fn open(request: SessionRequest) -> (Vec<StateOperation>, Option<Credentials>) {
        (request.operations, request.refresh)
    }

    fn memory(operation: &StateOperation) -> usize {
        size_of::<StateOperation>() + IN_FLIGHT_BYTES + operation.encoded_len()
    }

    fn over_quota(&self, exceeded: &QuotaExceeded, _operation: &StateOperation) -> StateResult {
        result(Wired::Refusal(status::state_over_quota(exceeded)))
    }

    /// Below the disk's floor, what writes does not go on.
    async fn route(
        &self,
        caller: &Caller,
        identity: &Arc<Identity>,
        operations: Vec<StateOperation>,
        mut settled: Settled<StateResult>,
    ) -> Result<OnTheWay<Self>, SubmitError> {
        let over_quota: Vec<usize> = settled.iter().map(|(place, _)| *place).collect();
        let mut parsed = Vec::with_capacity(operations.len());
        let mut slice = TimeSlice::begin();
        for (place, operation) in operations.into_iter().enumerate() {
            slice.yield_if_over().await;
            if over_quota.binary_search(&place).is_ok() {
                continue;
            }
            let operation = operation_of(identity, caller.peer(), operation);
            if self.is_barred(&operation) {
                settled.push((place, Self::failed((), RecordError::DiskFloor)));
            } else {
                parsed.push(operation);
            }
        }
        settled.sort_unstable_by_key(|(place, _)| *place);
        let ordered = self.sharing.decide(identity, caller.peer(), parsed).await?;
        let names = vec![(); ordered.len()];
        let ready = (!names.is_empty()).then_some(ordered);
        Ok(OnTheWay { ready, names, settled })
    }

    async fn record(&self, ordered: Ordered) -> Result<Operating, RecordError> {
        self.sharing.record(ordered).await
    }

    async fn results(&self, operating: Operating) -> Result<Vec<StateResult>, RecordError> {
        Ok(self.sharing.answers(operating).await?.into_iter().map(|answer| result(wired(answer))).collect())
    }

    fn failed((): (), error: RecordError) -> StateResult {
        result(Wired::Refusal(status::Told::from(error).state_refusal()))
    }

    fn response(results: Vec<StateResult>, refreshed: Option<Refreshed>) -> SessionResponse {
        SessionResponse { results, refreshed }
    }
}

impl Operations {
    /// Whether too little disk is left for it.
    pub(super) fn is_barred(&self, operation: &Result<Operation, Malformed>) -> bool {
        matches!(operation, Ok(Operation::Put(_) | Operation::Delete(..)) | Err(_)) && self.sharing.is_read_only()
    }
}

const fn result(result: Wired) -> StateResult {
    StateResult { result: Some(result) }
}

/// Reads an operation, or says what is wrong with it.
pub(super) fn operation_of(
    caller: &Arc<Identity>,
    peer: SocketAddr,
    wire: StateOperation,
) -> Result<Operation, Malformed> {
    let size_bytes = match &wire.operation {
        Some(Wire::Put(put)) => put.value.len(),
        _ => 0,
    };
    parse(wire.operation).map_err(|fault| {
        let sender = Arc::clone(caller);
        Malformed { sender, via: None, peer, message_id: String::new(), fault, size_bytes }
    })
}

fn parse(wire: Option<Wire>) -> Result<Operation, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let key = |wire: &str| StateKey::parse(wire).map_err(|error| text(&error));
    match wire.ok_or("there is no operation")? {
        Wire::Put(put) if put.ttl_s > TTL_S_MAX => Err(format!("`ttl_s` is above {TTL_S_MAX}")),
        Wire::Put(put) => Ok(Operation::Put(Write {
            key: key(&put.key)?,
            content_type: ContentType::parse(put.content_type).map_err(|error| text(&error))?,
            value: put.value,
            expected: put.expected_revision.map(Revision),
            ttl_s: (put.ttl_s > 0).then_some(put.ttl_s),
        })),
        Wire::Get(get) => Ok(Operation::Get(key(&get.key)?, (get.revision > 0).then_some(Revision(get.revision)))),
        Wire::Delete(delete) => Ok(Operation::Delete(key(&delete.key)?, delete.expected_revision.map(Revision))),
        Wire::List(list) => {
            let prefix = StatePrefix::parse(&list.prefix).map_err(|error| text(&error))?;
            let wanted = usize::try_from(list.page_size).unwrap_or(LISTED_MAX);
            let max = if wanted == 0 { LISTED_MAX } else { wanted.min(LISTED_MAX) };
            Ok(Operation::List(ListQuery { prefix, page_token: list.page_token, max }))
        }
    }
}

/// An answer on the wire.
pub(super) fn wired(answer: Answer) -> Wired {
    match answer {
        Answer::Put { decision_id, salt } => Wired::Put(v1::PutResponse {
            revision: decision_id.audit_index(),
            decision_id: decision_id.to_string(),
            content_salt: salt.to_vec(),
        }),
        Answer::Got { decision_id, value } => Wired::Get(v1::GetResponse {
            value: Some(value_of(value)),
            decision_id: decision_id.to_string(),
            audit_index: decision_id.audit_index(),
        }),
        Answer::Deleted { decision_id, existed } => Wired::Delete(v1::DeleteResponse {
            revision: decision_id.audit_index(),
            decision_id: decision_id.to_string(),
            existed,
        }),
        Answer::Listed { decision_id, listing } => Wired::List(v1::ListResponse {
            values: listing.values.into_iter().map(metadata).collect(),
            next_page_token: listing.next_page_token,
            decision_id: decision_id.to_string(),
            audit_index: decision_id.audit_index(),
        }),
        Answer::Not { decision_id, why } => Wired::Refusal(status::state_refusal(&decision_id, why)),
    }
}

pub(super) fn value_of(opened: OpenedValue) -> v1::StateValue {
    v1::StateValue { metadata: Some(metadata(opened.metadata)), value: opened.value }
}

fn metadata(metadata: Metadata) -> v1::StateMetadata {
    v1::StateMetadata {
        key: metadata.key.to_string(),
        revision: metadata.revision.0,
        content_type: metadata.content_type,
        size_bytes: metadata.size_bytes,
        expires_at: metadata.expires_at.map(timestamp),
        written_at: Some(timestamp(metadata.written_at)),
        writer: Some(v1::Actor { issuer: metadata.issuer, agent: metadata.agent, ..v1::Actor::default() }),
        earlier_revisions: metadata.earlier.into_iter().map(|revision| revision.0).collect(),
    }
}
