//! Who may do what under the default policy: every identity, every RPC, the expected code. An RPC of the descriptor set
//! that has no row here fails the test.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Context as _, Result, ensure};
use futures_util::{FutureExt as _, future::BoxFuture};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use veribus_broker::{
    dev::EXAMPLE_AGENTS,
    issue::{Claims, KeyKind, TokenIssuer},
};
use veribus_proto::v1::{
    BackupRequest, DisconnectRequest, ListKeysRequest, ListRevocationsRequest, ListSessionsRequest, Message,
    PublishRequest, PutRequest, QueryRequest, ReinstateRequest, Revocation, RevokeRequest, RewrapKeysRequest,
    RotateKeysRequest, ShredKeyRequest, TailRequest, disconnect_request, publish_result::Outcome, revocation,
    state_operation::Operation, state_result::Result as Answer,
};
use veribus_tests::{
    broker::TestBroker,
    raw::Raw,
    state::{StateSession, StateWatch, delete, get, list, put},
    streams::{PublishStream, RawSubscription},
};

/// `yes` is OK, `no` is PERMISSION_DENIED, `who?` is UNAUTHENTICATED.
const GOLDEN: &str = "\
rpc                                    action      | nobody garbage expired early unsigned wrong-key wrong-audience wrong-issuer powerless | finance-agent compliance-agent support-agent billing-agent external-agent document-agent auditor operator
veribus.v1.BrokerService/Publish       transaction | who? who? who? who? who? who? who? who? no | yes no no no no no no no
veribus.v1.BrokerService/Publish       ticket      | who? who? who? who? who? who? who? who? no | no no yes no no no no no
veribus.v1.BrokerService/Publish       document    | who? who? who? who? who? who? who? who? no | no no no no no yes no no
veribus.v1.BrokerService/PublishStream transaction | who? who? who? who? who? who? who? who? no | yes no no no no no no no
veribus.v1.BrokerService/PublishStream nothing     | who? who? who? who? who? who? who? who? yes | yes yes yes yes yes yes yes yes
veribus.v1.BrokerService/Subscribe     finance.>   | who? who? who? who? who? who? who? who? no | yes yes no no no no no no
veribus.v1.BrokerService/Subscribe     tickets.>   | who? who? who? who? who? who? who? who? no | no no yes yes no no no no
veribus.v1.BrokerService/Subscribe     external.>  | who? who? who? who? who? who? who? who? no | no no no no yes no no no
veribus.v1.BrokerService/Subscribe     >           | who? who? who? who? who? who? who? who? no | no no no no no no no no
veribus.v1.AuditService/Query          all         | who? who? who? who? who? who? who? who? no | no no no no no no yes no
veribus.v1.AuditService/Tail           all         | who? who? who? who? who? who? who? who? no | no no no no no no yes no
veribus.v1.AdminService/Revoke         agent       | who? who? who? who? who? who? who? who? no | no no no no no no no yes
veribus.v1.AdminService/Reinstate      nothing     | who? who? who? who? who? who? who? who? no | no no no no no no no NotFound
veribus.v1.AdminService/ListRevocations all         | who? who? who? who? who? who? who? who? no | no no no no no no no yes
veribus.v1.AdminService/ListSessions   all         | who? who? who? who? who? who? who? who? no | no no no no no no no yes
veribus.v1.AdminService/Disconnect     nothing     | who? who? who? who? who? who? who? who? no | no no no no no no no yes
veribus.v1.AdminService/ListKeys       all         | who? who? who? who? who? who? who? who? no | no no no no no no no yes
veribus.v1.AdminService/RotateKeys     all         | who? who? who? who? who? who? who? who? no | no no no no no no no yes
veribus.v1.AdminService/RewrapKeys     all         | who? who? who? who? who? who? who? who? no | no no no no no no no yes
veribus.v1.AdminService/ShredKey       nothing     | who? who? who? who? who? who? who? who? no | no no no no no no no NotFound
veribus.v1.StateService/Put            ticket      | who? who? who? who? who? who? who? who? no | no no yes no no no no no
veribus.v1.StateService/Put            report      | who? who? who? who? who? who? who? who? no | yes no no no no no no no
veribus.v1.StateService/Put            unknown     | who? who? who? who? who? who? who? who? no | no no no no no no no no
veribus.v1.StateService/Get            ticket      | who? who? who? who? who? who? who? who? no | no no yes yes no no no no
veribus.v1.StateService/Get            report      | who? who? who? who? who? who? who? who? no | yes yes no no no no no no
veribus.v1.StateService/Delete         nothing     | who? who? who? who? who? who? who? who? no | no no yes no no no no no
veribus.v1.StateService/List           tickets     | who? who? who? who? who? who? who? who? no | no no yes yes no no no no
veribus.v1.StateService/Watch          tickets     | who? who? who? who? who? who? who? who? no | no no yes yes no no no no
veribus.v1.StateService/Session        ticket      | who? who? who? who? who? who? who? who? no | no no yes yes no no no no
veribus.v1.StateService/Session        nothing     | who? who? who? who? who? who? who? who? yes | yes yes yes yes yes yes yes yes
veribus.v1.AdminService/Backup         all         | who? who? who? who? who? who? who? who? no | no no no no no no no yes
grpc.health.v1.Health/Check            all         | yes yes yes yes yes yes yes yes yes | yes yes yes yes yes yes yes yes
";

