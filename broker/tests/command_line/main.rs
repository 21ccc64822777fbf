//! The binary as an operator meets it: a real broker from `veribus dev`, real clients, exit codes, and what they print.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test, in what the tests share too"
)]

mod backup;
mod file_limit;
mod keys;
mod measured;
mod policy;
mod standard_error;
mod starting;
mod state;
mod token;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _, symlink},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use serde_json::Value;

const VERIBUS: &str = env!("CARGO_BIN_EXE_veribus");

fn veribus() -> Command {
    let mut command = Command::new(VERIBUS);
    for variable in ["VERIBUS_URL", "VERIBUS_CA", "VERIBUS_TOKEN_FILE", "VERIBUS_LOG"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// A process that ends with its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs"))
    }

    /// Reads lines until one begins with `word`; the rest stays to be read.
    fn line(source: &mut Option<impl Read>, word: &str) -> String {
        let mut lines = BufReader::with_capacity(1, source.as_mut().expect("not taken")).lines();
        let found = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with(word)));
        found.unwrap_or_else(|| panic!("no line that begins with `{word}`")).expect("text")
    }

    fn output(mut self) -> String {
        let mut text = String::new();
        self.0.stdout.as_mut().expect("not taken").read_to_string(&mut text).expect("text");
        assert!(self.0.wait().expect("ends").success());
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

struct Broker {
    process: Running,
    url: String,
    directory: PathBuf,
    _outer: tempfile::TempDir,
}

impl Broker {
    fn start() -> Self {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = outer.path().join("dev");
        let mut process = Running::start(veribus().arg("dev").arg("--dir").arg(&directory));
        let ready = Running::line(&mut process.0.stdout, "ready ");
        let url = ready.split(' ').nth(1).expect("a URL").to_owned();
        Self { process, url, directory, _outer: outer }
    }

    /// Tells the broker to stop, and starts another one on its directory.
    fn restart(&mut self) {
        self.stop();
        self.restart_stopped();
    }

    fn restart_stopped(&mut self) {
        self.process = Running::start(veribus().arg("dev").arg("--dir").arg(&self.directory));
        let ready = Running::line(&mut self.process.0.stdout, "ready ");
        self.url = ready.split(' ').nth(1).expect("a URL").to_owned();
    }

    fn stop(&mut self) -> ExitStatus {
        let id = self.process.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        self.process.0.wait().expect("ends")
    }

    fn client(&self, agent: &str, args: &[&str]) -> Command {
        let mut command = veribus();
        command.args(args).arg("--url").arg(&self.url).arg("--ca").arg(self.directory.join("ca.pem"));
        command.arg("--token-file").arg(self.directory.join("tokens").join(format!("{agent}.jwt")));
        command
    }

    fn run(&self, agent: &str, args: &[&str]) -> Output {
        self.client(agent, args).output().expect("the binary runs")
    }

    fn transfer(&self, destination: &str) -> Output {
        let data = r#"{"amount": 12}"#;
        self.run(
            "finance-agent",
            &[
                "pub",
                "finance.transactions",
                "--type",
                "finance.transaction",
                "--data",
                data,
                "--destination",
                destination,
                "--json",
            ],
        )
    }

    fn audit(&self, args: &[&str]) -> Output {
        self.run("auditor", &[&["audit"], args].concat())
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// One JSON object for each line.
fn json_lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn a_message_reaches_its_subscriber_and_the_log() {
    let broker = Broker::start();
    let args = ["sub", "finance.>", "--count", "1", "--json"];
    let mut subscriber = Running::start(&mut broker.client("compliance-agent", &args));
    Running::line(&mut subscriber.0.stderr, "subscribed ");
    let receipt = broker.transfer("role:compliance");
    assert_eq!((code(&receipt), &json(&receipt)["decision"]), (0, &Value::from("allow")));
    let delivery: Value = serde_json::from_str(&subscriber.output()).expect("JSON");
    assert_eq!(delivery["data"], r#"{"amount": 12}"#);
    assert_eq!(delivery["sender"]["agent"], "finance-agent");
    assert_eq!(delivery["audit_index"], json(&receipt)["audit_index"]);
    let entry = json(&broker.audit(&["query", "--json", "--kind", "publish"]));
    assert_eq!(entry["index"], json(&receipt)["audit_index"]);
    assert_eq!(entry["audience"][0]["agent"], "compliance-agent");
}

#[test]
fn a_denied_message_ends_with_code_1_and_its_rule_stands_in_the_log() {
    let broker = Broker::start();
    let refusal = broker.transfer("role:external");
    assert_eq!((code(&refusal), &json(&refusal)["decision"]), (1, &Value::from("deny")));
    assert_eq!(json(&refusal).get("rules"), None);
    let entry = json(&broker.audit(&["query", "--json", "--decision", "deny"]));
    let rules = entry["rules"].as_array().expect("a list");
    assert!(rules.contains(&Value::from("finance-to-compliance-only")), "{entry}");
}

#[test]
fn a_log_verifies_in_place_and_exported_and_a_flipped_byte_is_named() {
    let broker = Broker::start();
    broker.transfer("role:compliance");
    let verified = broker.audit(&["verify", "--json"]);
    assert_eq!((code(&verified), &json(&verified)["verified"]), (0, &Value::from(true)));
    let file = broker.directory.join("log");
    let path = file.to_str().expect("text");
    assert_eq!(code(&broker.audit(&["export", path])), 0);
    let verify = || veribus().args(["audit", "verify", "--file", path]).output().expect("the binary runs");
    assert_eq!(code(&verify()), 0);
    let mut bytes = fs::read(&file).expect("read");
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    fs::write(&file, bytes).expect("written");
    let broken = verify();
    assert_eq!(code(&broken), 1);
    assert!(told(&broken).starts_with("veribus: the audit log is broken: entry "), "{}", told(&broken));
}

#[test]
fn an_export_goes_into_a_pipe_and_to_standard_output_and_replaces_neither_a_pipe_nor_a_link() {
    let broker = Broker::start();
    let place = |name: &str| broker.directory.join(name);
    let [pipe, link, real] = ["pipe", "link", "real"].map(place);
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    symlink("real", &link).expect("linked");
    // Open at both ends, so that nobody waits for anybody.
    let mut both = fs::File::options().read(true).write(true).open(&pipe).expect("opened");
    let exported = broker.audit(&["export", pipe.to_str().expect("text")]);
    assert_eq!(code(&exported), 0, "{}", told(&exported));
    assert!(fs::symlink_metadata(&pipe).expect("there").file_type().is_fifo());
    let mut first = [0; 4];
    both.read_exact(&mut first).expect("something is in the pipe");

    assert_eq!(code(&broker.audit(&["export", link.to_str().expect("text")])), 0);
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    let written = fs::read(&real).expect("what the link leads to");
    assert_eq!(fs::metadata(&real).expect("there").permissions().mode() & 0o777, 0o600);

    let printed = broker.audit(&["export", "-"]);
    assert!(printed.stdout.starts_with(&written) && written.starts_with(&first), "the log only grows");
    assert!(told(&printed).contains("exported "), "{}", told(&printed));
    fs::write(&real, printed.stdout).expect("written");
    let verified = veribus().args(["audit", "verify", "--file"]).arg(&real).output().expect("the binary runs");
    assert_eq!(code(&verified), 0);
}

#[test]
fn an_export_goes_into_a_socket() {
    let broker = Broker::start();
    let socket = broker.directory.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    let taking = std::thread::spawn(move || {
        let mut taken = Vec::new();
        listener.accept().expect("a connection").0.read_to_end(&mut taken).expect("read");
        taken
    });
    let exported = broker.audit(&["export", socket.to_str().expect("text")]);
    assert_eq!(code(&exported), 0, "{}", told(&exported));
    let file = broker.directory.join("export");
    fs::write(&file, taking.join().expect("taken")).expect("written");
    let verified = veribus().args(["audit", "verify", "--file"]).arg(&file).output().expect("the binary runs");
    assert_eq!(code(&verified), 0);
}

/// What a pipe holds unread, `pipe(7)`.
const PIPE_BYTES: usize = 64 * 1024;

#[test]
fn an_export_that_was_broken_off_is_none() {
    let broker = Broker::start();
    let pipe = broker.directory.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    for _ in 0..200 {
        broker.transfer("role:compliance");
    }
    // More than fits into the pipe, or the export could be done before the reader goes.
    let exported = broker.audit(&["export", "-"]).stdout.len();
    assert!(exported > PIPE_BYTES + 4_096, "{exported}");
    let from = pipe.clone();
    let taking = std::thread::spawn(move || fs::File::open(from).expect("opened").read_exact(&mut [0; 10]));
    let exported = broker.audit(&["export", pipe.to_str().expect("text")]);
    taking.join().expect("no panic").expect("taken");
    assert_eq!(code(&exported), 1, "{}", told(&exported));
    assert!(told(&exported).contains("cannot write"), "{}", told(&exported));
}

#[test]
fn wrong_usage_repeats_no_argument_raw() {
    let hostile = "\u{1b}]0;evil\u{7}\u{9b}2J\u{202e}\u{2028}";
    let output = veribus().args(["audit", "verify", hostile]).output().expect("the binary runs");
    assert_eq!(code(&output), 2);
    let said = told(&output);
    assert!(said.contains("\\u{202e}") && said.contains("unexpected argument"), "{said}");
    assert!(!said.chars().any(|c| hostile.contains(c) && !c.is_ascii_graphic() && c != ' '), "{said:?}");
}

#[test]
fn a_configured_file_that_is_a_pipe_holds_nobody_up() {
    let mut broker = Broker::start();
    broker.stop();
    let config = broker.directory.join("veribus.toml");
    for file in ["server.key", "jwks.json", "root.key"] {
        let (path, kept) = (broker.directory.join(file), broker.directory.join("kept"));
        fs::rename(&path, &kept).expect("moved");
        assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&path).status().expect("mkfifo runs").success());
        for command in [&["config", "check"][..], &["serve"]] {
            let output = veribus().args(command).arg("--config").arg(&config).output().expect("the binary runs");
            assert_eq!(code(&output), 2, "{file}: {}", told(&output));
            let said = told(&output) + &String::from_utf8_lossy(&output.stdout);
            assert!(said.contains(file) && said.contains("it is a pipe"), "{said}");
        }
        fs::rename(&kept, &path).expect("moved back");
    }
}

#[test]
fn only_an_auditor_reads_the_log() {
    let broker = Broker::start();
    let refused = broker.run("finance-agent", &["audit", "query"]);
    assert_eq!((code(&refused), refused.stdout.len()), (1, 0));
    assert!(told(&refused).contains("MISSING_PERMISSION"), "{}", told(&refused));
}

#[test]
fn what_agents_wrote_steers_no_terminal_and_means_the_same_to_programs() {
    // Without NUL, which no argument holds, and white space, which a line shows as a space.
    let steers: String = ('\u{1}'..='\u{8}').chain('\u{e}'..='\u{1f}').chain('\u{7f}'..='\u{9f}').collect();
    let steers = steers + "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{feff}\u{e0041}";
    let is_raw = |output: &Output| {
        let text =
            [&output.stdout[..], &output.stderr[..]].map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"));
        text.concat().contains(|c| c != '\n' && steers.contains(c))
    };
    let broker = Broker::start();
    let text = format!("a{steers}z");
    let put = broker.run("support-agent", &["state", "put", "tickets/1", "--data", &text]);
    assert_eq!(code(&put), 0, "{put:?}");
    let got = broker.run("support-agent", &["state", "get", "tickets/1"]);
    assert_eq!(got.stdout, text.as_bytes(), "a program gets the value as it is");
    let got = broker.run("support-agent", &["state", "get", "tickets/1", "--json"]);
    assert_eq!((is_raw(&got), &json(&got)["value"]), (false, &Value::from(&*text)));

    let revoke = ["revoke", "--issuer", "veribus-dev", "--token-id", "t", "--reason", &text];
    let revoked = broker.run("operator", &revoke);
    assert_eq!(code(&revoked), 0, "{revoked:?}");
    let listed = broker.run("operator", &["revocations", "--json"]);
    assert_eq!((is_raw(&listed), &json(&listed)["reason"]), (false, &Value::from(&*text)));
    for shown in [
        broker.run("operator", &["revocations"]),
        broker.audit(&["query"]),
        broker.audit(&["query", "--json"]),
        broker.run("operator", &["reinstate", &text]),
        broker.run("support-agent", &["state", "get", &format!("tickets/{text}")]),
        veribus().args(["token", "inspect", &text]).output().expect("the binary runs"),
    ] {
        assert!(!is_raw(&shown), "{shown:?}");
    }
}

#[test]
fn a_broker_that_is_told_to_stop_ends_well_and_its_directory_starts_another() {
    let mut broker = Broker::start();
    broker.transfer("role:compliance");
    let health = |broker: &Broker| {
        let ca = broker.directory.join("ca.pem");
        veribus().args(["health", "--url", &broker.url, "--ca"]).arg(ca).output().expect("the binary runs")
    };
    assert_eq!(code(&health(&broker)), 0);
    let ended = broker.stop();
    assert_eq!((ended.code(), ended.signal()), (Some(0), None));
    assert_eq!(code(&health(&broker)), 1);

    broker.restart_stopped();
    assert_eq!(code(&broker.audit(&["verify"])), 0);
    let publishes = broker.audit(&["query", "--json", "--kind", "publish"]);
    assert_eq!(json(&publishes)["decision"], "allow");
}

#[test]
fn env_is_there_when_the_broker_says_that_it_is_ready() {
    let broker = Broker::start();
    let env = fs::read_to_string(broker.directory.join("env")).expect("written before");
    assert!(env.contains(&format!("export VERIBUS_URL='{}'\n", broker.url)), "{env}");
}

#[test]
fn wrong_usage_ends_with_code_2_and_one_line() {
    let run = |args: &[&str]| veribus().args(args).output().expect("the binary runs");
    for args in [
        &["serve", "--config", "/nowhere/veribus.toml"][..],
        &["pub", "a", "--type", "b", "--data", "c"],
        &[
            "pub",
            "a",
            "--type",
            "b",
            "--data",
            "c",
            "--url",
            "http://a",
            "--ca",
            "/dev/null",
            "--token-file",
            "/dev/null",
        ],
        &["token", "issue", "--sub", "a", "--dir", "/nowhere"],
    ] {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}");
        let told = told(&output);
        assert!(told.starts_with("veribus: ") && told.lines().count() == 1, "{told}");
    }
    assert_eq!(code(&run(&["no-such-command"])), 2);
}

#[test]
fn a_key_that_others_may_replace_is_refused_and_one_that_they_may_read_is_told() {
    let outer = tempfile::tempdir().expect("a directory");
    let directory = outer.path().join("dev");
    let mut made = Running::start(veribus().arg("dev").arg("--dir").arg(&directory));
    Running::line(&mut made.0.stdout, "ready ");
    drop(made);
    let config = directory.join("veribus.toml");
    let check = || veribus().args(["config", "check", "--config"]).arg(&config).output().expect("the binary runs");
    let issue = || {
        let mut command = veribus();
        command.args(["token", "issue", "--sub", "a", "--issuer", "i", "--audience", "a", "--key"]);
        command.arg(directory.join("issuer.key")).output().expect("the binary runs")
    };
    let mode = |name: &str, mode| {
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(mode)).expect("changed");
    };
    mode("server.key", 0o666);
    mode("issuer.key", 0o666);
    for (command, option, path) in [("serve", "--config", &config), ("dev", "--dir", &directory)] {
        let refused = veribus().args([command, option]).arg(path).output().expect("the binary runs");
        assert!(code(&refused) == 2 && told(&refused).contains("chmod 600"), "{refused:?}");
    }
    let checked = check();
    let printed = String::from_utf8_lossy(&checked.stdout);
    assert!(code(&checked) == 2 && printed.contains("mode 0666") && printed.contains("chmod"), "{printed}");
    assert!(code(&issue()) == 2 && told(&issue()).contains("issuer.key"), "{:?}", issue());

    mode("server.key", 0o644);
    mode("issuer.key", 0o644);
    let checked = check();
    let printed = String::from_utf8_lossy(&checked.stdout);
    assert!(code(&checked) == 0 && printed.contains("mode 0644"), "{printed}");
    assert!(code(&issue()) == 0 && told(&issue()).starts_with("warning: "), "{:?}", issue());
    let mut serving = Running::start(veribus().args(["serve", "--config"]).arg(&config));
    Running::line(&mut serving.0.stdout, "ready ");
    drop(serving.0.stdout.take());
    serving.0.kill().expect("killed");
    let mut log = String::new();
    serving.0.stderr.take().expect("not taken").read_to_string(&mut log).expect("text");
    assert!(log.contains("WARN") && log.contains("server.key` has mode 0644"), "{log}");

    mode("server.key", 0o600);
    mode("issuer.key", 0o600);
    assert!(!String::from_utf8_lossy(&check().stdout).contains("mode 0"));
    assert_eq!((code(&issue()), told(&issue())), (0, String::new()));
}

