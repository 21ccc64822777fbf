//! `BrokerService`: agents publish and subscribe.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use veribus_proto::v1::{
    PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse, SubscribeRequest, SubscribeResponse,
    broker_service_server::BrokerService,
};

pub use super::publish_stream::AgentLimits;
use super::{
    connection::ConnectionInfo,
    convert,
    publish_stream::PublishStreams,
    refusals::Refusals,
    renewal::Renewals,
    status,
    subscribe_stream::{self, Opened},
};
use crate::{authenticate::Caller, publish::Publisher, record::Recorder, subscribe::Reading};

/// The service.
pub struct Broker {
    streams: PublishStreams,
    reading: Arc<Reading>,
}

impl Broker {
    /// Serves publishes by `publisher` and subscriptions by `reading`, until `drain` is cancelled.
    #[must_use]
    pub const fn new(
        publisher: Arc<Publisher>,
        reading: Arc<Reading>,
        recorder: Recorder,
        refusals: Arc<Refusals>,
        renewals: Renewals,
        limits: AgentLimits,
        drain: CancellationToken,
    ) -> Self {
        let streams = PublishStreams { publisher, recorder, refusals, renewals, limits, drain };
        Self { streams, reading }
    }
}

/// A stream of responses.
pub type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The caller that the gate let pass. Without one there is no call.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(status::unauthenticated)
}

#[tonic::async_trait]
impl BrokerService for Broker {
    type PublishStreamStream = Responses<PublishStreamResponse>;
    type SubscribeStream = Responses<SubscribeResponse>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let caller = caller(&request)?;
        let message = request.into_inner().message.ok_or_else(|| status::invalid("there is no message"))?;
        let message = convert::message(&caller, message);
        let publishing = self.streams.publisher.publish(&caller, vec![message]).await;
        let publishing = publishing.map_err(|error| status::publish_status(&error))?;
        let outcomes = publishing.outcomes().await.map_err(status::record_status)?;
        let outcome = outcomes.into_iter().next().ok_or_else(|| status::invalid("there is no message"))?;
        status::unary(outcome).map(Response::new)
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let caller = caller(&request)?;
        let responses = self.streams.clone().serve(caller, request.into_inner());
        Ok(Response::new(Box::pin(responses)))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = caller(&request)?;
        let connection = request.extensions().get::<ConnectionInfo>().ok_or_else(status::unauthenticated)?;
        let cut_off = connection.switch().clone();
        let mut requests = request.into_inner();
        let patterns = tokio::select! {
            () = self.streams.drain.cancelled() => return Err(status::draining()),
            patterns = subscribe_stream::opening(&mut requests, self.streams.limits.subscription_patterns_max) => patterns?,
        };
        let opened = self.reading.subscribe(&caller, patterns, cut_off).await;
        let (inbox, receipt) = opened.map_err(|refusal| status::read_status(&refusal))?;
        let (reading, renewals) = (Arc::clone(&self.reading), self.streams.renewals.clone());
        let opened = Opened { inbox, receipt, caller, reading, renewals };
        let responses = subscribe_stream::serve(opened, requests, self.streams.drain.clone());
        Ok(Response::new(Box::pin(responses)))
    }
}
