//! The publish stream with requests that are shared instead of copied: one stays here until it is answered, in case
//! it has to be sent again.

use std::sync::Arc;

use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    client::Grpc,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};
use veribus_proto::v1::{PublishStreamRequest, PublishStreamResponse};

use crate::{
    Token,
    present::Method,
    session::{DECODED_BYTES_MAX, Session},
};

pub(super) type SharedRequest = Arc<PublishStreamRequest>;

/// Opens a publish stream that takes its requests from `requests`.
pub(super) async fn open(
    session: &Session,
    token: &Token,
    requests: mpsc::Receiver<SharedRequest>,
) -> Result<Streaming<PublishStreamResponse>, Status> {
    let mut grpc = Grpc::new(session.channel.clone()).max_decoding_message_size(DECODED_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let request = session.presenter.request(token, Method::PUBLISH_STREAM, ReceiverStream::new(requests))?;
    let path = PathAndQuery::from_static(Method::PUBLISH_STREAM.0);
    Ok(grpc.streaming(request, path, SharedCodec).await?.into_inner())
}

struct SharedCodec;

impl Codec for SharedCodec {
    type Encode = SharedRequest;
    type Decode = PublishStreamResponse;
    type Encoder = SharedEncoder;
    type Decoder = ProstDecoder<PublishStreamResponse>;

    fn encoder(&mut self) -> Self::Encoder {
        SharedEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<PublishStreamRequest, PublishStreamResponse>::default().decoder()
    }
}

struct SharedEncoder;

impl Encoder for SharedEncoder {
    type Item = SharedRequest;
    type Error = Status;

    fn encode(&mut self, request: SharedRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(buffer).map_err(|error| Status::from_error(Box::new(error)))
    }
}
