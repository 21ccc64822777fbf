//! Brokers whose standard error cannot be written, and signals.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Write as _},
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::Value;

use super::{Broker, Running, code, json, told, veribus};

const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// `veribus serve` with its log on this level and to there.
fn serve(level: &str, log: impl Into<Stdio>) -> Broker {
    let mut broker = Broker::start();
    broker.stop();
    let mut command = veribus();
    command.arg("serve").arg("--config").arg(broker.directory.join("veribus.toml")).env("VERIBUS_LOG", level);
    let child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the binary runs");
    broker.process = Running(child);
    let ready = Running::line(&mut broker.process.0.stdout, "ready ");
    broker.url = ready.split(' ').nth(1).expect("a URL").to_owned();
    broker
}

fn signal(broker: &Broker, name: &str) {
    let id = broker.process.0.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
}

fn ended(broker: &mut Broker) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = broker.process.0.try_wait().expect("a child") {
            return status.code();
        }
        thread::park_timeout(LOOK_EVERY);
    }
    panic!("it does not end");
}

fn publishes_and_drains(mut broker: Broker) {
    for _ in 0..20 {
        let receipt = broker.transfer("role:compliance");
        assert_eq!(code(&receipt), 0, "{}", told(&receipt));
    }
    signal(&broker, "-TERM");
    assert_eq!(ended(&mut broker), Some(0));
    broker.restart_stopped();
    let stops = broker.audit(&["query", "--json", "--kind", "broker-stopped"]);
    assert_eq!(String::from_utf8_lossy(&stops.stdout).lines().count(), 2, "{}", told(&stops));
}

/// A pipe that holds as much as it can.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let flags = fcntl_getfl(&writer).expect("flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("set");
    for size in [4096, 1] {
        while writer.write(&vec![b'\n'; size]).is_ok() {}
    }
    fcntl_setfl(&writer, flags).expect("set");
    (reader, writer)
}

#[test]
fn a_broker_whose_log_nobody_takes_any_more_serves_and_drains() {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    publishes_and_drains(serve("trace", writer));
}

#[test]
fn a_broker_whose_log_disk_is_full_serves_and_drains() {
    publishes_and_drains(serve("trace", File::create("/dev/full").expect("a device")));
}

#[test]
fn a_broker_whose_log_is_never_read_serves_and_drains() {
    let (reader, writer) = full_pipe();
    publishes_and_drains(serve("trace", writer));
    drop(reader);
}

#[test]
fn a_broker_that_fails_ends_though_its_complaint_is_never_read() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let mut broker = Broker::start();
    broker.stop();
    let (_reader, writer) = full_pipe();
    let mut command = veribus();
    command.args(["dev", "--listen", &address, "--dir"]).arg(&broker.directory);
    broker.process = Running(command.stdout(Stdio::null()).stderr(writer).spawn().expect("the binary runs"));
    assert_eq!(ended(&mut broker), Some(1));
}

#[test]
fn a_client_whose_complaint_cannot_be_written_ends_as_it_would() {
    let broker = Broker::start();
    let mut refused = broker.client("finance-agent", &["audit", "query"]);
    refused.env("VERIBUS_LOG", "trace").stderr(File::create("/dev/full").expect("a device"));
    assert_eq!(code(&refused.output().expect("the binary runs")), 1);
    let mut allowed = broker.client("auditor", &["audit", "verify", "--json"]);
    allowed.env("VERIBUS_LOG", "trace").stderr(File::create("/dev/full").expect("a device"));
    let allowed = allowed.output().expect("the binary runs");
    assert_eq!((code(&allowed), &json(&allowed)["verified"]), (0, &true.into()));
}

#[test]
fn a_hangup_loads_anew_what_is_read_from_files_and_says_so() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let mut broker = serve("info", writer);
    let policy = broker.directory.join("policies/veribus.rego");
    let text = fs::read_to_string(&policy).expect("there");
    fs::write(&policy, format!("{text}\n# another\n")).expect("written");
    signal(&broker, "-HUP");
    let mut said = BufReader::new(reader).lines().map(|line| line.expect("text"));
    assert!(said.any(|line| line.contains("SIGHUP")), "it ended");
    assert!(said.any(|line| line.contains("policy") && line.contains("was loaded anew")), "it ended");
    let ca = broker.directory.join("ca.pem");
    let health = veribus().args(["health", "--url", &broker.url, "--ca"]).arg(ca).output().expect("the binary runs");
    assert_eq!(code(&health), 0, "{}", told(&health));
    signal(&broker, "-TERM");
    assert_eq!(ended(&mut broker), Some(0));
}

