//! `veribus token`: keys, key sets and what is signed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use super::{Broker, code, json, told, veribus};

/// A place for keys, and the key set that verifiers read.
struct Keys {
    outer: tempfile::TempDir,
    jwks: PathBuf,
}

impl Keys {
    fn new() -> Self {
        let outer = tempfile::tempdir().expect("a directory");
        let jwks = outer.path().join("jwks.json");
        Self { outer, jwks }
    }

    /// In the directory of a broker, whose key set it shares.
    fn of(broker: &Broker) -> Self {
        Self { jwks: broker.directory.join("jwks.json"), ..Self::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.outer.path().join(name)
    }

    fn generate(&self, kid: &str, args: &[&str]) -> Output {
        let mut command = veribus();
        command.args(["token", "keygen", "--kid", kid, "--out"]).arg(self.path(kid)).arg("--jwks").arg(&self.jwks);
        command.args(args).output().expect("the binary runs")
    }

    fn retire(&self, kid: &str) -> Output {
        let mut command = veribus();
        command.args(["token", "retire", "--kid", kid, "--jwks"]).arg(&self.jwks);
        command.output().expect("the binary runs")
    }

    /// A token for `sub`, signed by the newest of the keys.
    fn issue(&self, keys: &[&str], args: &[&str]) -> Output {
        let mut command = veribus();
        command.args(["token", "issue", "--sub", "finance-agent", "--issuer", "veribus-dev", "--audience", "veribus"]);
        command.arg("--jwks").arg(&self.jwks).arg("--key").args(keys.iter().map(|key| self.path(key)));
        command.args(args).output().expect("the binary runs")
    }

    fn set(&self) -> Value {
        serde_json::from_slice(&fs::read(&self.jwks).expect("read")).expect("JSON")
    }
}

fn inspect(token: &Output) -> Value {
    let text = String::from_utf8(token.stdout.clone()).expect("text");
    json(&veribus().args(["token", "inspect", "--json", text.trim()]).output().expect("the binary runs"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn a_key_is_for_its_owner_and_its_public_half_for_all() {
    let keys = Keys::new();
    for algorithm in ["ES256", "ES384", "EdDSA", "RS256", "PS256"] {
        let made = keys.generate(algorithm, &["--alg", algorithm]);
        assert_eq!((code(&made), String::from_utf8_lossy(&made.stdout).trim()), (0, algorithm));
        assert_eq!(mode(&keys.path(algorithm)), 0o600);
        let issued = inspect(&keys.issue(&[algorithm], &[]));
        assert_eq!((&issued["header"]["alg"], &issued["header"]["kid"]), (&algorithm.into(), &algorithm.into()));
    }
    assert_eq!(mode(&keys.jwks), 0o644);
    let set = keys.set();
    let listed = set["keys"].as_array().expect("a list");
    assert_eq!(listed.len(), 5);
    let secrets = ["d", "p", "q", "k"];
    assert!(listed.iter().all(|key| secrets.iter().all(|secret| key.get(secret).is_none())), "{set}");
}

#[test]
fn what_a_command_reads_or_makes_is_not_written_over_by_what_it_writes() {
    let outer = tempfile::tempdir().expect("a directory");
    let place = |name: &str| outer.path().join(name).to_str().expect("text").to_owned();
    let [one, link, key, jwks] = ["one", "link", "key", "jwks"].map(place);
    std::os::unix::fs::symlink("one", &link).expect("linked");
    let run = |args: &[&str]| veribus().args(args).output().expect("the binary runs");
    for other in [&one, &link] {
        let made = run(&["token", "keygen", "--out", &one, "--jwks", other]);
        assert_eq!(code(&made), 2, "{}", told(&made));
        assert!(!outer.path().join("one").exists());
    }
    assert_eq!(code(&run(&["token", "keygen", "--out", &key, "--jwks", &jwks])), 0);
    let before = [&key, &jwks].map(|path| std::fs::read(path).expect("there"));
    for out in [&key, &jwks] {
        let signed = ["--key", &key, "--jwks", &jwks, "--issuer", "i", "--audience", "a", "--sub", "s", "--out", out];
        let issued = run(&[&["token", "issue"][..], &signed].concat());
        assert_eq!(code(&issued), 2, "{}", told(&issued));
    }
    assert_eq!([&key, &jwks].map(|path| std::fs::read(path).expect("there")), before);
}

#[test]
fn nothing_that_is_there_is_written_over() {
    let keys = Keys::new();
    keys.generate("a", &[]);
    let (key, set) = (fs::read(keys.path("a")).expect("read"), keys.set());
    let again = keys.generate("a", &[]);
    assert_eq!(code(&again), 1);
    assert!(told(&again).contains("there is a key `a` in it already"), "{}", told(&again));
    fs::write(keys.path("b"), "mine").expect("written");
    assert_eq!(code(&keys.generate("b", &[])), 1);
    assert_eq!(fs::read(keys.path("b")).expect("read"), b"mine");
    assert_eq!((fs::read(keys.path("a")).expect("read"), keys.set()), (key, set));
}

#[test]
fn a_key_set_behind_a_link_gets_the_key_and_the_link_stays() {
    let keys = Keys::new();
    let link = keys.path("link");
    symlink("jwks.json", &link).expect("linked");
    for (kid, keys_then) in [("a", 1), ("b", 2)] {
        let mut command = veribus();
        command.args(["token", "keygen", "--kid", kid, "--out"]).arg(keys.path(kid)).arg("--jwks").arg(&link);
        assert_eq!(code(&command.output().expect("the binary runs")), 0);
        assert_eq!(keys.set()["keys"].as_array().map(Vec::len), Some(keys_then), "behind the link");
    }
    let mut retire = veribus();
    retire.args(["token", "retire", "--kid", "a", "--jwks"]).arg(&link);
    assert_eq!(code(&retire.output().expect("the binary runs")), 0);
    assert_eq!(keys.set()["keys"].as_array().map(Vec::len), Some(1));
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
}

#[test]
fn a_key_set_can_be_printed_and_a_secret_goes_to_no_link_and_into_no_device() {
    let keys = Keys { jwks: "-".into(), ..Keys::new() };
    let made = keys.generate("a", &[]);
    assert_eq!((code(&made), &json(&made)["keys"][0]["kid"]), (0, &"a".into()));
    assert_eq!(told(&made).trim(), "a");
    assert_eq!(code(&keys.retire("a")), 2, "nothing to take it from");

    let keys = Keys::new();
    keys.generate("a", &[]);
    fs::write(keys.path("real"), "mine").expect("written");
    symlink("real", keys.path("link")).expect("linked");
    assert!(Command::new("mkfifo").arg(keys.path("pipe")).status().expect("mkfifo runs").success());
    let token = |name: &str| keys.issue(&["a"], &["--out", keys.path(name).to_str().expect("text")]);
    for refused in [keys.generate("link", &[]), keys.generate("pipe", &[]), token("link"), token("pipe")] {
        assert_eq!(code(&refused), 1);
        assert!(told(&refused).contains("a regular file of its own"), "{}", told(&refused));
    }
    assert_eq!(fs::read(keys.path("real")).expect("read"), b"mine");
    assert_eq!(inspect(&keys.issue(&["a"], &["--out", "-"]))["claims"]["sub"], "finance-agent");
}

#[test]
fn a_key_whose_public_half_finds_no_place_is_not_left_behind() {
    let keys = Keys::new();
    fs::write(&keys.jwks, "no set").expect("written");
    assert_eq!(code(&keys.generate("a", &[])), 2);
    assert!(!keys.path("a").exists());
    assert_eq!(code(&keys.generate("a/b", &[])), 2);
}

#[test]
fn the_newest_key_signs_and_a_retired_one_does_not() {
    let keys = Keys::new();
    keys.generate("old", &["--alg", "EdDSA"]);
    keys.generate("new", &[]);
    let kid = |output: &Output| inspect(output)["header"]["kid"].clone();
    assert_eq!(kid(&keys.issue(&["new", "old"], &[])), "new");
    assert_eq!(kid(&keys.issue(&["old", "new"], &[])), "new");
    assert_eq!(kid(&keys.issue(&["old", "new"], &["--kid", "old"])), "old");
    assert_eq!(code(&keys.retire("old")), 0);
    let refused = keys.issue(&["old"], &[]);
    assert_eq!((code(&refused), refused.stdout.len()), (1, 0));
    assert_eq!(code(&keys.retire("old")), 1);
    let last = keys.retire("new");
    assert_eq!(code(&last), 1);
    assert!(told(&last).contains("`new` is the only key in it"), "{}", told(&last));
    fs::remove_file(&keys.jwks).expect("removed");
    assert_eq!(code(&keys.retire("new")), 2);
}

#[test]
fn a_broker_takes_tokens_of_every_key_in_its_set_until_one_is_retired() {
    let mut broker = Broker::start();
    let keys = Keys::of(&broker);
    let algorithms = ["ES256", "ES384", "EdDSA", "RS256", "PS256"];
    for algorithm in algorithms {
        assert_eq!(code(&keys.generate(algorithm, &["--alg", algorithm])), 0);
        let out = broker.directory.join("tokens").join(format!("{algorithm}.jwt"));
        let grants = ["--role", "finance", "--permission", "publish:finance.>", "--out", out.to_str().expect("text")];
        assert_eq!(code(&keys.issue(&[algorithm], &grants)), 0);
    }
    let publish = |broker: &Broker, token: &str| {
        let args = ["pub", "finance.transactions", "--type", "finance.transaction", "--data", "{}", "--destination"];
        code(&broker.run(token, &[&args[..], &["role:compliance"]].concat()))
    };
    broker.restart();
    assert_eq!(algorithms.map(|token| publish(&broker, token)), [0; 5]);
    assert_eq!(publish(&broker, "finance-agent"), 0);
    assert_eq!(code(&keys.retire("ES256")), 0);
    broker.restart();
    assert_eq!(algorithms.map(|token| publish(&broker, token)), [1, 0, 0, 0, 0]);
    assert_eq!(publish(&broker, "finance-agent"), 0);
}

#[test]
fn a_token_says_all_that_it_was_issued_with() {
    let keys = Keys::new();
    keys.generate("a", &[]);
    let jwk = keys.path("agent.jwk");
    // RFC 8037, appendix A.2 and A.3.
    fs::write(&jwk, r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#)
        .expect("written");
    let args = [
        "--lifetime",
        "90s",
        "--role",
        "finance",
        "--permission",
        "publish:a",
        "--type",
        "t",
        "--decrypt",
        "finance.>",
        "--decrypt",
        "a",
        "--act",
        "helper",
        "--act",
        "orchestrator",
        "--cnf-jwk",
        jwk.to_str().expect("text"),
    ];
    let claims = &inspect(&keys.issue(&["a"], &args))["claims"];
    assert_eq!(claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat"), 90);
    assert_eq!(claims["cnf"]["jkt"], "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!((&claims["act"]["sub"], &claims["act"]["act"]["sub"]), (&"helper".into(), &"orchestrator".into()));
    assert_eq!((&claims["decrypt"][0], &claims["decrypt"][1]), (&"finance.>".into(), &"a".into()));
    assert_eq!((&claims["types"][0], &claims["aud"]), (&"t".into(), &"veribus".into()));
}

#[test]
fn a_token_is_bound_to_a_certificate_and_to_nothing_else() {
    let broker = Broker::start();
    let keys = Keys::of(&broker);
    keys.generate("a", &[]);
    let ca = broker.directory.join("ca.pem");
    let bound = inspect(&keys.issue(&["a"], &["--cnf-certificate", ca.to_str().expect("text")]));
    assert_eq!(bound["claims"]["cnf"]["x5t#S256"].as_str().map(str::len), Some(43));
    let key = broker.directory.join("ca.key");
    for wrong in [
        &["--cnf-certificate", key.to_str().expect("text")][..],
        &["--cnf-certificate", "/nowhere"],
        &["--cnf-jwk", ca.to_str().expect("text")],
        &["--decrypt", "a..b"],
        &["--act", "role:finance"],
    ] {
        let refused = keys.issue(&["a"], wrong);
        assert_eq!((code(&refused), refused.stdout.len()), (2, 0), "{wrong:?}");
    }
}
