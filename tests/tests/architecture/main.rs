//! The shape of the code: who may import whom, who may do I/O, and that nobody makes a proof by hand.

mod proofs;
mod rules;
mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use rules::{Edge, cycle, edges};
use source::{SourceFile, mentions};

/// Every module of the broker, and whom it may import. Nothing else is allowed.
const ALLOWED: [(&str, &[&str]); 25] = [
    ("model", &[]),
    ("metrics", &["model"]),
    ("engine", &["model"]),
    ("issue", &["model"]),
    ("config", &["model"]),
    ("authenticate", &["metrics", "model"]),
    ("quota", &["authenticate", "model"]),
    ("inspect", &["authenticate", "model"]),
    ("decide", &["authenticate", "inspect", "model"]),
    ("seal", &["engine", "model"]),
    ("dev", &["config", "issue", "model", "seal"]),
    ("state", &["authenticate", "decide", "engine", "model", "seal"]),
    ("record", &["authenticate", "decide", "engine", "inspect", "metrics", "model", "seal", "state"]),
    ("deliver", &["authenticate", "decide", "metrics", "model", "record"]),
    ("workers", &["authenticate", "model"]),
    ("publish", &["authenticate", "decide", "deliver", "inspect", "metrics", "model", "record", "workers"]),
    ("subscribe", &["authenticate", "decide", "deliver", "model", "record"]),
    ("share", &["authenticate", "decide", "inspect", "model", "record", "seal", "state", "workers"]),
    ("administer", &["authenticate", "decide", "deliver", "model", "record", "seal", "subscribe"]),
    // The pipelines; of the stages what goes in, what comes out, and what can go wrong.
    (
        "transport",
        &[
            "administer",
            "authenticate",
            "deliver",
            "engine",
            "metrics",
            "model",
            "publish",
            "quota",
            "record",
            "seal",
            "share",
            "state",
            "subscribe",
            "workers",
        ],
    ),
    (
        "server",
        &[
            "administer",
            "authenticate",
            "config",
            "decide",
            "deliver",
            "engine",
            "inspect",
            "metrics",
            "model",
            "publish",
            "quota",
            "record",
            "seal",
            "share",
            "state",
            "subscribe",
            "transport",
            "workers",
        ],
    ),
    // Whether a broker could start with these settings.
    ("check", &["authenticate", "config", "decide", "inspect", "model", "seal", "server", "transport"]),
    // Stores beside that of a running broker.
    ("backup", &["engine", "seal", "server"]),
    ("cli", &["authenticate", "backup", "check", "config", "decide", "dev", "issue", "model", "seal", "server"]),
    // The binary.
    ("main", &["cli"]),
];

/// What a module may name of another, where that is not all that is public.
const ONLY: [(&str, &str, &[&str]); 12] = [
    // What a token says is shown and warned of, and nobody is recognised by it.
    ("cli", "authenticate", &["Permission"]),
    // `veribus policy` checks and asks a policy without a broker.
    ("cli", "decide", &["Bundle", "BundleError", "Diagnostic"]),
    ("transport", "engine", &["ReadError"]),
    ("transport", "deliver", &["EndReason", "Inbox", "InboxError", "InboxTerms"]),
    (
        "record",
        "engine",
        &[
            "AppendError",
            "CHUNK_BYTES_MAX",
            "Chunk",
            "KEY_BYTES_MAX",
            "LogStore",
            "ReadError",
            "Record",
            "SharedLogStore",
        ],
    ),
    ("seal", "engine", &["Record"]),
    ("check", "transport", &["certificate", "tls"]),
    ("check", "server", &["KeysError", "issuers", "shared"]),
    ("transport", "seal", &["KeyFact", "SecretFile"]),
    ("transport", "state", &["Metadata", "OpenedValue"]),
    ("backup", "server", &["OpenError", "open_data", "wait_until_closed"]),
    ("backup", "seal", &["KEY_PREFIX", "KeyRing", "KeyRingError", "RootKeyId"]),
];

/// Who starts tasks: the supervisor those that the broker cannot be without, the others those of one connection or call.
const SPAWNING: [&str; 7] = [
    "deliver::inbox",
    "server::supervisor",
    "transport::backup_stream",
    "transport::listener",
    "transport::pipeline",
    "transport::subscribe_stream",
    "workers",
];

/// Crates that the domain may be made of.
const PURE_CRATES: [&str; 2] = ["bytes", "thiserror"];
/// Modules of the standard library that reach outside.
const STD_OUTSIDE: [&str; 7] = ["env", "fs", "io", "net", "os", "process", "thread"];

fn broker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker")
}

fn broker_source() -> Result<Vec<SourceFile>> {
    let files = source::read(&broker().join("src"))?;
    ensure!(files.len() > 50, "only {} files", files.len());
    Ok(files)
}

fn allowed() -> BTreeSet<Edge> {
    let all = ALLOWED.iter().flat_map(|(from, to)| to.iter().map(|to| Edge::new(from, to)));
    all.collect()
}

#[test]
fn every_import_between_modules_is_in_the_table_and_every_line_of_the_table_is_needed() -> Result<()> {
    let (found, allowed) = (edges(&broker_source()?), allowed());
    let forbidden: Vec<_> = found.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "not in the table: {forbidden:?}");
    // These may use what they do not yet.
    let unused: Vec<_> =
        allowed.difference(&found).filter(|edge| !["engine", "metrics"].contains(&edge.from.as_str())).collect();
    assert!(unused.is_empty(), "in the table, not in the code: {unused:?}");
    Ok(())
}