struct Row {
    rpc: &'static str,
    action: &'static str,
    call: fn(Raw) -> BoxFuture<'static, Result<(), Status>>,
}

const ROWS: [Row; 32] = [
    Row {
        rpc: "veribus.v1.BrokerService/Publish",
        action: "transaction",
        call: |raw| publish(raw, "finance.transactions", "finance.transaction", "role:compliance").boxed(),
    },
    Row {
        rpc: "veribus.v1.BrokerService/Publish",
        action: "ticket",
        call: |raw| publish(raw, "tickets.new", "ticket.created", "role:billing").boxed(),
    },
    Row {
        rpc: "veribus.v1.BrokerService/Publish",
        action: "document",
        call: |raw| publish(raw, "documents.in", "document.text", "role:compliance").boxed(),
    },
    Row {
        rpc: "veribus.v1.BrokerService/PublishStream",
        action: "transaction",
        call: |raw| publish_stream(raw, true).boxed(),
    },
    Row {
        rpc: "veribus.v1.BrokerService/PublishStream",
        action: "nothing",
        call: |raw| publish_stream(raw, false).boxed(),
    },
    Row {
        rpc: "veribus.v1.BrokerService/Subscribe",
        action: "finance.>",
        call: |raw| subscribe(raw, "finance.>").boxed(),
    },
    Row {
        rpc: "veribus.v1.BrokerService/Subscribe",
        action: "tickets.>",
        call: |raw| subscribe(raw, "tickets.>").boxed(),
    },
    Row {
        rpc: "veribus.v1.BrokerService/Subscribe",
        action: "external.>",
        call: |raw| subscribe(raw, "external.>").boxed(),
    },
    Row { rpc: "veribus.v1.BrokerService/Subscribe", action: ">", call: |raw| subscribe(raw, ">").boxed() },
    Row { rpc: "veribus.v1.AuditService/Query", action: "all", call: |raw| query(raw).boxed() },
    Row { rpc: "veribus.v1.AuditService/Tail", action: "all", call: |raw| tail(raw).boxed() },
    Row { rpc: "veribus.v1.AdminService/Revoke", action: "agent", call: |raw| revoke(raw).boxed() },
    Row { rpc: "veribus.v1.AdminService/Reinstate", action: "nothing", call: |raw| reinstate(raw).boxed() },
    Row { rpc: "veribus.v1.AdminService/ListRevocations", action: "all", call: |raw| revocations(raw).boxed() },
    Row { rpc: "veribus.v1.AdminService/ListSessions", action: "all", call: |raw| sessions(raw).boxed() },
    Row { rpc: "veribus.v1.AdminService/Disconnect", action: "nothing", call: |raw| disconnect(raw).boxed() },
    Row { rpc: "veribus.v1.AdminService/ListKeys", action: "all", call: |raw| list_keys(raw).boxed() },
    Row { rpc: "veribus.v1.AdminService/RotateKeys", action: "all", call: |raw| rotate_keys(raw).boxed() },
    Row { rpc: "veribus.v1.AdminService/RewrapKeys", action: "all", call: |raw| rewrap_keys(raw).boxed() },
    Row { rpc: "veribus.v1.AdminService/ShredKey", action: "nothing", call: |raw| shred_key(raw).boxed() },
    Row { rpc: "veribus.v1.StateService/Put", action: "ticket", call: |raw| state_put(raw, "tickets/a").boxed() },
    Row {
        rpc: "veribus.v1.StateService/Put",
        action: "report",
        call: |raw| state_put(raw, "finance.reports/a").boxed(),
    },
    Row { rpc: "veribus.v1.StateService/Put", action: "unknown", call: |raw| state_put(raw, "unknown/a").boxed() },
    Row { rpc: "veribus.v1.StateService/Get", action: "ticket", call: |raw| state_get(raw, "tickets/a").boxed() },
    Row {
        rpc: "veribus.v1.StateService/Get",
        action: "report",
        call: |raw| state_get(raw, "finance.reports/a").boxed(),
    },
    Row { rpc: "veribus.v1.StateService/Delete", action: "nothing", call: |raw| state_delete(raw).boxed() },
    Row { rpc: "veribus.v1.StateService/List", action: "tickets", call: |raw| state_list(raw).boxed() },
    Row { rpc: "veribus.v1.StateService/Watch", action: "tickets", call: |raw| state_watch(raw).boxed() },
    Row { rpc: "veribus.v1.StateService/Session", action: "ticket", call: |raw| state_session(raw, true).boxed() },
    Row { rpc: "veribus.v1.StateService/Session", action: "nothing", call: |raw| state_session(raw, false).boxed() },
    Row { rpc: "veribus.v1.AdminService/Backup", action: "all", call: |raw| backup(raw).boxed() },
    Row { rpc: "grpc.health.v1.Health/Check", action: "all", call: |raw| health(raw).boxed() },
];

