//! `veribus keys`, on a broker that runs.

use std::fs::{self, File};

use super::{Broker, Running, code, json, json_lines, told, veribus};

fn put(broker: &Broker) {
    let output = broker.run("support-agent", &["state", "put", "tickets/4711", "--data", "resolved"]);
    assert_eq!(code(&output), 0, "{output:?}");
}

#[test]
fn keys_are_shown_rotated_rewrapped_and_shredded() {
    let broker = Broker::start();
    put(&broker);
    let rotated = broker.run("operator", &["keys", "rotate", "--scope", "tickets", "--json"]);
    assert_eq!((code(&rotated), &json(&rotated)["epoch"], &json(&rotated)["current"]), (0, &2.into(), &true.into()));
    let rewrapped = json(&broker.run("operator", &["keys", "rewrap", "--json"]));
    assert_eq!(rewrapped["keys_rewrapped"], 2);
    let shredded =
        json(&broker.run("operator", &["keys", "shred", "--scope", "tickets", "--epoch", "1", "--yes", "--json"]));
    assert_ne!(shredded["root_key_id"], rewrapped["root_key_id"]);
    let keys = json_lines(&broker.run("operator", &["keys", "status", "--json"]));
    assert!(keys.iter().all(|key| key["root_key_id"] == shredded["root_key_id"]), "{keys:?}");
    let [first, second] = &keys[..] else { panic!("{keys:?}") };
    assert!(first["shredded_at"].is_string() && second["shredded_at"].is_null() && second["current"] == true);
    let table = broker.run("operator", &["keys", "status"]);
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(table.starts_with("root key ") && table.contains("shredded 2") && table.contains("current"), "{table}");
    let read = broker.run("support-agent", &["state", "get", "tickets/4711"]);
    assert!(code(&read) == 1 && read.stdout.is_empty() && told(&read).contains("was shredded"), "{read:?}");
}

#[test]
fn what_is_not_permitted_not_there_or_not_confirmed_changes_nothing() {
    let broker = Broker::start();
    put(&broker);
    let refused = broker.run("support-agent", &["keys", "rotate"]);
    assert!(code(&refused) == 1 && told(&refused).contains("MISSING_PERMISSION"), "{refused:?}");
    let missing = broker.run("operator", &["keys", "shred", "--scope", "tickets", "--epoch", "7", "--yes"]);
    assert!(code(&missing) == 1 && told(&missing).contains("NO_SUCH_KEY"), "{missing:?}");
    // There is no terminal to ask on.
    let unasked = broker.run("operator", &["keys", "shred", "--scope", "tickets", "--epoch", "1"]);
    assert!(code(&unasked) == 2 && told(&unasked).contains("--yes"), "{unasked:?}");
    let keys = json_lines(&broker.run("operator", &["keys", "status", "--scope", "tickets", "--json"]));
    assert!(matches!(&keys[..], [key] if key["current"] == true), "{keys:?}");
}

#[test]
fn a_root_key_is_made_for_its_owner_alone_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("root.key");
    let init = || veribus().args(["keys", "init", "--json"]).arg(&file).output().expect("the binary runs");
    let made = init();
    assert_eq!((code(&made), json(&made)["root_key_id"].as_str().map(str::len)), (0, Some(16)));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let before = fs::read(&file).expect("read");
    assert!(!String::from_utf8_lossy(&made.stdout).contains(&String::from_utf8_lossy(&before)[20..40]), "not printed");
    let again = init();
    assert_eq!((code(&again), told(&again).lines().count()), (1, 1));
    assert_eq!(fs::read(&file).expect("read"), before);
}

/// The broker cannot replace what was handed to it: rotation needs no new root key, the rest does.
#[test]
fn a_root_key_that_came_by_a_descriptor_is_not_the_brokers_to_change() {
    let mut broker = Broker::start();
    put(&broker);
    broker.stop();
    let (config, key) = (broker.directory.join("veribus.toml"), broker.directory.join("root.key"));
    let text = fs::read_to_string(&config).expect("read");
    let by_descriptor = "root_key_descriptor_variable = \"VERIBUS_ROOT_KEY_FD\"";
    fs::write(&config, text.replace("root_key_file = \"root.key\"", by_descriptor)).expect("written");
    let mut command = veribus();
    command.arg("dev").arg("--dir").arg(&broker.directory).env("VERIBUS_ROOT_KEY_FD", "0");
    broker.process = Running::start(command.stdin(File::open(&key).expect("opened")));
    let ready = Running::line(&mut broker.process.0.stdout, "ready ");
    ready.split(' ').nth(1).expect("a URL").clone_into(&mut broker.url);

    let before = json(&broker.run("operator", &["keys", "status", "--json"]));
    for args in [&["keys", "rewrap"][..], &["keys", "shred", "--scope", "tickets", "--epoch", "1", "--yes"]] {
        let refused = broker.run("operator", args);
        assert!(code(&refused) == 1 && told(&refused).contains("ROOT_KEY_FIXED"), "{refused:?}");
    }
    assert_eq!(json(&broker.run("operator", &["keys", "status", "--json"])), before, "not even rotated");
    let rotated = broker.run("operator", &["keys", "rotate", "--json"]);
    assert_eq!((code(&rotated), &json(&rotated)["epoch"]), (0, &2.into()));
}