#[test]
fn every_module_stands_in_the_table() -> Result<()> {
    let known: BTreeSet<_> = ALLOWED.iter().map(|(module, _)| (*module).to_owned()).collect();
    let found: BTreeSet<_> = broker_source()?.into_iter().filter_map(|file| file.module.into_iter().next()).collect();
    assert_eq!(found, known);
    Ok(())
}

#[test]
fn imports_go_round_in_no_circle() -> Result<()> {
    assert_eq!(cycle(&allowed()), None, "in the table");
    assert_eq!(cycle(&edges(&broker_source()?)), None, "in the code");
    Ok(())
}

#[test]
fn some_modules_name_only_a_part_of_another() -> Result<()> {
    for file in broker_source()? {
        for mention in mentions(&file).into_iter().filter(|mention| mention.is_inside) {
            let (Some(from), Some(to)) = (mention.module.first(), mention.path.first()) else { continue };
            let Some((_, _, names)) = ONLY.iter().find(|(f, t, _)| f == from && t == to) else { continue };
            let name = mention.path.get(1).map_or("", String::as_str);
            assert!(names.contains(&name), "{mention:?}");
        }
    }
    Ok(())
}

#[test]
fn only_its_own_folder_names_the_storage_crate_and_only_the_server_that_folder() -> Result<()> {
    let mut users = BTreeSet::new();
    for file in broker_source()? {
        for mention in mentions(&file) {
            let names_crate = !mention.is_inside && mention.path.first().is_some_and(|first| first == "sled");
            let names_folder = mention.is_inside && mention.path.starts_with(&["engine".to_owned(), "sled".to_owned()]);
            if names_crate {
                assert!(mention.module.starts_with(&["engine".to_owned(), "sled".to_owned()]), "{mention:?}");
                users.insert("the crate");
            }
            if names_folder && mention.module.first().is_some_and(|module| module != "engine") {
                assert_eq!(mention.module.first().map(String::as_str), Some("server"), "{mention:?}");
                users.insert("the folder");
            }
        }
    }
    assert_eq!(users.len(), 2, "somebody uses it: {users:?}");
    Ok(())
}

#[test]
fn the_domain_reaches_nothing_outside() -> Result<()> {
    let crates = dependencies(&broker().join("Cargo.toml"))?;
    ensure!(crates.contains("tokio") && crates.contains("sled"), "{crates:?}");
    for file in broker_source()?.iter().filter(|file| file.module.first().is_some_and(|first| first == "model")) {
        for mention in mentions(file).into_iter().filter(|mention| !mention.is_inside) {
            let names = |index: usize| mention.path.get(index).map_or("", String::as_str);
            let is_outside = names(0) == "std" && STD_OUTSIDE.contains(&names(1));
            let is_foreign = mention.path.len() > 1 && crates.contains(names(0)) && !PURE_CRATES.contains(&names(0));
            assert!(!is_outside && !is_foreign, "{mention:?}");
        }
    }
    Ok(())
}

#[test]
fn tasks_are_started_by_the_supervisor_or_live_no_longer_than_a_connection() -> Result<()> {
    let mut spawning = BTreeSet::new();
    for file in broker_source()? {
        let tasks = |mention: &&source::Mention| !mention.is_inside && mention.path == ["tokio", "spawn"];
        spawning.extend(mentions(&file).iter().filter(tasks).map(|mention| mention.module.join("::")));
    }
    spawning.retain(|module| !module.starts_with("cli::"));
    let known = SPAWNING.map(str::to_owned);
    assert_eq!(spawning, BTreeSet::from(known));
    Ok(())
}

#[test]
fn only_the_command_line_is_a_client() -> Result<()> {
    let mut clients = BTreeSet::new();
    for file in broker_source()? {
        let names_client =
            |mention: &source::Mention| mention.path.first().is_some_and(|first| first == "veribus_client");
        if mentions(&file).iter().any(names_client) {
            clients.extend(file.module.first().cloned());
        }
    }
    assert_eq!(clients, BTreeSet::from(["cli".to_owned()]));
    Ok(())
}

#[test]
fn the_crates_depend_on_each_other_in_one_direction() -> Result<()> {
    let root = broker().join("..");
    let ours = |name: &str| -> Result<Vec<String>> {
        let all = dependencies(&root.join(name).join("Cargo.toml"))?;
        Ok(all.into_iter().filter(|name| name.starts_with("veribus_")).collect())
    };
    assert_eq!(ours("proto")?, [""; 0]);
    assert_eq!(ours("client-sdk")?, ["veribus_proto"]);
    assert_eq!(ours("broker")?, ["veribus_client", "veribus_proto"]);
    Ok(())
}

/// The dependencies of a package, as they are named in code.
fn dependencies(manifest: &Path) -> Result<BTreeSet<String>> {
    let manifest: toml::Table = toml::from_str(&fs::read_to_string(manifest)?)?;
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).context("dependencies")?;
    Ok(dependencies.keys().map(|name| name.replace('-', "_")).collect())
}
