//! The limit of open files at the start of a broker.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Command,
};

use serde_json::Value;

use super::{Running, VERIBUS};

/// `veribus dev` under a limit of open files that `ulimit` sets.
fn start_under(ulimit: &str, directory: &tempfile::TempDir) -> Running {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{ulimit} && exec \"$0\" dev --dir \"$1\"")).arg(VERIBUS).arg(directory.path());
    Running::start(command.env_remove("VERIBUS_LOG"))
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_may_be() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut broker = start_under("ulimit -Sn 256", &directory);
    Running::line(&mut broker.0.stdout, "ready ");
    let limits = fs::read_to_string(format!("/proc/{}/limits", broker.0.id())).expect("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a line");
    let words: Vec<_> = line.split_whitespace().collect();
    assert!(words[0] == words[1] && words[0] != "256", "{line}");
}

#[test]
fn a_limit_of_open_files_that_leaves_no_room_for_the_connections_is_warned_of() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut broker = start_under("ulimit -n 256", &directory);
    let log = BufReader::new(broker.0.stderr.take().expect("not taken"));
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(&line.expect("text")).expect("JSON"));
    let mut lines = lines.take_while(|line| line["message"] != "serving");
    let message = "the limit of open files is too low for `limits.connections_max`";
    let warning = lines.find(|line| line["message"] == message).expect("a warning");
    assert_eq!((&warning["open_files_max"], &warning["connections_fit"]), (&256.into(), &128.into()), "{warning}");
    assert_eq!(warning["connections_max"], 10_000);
}

#[test]
fn a_start_with_too_few_files_says_to_raise_the_limit_and_nothing_of_damage() {
    let directory = tempfile::tempdir().expect("a directory");
    Running::line(&mut start_under("true", &directory).0.stdout, "ready ");
    let starts = (8..24).map(|files| {
        let command = format!("ulimit -n {files} && exec \"$0\" serve --config \"$1\"/veribus.toml");
        let mut start = Command::new("timeout");
        start.args(["3", "sh", "-c", &command]).arg(VERIBUS).arg(directory.path());
        String::from_utf8(start.output().expect("runs").stderr).expect("text")
    });
    let told = { starts }.find(|told| told.contains("data directory")).expect("the store lacks files at some limit");
    assert!(told.contains("LimitNOFILE=") && !told.contains("backup") && !told.contains("damaged"), "{told}");
}
