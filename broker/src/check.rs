//! Is a configuration, and everything that it names, fit to start with?
//!
//! In scope: what an operator can get wrong in files, all faults at once, without a running broker. Out of scope: the
//! data directory and the addresses, which only a start can try.

use std::{fs, iter, path::Path};

use serde::Serialize;

use crate::{
    authenticate::{FetchError, KeySet},
    config::{Config, Fault, IssuerConfig, PolicyConfig, ServerConfig},
    decide::{Bundle, BundleError},
    inspect::Inspector,
    model::{Clock, UnixMicros},
    seal::{RootKeyLook, RootKeySource, RootKeys, SecretFile},
    server::{
        KeysError,
        issuers::{self, Keys},
        shared,
    },
    transport::{
        certificate::DAYS_LEFT_MIN,
        tls::{ClientAuthorities, ClientVerifier, ServerCertificate, TlsError},
    },
};

/// What was looked at, and what came of it.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What.
    #[serde(rename = "check")]
    pub name: &'static str,
    /// Whether a broker could start with it.
    pub ok: bool,
    /// Whether it could, but there is something to look after.
    pub warning: bool,
    /// What it is, or what is wrong with it, on one line.
    pub detail: String,
}

impl Check {
    fn new(name: &'static str, outcome: Result<String, String>) -> Self {
        let ok = outcome.is_ok();
        Self { name, ok, warning: false, detail: outcome.unwrap_or_else(|fault| fault) }
    }

    const fn warning(name: &'static str, detail: String) -> Self {
        Self { name, ok: true, warning: true, detail }
    }
}

/// Looks at the file, and at all that it names.
#[must_use]
pub async fn check_file(path: &Path) -> Vec<Check> {
    let (config, faults) = Config::look(path);
    let mut checks: Vec<_> = faults.iter().map(|fault| Check::new("settings", Err(fault.to_string()))).collect();
    if let Some(config) = config {
        checks.extend(named(&config, &faults).await);
    }
    checks
}

/// What the settings name, and the settings themselves where they have no fault. What is not there was told with those.
async fn named(config: &Config, faults: &[Fault]) -> Vec<Check> {
    let is_missing = |file: &Path| {
        faults.iter().any(|fault| matches!(fault, Fault::MissingFile { file: missing, .. } if missing == file))
    };
    let is_told = |key: &str| faults.iter().any(|fault| fault.is_missing(key));
    let mut checks = Vec::new();
    if faults.is_empty() {
        let detail = format!("node `{}`, listening on {}", config.node.name, config.server.listen);
        checks.push(Check::new("settings", Ok(detail)));
    }
    if !is_told("server.") {
        checks.extend(certificate(&config.server, Clock::default().now()));
    }
    for one in &config.identity.issuers {
        if ![&one.jwks_file, &one.ca_file].into_iter().flatten().any(|file| is_missing(file)) {
            checks.push(issuer(one).await);
        }
    }
    if !is_told("policy.") {
        checks.extend(policy(&config.policy));
    }
    if !is_told("inspection.") {
        checks.push(Check::new("inspection", inspection(config)));
    }
    if !is_told("state.")
        && (config.state.root_key_file.is_some() != config.state.root_key_descriptor_variable.is_some())
    {
        checks.push(root_key(config));
    }
    checks
}

/// A root key that comes by a descriptor can be read once, and that is the broker's.
fn root_key(config: &Config) -> Check {
    const NAME: &str = "root key";
    let source = match shared::source(&config.state) {
        Ok(source) => source,
        Err(error @ KeysError::Variable(_)) => return Check::warning(NAME, format!("{error}, when the broker starts")),
        Err(error) => return Check::new(NAME, Err(error.to_string())),
    };
    let place = match &source {
        RootKeySource::File(file) => format!("`{}`", file.display()),
        RootKeySource::Descriptor(number) => {
            return Check::new(NAME, Ok(format!("to be read from descriptor {number} when the broker starts")));
        }
    };
    match RootKeys::new(source).look() {
        Ok(RootKeyLook::Whole(id)) => Check::new(NAME, Ok(format!("{place}, root key `{id}`"))),
        Ok(RootKeyLook::Unfinished(next)) => {
            let next = next.display();
            Check::warning(
                NAME,
                format!("{place}: a change is not finished, `{next}` is there; the next start settles it"),
            )
        }
        Err(error) => Check::new(NAME, Err(error.to_string())),
    }
}

