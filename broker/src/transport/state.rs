//! `StateService`: agents share state.

use tonic::{Request, Response, Status, Streaming};
use veribus_proto::v1::{
    DeleteRequest, DeleteResponse, GetRequest, GetResponse, ListRequest, ListResponse, PutRequest, PutResponse,
    SessionRequest, SessionResponse, StateOperation, WatchRequest, WatchResponse, state_operation::Operation as Wire,
    state_result::Result as Wired, state_service_server::StateService,
};

use super::{
    broker::{Responses, caller, meter, received},
    malformed::well_formed,
    pipeline::{Pipelines, Traffic as _},
    state_session::{Operations, operation_of, wired},
    status,
    watch_stream::{self, Watcher},
};
use crate::{
    authenticate::{Caller, Permissions},
    quota::{Meter, QuotaExceeded},
    record::RecordError,
    share::Sharing,
};

/// The service.
pub struct State {
    operations: Operations,
    pipelines: Pipelines,
}

impl State {
    /// Serves operations by `sharing`.
    #[must_use]
    pub const fn new(sharing: Sharing, pipelines: Pipelines) -> Self {
        Self { operations: Operations { sharing }, pipelines }
    }

    /// One operation that is alone in its call.
    async fn one<T>(&self, request: Request<T>, wire: impl FnOnce(T) -> Wire) -> Result<Wired, Status>
    where
        T: Send,
    {
        let (caller, meter) = (caller(&request)?, meter(&request)?);
        let operation = StateOperation { operation: Some(wire(request.into_inner())) };
        self.spend(&caller, &meter, &operation)?;
        let identity = caller.identity();
        let parsed = operation_of(&identity, caller.peer(), operation);
        if self.operations.is_barred(&parsed) {
            return Err(status::record_status(RecordError::DiskFloor));
        }
        let ordered = self.operations.sharing.decide(&identity, caller.peer(), vec![parsed]).await;
        let ordered = ordered.map_err(|error| status::submit_status(&error))?;
        let operating = self.operations.record(ordered).await.map_err(status::record_status)?;
        let answers = self.operations.sharing.answers(operating).await.map_err(status::record_status)?;
        match answers.into_iter().next().map(wired) {
            Some(Wired::Refusal(refusal)) => Err(status::state_status(refusal)),
            Some(answer) => Ok(answer),
            None => Err(status::invalid("there is no operation")),
        }
    }

    fn spend(&self, caller: &Caller, meter: &Meter, operation: &StateOperation) -> Result<(), Status> {
        if !meter.has_rates() {
            return Ok(());
        }
        let taken = meter.take(self.pipelines.clock.now(), prost::Message::encoded_len(operation));
        taken.map_err(|exceeded| self.over_quota(caller, &exceeded))
    }

    fn over_quota(&self, caller: &Caller, exceeded: &QuotaExceeded) -> Status {
        self.pipelines.overruns.note(caller, exceeded.kind, 1);
        status::over_quota(exceeded)
    }
}

/// Nothing else answers such a call.
fn mismatched() -> Status {
    Status::internal("an answer of another kind")
}

#[tonic::async_trait]
impl StateService for State {
    type WatchStream = Responses<WatchResponse>;
    type SessionStream = Responses<SessionResponse>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        match self.one(request, Wire::Put).await? {
            Wired::Put(response) => Ok(Response::new(response)),
            _ => Err(mismatched()),
        }
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        match self.one(request, Wire::Get).await? {
            Wired::Get(response) => Ok(Response::new(response)),
            _ => Err(mismatched()),
        }
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        match self.one(request, Wire::Delete).await? {
            Wired::Delete(response) => Ok(Response::new(response)),
            _ => Err(mismatched()),
        }
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        match self.one(request, Wire::List).await? {
            Wired::List(response) => Ok(Response::new(response)),
            _ => Err(mismatched()),
        }
    }

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (caller, meter) = (caller(&request)?, meter(&request)?);
        let mut requests = request.into_inner();
        let target = tokio::select! {
            () = self.pipelines.drain.cancelled() => return Err(status::draining()),
            target = watch_stream::opening(&mut requests) => target?,
        };
        let (prefix, after) =
            well_formed(&self.pipelines.recorder, &caller, Permissions::state_read_any, target).await?;
        let place = meter.open_subscription().map_err(|exceeded| self.over_quota(&caller, &exceeded))?;
        let watch = self.operations.sharing.watch(caller.clone(), prefix, after).await;
        let watcher = Watcher {
            _place: place,
            watch: watch.map_err(status::watch_status)?,
            caller,
            meter,
            requests,
            renewals: self.pipelines.renewals.clone(),
            faults: self.pipelines.faults.clone(),
            drain: self.pipelines.drain.clone(),
        };
        Ok(Response::new(Box::pin(watch_stream::serve(watcher))))
    }

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (caller, meter, received) = (caller(&request)?, meter(&request)?, received(&request));
        let responses = self.pipelines.serve(self.operations.clone(), caller, meter, received, request.into_inner());
        Ok(Response::new(Box::pin(responses)))
    }
}
