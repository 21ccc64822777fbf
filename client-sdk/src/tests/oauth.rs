//! Tokens by client credentials, from a server that does what a test tells it.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Response, StatusCode, header::LOCATION},
    routing::post,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::fake::{Fake, SubscribeScript, acceptor};
use crate::{ClientCredentials, ClientCredentialsBuilder, DpopKey, Error, Message, TokenError, TokenProvider};

#[derive(Default)]
struct Seen {
    answers: Mutex<VecDeque<Response<Body>>>,
    requests: Mutex<Vec<(HeaderMap, String)>>,
}

struct Issuer {
    seen: Arc<Seen>,
    address: SocketAddr,
}

impl Issuer {
    async fn start() -> Self {
        let seen = Arc::<Seen>::default();
        let router = Router::new().route("/token", post(answer)).with_state(Arc::clone(&seen));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { seen, address }
    }

    fn url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    fn builder(&self) -> ClientCredentialsBuilder {
        ClientCredentials::builder(self.url(), "the agent", "s3cret:%").allow_loopback_http()
    }

    fn next(&self, status: u16, headers: &[(&str, &str)], body: impl Into<Body>) {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        self.seen.answers.lock().unwrap().push_back(response.body(body.into()).unwrap());
    }

    fn next_token(&self, token: &str, kind: &str, expires_in: u64) {
        let body = json!({ "access_token": token, "token_type": kind, "expires_in": expires_in });
        self.next(200, &[], body.to_string());
    }

    fn requests(&self) -> Vec<(HeaderMap, String)> {
        self.seen.requests.lock().unwrap().clone()
    }
}

async fn answer(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: String) -> Response<Body> {
    seen.requests.lock().unwrap().push((headers, body));
    let unscripted = || Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(Body::empty()).unwrap();
    seen.answers.lock().unwrap().pop_front().unwrap_or_else(unscripted)
}

/// The claims of a proof; that its signature is good is another test's.
fn claims(proof: &str) -> Value {
    let body = proof.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_is_asked_for_with_the_secret_in_the_header() {
    let issuer = Issuer::start().await;
    issuer.next_token("t1", "Bearer", 300);
    let provider = issuer.builder().scope("publish:a.> audit.read").audience("veribus").resource("https://b/").build();
    let token = provider.expect("usable").token().await.expect("a token");
    assert_eq!(token.jwt(), "t1");
    let life = token.expires_at().expect("known").duration_since(SystemTime::now()).expect("to come");
    assert!(life > Duration::from_secs(295) && life <= Duration::from_secs(300), "{life:?}");
    let (headers, body) = issuer.requests().remove(0);
    // RFC 6749 §2.3.1: `the agent` and `s3cret:%`, each form-encoded, then joined.
    assert_eq!(
        headers["authorization"],
        format!("Basic {}", data_encoding::BASE64.encode(b"the%20agent:s3cret%3A%25"))
    );
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
    let form =
        "grant_type=client_credentials&scope=publish%3Aa.%3E+audit.read&audience=veribus&resource=https%3A%2F%2Fb%2F";
    assert_eq!(body, form);
}

#[tokio::test]
async fn the_secret_goes_into_the_form_where_the_server_wants_it_there() {
    let issuer = Issuer::start().await;
    issuer.next_token("t1", "bearer", 300);
    issuer.builder().secret_in_body().build().expect("usable").token().await.expect("a token");
    let (headers, body) = issuer.requests().remove(0);
    assert!(!headers.contains_key("authorization"));
    assert_eq!(body, "grant_type=client_credentials&client_id=the+agent&client_secret=s3cret%3A%25");
}

#[tokio::test]
async fn a_no_is_told_apart_from_a_server_that_is_away() {
    let issuer = Issuer::start().await;
    let provider = issuer.builder().build().expect("usable");
    let body = json!({ "error": "invalid_client", "error_description": "unknown" }).to_string();
    issuer.next(401, &[], body);
    let refused = provider.token().await.expect_err("refused");
    assert_eq!(refused, TokenError::Refused("invalid_client: unknown".to_owned()));
    for status in [429, 500, 503] {
        issuer.next(status, &[], "");
        assert!(matches!(provider.token().await, Err(TokenError::Unavailable(_))), "{status}");
    }
    let gone = ClientCredentials::builder("http://127.0.0.1:1/token", "a", "b").allow_loopback_http().build();
    assert!(matches!(gone.expect("usable").token().await, Err(TokenError::Unavailable(_))));
}

#[tokio::test]
async fn an_answer_without_end_is_not_read() {
    let issuer = Issuer::start().await;
    issuer.next(200, &[], vec![b' '; 65 * 1024]);
    let error = issuer.builder().build().expect("usable").token().await.expect_err("too large");
    assert!(error.to_string().contains("larger than 65536 bytes"), "{error}");
}

#[tokio::test]
async fn a_redirect_does_not_take_the_secret_elsewhere() {
    let (issuer, elsewhere) = (Issuer::start().await, Issuer::start().await);
    issuer.next(307, &[(LOCATION.as_str(), &elsewhere.url())], "");
    issuer.builder().build().expect("usable").token().await.expect_err("no token");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn plain_http_needs_to_be_allowed() {
    let issuer = Issuer::start().await;
    let strict = ClientCredentials::builder(issuer.url(), "a", "b").build();
    assert!(matches!(strict, Err(Error::Configuration(_))));
}

#[tokio::test]
async fn secrets_do_not_show() {
    let issuer = Issuer::start().await;
    let builder = issuer.builder().dpop(DpopKey::generate().unwrap());
    let shown = format!("{builder:?}");
    assert!(shown.contains("the agent") && !shown.contains("s3cret"), "{shown}");
    let shown = format!("{:?}", builder.build().expect("usable"));
    assert!(shown.contains("the agent") && !shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn a_bound_token_is_asked_for_with_a_proof_and_once_more_with_the_nonce_of_the_server() {
    let issuer = Issuer::start().await;
    let nonce = json!({ "error": "use_dpop_nonce" }).to_string();
    issuer.next(400, &[("dpop-nonce", "n-1")], nonce);
    issuer.next_token("t1", "DPoP", 300);
    issuer.next_token("t2", "DPoP", 300);
    let provider = issuer.builder().dpop(DpopKey::generate().unwrap()).build().expect("usable");
    assert_eq!(provider.token().await.expect("a token").jwt(), "t1");
    assert_eq!(provider.token().await.expect("a token").jwt(), "t2");
    let requests = issuer.requests();
    let proofs: Vec<_> = requests.iter().map(|(headers, _)| claims(headers["dpop"].to_str().unwrap())).collect();
    let nonces: Vec<_> = proofs.iter().map(|proof| proof["nonce"].as_str()).collect();
    assert_eq!(nonces, [None, Some("n-1"), Some("n-1")]);
    assert!(proofs.iter().all(|proof| proof["htu"] == issuer.url().as_str() && proof.get("ath").is_none()));
    assert!(proofs[0]["jti"] != proofs[1]["jti"] && proofs[1]["jti"] != proofs[2]["jti"]);
}

#[tokio::test]
async fn a_server_that_never_takes_its_nonce_is_not_asked_for_ever() {
    let issuer = Issuer::start().await;
    for _ in 0..3 {
        issuer.next(400, &[("dpop-nonce", "n-1")], json!({ "error": "use_dpop_nonce" }).to_string());
    }
    let provider = issuer.builder().dpop(DpopKey::generate().unwrap()).build().expect("usable");
    assert!(matches!(provider.token().await, Err(TokenError::Refused(_))));
    assert_eq!(issuer.requests().len(), 2);
}

#[tokio::test]
async fn with_a_key_an_unbound_token_is_not_taken_and_without_one_a_bound_token_is_not() {
    let issuer = Issuer::start().await;
    issuer.next_token("t1", "Bearer", 300);
    let bound = issuer.builder().dpop(DpopKey::generate().unwrap()).build().expect("usable");
    assert!(matches!(bound.token().await, Err(TokenError::Refused(_))));
    issuer.next_token("t1", "DPoP", 300);
    assert!(matches!(issuer.builder().build().expect("usable").token().await, Err(TokenError::Refused(_))));
}

/// Answers each connection with one token, over TLS.
async fn start_tls() -> (String, SocketAddr) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let acceptor = acceptor(&certified, &[], rustls::server::WebPkiClientVerifier::no_client_auth());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let _ = tls.read(&mut [0; 4096]).await;
            let body = r#"{"access_token":"t1","token_type":"Bearer"}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = tls.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = tls.shutdown().await;
        }
    });
    (certified.cert.pem(), address)
}