/// One line, or one for each finding.
fn certificate(server: &ServerConfig, now: UnixMicros) -> Vec<Check> {
    const NAME: &str = "certificate";
    match pair(server, now) {
        Err(fault) => vec![Check::new(NAME, Err(fault))],
        Ok(Pair { faults, .. }) if !faults.is_empty() => {
            faults.iter().map(|fault| Check::new(NAME, Err(fault.to_string()))).collect()
        }
        Ok(Pair { detail, warnings, .. }) if warnings.is_empty() => vec![Check::new(NAME, Ok(detail))],
        Ok(Pair { warnings, .. }) => warnings.into_iter().map(|warning| Check::warning(NAME, warning)).collect(),
    }
}

/// The broker's certificate and key.
struct Pair {
    detail: String,
    faults: Vec<TlsError>,
    warnings: Vec<String>,
}

fn pair(server: &ServerConfig, now: UnixMicros) -> Result<Pair, String> {
    let clients = server.client_authorities().map(|(file, is_required)| ClientAuthorities { file, is_required });
    let key = SecretFile::read(&server.private_key_file).map_err(|error| error.to_string())?;
    let certificate = ServerCertificate::load(&server.certificate_file, &key).map_err(|error| error.to_string())?;
    clients.map(ClientVerifier::load).transpose().map_err(|error| error.to_string())?;
    let days_left = certificate.facts().days_left(now);
    let own = format!("`{}` and its key, days left: {days_left}", server.certificate_file.display());
    let detail = match clients {
        None => own.clone(),
        Some(ClientAuthorities { file, is_required }) => {
            let necessity = if is_required { "required" } else { "optional" };
            format!("{own}; those of clients are {necessity}, by `{}`", file.display())
        }
    };
    let exposed = key.exposed().map(ToString::to_string);
    let ends_soon = (days_left < DAYS_LEFT_MIN).then(|| format!("{own}: replace it soon"));
    Ok(Pair { detail, faults: certificate.faults(now), warnings: exposed.into_iter().chain(ends_soon).collect() })
}

/// An issuer that cannot be reached is no fault: the broker starts, and asks again until it can.
async fn issuer(config: &IssuerConfig) -> Check {
    const NAME: &str = "issuer";
    let audiences = config.audience.to_vec().join("`, `");
    let known = |keys: usize| format!("`{}`, audience `{audiences}`, keys: {keys}", config.issuer);
    if let Err(error) = issuers::may_grant(config) {
        return Check::new(NAME, Err(error.to_string()));
    }
    let source = match issuers::keys(config) {
        Ok(Keys::Local(file)) => return key_set(known(file.keys.len()), &file.keys),
        Ok(Keys::Remote(source)) => source,
        Err(error) => return Check::new(NAME, Err(error.to_string())),
    };
    match source.fetch().await {
        Ok(keys) if keys.is_empty() => key_set(format!("{}: it lists no key that can be used", known(0)), &keys),
        Ok(keys) => key_set(known(keys.len()), &keys),
        Err(error) => unfetched(&config.issuer, &error),
    }
}

/// A set without a key, or with entries that do not count, is something to look after.
fn key_set(detail: String, keys: &KeySet) -> Check {
    const NAME: &str = "issuer";
    match (keys.skipped(), keys.is_empty()) {
        (skipped, _) if !skipped.is_empty() => {
            Check::warning(NAME, format!("{detail}; skipped: {}: {skipped}", skipped.len()))
        }
        (_, true) => Check::warning(NAME, detail),
        (_, false) => Check::new(NAME, Ok(detail)),
    }
}

