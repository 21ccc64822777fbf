//! A stream with requests that are shared instead of copied: one stays here until it is answered, in case it has to be
//! sent again.

use std::{marker::PhantomData, sync::Arc};

use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    client::Grpc,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::Kind;
use crate::{
    Token,
    session::{DECODED_BYTES_MAX, Session},
};

/// Opens a stream that takes its requests from `requests`.
pub(super) async fn open<K: Kind>(
    session: &Session,
    token: &Token,
    requests: mpsc::Receiver<Arc<K::Request>>,
) -> Result<Streaming<K::Response>, Status> {
    let mut grpc = Grpc::new(session.channel.clone()).max_decoding_message_size(DECODED_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let request = session.presenter.request(token, K::METHOD, ReceiverStream::new(requests))?;
    let path = PathAndQuery::from_static(K::METHOD.0);
    Ok(grpc.streaming(request, path, SharedCodec(PhantomData)).await?.into_inner())
}

struct SharedCodec<Q, A>(PhantomData<fn(Q) -> A>);

impl<Q, A> Codec for SharedCodec<Q, A>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    type Encode = Arc<Q>;
    type Decode = A;
    type Encoder = SharedEncoder<Q>;
    type Decoder = ProstDecoder<A>;

    fn encoder(&mut self) -> Self::Encoder {
        SharedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Q, A>::default().decoder()
    }
}

struct SharedEncoder<Q>(PhantomData<fn(Q)>);

impl<Q: Message> Encoder for SharedEncoder<Q> {
    type Item = Arc<Q>;
    type Error = Status;

    fn encode(&mut self, request: Arc<Q>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(buffer).map_err(|error| Status::from_error(Box::new(error)))
    }
}