#[tokio::test]
async fn the_server_must_prove_who_it_is() {
    let ((ca, address), (other_ca, _)) = (start_tls().await, start_tls().await);
    let builder = || ClientCredentials::builder(format!("https://{address}/token"), "a", "b");
    let trusting = builder().ca_pem(ca.as_bytes()).build().expect("usable");
    assert_eq!(trusting.token().await.expect("a token").jwt(), "t1");
    let wary = builder().ca_pem(other_ca.as_bytes()).build().expect("usable");
    let error = wary.token().await.expect_err("another authority");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_long_lived_client_goes_from_token_to_token_on_its_streams() {
    let (fake, issuer) = (Fake::start().await, Issuer::start().await);
    for number in 0..3 {
        issuer.next_token(&format!("t{number}"), "Bearer", 2);
    }
    let client =
        fake.builder().token_provider(issuer.builder().build().expect("usable")).connect().await.expect("connected");
    let responses = vec![super::subscribing::subscribed("s1")];
    fake.next_subscription(Ok(SubscribeScript { responses, stays: true, ..SubscribeScript::default() }));
    let _subscription = client.subscribe(["a.>"]).await.expect("subscribed");
    let publisher = client.publisher();
    let begin = std::time::Instant::now();
    let mut sent = 0;
    while fake.state.refreshes.lock().unwrap().len() < 2 {
        publisher.send(Message::new("a", "b", "c")).await.expect("sent").await.expect("a receipt");
        sent += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let elapsed = begin.elapsed();
    assert!(
        elapsed > Duration::from_millis(2900) && elapsed < Duration::from_secs(4),
        "twice 80 % of 2 s: {elapsed:?}"
    );
    let tokens: Vec<_> = fake.state.refreshes.lock().unwrap().iter().map(|fresh| fresh.token.clone()).collect();
    assert_eq!(tokens, ["t1", "t2"]);
    assert_eq!(fake.streamed().len(), 1, "one stream");
    assert_eq!(fake.streamed()[0].len(), sent, "each message once");
}
