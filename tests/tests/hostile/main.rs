//! Peers that do not keep to any rule. Whatever they send, nothing invalid is accepted, nothing panics, memory stays
//! bounded, and the broker goes on serving.

#[expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a failed expectation is a failed test"
)]
#[path = "../../../broker/tests/hostile_tokens/attack/mod.rs"]
mod attack;
mod http2;
mod input;
#[expect(clippy::expect_used, clippy::indexing_slicing, reason = "a failed expectation is a failed test")]
#[path = "../../../broker/tests/hostile_tokens/signers.rs"]
mod signers;
mod tokens;

use std::{
    process::Stdio,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::RwLock,
};
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use veribus_proto::v1::{EntryKind, PublishRequest};
use veribus_tests::{
    PATIENCE,
    broker::{Setup, TestBroker},
    log::Log,
    messages::wire,
    patiently,
    raw::{Raw, RawChannel, RawOptions, client_config, reason, tls_connect},
    wire::Wire,
};

/// Whoever measures this process holds it for writing, the others for reading.
pub(crate) static ALONE: RwLock<()> = RwLock::const_new(());
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics in this process, those of the broker among them.
pub(crate) fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            report(panic);
        }));
    });
}

pub(crate) fn panics() -> usize {
    PANICS.load(Ordering::SeqCst)
}

async fn publish(agent: &Raw, id: &str) -> Result<(), tonic::Status> {
    agent.broker().publish(PublishRequest { message: Some(wire(id, "x", "text")) }).await.map(drop)
}

/// What comes back on a plain TCP connection until it ends.
async fn answer_to(broker: &TestBroker, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut tcp = TcpStream::connect(broker.address()).await?;
    tcp.write_all(bytes).await?;
    let mut answer = Vec::new();
    // A reset is an end too.
    patiently(tcp.read_to_end(&mut answer)).await?.ok();
    Ok(answer)
}