/// Reads the log until each of these messages has come.
fn until_said(reader: PipeReader, mut messages: Vec<&str>) -> Vec<Value> {
    let mut lines = BufReader::new(reader).lines().map(|line| line.expect("text"));
    let mut found = Vec::new();
    while !messages.is_empty() {
        let line = lines.next().unwrap_or_else(|| panic!("the log ends without {messages:?}"));
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(place) = messages.iter().position(|message| line.get("message").is_some_and(|said| said == message))
        {
            messages.remove(place);
            found.push(line);
        }
    }
    found
}

#[test]
fn the_log_says_what_an_operator_should_hear_of() {
    let mut broker = Broker::start();
    broker.process.0.kill().expect("killed");
    broker.process.0.wait().expect("ended");
    let (reader, writer) = io::pipe().expect("a pipe");
    let mut command = veribus();
    command.arg("serve").arg("--config").arg(broker.directory.join("veribus.toml"));
    broker.process = Running(command.stdout(Stdio::piped()).stderr(writer).spawn().expect("the binary runs"));
    drop(command);
    let ready = Running::line(&mut broker.process.0.stdout, "ready ");
    broker.url = ready.split(' ').nth(1).expect("a URL").to_owned();
    for _ in 0..3 {
        assert_eq!(code(&broker.transfer("role:finance")), 1, "the policy denies it");
    }
    std::fs::write(broker.directory.join("tokens").join("nobody.jwt"), "e30.e30.e30").expect("written");
    assert_eq!(code(&broker.run("nobody", &["audit", "query"])), 1);
    let revoked = broker.run("operator", &["revoke", "--issuer", "veribus-dev", "--agent", "finance-agent"]);
    assert_eq!(code(&revoked), 0, "{}", told(&revoked));
    assert_eq!(code(&broker.transfer("role:compliance")), 1, "revoked");
    let said = until_said(
        reader,
        vec![
            "the broker did not stop in good order before this start",
            "messages denied",
            "callers refused",
            "callers refused",
            "revoked",
        ],
    );
    let of = |message: &str, agent: &str| {
        let is_it = |line: &&Value| line["message"] == message && line["agent"] == agent;
        said.iter().find(is_it).unwrap_or_else(|| panic!("no `{message}` of `{agent}` in {said:?}"))
    };
    let denied = of("messages denied", "finance-agent");
    assert_eq!(denied["reason"], "POLICY_DENIED");
    assert!(denied["count"].as_u64() >= Some(1) && denied["audit_index"].is_u64(), "{denied}");
    let reason = &of("callers refused", "127.0.0.1")["reason"];
    assert!(reason.as_str().is_some_and(|reason| reason.starts_with("algorithm")), "{reason}");
    assert_eq!(of("callers refused", "finance-agent")["reason"], "revoked");
    of("revoked", "operator");
}

#[test]
fn the_log_names_addresses_as_they_are_written() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let place = tempfile::tempdir().expect("a directory");
    let mut command = veribus();
    command.args(["dev", "--metrics", "127.0.0.1:0", "--dir"]).arg(place.path()).stdout(Stdio::null()).stderr(writer);
    let _broker = Running(command.spawn().expect("the binary runs"));
    drop(command);
    let mut lines = BufReader::new(reader).lines().map(|line| line.expect("text"));
    let serving: Value = lines.find_map(|line| serde_json::from_str(&line).ok().filter(is_serving)).expect("it serves");
    for name in ["address", "metrics"] {
        let address = serving[name].as_str().expect("text");
        assert!(address.parse::<SocketAddr>().is_ok(), "{name} is `{address}`");
    }
}

fn is_serving(line: &Value) -> bool {
    line["message"] == "serving"
}
