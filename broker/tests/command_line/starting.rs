//! What a start finds taken, and what is asked of a broker that cannot be the one.

use std::{fs, net::TcpListener};

use super::{Broker, Running, code, told, veribus};

#[test]
fn a_metrics_port_that_is_taken_is_found_before_the_start_is_recorded() {
    let mut broker = Broker::start();
    broker.stop();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut start = veribus();
    start.arg("dev").arg("--dir").arg(&broker.directory).args(["--metrics", &address]);
    let refused = start.output().expect("the binary runs");
    assert!(code(&refused) == 1 && told(&refused).contains(&format!("cannot listen on `{address}`")), "{refused:?}");
    broker.restart_stopped();
    let started = broker.audit(&["query", "--json", "--kind", "broker-started"]);
    assert_eq!(String::from_utf8_lossy(&started.stdout).lines().count(), 2, "{started:?}");
}

#[test]
fn a_development_broker_that_starts_again_is_where_it_was() {
    let mut broker = Broker::start();
    let url = broker.url.clone();
    broker.restart();
    assert_eq!(broker.url, url);
    broker.stop();
    let port = url.rsplit(':').next().expect("a port");
    let _taken = TcpListener::bind(format!("127.0.0.1:{port}")).expect("it is free");
    broker.restart_stopped();
    assert_ne!(broker.url, url, "somebody else has it");
}

#[test]
fn health_is_asked_of_what_a_client_would_connect_to() {
    let outer = tempfile::tempdir().expect("a directory");
    let (empty, made) = (outer.path().join("empty.pem"), outer.path().join("dev"));
    fs::write(&empty, "").expect("written");
    Running::line(&mut Running::start(veribus().arg("dev").arg("--dir").arg(&made)).0.stdout, "ready ");
    let (empty, ca) = (empty.display().to_string(), made.join("ca.pem").display().to_string());
    let cases = [
        (&["--url", "http://127.0.0.1:1", "--ca", &ca][..], "it must begin with `https://`"),
        (&["--url", "https://127.0.0.1:1/path", "--ca", &ca], "it may not have a path"),
        (&["--url", "https://127.0.0.1:1", "--ca", &empty], "there is no PEM certificate"),
        (&["--url", "https://127.0.0.1:1"], "give `--ca`, or set `VERIBUS_CA`"),
    ];
    for (args, fault) in cases {
        let output = veribus().arg("health").args(args).output().expect("the binary runs");
        assert!(code(&output) == 2 && told(&output).contains(fault), "{args:?}: {output:?}");
    }
}
