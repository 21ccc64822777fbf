//! `PublishStream`: pipelined, one result per message, in the order of sending.

use std::sync::Arc;

use prost::Message as _;
use veribus_proto::v1::{self, Credentials, PublishResult, PublishStreamRequest, PublishStreamResponse, Refreshed};

use super::{
    convert,
    frame_body::{ATTRIBUTE_BYTES, IN_FLIGHT_BYTES},
    pipeline::{OnTheWay, Settled, Traffic},
    senders::{Senders, Unrecognised},
    status,
};
use crate::{
    authenticate::{Caller, Identity},
    publish::{Publisher, Publishing},
    quota::QuotaExceeded,
    record::{RecordError, Routed, SubmitError},
    workers::TimeSlice,
};

/// Messages.
#[derive(Clone)]
pub(super) struct Publishes {
    pub(super) publisher: Arc<Publisher>,
    pub(super) senders: Senders,
}

impl Traffic for Publishes {
    type Request = PublishStreamRequest;
    type Item = v1::Message;
    /// The message's id, as sent.
    type Name = String;
    type Ready = Vec<Routed>;
    type Pending = Publishing;
    type Result = PublishResult;
    type Response = PublishStreamResponse;

    fn open(request: PublishStreamRequest) -> (Vec<v1::Message>, Option<Credentials>) {
        (request.messages, request.refresh)
    }

    fn memory(message: &v1::Message) -> usize {
        let items = size_of::<v1::Message>() + IN_FLIGHT_BYTES + message.attributes.len() * ATTRIBUTE_BYTES;
        items + message.encoded_len()
    }

    fn over_quota(&self, exceeded: &QuotaExceeded, message: &v1::Message) -> PublishResult {
        status::over_quota_in_stream(exceeded, convert::cut(&message.id))
    }

    /// Messages whose sender is known go on.
    async fn route(
        &self,
        caller: &Caller,
        identity: &Arc<Identity>,
        messages: Vec<v1::Message>,
        mut settled: Settled<PublishResult>,
    ) -> Result<OnTheWay<Self>, SubmitError> {
        let over_quota: Vec<usize> = settled.iter().map(|(place, _)| *place).collect();
        let (mut posted, mut names) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        let mut slice = TimeSlice::begin();
        for (place, mut message) in messages.into_iter().enumerate() {
            slice.yield_if_over().await;
            if over_quota.binary_search(&place).is_ok() {
                continue;
            }
            let id = convert::cut(&message.id);
            match self.senders.recognise(caller, message.credentials.take()).await {
                Ok(sender) => {
                    posted.push(convert::message(identity, caller.peer(), sender, Some(message)));
                    names.push(id);
                }
                Err(Unrecognised) => settled.push((place, status::UNAUTHENTICATED.refusal(id))),
            }
        }
        settled.sort_unstable_by_key(|(place, _)| *place);
        let routed = self.publisher.route(identity, caller.peer(), posted).await?;
        Ok(OnTheWay { ready: (!routed.is_empty()).then_some(routed), names, settled })
    }

    async fn record(&self, routed: Vec<Routed>) -> Result<Publishing, RecordError> {
        self.publisher.record(routed).await
    }

    async fn results(&self, publishing: Publishing) -> Result<Vec<PublishResult>, RecordError> {
        Ok(publishing.outcomes().await?.into_iter().map(status::streamed).collect())
    }

    fn failed(id: String, error: RecordError) -> PublishResult {
        status::Told::from(error).refusal(id)
    }

    fn response(results: Vec<PublishResult>, refreshed: Option<Refreshed>) -> PublishStreamResponse {
        PublishStreamResponse { results, refreshed }
    }
}
