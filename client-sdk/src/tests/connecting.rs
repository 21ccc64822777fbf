use std::{fs, time::Duration};

use tokio::net::TcpListener;
use tonic::{Code, Status};

use super::fake::{Fake, PublishScript, status};
use crate::{Client, Error, Message};

fn unauthenticated() -> PublishScript {
    PublishScript { refuse: Some(Status::unauthenticated("unauthenticated")), ..PublishScript::default() }
}

#[tokio::test]
async fn a_client_connects_by_name_and_by_address_and_shows_its_token() {
    let fake = Fake::start().await;
    fake.client().await;
    let url = format!("https://{}", fake.address);
    Client::builder(url).ca_pem(fake.ca_pem.as_bytes()).token("other").connect().await.expect("connected");
    assert_eq!(*fake.state.authorizations.lock().unwrap(), ["Bearer token", "Bearer other"]);
}

#[tokio::test]
async fn a_broker_that_another_authority_vouches_for_is_refused() {
    let (fake, other) = (Fake::start().await, Fake::start().await);
    let error = fake.builder().ca_pem(other.ca_pem.as_bytes()).connect().await.expect_err("the wrong authority");
    assert!(matches!(&error, Error::Tls { fault, .. } if fault.contains("certificate")), "{error}");
    assert!(fake.state.authorizations.lock().unwrap().is_empty(), "no token was shown");
}

#[tokio::test]
async fn a_plain_http_address_is_refused() {
    let fake = Fake::start().await;
    let url = format!("http://{}", fake.address);
    let error = Client::builder(url).ca_pem(fake.ca_pem.as_bytes()).token("t").connect().await.expect_err("plain");
    assert!(matches!(error, Error::InvalidUrl { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_no_broker() {
    let (fake, listener) = (Fake::start().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 200 OK\r\n\r\n").await;
        }
    });
    let error = Client::builder(url).ca_pem(fake.ca_pem.as_bytes()).token("t").connect().await.expect_err("no TLS");
    assert!(matches!(error, Error::Tls { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_agree_on_http_2_is_no_broker() {
    let fake = Fake::start_speaking(&[]).await;
    let error = fake.builder().connect().await.expect_err("no agreement");
    assert!(matches!(&error, Error::Tls { fault, .. } if fault.contains("HTTP/2")), "{error}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_waited_for_and_then_reported_as_unreachable() {
    let fake = Fake::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Client::builder(format!("https://{free}"))
        .ca_pem(fake.ca_pem.as_bytes())
        .token("t")
        .connect_timeout(Duration::from_millis(200))
        .connect()
        .await
        .expect_err("nobody listens");
    assert!(matches!(&error, Error::Unreachable { address, .. } if *address == free.to_string()), "{error}");
    assert_eq!(error.code(), Some(Code::Unavailable));
}

#[tokio::test]
async fn a_token_that_the_broker_does_not_accept_shows_when_connecting() {
    let fake = Fake::start().await;
    fake.next_publish_stream(unauthenticated());
    let error = fake.builder().connect().await.expect_err("not accepted");
    assert!(matches!(error, Error::Unauthenticated), "{error}");
}

#[tokio::test]
async fn a_client_needs_authorities_and_a_token() {
    let fake = Fake::start().await;
    let without_authorities = Client::builder(fake.url()).token("t").connect().await;
    let without_token = Client::builder(fake.url()).ca_pem(fake.ca_pem.as_bytes()).connect().await;
    let without_file = fake.builder().token_file("/nonexistent/token").connect().await;
    assert!(matches!(without_authorities, Err(Error::Configuration(_))));
    assert!(matches!(without_token, Err(Error::Configuration(_))));
    assert!(matches!(without_file, Err(Error::TokenFile { .. })));
}

#[tokio::test]
async fn a_full_broker_says_so_when_connecting() {
    let fake = Fake::start().await;
    let refuse = Some(status(Code::ResourceExhausted, "CONNECTION_LIMIT", &[]));
    fake.next_publish_stream(PublishScript { refuse, ..PublishScript::default() });
    let error = fake.builder().connect().await.expect_err("full");
    assert_eq!((error.code(), error.reason()), (Some(Code::ResourceExhausted), Some("CONNECTION_LIMIT")));
}

#[tokio::test]
async fn an_agent_that_may_not_publish_connects_all_the_same() {
    let fake = Fake::start().await;
    let refuse = Some(status(Code::PermissionDenied, "MISSING_PERMISSION", &[]));
    fake.next_publish_stream(PublishScript { refuse, ..PublishScript::default() });
    assert!(fake.builder().connect().await.is_ok());
}

#[tokio::test]
async fn a_token_file_is_read_again_when_the_broker_refuses_the_token() {
    let fake = Fake::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "old").unwrap();
    let client = fake.builder().token_file(file.path()).connect().await.expect("connected");
    fs::write(file.path(), "new").unwrap();
    fake.state.publishes.lock().unwrap().push_back(Status::unauthenticated("unauthenticated"));
    client.publish(Message::new("a", "b", "c")).await.expect("published with the new token");
    assert_eq!(*fake.state.authorizations.lock().unwrap(), ["Bearer old", "Bearer old", "Bearer new"]);
}

#[tokio::test]
async fn a_token_that_was_not_replaced_is_not_tried_twice() {
    let fake = Fake::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "old").unwrap();
    let client = fake.builder().token_file(file.path()).connect().await.expect("connected");
    fake.state.publishes.lock().unwrap().push_back(Status::unauthenticated("unauthenticated"));
    let error = client.publish(Message::new("a", "b", "c")).await.expect_err("not accepted");
    assert!(matches!(error, Error::Unauthenticated), "{error}");
    assert_eq!(fake.state.published.lock().unwrap().len(), 1);
}