fn message(topic: &str, kind: &str, destination: &str) -> Message {
    Message {
        topic: topic.to_owned(),
        r#type: kind.to_owned(),
        datacontenttype: "application/json".to_owned(),
        data: "{}".into(),
        destination: destination.to_owned(),
        ..Message::default()
    }
}

async fn publish(raw: Raw, topic: &str, kind: &str, destination: &str) -> Result<(), Status> {
    let request = PublishRequest { message: Some(message(topic, kind, destination)) };
    raw.broker().publish(request).await.map(drop)
}

async fn publish_stream(raw: Raw, something: bool) -> Result<(), Status> {
    let mut stream = PublishStream::open(&raw).await?;
    if !something {
        return stream.done().message().await.map(drop);
    }
    let sent = stream.publish(vec![message("finance.transactions", "finance.transaction", "role:compliance")]).await;
    match sent.map_err(|error| Status::internal(error.to_string()))?.into_iter().next() {
        Some(Outcome::Receipt(_)) => Ok(()),
        Some(Outcome::Refusal(refusal)) => Err(Status::new(Code::from_i32(refusal.code), refusal.message)),
        None => Err(Status::internal("no result")),
    }
}

async fn subscribe(raw: Raw, pattern: &'static str) -> Result<(), Status> {
    RawSubscription::open(&raw, &[pattern]).await.map(drop)
}

async fn query(raw: Raw) -> Result<(), Status> {
    let mut responses = raw.audit().query(QueryRequest::default()).await?.into_inner();
    while responses.message().await?.is_some() {}
    Ok(())
}

async fn tail(raw: Raw) -> Result<(), Status> {
    let request = TailRequest { from_index: Some(0), ..TailRequest::default() };
    let mut responses = raw.audit().tail(request).await?.into_inner();
    responses.message().await.map(drop)
}

/// Nobody whom the matrix knows.
async fn revoke(raw: Raw) -> Result<(), Status> {
    let issuer = "https://nobody.example".to_owned();
    let target = Some(revocation::Target::Agent("nobody".to_owned()));
    let revocation = Some(Revocation { issuer, target, ..Revocation::default() });
    raw.admin().revoke(RevokeRequest { revocation }).await.map(drop)
}

async fn reinstate(raw: Raw) -> Result<(), Status> {
    raw.admin().reinstate(ReinstateRequest { revocation_id: "dev-0".to_owned() }).await.map(drop)
}

