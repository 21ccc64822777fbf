//! HTTP/2 frame by frame over TLS: for clients that do not read, and for bytes that no gRPC client would send.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{
    RecvStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::raw::{client_config, tls_connect};

/// One HTTP/2 connection. Dropping it closes the connection.
pub struct Wire {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    address: SocketAddr,
}

/// One call on it.
pub struct Call {
    /// What is sent.
    pub requests: h2::SendStream<Bytes>,
    /// What is answered.
    pub response: ResponseFuture,
}

impl Wire {
    /// Connects, with HTTP/2's own windows.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(address: SocketAddr, ca: &Path) -> Result<Self> {
        Self::connect_with(address, ca, h2::client::Builder::new()).await
    }

    /// Connects with settings of one's own.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect_with(address: SocketAddr, ca: &Path, builder: h2::client::Builder) -> Result<Self> {
        let tls = TlsConnector::from(Arc::new(client_config(ca)?));
        let stream = tls_connect(&tls, address).await?;
        let (sender, connection) = builder.handshake(stream).await?;
        Ok(Self { sender, connection: tokio::spawn(connection), address })
    }

    /// Opens a gRPC call.
    ///
    /// # Errors
    /// Where the connection takes no more.
    pub async fn call(&self, path: &str, token: Option<&str>) -> Result<Call> {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let headers = authorization.iter().map(|value| ("authorization", value.as_str()));
        self.call_with(path, &headers.collect::<Vec<_>>()).await
    }

    /// Opens a gRPC call with any headers.
    ///
    /// # Errors
    /// Where the connection takes no more.
    pub async fn call_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<Call> {
        let mut request = Request::post(format!("https://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.sender.clone().ready().await?;
        let (response, requests) = sender.send_request(request.body(())?, false)?;
        Ok(Call { requests, response })
    }

    /// Waits until the other side ends the connection, while this side would go on.
    ///
    /// # Errors
    /// How it ended, where that was not in good order.
    pub async fn ended(&mut self) -> Result<()> {
        Ok((&mut self.connection).await??)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Call {
    /// Reads the answer to its end: its data, and the gRPC status.
    ///
    /// # Errors
    /// Where the stream or the connection breaks.
    pub async fn answer(self) -> Result<(Bytes, i32)> {
        let Self { requests: _requests, response } = self;
        let response = response.await?;
        let headers = response.headers().clone();
        let mut body = response.into_body();
        let mut data = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            data.extend_from_slice(&part);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        Ok((data.freeze(), grpc_status(&trailers).or_else(|| grpc_status(&headers)).unwrap_or(-1)))
    }
}

/// The answer to a call, message by message. What is not asked for is not read, so the other side has to wait.
pub struct Answers {
    /// What is sent meanwhile.
    pub requests: h2::SendStream<Bytes>,
    body: RecvStream,
    buffer: BytesMut,
}

impl Call {
    /// Waits for the answer to begin.
    ///
    /// # Errors
    /// Where it does not, or is over at once.
    pub async fn answers(self) -> Result<Answers> {
        let response = self.response.await?;
        if let Some(status) = grpc_status(response.headers()) {
            bail!("over at once with status {status}");
        }
        Ok(Answers { requests: self.requests, body: response.into_body(), buffer: BytesMut::new() })
    }
}

impl Answers {
    /// The next message; the gRPC status where there is none.
    ///
    /// # Errors
    /// Where the stream or the connection breaks.
    pub async fn next<M: prost::Message + Default>(&mut self) -> Result<Result<M, i32>> {
        loop {
            if let Some(message) = self.whole() {
                return Ok(Ok(M::decode(message)?));
            }
            let Some(part) = self.body.data().await else {
                let trailers = self.body.trailers().await?.unwrap_or_default();
                return Ok(Err(grpc_status(&trailers).unwrap_or(-1)));
            };
            let part = part?;
            self.body.flow_control().release_capacity(part.len())?;
            self.buffer.extend_from_slice(&part);
        }
    }

    fn whole(&mut self) -> Option<Bytes> {
        let (head, _) = self.buffer.split_first_chunk::<5>()?;
        let length = usize::try_from(u32::from_be_bytes([head[1], head[2], head[3], head[4]])).ok()?;
        if self.buffer.len() < length + 5 {
            return None;
        }
        self.buffer.advance(5);
        Some(self.buffer.split_to(length).freeze())
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// One gRPC frame: not compressed, length, message.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}
