//! `veribus backup` and `veribus restore`.

use std::{fs, path::Path};

use super::{Broker, code, json, told, veribus};

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn a_backup_is_restored_and_a_broker_goes_on_from_it() {
    let mut broker = Broker::start();
    broker.transfer("role:compliance");
    let (path, data) = (broker.directory.join("copy"), broker.directory.join("data"));
    let made = broker.run("operator", &["backup", text(&path), "--json"]);
    assert_eq!(code(&made), 0, "{}", told(&made));
    let head = json(&made)["head"].clone();
    assert_eq!((json(&made)["entries"].as_u64() >= Some(3), head.as_str().map(str::len)), (true, Some(64)));
    broker.transfer("role:compliance");
    broker.stop();
    fs::rename(&data, broker.directory.join("lost")).expect("moved");

    let restore = |args: &[&str]| {
        veribus().args(["restore", text(&path), text(&data)]).args(args).output().expect("the binary runs")
    };
    let restored = restore(&["--json"]);
    assert_eq!((code(&restored), &json(&restored)["head"]), (0, &head), "{}", told(&restored));
    let again = restore(&[]);
    assert_eq!(code(&again), 2);
    assert!(told(&again).contains("is there already and not an empty directory"), "{}", told(&again));

    broker.restart_stopped();
    assert_eq!(code(&broker.audit(&["verify"])), 0);
    let publishes = broker.audit(&["query", "--json", "--kind", "publish"]);
    assert_eq!(String::from_utf8_lossy(&publishes.stdout).lines().count(), 1, "what came before the backup");
}

#[test]
fn whoever_makes_a_backup_is_told_where_the_root_key_is_not() {
    let broker = Broker::start();
    let (path, data) = (broker.directory.join("copy"), broker.directory.join("new"));
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let made = broker.run("operator", &["backup", text(&path)]);
    let restored = veribus().args(["restore", text(&path), text(&data)]).output().expect("the binary runs");
    for output in [&made, &restored] {
        assert!(
            said(output).contains("`, which is not in it: without that key no value can be read"),
            "{}",
            said(output)
        );
    }
}

#[test]
fn whoever_may_not_gets_a_refusal_and_a_directory_that_says_that_it_is_nothing() {
    let broker = Broker::start();
    let path = broker.directory.join("copy");
    let refused = broker.run("finance-agent", &["backup", text(&path)]);
    assert_eq!(code(&refused), 1);
    assert!(told(&refused).contains("MISSING_PERMISSION"), "{}", told(&refused));
    assert!(!path.exists());
    let partial = broker.directory.join("copy.partial");
    let restored = veribus().args(["restore", text(&partial), text(&path)]).output().expect("the binary runs");
    assert_eq!(code(&restored), 2);
    assert!(told(&restored).contains("is no complete backup"), "{}", told(&restored));
}
