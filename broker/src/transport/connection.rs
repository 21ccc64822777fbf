//! One TLS connection: its bytes, what is known of it, and the switch that closes it.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use dashmap::DashMap;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tonic::transport::server::Connected;

use super::tls::TlsSettings;
use crate::{
    authenticate::Identity,
    metrics::Metrics,
    model::{AgentId, Issuer},
};

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// In all.
    pub total_max: usize,
    /// From one address.
    pub per_address_max: usize,
    /// Of one identity.
    pub per_identity_max: usize,
    /// Of those without an authenticated call that only ask for health, in all.
    pub health_max: usize,
    /// Of these, from one address.
    pub health_per_address_max: usize,
}

/// Watches of the health service on one connection: one for each service of a broker, and some to spare.
const HEALTH_WATCHES_MAX: usize = 8;

/// Which of them leaves no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// [`ConnectionLimits::total_max`].
    Total,
    /// [`ConnectionLimits::per_address_max`].
    PerAddress,
    /// [`ConnectionLimits::per_identity_max`].
    PerIdentity,
    /// [`ConnectionLimits::health_max`].
    Health,
    /// [`ConnectionLimits::health_per_address_max`].
    HealthPerAddress,
}

impl ConnectionLimit {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Total, Self::PerAddress, Self::PerIdentity, Self::Health, Self::HealthPerAddress];

    /// The name of its setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "connections_max",
            Self::PerAddress => "connections_per_address_max",
            Self::PerIdentity => "connections_per_identity_max",
            Self::Health => "health_connections_max",
            Self::HealthPerAddress => "health_connections_per_address_max",
        }
    }
}

/// Counts connections.
pub struct ConnectionCounts {
    limits: ConnectionLimits,
    total: AtomicUsize,
    open: TaskTracker,
    per_address: DashMap<IpAddr, usize>,
    per_identity: DashMap<(Issuer, AgentId), usize>,
    health: AtomicUsize,
    health_per_address: DashMap<IpAddr, usize>,
    /// Those whose clients showed a certificate.
    certified: DashMap<u64, Weak<Entered>>,
    next_number: AtomicU64,
    metrics: Metrics,
}

impl ConnectionCounts {
    /// None yet.
    #[must_use]
    pub fn new(limits: ConnectionLimits, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            limits,
            total: AtomicUsize::new(0),
            open: TaskTracker::new(),
            per_address: DashMap::new(),
            per_identity: DashMap::new(),
            health: AtomicUsize::new(0),
            health_per_address: DashMap::new(),
            certified: DashMap::new(),
            next_number: AtomicU64::new(0),
            metrics,
        })
    }

    /// Closes the connections of clients whose certificates `tls` does not vouch for, and says how many.
    pub fn close_unless_vouched_for(&self, tls: &TlsSettings) -> usize {
        // Taken out first, so that nobody waits for this map while signatures are checked.
        let certified: Vec<_> = self.certified.iter().filter_map(|entered| entered.upgrade()).collect();
        let vouched_for =
            |entered: &Entered| entered.shown.get().is_some_and(|shown| tls.vouch_for(&shown.certificates));
        let fallen = certified.iter().filter(|entered| !vouched_for(entered));
        fallen.map(|entered| entered.switch.cancel()).count()
    }

    /// Takes a place for a connection from `peer`.
    ///
    /// # Errors
    /// The limit that leaves none, as the settings name it.
    pub fn enter(
        self: &Arc<Self>,
        peer: SocketAddr,
        switch: CancellationToken,
    ) -> Result<ConnectionInfo, ConnectionLimit> {
        if self.total.fetch_add(1, Ordering::SeqCst) >= self.limits.total_max {
            self.total.fetch_sub(1, Ordering::SeqCst);
            return Err(ConnectionLimit::Total);
        }
        if !take(&self.per_address, address_key(peer.ip()), self.limits.per_address_max) {
            self.total.fetch_sub(1, Ordering::SeqCst);
            return Err(ConnectionLimit::PerAddress);
        }
        self.metrics.connections(1);
        Ok(ConnectionInfo(Arc::new(Entered {
            counts: Arc::clone(self),
            _open: self.open.token(),
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            peer,
            switch,
            shown: OnceLock::new(),
            expected: AtomicBool::new(false),
            excused: AtomicBool::new(false),
            has_health_place: Mutex::new(false),
            health_watches: Arc::new(Semaphore::new(HEALTH_WATCHES_MAX)),
            identities: Mutex::default(),
            waiting: Arc::default(),
        })))
    }

    fn take_health_place(&self, address: IpAddr) -> Result<(), ConnectionLimit> {
        if !take(&self.health_per_address, address, self.limits.health_per_address_max) {
            return Err(ConnectionLimit::HealthPerAddress);
        }
        if self.health.fetch_add(1, Ordering::SeqCst) >= self.limits.health_max {
            self.give_health_place_back(&address);
            return Err(ConnectionLimit::Health);
        }
        Ok(())
    }

    fn give_health_place_back(&self, address: &IpAddr) {
        self.health.fetch_sub(1, Ordering::SeqCst);
        give_back(&self.health_per_address, address);
    }

    /// Waits until there is no connection any more, once none is taken in.
    pub async fn all_closed(&self) {
        self.open.close();
        self.open.wait().await;
    }
}

