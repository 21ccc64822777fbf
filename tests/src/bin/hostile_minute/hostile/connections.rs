//! Clients that hold connections and streams, slowly, without a token, or to their quota.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::future::poll_fn;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use veribus_tests::{
    streams::opening,
    wire::{Call, frame},
};

use super::{
    Attacker, Link,
    broker::{PUBLISH, PUBLISH_STREAM, SUBSCRIBE},
    end_of,
    state::SESSION,
    status,
};

const SECOND: Duration = Duration::from_secs(1);
/// The start of a message of 4 MiB.
const PREFIX: &[u8] = &[0, 0, 0x40, 0, 0];

/// Streams that never complete a message: a byte a second, or a window full of frames of one byte.
pub(super) async fn slow(attacker: &Attacker) -> Result<()> {
    let token = attacker.target.token("slow", &["publish:slow.>"])?;
    for _ in 0..4 {
        let connection = attacker.link().await;
        for _ in 0..25 {
            let (connection, token) = (Arc::clone(&connection), token.clone());
            attacker.again(move |attacker| {
                let (connection, token) = (Arc::clone(&connection), token.clone());
                async move {
                    let Call { mut requests, response } = connection.call(PUBLISH_STREAM, Some(&token)).await?;
                    let _open = attacker.opened();
                    requests.send_data(Bytes::from_static(PREFIX), false)?;
                    let drip = async move {
                        while requests.send_data(Bytes::from_static(b"x"), false).is_ok() {
                            sleep(SECOND).await;
                        }
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        end = end_of(response) => Ok(format!("a byte a second: {}", end?)),
                        () = drip => Ok("no end".to_owned()),
                    }
                }
            });
        }
    }
    let token = attacker.target.token("tiny", &["publish:slow.>"])?;
    // Four stream windows are one connection's.
    for _ in 0..10 {
        let connection = attacker.link().await;
        for _ in 0..4 {
            let (connection, token) = (Arc::clone(&connection), token.clone());
            attacker.again(move |attacker| tiny(attacker, Arc::clone(&connection), token.clone()));
        }
    }
    Ok(())
}

async fn tiny(attacker: Attacker, connection: Arc<Link>, token: String) -> Result<String> {
    const AT_ONCE: usize = 4_096;
    let Call { mut requests, response } = connection.call(PUBLISH_STREAM, Some(&token)).await?;
    let _open = attacker.opened();
    requests.send_data(Bytes::from_static(PREFIX), false)?;
    let fill = async move {
        let mut left = (4 << 20) - 1;
        while left > 0 {
            requests.reserve_capacity(AT_ONCE.min(left));
            let Some(Ok(room)) = poll_fn(|cx| requests.poll_capacity(cx)).await else { break };
            for _ in 0..room.min(left) {
                if requests.send_data(Bytes::from_static(b"x"), false).is_err() {
                    break;
                }
                left -= 1;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        end = end_of(response) => Ok(format!("frames of one byte: {}", end?)),
        () = fill => Ok("no end".to_owned()),
    }
}

/// Those without a token, or with one that is none.
pub(super) fn anonymous(attacker: &Attacker) -> Result<()> {
    let request = HealthCheckRequest::default;
    for _ in 0..400 {
        attacker.again(|attacker| async move {
            let mut tcp = TcpStream::connect(attacker.target.address).await.context("TCP")?;
            tcp.write_all(&[22, 3, 1, 2, 0, 1]).await?;
            tcp.read_to_end(&mut Vec::new()).await.ok();
            sleep(super::COME_BACK).await;
            Ok("a handshake that does not go on was ended".to_owned())
        });
    }
    for _ in 0..250 {
        attacker.again(|attacker| async move {
            let mut silent = attacker.target.wire().await?;
            silent.ended().await.ok();
            Ok("a silent connection was ended".to_owned())
        });
    }
    for token in [None, Some("garbage"), Some("e30.e30.AAAA"), None, Some("garbage")] {
        for _ in 0..8 {
            attacker.again(move |attacker| async move {
                let connection = attacker.target.wire().await?;
                loop {
                    let mut call = connection.call(PUBLISH, token).await?;
                    call.requests.send_data(frame(b""), true)?;
                    attacker.note(format!("without a token: {}", end_of(call.response).await?));
                }
            });
        }
    }
    for watches in std::iter::repeat_n(1, 64).chain([80]) {
        attacker.again(move |attacker| async move {
            let mut health = HealthClient::new(attacker.target.raw(None).await?.channel());
            let mut held = Vec::new();
            for _ in 0..watches {
                match health.watch(request()).await {
                    Ok(watch) => held.push((watch.into_inner(), attacker.opened())),
                    Err(error) => attacker.note(format!("Health/Watch: {}", status(&error))),
                }
            }
            let (first, _) = held.first_mut().context("no Health/Watch")?;
            while first.message().await?.is_some() {
                attacker.note("Health/Watch answers");
            }
            Ok("a Health/Watch ended".to_owned())
        });
    }
    for _ in 0..64 {
        attacker.again(|attacker| async move {
            let mut tcp = TcpStream::connect(attacker.target.metrics).await.context("TCP to metrics")?;
            let (mut reading, mut writing) = tcp.split();
            let drip = async {
                for byte in b"GET /metrics HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
                    if writing.write_all(std::slice::from_ref(byte)).await.is_err() {
                        break;
                    }
                    sleep(SECOND).await;
                }
            };
            let mut answer = Vec::new();
            tokio::select! {
                _ = reading.read_to_end(&mut answer) => Ok("the metrics listener ended a slow client".to_owned()),
                () = drip => Ok("the metrics listener took no more".to_owned()),
            }
        });
    }
    Ok(())
}

/// One agent with streams of every kind who takes no answer.
pub(super) async fn quota(attacker: &Attacker) -> Result<()> {
    let permissions = ["publish:hog.>", "subscribe:hog.>", "state.read:hog", "state.write:hog"];
    let token = attacker.target.token("hog", &permissions)?;
    let subscribing = frame(&opening(&["hog.>"]).encode_to_vec());
    attacker.hold_unread(&token, SUBSCRIBE, subscribing, 40, 20).await;
    attacker.hold_unread(&token, PUBLISH_STREAM, frame(b""), 40, 20).await;
    attacker.hold_unread(&token, SESSION, frame(b""), 20, 10).await;
    Ok(())
}