#[tokio::test]
async fn a_plaintext_client_is_refused() -> Result<()> {
    let _beside = ALONE.read().await;
    let broker = Setup::default().open_policy().start().await?;
    let answer = answer_to(&broker, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    assert!(is_fatal_alert(&answer), "{answer:?}");
    Ok(())
}

/// A TLS record of type alert, level fatal; nothing else.
fn is_fatal_alert(answer: &[u8]) -> bool {
    matches!(answer, [21, 3, _, 0, 2, 2, _])
}

#[tokio::test]
async fn a_client_that_speaks_only_tls_1_2_is_refused() -> Result<()> {
    let _beside = ALONE.read().await;
    const PROTOCOL_VERSION: u8 = 70;
    let broker = Setup::default().open_policy().start().await?;
    let answer = answer_to(&broker, &client_hello_of_tls_1_2()).await?;
    assert!(is_fatal_alert(&answer) && answer.last() == Some(&PROTOCOL_VERSION), "{answer:?}");
    Ok(())
}

/// A ClientHello without the extension `supported_versions` (RFC 5246, section 7.4.1.2).
fn client_hello_of_tls_1_2() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // ECDHE-ECDSA and ECDHE-RSA, AES-128-GCM
    hello.extend([1, 0]);
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 29][..],  // supported_groups: x25519
        &[0, 11, 0, 2, 1, 0],             // ec_point_formats: uncompressed
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4], // signature_algorithms: ECDSA P-256, RSA-PSS
    ]
    .concat();
    hello.extend([0, u8::try_from(extensions.len()).unwrap_or_default()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap_or_default();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

#[tokio::test]
async fn openssl_connects_by_tls_1_3_and_by_nothing_older() -> Result<()> {
    let _beside = ALONE.read().await;
    let broker = Setup::default().open_policy().start().await?;
    for (version, is_accepted) in [("-tls1_3", true), ("-tls1_2", false), ("-tls1_1", false)] {
        let address = broker.address().to_string();
        let mut command = tokio::process::Command::new("openssl");
        command.args(["s_client", "-connect", &address, "-alpn", "h2", version]).stdin(Stdio::null());
        let Ok(output) = patiently(command.output()).await? else {
            let is_required = std::env::var("VERIBUS_OPENSSL_REQUIRED").is_ok_and(|required| required == "1");
            ensure!(!is_required, "there is no openssl on this machine");
            eprintln!("skipped: there is no openssl on this machine");
            return Ok(());
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let negotiated = said.contains("New, TLSv1.3");
        assert_eq!(negotiated, is_accepted, "{version}: {said}");
        assert!(!said.contains("New, TLSv1.2") && !said.contains("New, TLSv1.1"), "{version}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_offer_http_2_is_refused() -> Result<()> {
    let _beside = ALONE.read().await;
    let broker = Setup::default().open_policy().start().await?;
    for alpn in [vec![b"http/1.1".to_vec()], vec![]] {
        let mut config = client_config(&broker.directory().ca_path())?;
        config.alpn_protocols = alpn;
        let connected = tls_connect(&TlsConnector::from(std::sync::Arc::new(config)), broker.address()).await;
        if let Ok(mut stream) = connected {
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.ok();
            let mut answer = Vec::new();
            patiently(stream.read_to_end(&mut answer)).await?.ok();
            assert_eq!(answer, b"");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_without_an_authenticated_call_is_closed_and_one_that_asks_for_health_stays() -> Result<()> {
    let _beside = ALONE.read().await;
    const LIMIT: Duration = Duration::from_millis(200);
    let setup = Setup::default().open_policy().configure(|config| {
        config.limits.first_authenticated_call_ms_max = u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX);
    });
    let broker = setup.start().await?;
    let mut health = HealthClient::new(broker.raw_with(None, RawOptions::default()).await?.channel());
    health.check(HealthCheckRequest::default()).await?;
    let agent = broker.raw(&broker.token("a", &["publish:>"])?).await?;
    publish(&agent, "m-1").await?;

    let opened = Instant::now();
    let mut silent = Wire::connect(broker.address(), &broker.directory().ca_path()).await?;
    let mut refused = Wire::connect(broker.address(), &broker.directory().ca_path()).await?;
    let (_, status) = refused.call("/veribus.v1.BrokerService/Publish", Some("garbage")).await?.answer().await?;
    assert_eq!(Code::from_i32(status), Code::Unauthenticated);
    for connection in [&mut silent, &mut refused] {
        patiently(connection.ended()).await?.ok();
        assert!(opened.elapsed() >= LIMIT);
    }
    // Both are older than those that were closed.
    health.check(HealthCheckRequest::default()).await?;
    publish(&agent, "m-2").await?;
    Ok(())
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_ended() -> Result<()> {
    let _beside = ALONE.read().await;
    let setup = Setup::default().open_policy().configure(|config| config.limits.tls_handshake_ms_max = 100);
    let broker = setup.start().await?;
    assert_eq!(answer_to(&broker, b"").await?, b"");
    assert_eq!(answer_to(&broker, &client_hello_of_tls_1_2()[..20]).await?, b"");
    Ok(())
}

type Health = HealthClient<RawChannel>;

async fn anonymous(broker: &TestBroker) -> Result<Health> {
    Ok(HealthClient::new(broker.raw_with(None, RawOptions::default()).await?.channel()))
}

/// As soon as the address has room.
async fn connected(broker: &TestBroker, token: &str) -> Result<Raw> {
    patiently(async {
        loop {
            if let Ok(connected) = broker.raw(token).await {
                return connected;
            }
        }
    })
    .await
}

#[tokio::test]
async fn those_who_only_watch_health_keep_no_agent_of_their_address_out() -> Result<()> {
    let _beside = ALONE.read().await;
    const CONNECTIONS: usize = 8;
    let setup = Setup::default().open_policy().configure(|config| {
        config.limits.connections_per_address_max = CONNECTIONS;
        config.limits.health_connections_per_address_max = 2;
        config.limits.first_authenticated_call_ms_max = 200;
    });
    let broker = setup.start().await?;
    let request = HealthCheckRequest::default;
    let mut watching = Vec::new();
    for number in 0..CONNECTIONS {
        let mut health = anonymous(&broker).await?;
        match health.watch(request()).await {
            Ok(watch) => watching.push((health, watch.into_inner())),
            Err(status) => {
                assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "CONNECTION_LIMIT"));
                ensure!(number >= 2, "the share has room: {status:?}");
            }
        }
    }
    assert_eq!(watching.len(), 2);
    let agent = connected(&broker, &broker.token("a", &["publish:>"])?).await?;
    publish(&agent, "m-1").await?;
    HealthClient::new(agent.channel()).check(request()).await.context("who is known needs no place")?;
    for (_, watch) in &mut watching {
        ensure!(patiently(watch.message()).await??.is_some(), "the others go on");
    }
    watching.pop();
    let again = patiently(async {
        loop {
            if let Ok(mut health) = anonymous(&broker).await
                && health.watch(request()).await.is_ok()
            {
                return health;
            }
        }
    });
    drop(again.await?);
    let auditor = connected(&broker, &broker.agent_token("auditor")?).await?;
    let log = Log::read_until(&auditor, |log| log.of_kind(EntryKind::ConnectionRefused).next().is_some()).await?;
    let entry = log.of_kind(EntryKind::ConnectionRefused).next().context("an entry")?;
    assert_eq!((&*entry.detail, &*entry.peer), ("health_connections_per_address_max", "127.0.0.1"));
    Ok(())
}

#[tokio::test]
async fn one_connection_has_only_so_many_watches_of_health_and_gets_them_back() -> Result<()> {
    let _beside = ALONE.read().await;
    let broker = Setup::default().open_policy().start().await?;
    let mut health = anonymous(&broker).await?;
    let mut watches = Vec::new();
    let refused = loop {
        match health.watch(HealthCheckRequest::default()).await {
            Ok(watch) => watches.push(watch.into_inner()),
            Err(status) => break status,
        }
        ensure!(watches.len() < 100, "no limit");
    };
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "CONNECTION_LIMIT"));
    health.check(HealthCheckRequest::default()).await?;
    watches.pop();
    patiently(async { while health.watch(HealthCheckRequest::default()).await.is_err() {} }).await?;
    Ok(())
}

#[tokio::test]
async fn one_address_has_only_so_many_connections_and_gets_them_back() -> Result<()> {
    let _beside = ALONE.read().await;
    let setup = Setup::default().open_policy().configure(|config| config.limits.connections_per_address_max = 3);
    let broker = setup.start().await?;
    let token = broker.token("a", &["publish:>"])?;
    let mut connections = Vec::new();
    for number in 0..3 {
        connections.push(broker.raw(&token).await?);
        publish(connections.last().context("one")?, &number.to_string()).await?;
    }
    assert!(broker.raw(&token).await.is_err());
    connections.pop();
    let again = patiently(async {
        loop {
            if let Ok(connected) = broker.raw(&token).await {
                return connected;
            }
        }
    });
    publish(&again.await?, "again").await?;
    Ok(())
}

#[tokio::test]
async fn one_identity_has_only_so_many_connections() -> Result<()> {
    let _beside = ALONE.read().await;
    let setup = Setup::default().open_policy().configure(|config| config.limits.connections_per_identity_max = 2);
    let broker = setup.start().await?;
    let token = broker.token("a", &["publish:>"])?;
    let [first, second, third] = [broker.raw(&token).await?, broker.raw(&token).await?, broker.raw(&token).await?];
    publish(&first, "1").await?;
    publish(&second, "2").await?;
    // Another token is no other identity.
    let third = third.with_token(Some(&broker.token("a", &["publish:>"])?))?;
    let refused = publish(&third, "3").await.err().context("too many")?;
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "CONNECTION_LIMIT".to_owned()));
    publish(&third.with_token(Some(&broker.token("b", &["publish:>"])?))?, "4").await?;
    publish(&first, "5").await?;
    Ok(())
}

#[tokio::test]
async fn a_flood_of_refused_callers_does_not_fill_the_log() -> Result<()> {
    let _beside = ALONE.read().await;
    const CALLS: u64 = 500;
    let setup = Setup::default().open_policy().configure(|config| {
        config.limits.authentication_refusals_recorded_per_s_max = 5;
    });
    let broker = setup.start().await?;
    let began = Instant::now();
    let nobody = broker.raw_with(Some("garbage"), RawOptions::default()).await?;
    for _ in 0..CALLS {
        let status = publish(&nobody, "1").await.err().context("refused")?;
        ensure!(status.code() == Code::Unauthenticated);
    }
    let counted = |log: &veribus_tests::log::Log| -> u64 {
        log.of_kind(EntryKind::AuthenticationRefused).map(|entry| entry.count.max(1)).sum()
    };
    let log = broker.log_with(|log| counted(log) == CALLS).await?;
    let seconds = began.elapsed().as_secs() + 2;
    let entries = log.of_kind(EntryKind::AuthenticationRefused).count() as u64;
    assert!(entries <= seconds * 6, "{entries} entries in {seconds} s");
    assert!(began.elapsed() < PATIENCE);
    Ok(())
}