async fn revocations(raw: Raw) -> Result<(), Status> {
    raw.admin().list_revocations(ListRevocationsRequest::default()).await.map(drop)
}

async fn sessions(raw: Raw) -> Result<(), Status> {
    raw.admin().list_sessions(ListSessionsRequest::default()).await.map(drop)
}

async fn disconnect(raw: Raw) -> Result<(), Status> {
    let target = Some(disconnect_request::Target::SessionId(u64::MAX));
    raw.admin().disconnect(DisconnectRequest { target }).await.map(drop)
}

async fn list_keys(raw: Raw) -> Result<(), Status> {
    raw.admin().list_keys(ListKeysRequest::default()).await.map(drop)
}

async fn rotate_keys(raw: Raw) -> Result<(), Status> {
    raw.admin().rotate_keys(RotateKeysRequest::default()).await.map(drop)
}

async fn rewrap_keys(raw: Raw) -> Result<(), Status> {
    raw.admin().rewrap_keys(RewrapKeysRequest::default()).await.map(drop)
}

async fn shred_key(raw: Raw) -> Result<(), Status> {
    raw.admin().shred_key(ShredKeyRequest { scope: "never".to_owned(), epoch: 1 }).await.map(drop)
}

async fn state_put(raw: Raw, key: &'static str) -> Result<(), Status> {
    let content_type = "application/json".to_owned();
    raw.state().put(PutRequest { content_type, ..put(key, "{}") }).await.map(drop)
}

async fn state_get(raw: Raw, key: &'static str) -> Result<(), Status> {
    raw.state().get(get(key)).await.map(drop)
}

async fn state_delete(raw: Raw) -> Result<(), Status> {
    raw.state().delete(delete("tickets/never")).await.map(drop)
}

async fn state_list(raw: Raw) -> Result<(), Status> {
    raw.state().list(list("tickets")).await.map(drop)
}

async fn state_watch(raw: Raw) -> Result<(), Status> {
    StateWatch::open(&raw, "tickets", 0).await.map(drop)
}

async fn state_session(raw: Raw, something: bool) -> Result<(), Status> {
    let mut session = StateSession::open(&raw).await?;
    if !something {
        return Ok(());
    }
    let answers = session.run(vec![Operation::Get(get("tickets/a"))]).await;
    match answers.map_err(|error| Status::internal(error.to_string()))?.into_iter().next() {
        Some(Answer::Get(_)) => Ok(()),
        Some(Answer::Refusal(refusal)) => Err(Status::new(Code::from_i32(refusal.code), refusal.message)),
        other => Err(Status::internal(format!("{other:?}"))),
    }
}

async fn backup(raw: Raw) -> Result<(), Status> {
    let mut parts = raw.admin().backup(BackupRequest {}).await?.into_inner();
    while parts.message().await?.is_some() {}
    Ok(())
}

async fn health(raw: Raw) -> Result<(), Status> {
    HealthClient::new(raw.channel()).check(HealthCheckRequest::default()).await.map(drop)
}

/// What there is to be permitted.
const EVERYTHING: [&str; 9] = [
    "publish:>",
    "subscribe:>",
    "state.read:>",
    "state.write:>",
    "audit.read",
    "admin.revoke",
    "admin.sessions",
    "admin.keys",
    "admin.backup",
];

