//! Accepts connections, within limits, and hands those with a finished TLS handshake to the gRPC server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, ConnectionCounts, ConnectionInfo, Heard, WeakConnectionInfo},
    refusals::Refusals,
    tls::ServerTls,
};

/// How long a new connection may take.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// For the TLS handshake.
    pub handshake_max: Duration,
    /// Until its first authenticated call.
    pub first_call_max: Duration,
}

/// Connections with a finished handshake that wait for the gRPC server.
const READY_MAX: usize = 64;
/// How long a connection that only asks for health may pause between two checks.
const HEALTH_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long to wait after a failed accept: it fails again at once while file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often that is said again.
const ACCEPT_LINE_EVERY: Duration = Duration::from_secs(10);

/// A task that accepts until `stop` is cancelled, and the connections it accepts; `close_all` closes every one.
pub fn incoming(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    counts: Arc<ConnectionCounts>,
    refusals: Arc<Refusals>,
    limits: ListenerLimits,
    stop: CancellationToken,
    close_all: CancellationToken,
) -> (impl Future<Output = ()> + Send + use<>, ReceiverStream<Result<Connection, std::io::Error>>) {
    let (ready, stream) = mpsc::channel(READY_MAX);
    let acceptor = Acceptor { tls, counts, refusals, limits, close_all, ready };
    let accepting = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = acceptor.run(listener) => {}
        }
    };
    (accepting, ReceiverStream::new(stream))
}

#[derive(Clone)]
struct Acceptor {
    tls: Arc<ServerTls>,
    counts: Arc<ConnectionCounts>,
    refusals: Arc<Refusals>,
    limits: ListenerLimits,
    close_all: CancellationToken,
    ready: mpsc::Sender<Result<Connection, std::io::Error>>,
}

impl Acceptor {
    async fn run(&self, listener: TcpListener) {
        let (mut failures, mut next_line) = (0_u64, Instant::now());
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.accept(stream, peer),
                Err(error) => {
                    failures += 1;
                    if next_line <= Instant::now() {
                        tracing::warn!(%error, failures, "connections could not be accepted");
                        (failures, next_line) = (0, Instant::now() + ACCEPT_LINE_EVERY);
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accept(&self, stream: TcpStream, peer: SocketAddr) {
        let info = match self.counts.enter(peer, self.close_all.child_token()) {
            Ok(info) => info,
            Err(limit) => return self.refusals.note_connection(limit.as_str(), None, peer.ip()),
        };
        let acceptor = self.clone();
        tokio::spawn(async move { acceptor.handshake(stream, info).await });
    }

    async fn handshake(self, stream: TcpStream, info: ConnectionInfo) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let (peer, tls) = (info.peer(), self.tls.current());
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
        let accepted = tokio::select! {
            () = info.switch().cancelled() => return,
            accepted = timeout(self.limits.handshake_max, acceptor.accept(stream)) => accepted,
        };
        match accepted {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                tokio::spawn(close_if_silent(info.downgrade(), peer, self.limits.first_call_max));
                let connection = Connection::new(stream, info);
                // Where they were replaced during the handshake, whoever looks for those to be closed may have come too early.
                let now = self.tls.current();
                if !Arc::ptr_eq(&tls, &now) && !connection.is_vouched_for(&now) {
                    return tracing::debug!(%peer, "nobody vouches for the client's certificate any more: closed");
                }
                // An error means that the server is gone.
                drop(self.ready.send(Ok(connection)).await);
            }
            Ok(Ok(_)) => tracing::debug!(%peer, "the client does not speak HTTP/2: closed"),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "the TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
        }
    }
}

/// Closes a connection whose peer does not say who it is. One that asks for health must go on asking.
async fn close_if_silent(connection: WeakConnectionInfo, peer: SocketAddr, first_call_max: Duration) {
    let mut wait = first_call_max;
    loop {
        tokio::select! {
            () = connection.gone() => return,
            () = sleep(wait) => {}
        }
        match connection.hear() {
            Heard::Known => return,
            Heard::HealthOnly => wait = HEALTH_PAUSE_MAX,
            Heard::Nothing => return tracing::debug!(%peer, "no authenticated call in time: closed"),
        }
    }
}
