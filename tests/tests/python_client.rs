//! Any gRPC client will do: one in Python, without generated code, that learns the API by server reflection.

use std::path::Path;

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use veribus_tests::{
    broker::TestBroker,
    python::{Python, run},
};

#[tokio::test]
async fn a_python_client_that_knows_nothing_but_the_address_publishes_and_receives() -> Result<()> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-client");
    let Some(python) = Python::find(&place).await? else { return Ok(()) };
    let broker = TestBroker::start().await?;
    let directory = broker.directory();
    let mut client = python.script("client.py");
    client.arg(broker.address().to_string()).arg(directory.ca_path());
    client.arg(directory.token_path("finance-agent")).arg(directory.token_path("compliance-agent"));
    let said: Value = serde_json::from_str(&run(&mut client, &[]).await?)?;

    let index = said["receipt_index"].as_u64().context("an index")?;
    let log = broker.log().await?;
    let entry = log.at(index)?;
    let digest = HEXLOWER.encode(&entry.message.as_ref().context("facts")?.content_digest);
    let services = [
        "grpc.health.v1.Health",
        "veribus.v1.AdminService",
        "veribus.v1.AuditService",
        "veribus.v1.BrokerService",
        "veribus.v1.StateService",
    ];
    let expected = json!({
        "services": services,
        "subscription_id": said["subscription_id"],
        "receipt_index": index,
        "delivery_index": index,
        "sender": "finance-agent",
        "data": r#"{"amount": 12}"#,
        "content_digest": digest,
        "denied": "PERMISSION_DENIED",
    });
    let mut said_of_ours = said.clone();
    if let Some(found) = said_of_ours["services"].as_array_mut() {
        found.retain(|name| name.as_str().is_some_and(|name| !name.starts_with("grpc.reflection.")));
    }
    assert_eq!(said_of_ours, expected);
    let audience = log.audience_subscriptions(entry)?;
    assert!(audience.contains(said["subscription_id"].as_str().context("an id")?));
    Ok(())
}