#[test]
fn an_address_in_use_ends_with_code_1_and_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let outer = tempfile::tempdir().expect("a directory");
    let run = |dir: &Path| veribus().args(["dev", "--listen", &address, "--dir"]).arg(dir).output().expect("runs");
    let output = run(outer.path());
    assert_eq!(code(&output), 1);
    let last = told(&output).lines().last().expect("a line").to_owned();
    assert!(last.starts_with("veribus: cannot listen on `127.0.0.1:"), "{last}");
}

#[test]
fn a_reused_id_is_a_refusal_and_a_message_to_nobody_says_so() {
    let broker = Broker::start();
    let publish = |data: &str, args: &[&str]| {
        let message =
            ["pub", "finance.transactions", "--type", "finance.transaction", "--destination", "role:compliance"];
        let all = [&message[..], &["--id", "t-1", "--data", data], args].concat();
        broker.run("finance-agent", &all)
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let first = publish(r#"{"amount": 1}"#, &[]);
    assert_eq!(code(&first), 0, "{}", told(&first));
    assert!(said(&first).contains("to nobody: no subscription matches"), "{}", said(&first));
    let again = publish(r#"{"amount": 1}"#, &["--json"]);
    assert_eq!((code(&again), &json(&again)["duplicate"], &json(&again)["recipients"]), (0, &true.into(), &0.into()));
    let other = publish(r#"{"amount": 2}"#, &[]);
    assert_eq!(code(&other), 1, "{}", said(&other));
    assert!(said(&other).starts_with("denied") && said(&other).contains("MESSAGE_ID_REUSED"), "{}", said(&other));
    assert!(!said(&other).contains("as decided before"), "{}", said(&other));
}
