//! Any gRPC client will do: one in Python, without generated code, that learns the API by server reflection.
//!
//! `VERIBUS_PYTHON` names an interpreter that has `python/requirements.txt` installed. Without it, a virtual environment
//! is made from PyPI; where that cannot be, the test is skipped, unless `VERIBUS_PYTHON_REQUIRED=1`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use tokio::process::Command;
use veribus_tests::broker::TestBroker;

#[tokio::test]
async fn a_python_client_that_knows_nothing_but_the_address_publishes_and_receives() -> Result<()> {
    let python = match interpreter().await {
        Ok(python) => python,
        Err(error) if env::var("VERIBUS_PYTHON_REQUIRED").is_ok_and(|required| required == "1") => return Err(error),
        Err(error) => {
            eprintln!("skipped: {error:#}");
            return Ok(());
        }
    };
    let broker = TestBroker::start().await?;
    let directory = broker.directory();
    let mut client = Command::new(python);
    client.arg(here().join("client.py")).arg(broker.address().to_string()).arg(directory.ca_path());
    client.arg(directory.token_path("finance-agent")).arg(directory.token_path("compliance-agent"));
    let said: Value = serde_json::from_str(&run(&mut client).await?)?;

    let index = said["receipt_index"].as_u64().context("an index")?;
    let log = broker.log().await?;
    let entry = log.at(index)?;
    let digest = HEXLOWER.encode(&entry.message.as_ref().context("facts")?.payload_digest);
    let services =
        ["grpc.health.v1.Health", "veribus.v1.AdminService", "veribus.v1.AuditService", "veribus.v1.BrokerService"];
    let expected = json!({
        "services": services,
        "subscription_id": said["subscription_id"],
        "receipt_index": index,
        "delivery_index": index,
        "sender": "finance-agent",
        "data": r#"{"amount": 12}"#,
        "payload_digest": digest,
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

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// An interpreter with everything that the client needs.
async fn interpreter() -> Result<PathBuf> {
    if let Some(python) = env::var_os("VERIBUS_PYTHON") {
        return Ok(python.into());
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-client");
    let (python, done) = (place.join("bin/python"), place.join("installed"));
    let requirements = here().join("requirements.txt");
    let wanted = fs::read_to_string(&requirements)?;
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place)).await.context("no virtual environment")?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"];
    run(Command::new(&python).args(install).arg(&requirements)).await.context("the packages cannot be installed")?;
    fs::write(done, wanted)?;
    Ok(python)
}

async fn run(command: &mut Command) -> Result<String> {
    let output = command.output().await?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    ensure!(output.stdout.len() < 1 << 20, "much too much was said");
    Ok(String::from_utf8(output.stdout)?)
}
