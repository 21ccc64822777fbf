use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{ACCEPT, LOCATION},
    },
    response::{IntoResponse as _, Response},
};
use parking_lot::Mutex;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    authenticate::{
        Access, Authenticator, ClaimPaths, GrantLimits, Identity, IssuerKeys, Presented, TokenError, TrustedIssuer,
        Verifier,
    },
    fixtures::{LIFETIME, NOW, VERIFIER_SETTINGS, bearer, proofs},
    issue::{KeyKind, TokenIssuer},
    metrics::Gauges,
};

const DISCOVERY: &str = "/.well-known/openid-configuration";

/// What an issuer's server answers.
#[derive(Clone)]
enum Answer {
    Json(String),
    Status(StatusCode),
    Redirect(String),
    Never,
}

/// An issuer on the loopback, whose answers can be changed, and are counted.
#[derive(Clone)]
struct Provider {
    address: SocketAddr,
    shared: Arc<Answers>,
}

#[derive(Default)]
struct Answers {
    /// The last `accept` of each path.
    accepted: Mutex<HashMap<String, String>>,
    by_path: Mutex<HashMap<String, Answer>>,
    key_sets: AtomicUsize,
}

fn spawn(task: BoxFuture<'static, ()>) -> AbortHandle {
    tokio::spawn(task).abort_handle()
}

async fn answer(State(answers): State<Arc<Answers>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if path == "/keys" {
        answers.key_sets.fetch_add(1, Ordering::SeqCst);
    }
    let accepted = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    answers.accepted.lock().insert(path.clone(), accepted.to_owned());
    let answer = answers.by_path.lock().get(&path).cloned().unwrap_or(Answer::Status(StatusCode::NOT_FOUND));
    match answer {
        Answer::Json(text) => text.into_response(),
        Answer::Status(status) => status.into_response(),
        Answer::Redirect(to) => (StatusCode::FOUND, [(LOCATION, to)]).into_response(),
        Answer::Never => std::future::pending().await,
    }
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Answers::default());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async { axum::serve(listener, router).await });
        let provider = Self { address, shared };
        provider.set(DISCOVERY, Answer::Json(provider.document(&provider.name(), &provider.url("/keys"))));
        provider
    }

    fn name(&self) -> String {
        self.url("")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn document(&self, issuer: &str, keys: &str) -> String {
        format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}","token_endpoint":"{}"}}"#, self.url("/token"))
    }

    fn set(&self, path: &str, answer: Answer) {
        self.shared.by_path.lock().insert(path.to_owned(), answer);
    }

    fn publish(&self, signers: &[&TokenIssuer]) {
        let keys: Vec<serde_json::Value> = signers
            .iter()
            .flat_map(|signer| {
                serde_json::from_str::<serde_json::Value>(signer.jwks()).expect("JSON")["keys"]
                    .take()
                    .as_array()
                    .cloned()
                    .expect("keys")
            })
            .collect();
        self.set("/keys", Answer::Json(serde_json::json!({ "keys": keys }).to_string()));
    }

    fn fetches(&self) -> usize {
        self.shared.key_sets.load(Ordering::SeqCst)
    }

    fn signer(&self, kid: &str) -> TokenIssuer {
        let pem = KeyKind::Es256.generate_pem().expect("a key");
        TokenIssuer::with_key_id(self.name(), "veribus", &pem, kid).expect("an issuer")
    }

    fn source(&self) -> KeySource {
        KeySource::discovery(Issuer::parse(&self.name()).expect("an issuer"), loopback()).expect("a source")
    }

    /// Recognises callers by keys that it knows by discovery.
    fn verifier(&self, settings: RemoteKeysSettings, clock: &Clock) -> Authenticator {
        let issuer = Issuer::parse(&self.name()).expect("an issuer");
        let keys = RemoteKeys::start(issuer.clone(), self.source(), settings, clock.clone(), Metrics::default(), spawn);
        let trusted = TrustedIssuer {
            issuer,
            audiences: vec!["veribus".to_owned()],
            keys: IssuerKeys::Remote(keys),
            claims: ClaimPaths::default(),
            require_at_jwt: false,
            require_bound: false,
            may_grant: GrantLimits::default(),
        };
        let verifier = Verifier::new(vec![trusted], VERIFIER_SETTINGS, clock.clone());
        Authenticator::new(Arc::new(verifier), proofs(None), clock.clone())
    }
}

