//! `BrokerService`: agents publish and subscribe.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};
use veribus_proto::v1::{
    PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse, SubscribeRequest, SubscribeResponse,
    broker_service_server::BrokerService,
};

use super::{
    connection::ConnectionInfo,
    convert,
    frame_body::Received,
    gate::Seen,
    malformed::well_formed,
    pipeline::Pipelines,
    publish_stream::Publishes,
    senders::{Senders, Unrecognised},
    status,
    subscribe_stream::{self, Opened},
};
use crate::{
    authenticate::{Authenticator, Caller, Permissions},
    publish::Publisher,
    quota::{Meter, QuotaExceeded},
    subscribe::Reading,
};

/// The service.
pub struct Broker {
    publishes: Publishes,
    pipelines: Pipelines,
    reading: Arc<Reading>,
}

impl Broker {
    /// Serves publishes by `publisher` and subscriptions by `reading`. Senders of single messages are recognised by
    /// `authenticator`.
    #[must_use]
    pub fn new(
        publisher: Arc<Publisher>,
        reading: Arc<Reading>,
        authenticator: Arc<Authenticator>,
        pipelines: Pipelines,
    ) -> Self {
        let senders = Senders::new(authenticator, Arc::clone(&pipelines.refusals));
        Self { publishes: Publishes { publisher, senders }, pipelines, reading }
    }

    fn over_quota(&self, caller: &Caller, exceeded: &QuotaExceeded) -> Status {
        self.pipelines.overruns.note(caller, exceeded.kind, 1);
        status::over_quota(exceeded)
    }
}

/// A stream of responses.
pub type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The caller that the gate let pass. Without one there is no call.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    if let Some(seen) = request.extensions().get::<Seen>() {
        seen.set();
    }
    request.extensions().get::<Caller>().cloned().ok_or_else(status::unauthenticated)
}

/// What measures the call, as the gate opened it.
pub(super) fn meter<T>(request: &Request<T>) -> Result<Meter, Status> {
    request.extensions().get::<Meter>().cloned().ok_or_else(status::unauthenticated)
}

/// What the call's messages are received under.
pub(super) fn received<T>(request: &Request<T>) -> Received {
    request.extensions().get::<Received>().cloned().unwrap_or_default()
}

#[tonic::async_trait]
impl BrokerService for Broker {
    type PublishStreamStream = Responses<PublishStreamResponse>;
    type SubscribeStream = Responses<SubscribeResponse>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let caller = caller(&request)?;
        let meter = meter(&request)?;
        let request = request.into_inner();
        if meter.has_rates() {
            let taken = meter.take(self.pipelines.clock.now(), request.encoded_len());
            taken.map_err(|exceeded| self.over_quota(&caller, &exceeded))?;
        }
        let mut message = request.message;
        let credentials = message.as_mut().and_then(|message| message.credentials.take());
        let sender = self.publishes.senders.recognise(&caller, credentials).await;
        let message = convert::message(
            &caller.identity(),
            caller.peer(),
            sender.map_err(|Unrecognised| status::unauthenticated())?,
            message,
        );
        let publishing = self.publishes.publisher.publish(&caller, vec![message]).await;
        let publishing = publishing.map_err(|error| status::submit_status(&error))?;
        let outcomes = publishing.outcomes().await.map_err(status::record_status)?;
        let outcome = outcomes.into_iter().next().ok_or_else(|| status::invalid("there is no message"))?;
        status::unary(outcome).map(Response::new)
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let caller = caller(&request)?;
        let (meter, received) = (meter(&request)?, received(&request));
        let responses = self.pipelines.serve(self.publishes.clone(), caller, meter, received, request.into_inner());
        Ok(Response::new(Box::pin(responses)))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = caller(&request)?;
        let connection = request.extensions().get::<ConnectionInfo>().ok_or_else(status::unauthenticated)?;
        let cut_off = connection.switch().clone();
        let meter = meter(&request)?;
        let mut requests = request.into_inner();
        let patterns = tokio::select! {
            () = self.pipelines.drain.cancelled() => return Err(status::draining()),
            patterns = subscribe_stream::opening(&mut requests, self.pipelines.limits.subscription_patterns_max) => patterns?,
        };
        let patterns = well_formed(&self.pipelines.recorder, &caller, Permissions::subscribe_any, patterns).await?;
        let place = meter.open_subscription().map_err(|exceeded| self.over_quota(&caller, &exceeded))?;
        let policy_changes = self.reading.policy_changes();
        let opened = self.reading.subscribe(&caller, patterns, cut_off).await;
        let (inbox, receipt) = opened.map_err(|refusal| status::read_status(&refusal))?;
        let (reading, renewals) = (Arc::clone(&self.reading), self.pipelines.renewals.clone());
        let faults = self.pipelines.faults.clone();
        let opened = Opened { inbox, receipt, caller, meter, reading, policy_changes, renewals, faults, _place: place };
        let responses = subscribe_stream::serve(opened, requests, self.pipelines.drain.clone());
        Ok(Response::new(Box::pin(responses)))
    }
}