/// What is known of a connection; in the extensions of each of its requests.
#[derive(Clone)]
pub struct ConnectionInfo(Arc<Entered>);

/// The connection's place in the counts, given back when the last of its users is gone.
struct Entered {
    counts: Arc<ConnectionCounts>,
    _open: TaskTrackerToken,
    number: u64,
    peer: SocketAddr,
    switch: CancellationToken,
    /// Set when the handshake is done, if the client showed certificates; its own is the first.
    shown: OnceLock<ShownChain>,
    expected: AtomicBool,
    excused: AtomicBool,
    /// Whether it counts among those that only ask for health.
    has_health_place: Mutex<bool>,
    health_watches: Arc<Semaphore>,
    identities: Mutex<HashSet<(Issuer, AgentId)>>,
    /// How many of its calls wait for memory.
    waiting: Arc<AtomicUsize>,
}

/// What a client showed in the handshake.
struct ShownChain {
    /// Its own first.
    certificates: Vec<CertificateDer<'static>>,
    leaf_sha256: [u8; 32],
}

impl ConnectionInfo {
    /// The peer's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// SHA-256 of the certificate (DER) that the client showed, and holds the key of.
    #[must_use]
    pub fn certificate_sha256(&self) -> Option<[u8; 32]> {
        self.0.shown.get().map(|shown| shown.leaf_sha256)
    }

    /// Closes the connection when cancelled.
    #[must_use]
    pub fn switch(&self) -> &CancellationToken {
        &self.0.switch
    }

    /// How many of its calls wait for memory for what they bring.
    #[must_use]
    pub fn waiting(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.0.waiting)
    }

    /// Refers to the connection without keeping its place.
    #[must_use]
    pub fn downgrade(&self) -> WeakConnectionInfo {
        WeakConnectionInfo { entered: Arc::downgrade(&self.0), switch: self.0.switch.clone() }
    }

    /// The peer has said who it is: the connection may stay.
    pub fn expect(&self) {
        if !self.0.expected.swap(true, Ordering::Relaxed) && std::mem::take(&mut *self.0.has_health_place.lock()) {
            self.0.counts.give_health_place_back(&address_key(self.0.peer.ip()));
        }
    }

    /// The peer asks for health: the connection may stay for a while, until it asks again.
    ///
    /// # Errors
    /// The limit that leaves no room for one more connection that only does that: this one may not stay for it.
    pub fn excuse(&self) -> Result<(), ConnectionLimit> {
        let mut has_place = self.0.has_health_place.lock();
        // Whoever says who it is meanwhile has set this before it comes for the place.
        if !*has_place && !self.0.expected.load(Ordering::Relaxed) {
            self.0.counts.take_health_place(address_key(self.0.peer.ip()))?;
            *has_place = true;
        }
        self.0.excused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A place for one more watch of health on this connection, if there is one, until it is dropped.
    #[must_use]
    pub fn health_watch(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.health_watches).try_acquire_owned().ok()
    }

    /// Counts the connection for an identity that uses it; `false` where that identity has too many.
    #[must_use]
    pub fn admit(&self, identity: &Identity) -> bool {
        let key = (identity.issuer().clone(), identity.agent().clone());
        let mut identities = self.0.identities.lock();
        if identities.contains(&key) {
            return true;
        }
        let admitted = take(&self.0.counts.per_identity, key.clone(), self.0.counts.limits.per_identity_max);
        if admitted {
            identities.insert(key);
        }
        admitted
    }
}

/// What a peer has said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Who it is; or it is gone.
    Known,
    /// Only that it asks for health, since the last time.
    HealthOnly,
    /// Nothing.
    Nothing,
}

/// A connection that may be gone.
pub struct WeakConnectionInfo {
    entered: Weak<Entered>,
    switch: CancellationToken,
}

impl WeakConnectionInfo {
    /// Completes when the connection is gone.
    pub async fn gone(&self) {
        self.switch.cancelled().await;
    }

    /// Looks what the peer has said so far. A silent connection is closed.
    #[must_use]
    pub fn hear(&self) -> Heard {
        let Some(entered) = self.entered.upgrade() else { return Heard::Known };
        if entered.expected.load(Ordering::Relaxed) {
            return Heard::Known;
        }
        if entered.excused.swap(false, Ordering::Relaxed) {
            return Heard::HealthOnly;
        }
        self.switch.cancel();
        Heard::Nothing
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.switch.cancel();
        self.counts.certified.remove(&self.number);
        self.counts.total.fetch_sub(1, Ordering::SeqCst);
        give_back(&self.counts.per_address, &address_key(self.peer.ip()));
        if *self.has_health_place.get_mut() {
            self.counts.give_health_place_back(&address_key(self.peer.ip()));
        }
        for identity in self.identities.get_mut().drain() {
            give_back(&self.counts.per_identity, &identity);
        }
        self.counts.metrics.connections(-1);
    }
}