/// Each identity by name, with the token that it shows.
fn identities(broker: &TestBroker) -> Result<Vec<(&'static str, Option<String>)>> {
    let ours = broker.directory().issuer();
    let nobodys = || broker.claims("nobody").role("auditor").role("support").decrypt(">");
    let all = |name: &str| {
        let claims = Claims { sub: name.to_owned(), ..nobodys() };
        EVERYTHING.iter().fold(claims, |all, one| all.permission(*one))
    };
    let mut expired = all("expired");
    (expired.iat, expired.exp) = (expired.iat - 7_200, expired.iat - 1);
    let mut early = all("early");
    early.nbf = Some(early.iat + 1_800);
    let mut wrong_audience = all("wrong-audience");
    wrong_audience.aud = "another-service".to_owned();
    let mut wrong_issuer = all("wrong-issuer");
    wrong_issuer.iss = "https://elsewhere.example".to_owned();
    let pem = KeyKind::Es256.generate_pem()?;
    let wrong_key = TokenIssuer::with_key_id(ours.issuer(), ours.audience(), &pem, ours.key_id())?;
    let good = broker.sign(&all("unsigned"))?;
    let unsigned = good.rsplit_once('.').map(|(signed, _)| format!("{signed}.")).context("three segments")?;
    let powerless = broker.claims("powerless").role("finance").role("support").role("auditor").decrypt(">");
    let mut identities = vec![
        ("nobody", None),
        ("garbage", Some("not-a-token".to_owned())),
        ("expired", Some(broker.sign(&expired)?)),
        ("early", Some(broker.sign(&early)?)),
        ("unsigned", Some(unsigned)),
        ("wrong-key", Some(wrong_key.issue(&all("wrong-key"))?)),
        ("wrong-audience", Some(broker.sign(&wrong_audience)?)),
        ("wrong-issuer", Some(broker.sign(&wrong_issuer)?)),
        // Recognised, with a role that the policy likes; its token permits nothing.
        ("powerless", Some(broker.sign(&powerless)?)),
    ];
    for agent in EXAMPLE_AGENTS {
        identities.push((agent.name, Some(broker.agent_token(agent.name)?)));
    }
    Ok(identities)
}

const UNKNOWN: usize = 9;

fn word(outcome: &Result<(), Status>) -> String {
    match outcome.as_ref().map_err(Status::code) {
        Ok(()) => "yes".to_owned(),
        Err(Code::PermissionDenied) => "no".to_owned(),
        Err(Code::Unauthenticated) => "who?".to_owned(),
        Err(code) => format!("{code:?}"),
    }
}

#[tokio::test]
async fn every_identity_gets_the_expected_answer_to_every_call() -> Result<()> {
    let broker = TestBroker::start().await?;
    let anybody = broker.raw_with(None, Default::default()).await?;
    let identities = identities(&broker)?;
    let names: Vec<_> = identities.iter().map(|(name, _)| *name).collect();
    let (unknown, agents) = names.split_at(UNKNOWN);
    let mut matrix = format!("{:38} {:11} | {} | {}\n", "rpc", "action", unknown.join(" "), agents.join(" "));
    for Row { rpc, action, call } in ROWS {
        let mut words = Vec::new();
        for (_, token) in &identities {
            words.push(word(&call(anybody.with_token(token.as_deref())?).await));
        }
        let (unknown, agents) = words.split_at(UNKNOWN);
        writeln!(matrix, "{rpc:38} {action:11} | {} | {}", unknown.join(" "), agents.join(" "))?;
    }
    assert_eq!(matrix, GOLDEN, "\n{matrix}");
    Ok(())
}

#[test]
fn every_rpc_of_the_api_has_a_row() -> Result<()> {
    let files = FileDescriptorSet::decode(veribus_proto::FILE_DESCRIPTOR_SET)?;
    let mut rpcs = BTreeSet::new();
    for file in files.file {
        for service in &file.service {
            let path = format!("{}.{}", file.package(), service.name());
            rpcs.extend(service.method.iter().map(|method| format!("{path}/{}", method.name())));
        }
    }
    ensure!(rpcs.len() >= 5, "{rpcs:?}");
    let rows: BTreeSet<_> = ROWS.iter().map(|row| row.rpc.to_owned()).collect();
    let missing: Vec<_> = rpcs.difference(&rows).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
    Ok(())
}

#[tokio::test]
async fn a_path_that_nobody_serves_asks_who_is_there_first() -> Result<()> {
    let broker = TestBroker::start().await?;
    let ca = broker.directory().ca_path();
    let wire = veribus_tests::wire::Wire::connect(broker.address(), &ca).await?;
    let path = "/veribus.v1.BrokerService/Drain";
    let (_, nobody) = wire.call(path, None).await?.answer().await?;
    let token = broker.agent_token("finance-agent")?;
    let (_, somebody) = wire.call(path, Some(&token)).await?.answer().await?;
    assert_eq!([nobody, somebody].map(Code::from_i32), [Code::Unauthenticated, Code::Unimplemented]);
    Ok(())
}