fn unfetched(issuer: &str, error: &FetchError) -> Check {
    let detail = format!("`{issuer}`: {error}");
    if error.is_unreachable() { Check::warning("issuer", detail) } else { Check::new("issuer", Err(detail)) }
}

/// One line for each finding.
fn policy(policy: &PolicyConfig) -> Vec<Check> {
    const NAME: &str = "policy";
    let directory = policy.directory.display();
    match Bundle::load(&policy.directory, policy.evaluation_steps_max) {
        Ok(bundle) => {
            let digest = data_encoding::HEXLOWER.encode(bundle.sha256());
            let whole = Check::new(NAME, Ok(format!("`{directory}`, files: {}, SHA-256 {digest}", bundle.files())));
            let unused = bundle.unused().iter().map(|file| {
                let fault = "is not in package `veribus`, and nothing there refers to it: its rules never count";
                Check::warning(NAME, format!("`{directory}`: `{file}` {fault}"))
            });
            iter::once(whole).chain(unused).collect()
        }
        Err(BundleError::Refused(findings)) => {
            findings.iter().map(|finding| Check::new(NAME, Err(format!("`{directory}`: {finding}")))).collect()
        }
        Err(error) => vec![Check::new(NAME, Err(error.to_string()))],
    }
}

fn inspection(config: &Config) -> Result<String, String> {
    let file = config.inspection.rules_file.as_ref();
    let name = file.map_or_else(|| "the built-in rules".to_owned(), |path| format!("`{}`", path.display()));
    let rules = file.map(fs::read_to_string).transpose().map_err(|error| format!("{name}: {error}"))?;
    Inspector::new(rules.as_deref()).map_err(|error| format!("{name}: {error}"))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::{
        config::ClientCertificates,
        dev::{DevDirectory, DevOptions},
    };

    fn directory() -> (tempfile::TempDir, DevDirectory) {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = DevDirectory::create_or_reuse(outer.path(), DevOptions::default()).expect("made");
        (outer, directory)
    }

    async fn all_checks(directory: &DevDirectory) -> Vec<Check> {
        check_file(&directory.config_path()).await
    }

    async fn failed(directory: &DevDirectory) -> Vec<&'static str> {
        all_checks(directory).await.iter().filter(|check| !check.ok).map(|check| check.name).collect()
    }

    #[tokio::test]
    async fn a_development_directory_passes_every_check() {
        let (_outer, directory) = directory();
        let names: Vec<_> = all_checks(&directory).await.iter().map(|check| check.name).collect();
        assert_eq!(names, ["settings", "certificate", "issuer", "policy", "inspection", "root key"]);
        assert_eq!(failed(&directory).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_key_of_another_certificate_is_found() {
        let (_outer, directory) = directory();
        fs::copy(directory.root().join("ca.key"), directory.root().join("server.key")).expect("copied");
        assert_eq!(failed(&directory).await, ["certificate"]);
    }

    /// What `openssl req -x509` makes is that of an authority, and names nobody.
    #[tokio::test]
    async fn everything_in_a_certificate_that_keeps_clients_away_is_found_at_once() {
        let (_outer, directory) = directory();
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let certificate = params.self_signed(&key).expect("signed");
        fs::write(directory.root().join("server.pem"), certificate.pem()).expect("written");
        fs::write(directory.root().join("server.key"), key.serialize_pem()).expect("written");
        let checks = all_checks(&directory).await;
        let found: Vec<_> = checks.iter().filter(|check| check.name == "certificate").collect();
        assert_eq!(found.len(), 3, "{found:?}");
        for (check, words) in found.iter().zip(["expired at 2020-01-01", "subjectAltName", "CA:FALSE"]) {
            assert!(!check.ok && check.detail.contains(words), "{words}: {check:?}");
        }
    }

    #[tokio::test]
    async fn a_certificate_that_ends_soon_is_a_warning() {
        let (_outer, directory) = directory();
        let config = Config::load(&directory.config_path()).expect("valid settings");
        let after = |days: i64| UnixMicros(Clock::default().now().0 + days * 86_400_000_000);
        let warning = certificate(&config.server, after(355));
        assert!(matches!(&warning[..], [check] if check.ok && check.warning), "{warning:?}");
        assert!(!certificate(&config.server, after(300)).iter().any(|check| check.warning));
    }

    #[tokio::test]
    async fn a_private_key_under_a_passphrase_is_named_as_such() {
        let (_outer, directory) = directory();
        for label in ["ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY"] {
            let header = if label.starts_with("RSA") { "Proc-Type: 4,ENCRYPTED\n\n" } else { "" };
            let text = format!("-----BEGIN {label}-----\n{header}AAAA\n-----END {label}-----\n");
            fs::write(directory.root().join("server.key"), text).expect("written");
            let checks = all_checks(&directory).await;
            let check = checks.iter().find(|check| check.name == "certificate").expect("looked at");
            assert!(!check.ok && check.detail.contains("is encrypted"), "{check:?}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_in_the_settings_keeps_nothing_else_from_being_looked_at() {
        let (_outer, directory) = directory();
        let path = directory.config_path();
        let text = fs::read_to_string(&path).expect("read");
        fs::write(&path, format!("{text}[limits]\nconnections_max = 0\nconnection_max = 1\n")).expect("written");
        fs::remove_file(directory.root().join("root.key")).expect("removed");
        fs::write(directory.root().join("server.pem"), "nothing").expect("written");
        fs::write(directory.policies_path().join("veribus.rego"), "package veribus\nallow if {").expect("written");
        let found = failed(&directory).await;
        assert_eq!(found, ["settings", "settings", "settings", "certificate", "policy"], "each once");
    }

    #[tokio::test]
    async fn a_certificate_that_is_none_is_found() {
        let (_outer, directory) = directory();
        fs::write(directory.root().join("server.pem"), "nothing").expect("written");
        assert_eq!(failed(&directory).await, ["certificate"]);
    }

    #[tokio::test]
    async fn a_key_that_others_may_replace_is_a_fault_and_one_that_they_may_read_a_warning() {
        let (_outer, directory) = directory();
        let (file, real) = (directory.root().join("server.key"), directory.root().join("real.key"));
        for is_link in [false, true] {
            if is_link {
                fs::rename(&file, &real).expect("moved");
                symlink("real.key", &file).expect("linked");
            }
            for (mode, ok, warning) in [(0o666, false, false), (0o644, true, true), (0o600, true, false)] {
                fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("changed");
                let checks = all_checks(&directory).await;
                let check = checks.iter().find(|check| check.name == "certificate").expect("a certificate");
                assert_eq!((check.ok, check.warning), (ok, warning), "{mode:o}: {check:?}");
                let is_told = check.detail.contains("server.key") && check.detail.contains("chmod");
                assert_eq!(is_told, mode != 0o600, "{check:?}");
            }
        }
    }

    #[test]
    fn authorities_of_clients_that_are_none_are_found() {
        let (_outer, directory) = directory();
        let mut config = Config::load(&directory.config_path()).expect("valid settings");
        config.server.client_certificates = ClientCertificates::Required;
        config.server.client_ca_file = Some(directory.root().join("ca.pem"));
        let now = Clock::default().now();
        assert!(pair(&config.server, now).is_ok_and(|pair| pair.detail.contains("required")));
        config.server.client_ca_file = Some(directory.root().join("jwks.json"));
        assert!(pair(&config.server, now).is_err_and(|fault| fault.contains("jwks.json")));
        config.server.client_ca_file = None;
        let checks = certificate(&config.server, now);
        assert!(checks.iter().all(|check| !check.ok), "never for want of a file as if it were off");
    }

    #[tokio::test]
    async fn a_key_set_that_is_none_is_found() {
        let (_outer, directory) = directory();
        fs::write(directory.root().join("jwks.json"), "{}").expect("written");
        assert_eq!(failed(&directory).await, ["issuer"]);
    }

    #[tokio::test]
    async fn a_policy_that_does_not_compile_is_found_with_every_other_fault() {
        let (_outer, directory) = directory();
        fs::write(directory.policies_path().join("veribus.rego"), "package veribus\nallow if {").expect("written");
        fs::write(directory.root().join("jwks.json"), "{}").expect("written");
        assert_eq!(failed(&directory).await, ["issuer", "policy"]);
    }

    #[tokio::test]
    async fn a_policy_in_a_package_that_nobody_asks_for_is_a_warning() {
        let (_outer, directory) = directory();
        let text = "package verbus\n\ndeny contains {\"rule\": \"x\"} if true\n";
        fs::write(directory.policies_path().join("mine.rego"), text).expect("written");
        let checks = all_checks(&directory).await;
        let warned: Vec<_> = checks.iter().filter(|check| check.warning).collect();
        assert!(matches!(&warned[..], [one] if one.ok && one.detail.contains("mine.rego")), "{warned:?}");
    }

    async fn check_issuer(directory: &DevDirectory, settings: &str) -> (bool, bool, String) {
        let path = directory.config_path();
        let text = fs::read_to_string(&path).expect("read").replace("jwks_file = \"jwks.json\"", settings);
        fs::write(&path, text).expect("written");
        let checks = check_file(&path).await;
        let check = checks.into_iter().find(|check| check.name == "issuer").expect("an issuer");
        (check.ok, check.warning, check.detail)
    }

    #[tokio::test]
    async fn an_issuer_that_cannot_be_reached_is_a_warning() {
        let (_outer, directory) = directory();
        // Nobody listens on port 1.
        let url = "jwks_url = \"http://127.0.0.1:1/keys\"\nallow_loopback_http = true";
        let (ok, warning, detail) = check_issuer(&directory, url).await;
        assert!(ok && warning && detail.contains("127.0.0.1:1"), "{detail}");
    }

    #[tokio::test]
    async fn a_key_set_of_which_an_entry_is_skipped_is_a_warning_and_one_without_any_key_a_fault() {
        let (_outer, directory) = directory();
        let path = directory.root().join("jwks.json");
        let mut set: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        let keys = set["keys"].as_array_mut().expect("keys");
        keys.push(serde_json::json!({"kid": "short\n", "kty": "RSA", "n": "AQAB", "e": "AQAB"}));
        fs::write(&path, set.to_string()).expect("written");
        let (ok, warning, detail) = check_issuer(&directory, "jwks_file = \"jwks.json\"").await;
        let is_told = detail.contains("keys: 1; skipped: 1: `short\\n` (its `n` has fewer than 2048");
        assert!(ok && warning && is_told, "{detail}");
        set["keys"].as_array_mut().expect("keys").remove(0);
        fs::write(&path, set.to_string()).expect("written");
        let (ok, _, detail) = check_issuer(&directory, "jwks_file = \"jwks.json\"").await;
        assert!(!ok && detail.contains("`short\\n`"), "{detail}");
    }

    #[tokio::test]
    async fn an_address_or_an_algorithm_that_cannot_be_is_a_fault() {
        for (settings, word) in [
            ("jwks_url = \"http://login.example/keys\"", "https:"),
            ("jwks_url = \"http://127.0.0.1:1/keys\"", "https:"),
            ("jwks_url = \"keys\"", "not a URL"),
            ("discovery = true", "not a URL"), // the issuer is `veribus-dev`
            ("jwks_file = \"jwks.json\"\nalgorithms = [\"HS256\"]", "HS256"),
            ("jwks_file = \"jwks.json\"\nalgorithms = [\"RS256\"]", "no signature key"),
            ("jwks_url = \"https://127.0.0.1:1/keys\"\nca_file = \"veribus.toml\"", "certificate"),
        ] {
            let (_outer, directory) = directory();
            let (ok, warning, detail) = check_issuer(&directory, settings).await;
            assert!(!ok && !warning && detail.contains(word), "{settings}: {detail}");
        }
    }

    #[tokio::test]
    async fn what_no_issuer_can_grant_is_a_fault() {
        for (setting, entry, word) in [
            ("permissions_allowed", "publish:a..b", "no permission"),
            ("permissions_allowed", "admin", "no permission"),
            ("permissions_allowed", "publish.*", "no permission"),
            ("roles_allowed", "", "no role"),
            ("roles_allowed", "audit.read", "`permissions_allowed`"),
            ("decrypt_allowed", "a..b", "no pattern"),
        ] {
            let (_outer, directory) = directory();
            let settings = format!("jwks_file = \"jwks.json\"\n{setting} = [\"{entry}\"]");
            let (ok, warning, detail) = check_issuer(&directory, &settings).await;
            let is_told = [setting, entry, word, "veribus-dev"].iter().all(|part| detail.contains(part));
            assert!(!ok && !warning && is_told, "{settings}: {detail}");
        }
        let (_outer, directory) = directory();
        let good =
            "jwks_file = \"jwks.json\"\npermissions_allowed = [\"publish:a.>\", \"admin.*\"]\nroles_allowed = []";
        assert!(check_issuer(&directory, good).await.0);
    }

    #[tokio::test]
    async fn a_root_key_that_cannot_be_used_is_found() {
        let set_mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        };
        type Spoil<'a> = (&'a dyn Fn(&Path), &'a str);
        let faults: [Spoil<'_>; 3] = [
            (&|path| set_mode(path, 0o640), "mode 0640"),
            (&|path| fs::write(path, "veribus-root-key-1 c2hvcnQ=\n").expect("written"), "32 bytes in base64"),
            (
                &|path| {
                    fs::rename(path, path.with_extension("moved")).expect("moved");
                    symlink(path.with_extension("moved"), path).expect("linked");
                },
                "regular file",
            ),
        ];
        for (spoil, word) in faults {
            let (_outer, directory) = directory();
            spoil(&directory.root().join("root.key"));
            let checks = all_checks(&directory).await;
            let failed: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
            assert!(matches!(&failed[..], [one] if one.name == "root key" && one.detail.contains(word)), "{failed:?}");
        }
    }

    #[test]
    fn a_root_key_in_the_middle_of_a_change_or_behind_a_descriptor_is_left_alone() {
        let (_outer, directory) = directory();
        let mut config = Config::load(&directory.config_path()).expect("valid settings");
        let (file, next) = (directory.root().join("root.key"), directory.root().join("root.key.next"));
        RootKeys::create(&next).expect("made");
        // As a crash leaves it between the two steps in which the old key goes.
        fs::write(&file, [0; 64]).expect("written");
        let check = root_key(&config);
        assert!(check.ok && check.warning && check.detail.contains("root.key.next"), "{check:?}");
        assert!(next.exists() && fs::read(&file).expect("read") == [0; 64]);

        config.state.root_key_file = None;
        config.state.root_key_descriptor_variable = Some("VERIBUS_NO_SUCH_VARIABLE".to_owned());
        let check = root_key(&config);
        assert!(check.ok && check.warning && check.detail.contains("VERIBUS_NO_SUCH_VARIABLE"), "{check:?}");
    }

    #[tokio::test]
    async fn rules_that_are_none_are_found() {
        let (_outer, directory) = directory();
        let mut config = Config::load(&directory.config_path()).expect("valid settings");
        config.inspection.rules_file = Some(directory.root().join("veribus.toml"));
        assert!(inspection(&config).is_err());
    }
}
