//! HTTP/2 frame by frame over TLS: for clients that do not read, and for bytes that no gRPC client would send.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Result;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
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