/// What counts as one address: an IPv4 address, also where it is mapped, or a /64, since that is what one host of IPv6 has.
pub(super) fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

fn take<K: Eq + std::hash::Hash>(counts: &DashMap<K, usize>, key: K, max: usize) -> bool {
    let mut count = counts.entry(key).or_insert(0);
    let free = *count < max;
    *count += usize::from(free);
    free
}

fn give_back<K: Eq + std::hash::Hash>(counts: &DashMap<K, usize>, key: &K) {
    if let Some(mut count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
    }
    counts.remove_if(key, |_, count| *count == 0);
}

/// A TLS connection that ends when its switch is thrown.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    info: ConnectionInfo,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    /// A connection whose handshake is done.
    #[must_use]
    pub fn new(stream: TlsStream<TcpStream>, info: ConnectionInfo) -> Self {
        let closed = Box::pin(info.switch().clone().cancelled_owned());
        if let Some(chain) = stream.get_ref().1.peer_certificates() {
            let leaf_sha256 = chain.first().map(Sha256::digest).unwrap_or_default().into();
            info.0.shown.get_or_init(|| ShownChain { certificates: chain.to_vec(), leaf_sha256 });
            info.0.counts.certified.insert(info.0.number, Arc::downgrade(&info.0));
        }
        Self { stream, info, closed }
    }

    /// Whether the client showed no certificates, or some that these settings vouch for.
    #[must_use]
    pub fn is_vouched_for(&self, tls: &TlsSettings) -> bool {
        self.info.0.shown.get().is_none_or(|shown| tls.vouch_for(&shown.certificates))
    }

    fn poll_closed(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_closed(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.info.switch().is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.info.switch().is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(total_max: usize, per_address_max: usize) -> Arc<ConnectionCounts> {
        let limits = ConnectionLimits {
            total_max,
            per_address_max,
            per_identity_max: 1,
            health_max: 2,
            health_per_address_max: 1,
        };
        ConnectionCounts::new(limits, Metrics::default())
    }

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1))
    }

    #[test]
    fn a_health_check_excuses_a_connection_for_one_round_only() {
        let info = counts(2, 2).enter(peer(1), CancellationToken::new()).expect("entered");
        let weak = info.downgrade();
        info.excuse().expect("room");
        assert_eq!((weak.hear(), info.switch().is_cancelled()), (Heard::HealthOnly, false));
        assert_eq!((weak.hear(), info.switch().is_cancelled()), (Heard::Nothing, true));
        let info = counts(2, 2).enter(peer(1), CancellationToken::new()).expect("entered");
        info.expect();
        assert_eq!(info.downgrade().hear(), Heard::Known);
    }

    #[test]
    fn connections_that_only_ask_for_health_are_limited_and_places_come_back() {
        let counts = counts(10, 10);
        let enter = |last| counts.enter(peer(last), CancellationToken::new()).expect("entered");
        let (first, second, third) = (enter(1), enter(1), enter(2));
        assert_eq!((first.excuse(), first.excuse()), (Ok(()), Ok(())), "one place, however often it asks");
        assert_eq!(second.excuse(), Err(ConnectionLimit::HealthPerAddress));
        assert_eq!(second.downgrade().hear(), Heard::Nothing, "it may not stay for that");
        assert_eq!((third.excuse(), enter(3).excuse()), (Ok(()), Err(ConnectionLimit::Health)));
        first.expect();
        let fourth = enter(1);
        assert_eq!((first.excuse(), fourth.excuse()), (Ok(()), Ok(())), "who is known needs no place");
        drop((first, third, fourth));
        assert_eq!((counts.health.load(Ordering::SeqCst), counts.health_per_address.len()), (0, 0));
    }

    #[test]
    fn one_ipv6_network_counts_as_one_address() {
        let counts = counts(10, 1);
        let enter = |text: &str| {
            let address: IpAddr = text.parse().expect("an address");
            counts.enter(SocketAddr::new(address, 1), CancellationToken::new())
        };
        let first = enter("2001:db8:1:2::1");
        assert!(first.is_ok() && enter("2001:db8:1:2:ffff::9").is_err(), "the same /64");
        assert!(enter("2001:db8:1:3::1").is_ok());
        let mapped = enter("::ffff:192.0.2.7");
        assert!(mapped.is_ok() && enter("192.0.2.7").is_err(), "the same IPv4 address");
    }

    #[test]
    fn connections_are_limited_in_all_and_from_one_address_and_places_come_back() {
        let counts = counts(2, 1);
        let enter = |last| counts.enter(peer(last), CancellationToken::new());
        let first = enter(1);
        assert!(first.is_ok());
        assert_eq!(enter(1).err(), Some(ConnectionLimit::PerAddress));
        let second = enter(2);
        assert!(second.is_ok());
        assert_eq!(enter(3).err(), Some(ConnectionLimit::Total));
        let weak = first.as_ref().map(ConnectionInfo::downgrade).expect("entered");
        drop(first);
        assert_eq!(weak.hear(), Heard::Known, "who waits for a word does not keep the place");
        assert!(enter(3).is_ok());
        assert_eq!(counts.per_address.len(), 1, "nothing is kept of those who left");
    }
}
