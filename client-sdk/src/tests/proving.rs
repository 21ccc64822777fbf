//! Proofs of possession: of the key of a certificate, and of the key of a token.

use std::{collections::HashSet, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::ThumbprintHash};
use serde_json::Value;
use veribus_proto::v1::EntryKind;

use super::{
    fake::{End, Fake, PublishScript, SubscribeScript},
    source::Source,
    subscribing::subscribed,
};
use crate::{AuditFilter, Credentials, DpopKey, Message, Token};
use futures_util::StreamExt as _;

/// What a proof says, if it is one by this key.
fn verified(proof: &str, key: &DpopKey) -> Value {
    let jwk = jsonwebtoken::decode_header(proof).unwrap().jwk.expect("a key");
    assert_eq!(jwk.thumbprint(ThumbprintHash::SHA256).unwrap(), key.thumbprint());
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims = HashSet::new();
    validation.validate_exp = false;
    jsonwebtoken::decode::<Value>(proof, &DecodingKey::from_jwk(&jwk).unwrap(), &validation)
        .expect("a signature")
        .claims
}

fn hash(token: &str) -> String {
    BASE64URL_NOPAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()).as_ref())
}

#[tokio::test]
async fn each_call_each_stream_and_each_fresh_token_has_a_proof_of_its_own() {
    let (fake, source, key) = (Fake::start().await, Source::of("t0"), DpopKey::generate().unwrap());
    let builder = fake.builder().token_provider(source.clone()).dpop(key.clone());
    let client = builder.connect().await.expect("connected");
    fake.next_subscription(Ok(SubscribeScript {
        responses: vec![subscribed("s1")],
        stays: true,
        ..SubscribeScript::default()
    }));
    let _subscription = client.subscribe(["a"]).await.expect("subscribed");
    let publisher = client.publisher();
    publisher.send(Message::new("a", "b", "c")).await.expect("sent").await.expect("a receipt");
    for _ in 0..2 {
        client.publish(Message::new("a", "b", "c")).await.expect("published");
    }
    fake.next_audit(Vec::new());
    assert!(client.audit().query(AuditFilter::all().kind(EntryKind::Publish), 0, 0).next().await.is_none());
    source.set("t1");
    while fake.state.proofs.lock().unwrap().len() < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let proofs = fake.state.proofs.lock().unwrap().clone();
    let mut ids = HashSet::new();
    let mut seen = Vec::new();
    for (method, proof) in &proofs {
        let claims = verified(proof, &key);
        let service = if *method == "Query" { "AuditService" } else { "BrokerService" };
        let url = format!("https://localhost:{}/veribus.v1.{service}/{method}", fake.address.port());
        assert_eq!((claims["htm"].as_str(), claims["htu"].as_str()), (Some("POST"), Some(url.as_str())));
        let token = ["t0", "t1"].into_iter().find(|token| claims["ath"] == hash(token).as_str()).expect("a token");
        assert!(ids.insert(claims["jti"].to_string()), "no proof comes twice");
        seen.push(format!("{method} {token}"));
    }
    seen.sort();
    let connecting = "PublishStream t0";
    let fresh = ["PublishStream t1", "Subscribe t1"];
    let expected =
        ["Publish t0", "Publish t0", connecting, "PublishStream t0", fresh[0], "Query t0", "Subscribe t0", fresh[1]];
    assert_eq!(seen, expected);
    assert!(fake.state.authorizations.lock().unwrap().iter().all(|value| value == "DPoP t0"));
}

#[tokio::test]
async fn proofs_name_the_public_address_where_one_is_given() {
    let (fake, key) = (Fake::start().await, DpopKey::generate().unwrap());
    let builder = fake.builder().dpop(key.clone()).public_url("https://Broker.Example:443/");
    builder.connect().await.expect("connected");
    let (_, proof) = fake.state.proofs.lock().unwrap()[0].clone();
    let url = "https://broker.example/veribus.v1.BrokerService/PublishStream";
    assert_eq!(verified(&proof, &key)["htu"], url);
}

#[tokio::test]
async fn without_a_key_there_is_no_proof() {
    let fake = Fake::start().await;
    fake.client().await.publish(Message::new("a", "b", "c")).await.expect("published");
    assert!(fake.state.proofs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_message_on_behalf_of_another_agent_carries_its_token() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let spoken = || Message::new("a", "b", "c").on_behalf_of(Token::new("of-another").unwrap());
    client.publish(spoken()).await.expect("published");
    let publisher = client.publisher();
    publisher.send(spoken()).await.expect("sent").await.expect("a receipt");
    publisher.send(Message::new("a", "b", "c")).await.expect("sent").await.expect("a receipt");
    let speakers = fake.state.speakers.lock().unwrap();
    let shown: Vec<_> = speakers.iter().map(|one| (one.token.as_str(), one.dpop_proof.as_str())).collect();
    assert_eq!(shown, [("of-another", ""), ("of-another", "")]);
}

#[tokio::test]
async fn a_message_that_is_sent_again_has_a_fresh_proof_of_its_speaker() {
    let (fake, key) = (Fake::start().await, DpopKey::generate().unwrap());
    let client = fake.client().await;
    let end = Some((1, End::KillConnection));
    fake.next_publish_stream(PublishScript { end, ..PublishScript::default() });
    let publisher = client.publisher();
    let speaker = Credentials::new(Token::new("of-another").unwrap()).dpop(key.clone());
    let plain = || Message::new("a", "b", "c");
    let batch = vec![plain(), plain().on_behalf_of(speaker.clone()), plain()];
    for pending in publisher.send_batch(batch).await.expect("sent") {
        pending.await.expect("a receipt");
    }
    client.publish(plain().on_behalf_of(speaker)).await.expect("published");
    let speakers = fake.state.speakers.lock().unwrap();
    let claims: Vec<_> = speakers.iter().map(|one| verified(&one.dpop_proof, &key)).collect();
    let methods: Vec<_> = claims.iter().map(|one| one["htu"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
    assert_eq!(methods, ["PublishStream", "PublishStream", "Publish"]);
    let ids: HashSet<_> = claims.iter().map(|one| one["jti"].to_string()).collect();
    assert_eq!(ids.len(), 3);
    assert!(claims.iter().all(|one| one["ath"] == hash("of-another").as_str()));
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_broker_that_asks_for_it() {
    let own = rcgen::generate_simple_self_signed(["agent".to_owned()]).unwrap();
    let fake = Fake::start_asking(own.cert.der().clone()).await;
    let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    fake.builder().client_certificate_pem(chain.as_bytes(), key.as_bytes()).connect().await.expect("connected");

    let files = [tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap()];
    std::fs::write(files[0].path(), &chain).unwrap();
    std::fs::write(files[1].path(), &key).unwrap();
    let builder = fake.builder().client_certificate_files(files[0].path(), files[1].path());
    builder.connect().await.expect("connected");
    assert_eq!(*fake.state.certificates.lock().unwrap(), [own.cert.der().clone(), own.cert.der().clone()]);

    let short = Duration::from_millis(300);
    assert!(fake.builder().connect_timeout(short).connect().await.is_err(), "without one there is no connection");
}