fn loopback() -> Access {
    Access { allow_loopback_http: true, ..Access::default() }
}

/// Nothing happens in the background while a test runs.
const RARELY: RemoteKeysSettings =
    RemoteKeysSettings { ttl: Duration::from_secs(600), refresh_interval_min: Duration::from_secs(600) };
/// Each unknown key may cause a fetch.
const EAGER: RemoteKeysSettings =
    RemoteKeysSettings { ttl: Duration::from_secs(600), refresh_interval_min: Duration::ZERO };

fn token(signer: &TokenIssuer) -> Presented<'static> {
    bearer(&signer.issue(&signer.claims("agent", NOW, LIFETIME)).expect("signed"))
}

async fn verify(verifier: &Authenticator, signer: &TokenIssuer) -> Result<Arc<Identity>, TokenError> {
    verifier.authenticate_or_fetch(&token(signer)).await
}

#[tokio::test]
async fn the_first_caller_waits_for_the_first_fetch_and_later_ones_for_nothing() {
    let provider = Provider::start().await;
    let signer = provider.signer("1");
    provider.publish(&[&signer]);
    let verifier = provider.verifier(RARELY, &Clock::manual(NOW));
    assert_eq!(verify(&verifier, &signer).await.expect("recognised").agent().as_str(), "agent");
    assert!(verifier.authenticate(&token(&signer)).is_ok(), "without waiting");
    assert_eq!(provider.fetches(), 1);
}

