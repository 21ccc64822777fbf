//! HTTP/2 frames written by hand (RFC 9113, section 4), for what the library that [`crate::wire`] stands on never sends: many
//! frames in one write, and silence where an answer is due.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    patiently,
    raw::{client_config, tls_connect},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
/// RST_STREAM.
pub const RESET: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GO_AWAY: u8 = 7;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM, or that of a GOAWAY, which follows the last stream.
    #[must_use]
    pub fn error_code(&self) -> Option<h2::Reason> {
        let from = match self.kind {
            RESET => 0,
            GO_AWAY => 4,
            _ => return None,
        };
        let code = self.payload.get(from..)?.first_chunk()?;
        Some(u32::from_be_bytes(*code).into())
    }
}

/// A connection on which this side has said the preface and its settings, which are the defaults.
pub struct Frames {
    stream: TlsStream<TcpStream>,
}

impl Frames {
    /// Connects, and sends the preface together with these frames: the other side reads them all before it acts on one.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(address: SocketAddr, ca: &Path, frames: &[u8]) -> Result<Self> {
        let tls = TlsConnector::from(Arc::new(client_config(ca)?));
        let mut stream = tls_connect(&tls, address).await?;
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat()).await?;
        Ok(Self { stream })
    }

    /// Sends frames in one write.
    ///
    /// # Errors
    /// Where the connection is closed.
    pub async fn send(&mut self, frames: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(frames).await?)
    }

    /// The next frame; `None` where the connection is over, in good order or not.
    ///
    /// # Errors
    /// Where none comes in time.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        let mut head = [0; 9];
        if patiently(self.stream.read_exact(&mut head)).await?.is_err() {
            return Ok(None);
        }
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, l0, l1, l2]))?];
        if patiently(self.stream.read_exact(&mut payload)).await?.is_err() {
            return Ok(None);
        }
        Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]), payload }))
    }

    /// All frames up to the answer to a PING that is sent now, or up to the end; and whether the answer came.
    ///
    /// # Errors
    /// Where neither comes in time.
    pub async fn through_ping(&mut self) -> Result<(Vec<Frame>, bool)> {
        self.send(&frame(PING, 0, 0, b"the last")).await.ok();
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await? {
            if (frame.kind, frame.flags, &*frame.payload) == (PING, ACK, b"the last") {
                return Ok((frames, true));
            }
            frames.push(frame);
        }
        Ok((frames, false))
    }
}

/// One frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The HEADERS of a POST to `/` whose body is still to come, without Huffman coding (RFC 7541).
#[must_use]
pub fn headers(stream: u32) -> Vec<u8> {
    const POST: u8 = 0x83;
    const ROOT: u8 = 0x84;
    const HTTPS: u8 = 0x87;
    const AUTHORITY: u8 = 0x01;
    frame(HEADERS, END_HEADERS, stream, &[&[POST, HTTPS, ROOT, AUTHORITY, 9][..], b"localhost"].concat())
}

/// The first streams of a client, each opened and at once reset (CVE-2023-44487).
#[must_use]
pub fn resets(streams: u32) -> Vec<u8> {
    let cancel = u32::from(h2::Reason::CANCEL).to_be_bytes();
    (0..streams)
        .flat_map(|number| [headers(2 * number + 1), frame(RESET, 0, 2 * number + 1, &cancel)].concat())
        .collect()
}