#[tokio::test]
async fn a_new_key_is_found_by_the_first_token_that_names_it() {
    let provider = Provider::start().await;
    let (old, new) = (provider.signer("old"), provider.signer("new"));
    provider.publish(&[&old]);
    let verifier = provider.verifier(EAGER, &Clock::manual(NOW));
    verify(&verifier, &old).await.expect("recognised");
    provider.publish(&[&old, &new]);
    verify(&verifier, &new).await.expect("recognised");
    verify(&verifier, &old).await.expect("still recognised");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_one_fetch() {
    let provider = Provider::start().await;
    let (known, unknown) = (provider.signer("1"), provider.signer("2"));
    provider.publish(&[&known]);
    let verifier = Arc::new(provider.verifier(RARELY, &Clock::manual(NOW)));
    verify(&verifier, &known).await.expect("recognised");
    let flood = (0..1_000).map(|_| {
        let (verifier, token) = (Arc::clone(&verifier), token(&unknown));
        tokio::spawn(async move { verifier.authenticate_or_fetch(&token).await.err() })
    });
    for outcome in futures_util::future::join_all(flood).await {
        assert_eq!(outcome.expect("no panic"), Some(TokenError::UnknownKey));
    }
    assert_eq!(provider.fetches(), 2, "one at the start, one for all of them");
}

#[tokio::test]
async fn a_withdrawn_key_ends_what_it_vouched_for() {
    let provider = Provider::start().await;
    let (old, new) = (provider.signer("old"), provider.signer("new"));
    provider.publish(&[&old]);
    let clock = Clock::manual(NOW);
    let verifier = provider.verifier(EAGER, &clock);
    let identity = verify(&verifier, &old).await.expect("recognised");
    assert_eq!(identity.check_standing(clock.now()), Ok(()));
    provider.publish(&[&new]);
    verify(&verifier, &new).await.expect("recognised");
    assert_eq!(identity.check_standing(clock.now()), Err(TokenError::KeyWithdrawn), "on a stream that is open");
    assert_eq!(verify(&verifier, &old).await.err(), Some(TokenError::UnknownKey));
}

#[tokio::test]
async fn other_material_under_the_same_name_is_another_key() {
    let provider = Provider::start().await;
    let (old, new, next) = (provider.signer("k"), provider.signer("k"), provider.signer("next"));
    provider.publish(&[&old]);
    let clock = Clock::manual(NOW);
    let verifier = provider.verifier(EAGER, &clock);
    let remembered = token(&old);
    let identity = verifier.authenticate_or_fetch(&remembered).await.expect("recognised");
    provider.publish(&[&new, &next]);
    verify(&verifier, &next).await.expect("recognised");
    assert_eq!(identity.check_standing(clock.now()), Err(TokenError::KeyWithdrawn));
    assert_eq!(verifier.authenticate(&remembered).err(), Some(TokenError::Signature), "remembered, and looked at anew");
    verify(&verifier, &new).await.expect("recognised");
}

#[tokio::test]
async fn an_issuer_that_lists_no_key_any_more_has_withdrawn_them_all() {
    let provider = Provider::start().await;
    let (signer, other) = (provider.signer("1"), provider.signer("2"));
    provider.publish(&[&signer]);
    let clock = Clock::manual(NOW);
    let verifier = provider.verifier(EAGER, &clock);
    let identity = verify(&verifier, &signer).await.expect("recognised");
    provider.publish(&[]);
    verify(&verifier, &other).await.expect_err("no key");
    assert_eq!(identity.check_standing(clock.now()), Err(TokenError::KeyWithdrawn));
}

#[tokio::test]
async fn a_key_counts_for_its_time_to_live_while_the_issuer_is_down_and_again_when_it_is_back() {
    let provider = Provider::start().await;
    let (signer, other) = (provider.signer("1"), provider.signer("2"));
    provider.publish(&[&signer]);
    let clock = Clock::manual(NOW);
    let verifier = provider.verifier(EAGER, &clock);
    let remembered = token(&signer);
    let identity = verifier.authenticate_or_fetch(&remembered).await.expect("recognised");
    provider.set("/keys", Answer::Status(StatusCode::INTERNAL_SERVER_ERROR));
    clock.advance(Duration::from_secs(599));
    verify(&verifier, &other).await.expect_err("a fetch that fails");
    assert!(verifier.authenticate(&remembered).is_ok());
    clock.advance(Duration::from_secs(1));
    assert_eq!(identity.check_standing(clock.now()), Err(TokenError::KeyWithdrawn));
    assert_eq!(verifier.authenticate(&remembered).err(), Some(TokenError::UnknownKey));
    provider.publish(&[&signer]);
    verifier.authenticate_or_fetch(&remembered).await.expect("recognised again");
    assert_eq!(identity.check_standing(clock.now()), Ok(()), "the same key: the stream goes on");
}

#[tokio::test]
async fn keys_are_fetched_again_before_their_time_is_over() {
    let provider = Provider::start().await;
    let signer = provider.signer("1");
    provider.publish(&[&signer]);
    let settings = RemoteKeysSettings { ttl: Duration::from_millis(100), ..RARELY };
    let clock = Clock::manual(NOW);
    let verifier = provider.verifier(settings, &clock);
    let identity = verify(&verifier, &signer).await.expect("recognised");
    provider.publish(&[]);
    let withdrawn = async {
        while identity.check_standing(clock.now()).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), withdrawn).await.expect("noticed without being asked");
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_holds_nobody_up_for_long_and_known_keys_not_at_all() {
    let provider = Provider::start().await;
    let (known, unknown) = (provider.signer("1"), provider.signer("2"));
    provider.publish(&[&known]);
    let verifier = provider.verifier(EAGER, &Clock::manual(NOW));
    verify(&verifier, &known).await.expect("recognised");
    provider.set("/keys", Answer::Never);
    let started = Instant::now();
    let waiting = verify(&verifier, &unknown);
    tokio::pin!(waiting);
    tokio::select! {
        biased;
        outcome = &mut waiting => panic!("{outcome:?}"),
        () = tokio::time::sleep(Duration::from_millis(20)) => {}
    }
    assert!(verifier.authenticate_or_fetch(&token(&known)).await.is_ok());
    assert!(started.elapsed() < WAIT_MAX);
    assert_eq!(waiting.await.err(), Some(TokenError::UnknownKey));
    assert!(started.elapsed() < WAIT_MAX + Duration::from_secs(2));
}

#[tokio::test]
async fn a_task_fetches_no_more_once_its_keys_are_dropped() {
    let provider = Provider::start().await;
    provider.publish(&[&provider.signer("1")]);
    let settings = RemoteKeysSettings { ttl: Duration::from_millis(40), ..RARELY };
    let issuer = Issuer::parse(&provider.name()).expect("an issuer");
    let keys = RemoteKeys::start(issuer, provider.source(), settings, Clock::manual(NOW), Metrics::default(), spawn);
    keys.fetch_once_more().await;
    let task = keys.task.clone();
    drop(keys);
    while !task.is_finished() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_bad_entry_is_counted_while_it_is_there_and_does_not_keep_the_others_from_counting() {
    let provider = Provider::start().await;
    let signer = provider.signer("1");
    let mut keys: serde_json::Value = serde_json::from_str(signer.jwks()).expect("JSON");
    keys["keys"]
        .as_array_mut()
        .expect("keys")
        .extend([serde_json::Value::Null, serde_json::json!({"kid": "2", "kty": "oct", "k": "AAAA"})]);
    let issuer = Issuer::parse(&provider.name()).expect("an issuer");
    let metrics = Metrics::default();
    let clock = Clock::manual(NOW);
    let shown = |entries: usize| {
        let sample = format!("veribus_key_set_entries_skipped{{issuer=\"{issuer}\"}} {entries}\n");
        let gauges = Gauges { queued_submissions: 0, log_entries: 0, log_bytes: 0, free_disk_bytes: 0 };
        assert!(metrics.render(gauges).expect("text").contains(&sample), "{sample}");
    };
    let remote = RemoteKeys::start(issuer.clone(), provider.source(), EAGER, clock.clone(), metrics.clone(), spawn);
    shown(0);
    provider.set("/keys", Answer::Json(keys.to_string()));
    for _ in 0..2 {
        remote.fetch_once_more().await;
        shown(2);
        assert_eq!(remote.shared.known.load().len(), 1);
    }
    provider.publish(&[&signer]);
    remote.fetch_once_more().await;
    shown(0);
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_skipped_entry_is_logged_once_and_a_private_part_as_an_error() {
    let provider = Provider::start().await;
    let issuer = Issuer::parse(&provider.name()).expect("an issuer");
    let remote = RemoteKeys::start(issuer, provider.source(), RARELY, Clock::manual(NOW), Metrics::default(), spawn);
    let take = |entries: &str| {
        let set = KeySet::parse(format!(r#"{{"keys":[{entries}]}}"#).as_bytes(), &Access::default().algorithms);
        remote.shared.take(set.expect("a key set"), UnixMicros(NOW.0 * 1_000_000));
    };
    let (lines, bad) = (Lines::default(), r#"null,{"kid":"2","kty":"oct","k":"AAAA"}"#);
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        take(bad);
        take(bad);
    });
    let text = String::from_utf8(lines.0.lock().clone()).expect("text");
    let skipped: Vec<_> = text.lines().filter(|line| line.contains("is skipped")).collect();
    assert_eq!(skipped.len(), 2, "{text}");
    assert!(skipped[0].contains("WARN") && skipped[1].contains("ERROR") && !text.contains("AAAA"), "{text}");
}

async fn fetch(provider: &Provider) -> Result<usize, FetchError> {
    provider.source().fetch().await.map(|keys| keys.len())
}

#[tokio::test]
async fn a_discovery_document_must_be_the_issuers_own() {
    let provider = Provider::start().await;
    provider.publish(&[&provider.signer("1")]);
    assert_eq!(fetch(&provider).await.expect("keys"), 1);
    for other in ["https://evil.example".to_owned(), format!("{}/", provider.name())] {
        provider.set(DISCOVERY, Answer::Json(provider.document(&other, &provider.url("/keys"))));
        let error = fetch(&provider).await.expect_err("another one");
        assert!(matches!(&error, FetchError::OtherIssuer { found, .. } if *found == other), "{error}");
        assert!(!error.is_unreachable());
    }
    for text in ["{}", "[]", "no JSON", r#"{"issuer":1,"jwks_uri":2}"#] {
        provider.set(DISCOVERY, Answer::Json(text.to_owned()));
        let error = fetch(&provider).await.expect_err("no document");
        assert!(matches!(error, FetchError::NotDiscovery { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_discovery_document_cannot_lead_to_an_address_that_is_not_safe() {
    let provider = Provider::start().await;
    for keys in ["http://login.example/keys", "http://169.254.169.254/latest", "file:///etc/passwd", "keys"] {
        provider.set(DISCOVERY, Answer::Json(provider.document(&provider.name(), keys)));
        let error = fetch(&provider).await.expect_err("not safe");
        assert!(matches!(error, FetchError::Address(_)), "{error}");
    }
}

#[tokio::test]
async fn the_document_of_rfc_8414_is_taken_where_there_is_no_other() {
    let provider = Provider::start().await;
    provider.publish(&[&provider.signer("1")]);
    let name = provider.url("/tenant");
    let document = Answer::Json(provider.document(&name, &provider.url("/keys")));
    provider.set("/.well-known/oauth-authorization-server/tenant", document);
    let source = KeySource::discovery(Issuer::parse(&name).expect("an issuer"), loopback()).expect("a source");
    for status in [StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
        provider.set("/tenant/.well-known/openid-configuration", Answer::Status(status));
        assert_eq!(source.fetch().await.expect("keys").len(), 1, "{status}");
    }
    let accepted = provider.shared.accepted.lock().clone();
    assert_eq!(accepted["/keys"], "application/jwk-set+json, application/json");
    assert_eq!(accepted["/.well-known/oauth-authorization-server/tenant"], "application/json");
    provider.set("/tenant/.well-known/openid-configuration", Answer::Status(StatusCode::INTERNAL_SERVER_ERROR));
    assert!(matches!(source.fetch().await, Err(FetchError::Status { status: 500, .. })));
}

#[tokio::test]
async fn redirects_are_not_followed_and_answers_are_bounded() {
    let provider = Provider::start().await;
    provider.publish(&[&provider.signer("1")]);
    provider.set("/moved", Answer::Redirect(provider.url("/keys")));
    provider.set("/large", Answer::Json(format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(KeySet::BYTES_MAX))));
    let fetch = async |path: &str| {
        KeySource::jwks_url(&provider.url(path), loopback()).expect("a source").fetch().await.expect_err("refused")
    };
    assert!(matches!(fetch("/moved").await, FetchError::Status { status: 302, .. }));
    assert!(matches!(fetch("/large").await, FetchError::TooLarge { .. }));
}

/// Serves a key set over HTTPS, with a certificate that signs itself.
async fn https(certificate: &CertifiedKey<rcgen::KeyPair>, body: String) -> SocketAddr {
    let key = PrivateKeyDer::Pkcs8(certificate.signing_key.serialized_der().to_vec().into());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate.cert.der().clone()], key))
        .expect("settings");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            if !matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {
                continue;
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.ok();
            stream.shutdown().await.ok();
        }
    });
    address
}

#[tokio::test]
async fn only_the_configured_authority_is_trusted() {
    let certificate = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let signer = crate::fixtures::issuer("https://issuer.example", KeyKind::EdDsa);
    let address = https(&certificate, signer.jwks().to_owned()).await;
    let url = format!("https://localhost:{}/keys", address.port());
    let directory = tempfile::tempdir().expect("a directory");
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, certificate.cert.pem()).expect("written");
    let trusting = Access { ca_file: Some(ca_file), ..Access::default() };
    let keys = KeySource::jwks_url(&url, trusting).expect("a source").fetch().await.expect("keys");
    assert_eq!(keys.len(), 1);
    let error = KeySource::jwks_url(&url, Access::default()).expect("a source").fetch().await.expect_err("unknown");
    assert!(error.is_unreachable() && error.to_string().contains("certificate"), "{error}");
}
