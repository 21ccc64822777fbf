//! Is a configuration, and everything that it names, fit to start with?
//!
//! In scope: what an operator can get wrong in files, all faults at once, without a running broker. Out of scope: the
//! data directory and the addresses, which only a start can try.

use std::{fs, path::Path, time::Duration};

use serde::Serialize;

use crate::{
    authenticate::KeySet,
    config::{Config, IssuerConfig, PolicyConfig, ServerConfig},
    decide::Bundle,
    inspect::{Inspector, InspectorSettings},
    transport::tls::{self, ClientAuthorities},
};

/// What was looked at, and what came of it.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What.
    #[serde(rename = "check")]
    pub name: &'static str,
    /// Whether a broker could start with it.
    pub ok: bool,
    /// What it is, or what is wrong with it, on one line.
    pub detail: String,
}

impl Check {
    fn new(name: &'static str, outcome: Result<String, String>) -> Self {
        let ok = outcome.is_ok();
        Self { name, ok, detail: outcome.unwrap_or_else(|fault| fault) }
    }
}

/// Looks at the file, and at all that it names.
#[must_use]
pub fn check_file(path: &Path) -> Vec<Check> {
    match Config::load(path) {
        Ok(config) => checks(&config),
        Err(error) => vec![Check::new("settings", Err(error.to_string()))],
    }
}

fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![
        Check::new("settings", Ok(format!("node `{}`, listening on {}", config.node.name, config.server.listen))),
        Check::new("certificate", certificate(&config.server)),
    ];
    checks.extend(config.identity.issuers.iter().map(|issuer| Check::new("issuer", key_set(issuer))));
    checks.push(Check::new("policy", policy(&config.policy)));
    checks.push(Check::new("inspection", inspection(config)));
    checks
}

fn certificate(server: &ServerConfig) -> Result<String, String> {
    let clients = server.client_authorities().map(|(file, is_required)| ClientAuthorities { file, is_required });
    tls::server_config(&server.certificate_file, &server.private_key_file, clients)
        .map_err(|error| error.to_string())?;
    let own = format!("`{}` and its key", server.certificate_file.display());
    Ok(match clients {
        None => own,
        Some(ClientAuthorities { file, is_required }) => {
            let necessity = if is_required { "required" } else { "optional" };
            format!("{own}; those of clients are {necessity}, by `{}`", file.display())
        }
    })
}

fn key_set(issuer: &IssuerConfig) -> Result<String, String> {
    let invalid = |fault: &dyn ToString| format!("`{}`: {}", issuer.jwks_file.display(), fault.to_string());
    let bytes = fs::read(&issuer.jwks_file).map_err(|error| invalid(&error))?;
    let keys = KeySet::from_json(&bytes).map_err(|error| invalid(&error))?;
    Ok(format!("`{}`, audience `{}`, keys: {}", issuer.issuer, issuer.audience, keys.len()))
}

fn policy(policy: &PolicyConfig) -> Result<String, String> {
    let evaluation_max = Duration::from_millis(policy.evaluation_ms_max);
    let bundle = Bundle::load(&policy.directory, evaluation_max).map_err(|error| error.to_string())?;
    let digest = data_encoding::HEXLOWER.encode(bundle.sha256());
    Ok(format!("`{}`, files: {}, SHA-256 {digest}", policy.directory.display(), bundle.files()))
}

fn inspection(config: &Config) -> Result<String, String> {
    let file = config.inspection.rules_file.as_ref();
    let name = file.map_or_else(|| "the built-in rules".to_owned(), |path| format!("`{}`", path.display()));
    let rules = file.map(fs::read_to_string).transpose().map_err(|error| format!("{name}: {error}"))?;
    let settings = InspectorSettings { rules, message_bytes_max: config.limits.message_bytes_max };
    Inspector::new(settings).map_err(|error| format!("{name}: {error}"))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
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

    fn all_checks(directory: &DevDirectory) -> Vec<Check> {
        checks(&Config::load(&directory.config_path()).expect("valid settings"))
    }

    fn failed(directory: &DevDirectory) -> Vec<&'static str> {
        all_checks(directory).iter().filter(|check| !check.ok).map(|check| check.name).collect()
    }

    #[test]
    fn a_development_directory_passes_every_check() {
        let (_outer, directory) = directory();
        let names: Vec<_> = all_checks(&directory).iter().map(|check| check.name).collect();
        assert_eq!(names, ["settings", "certificate", "issuer", "policy", "inspection"]);
        assert_eq!(failed(&directory), [""; 0]);
    }

    #[test]
    fn a_key_of_another_certificate_is_found() {
        let (_outer, directory) = directory();
        fs::copy(directory.root().join("ca.key"), directory.root().join("server.key")).expect("copied");
        assert_eq!(failed(&directory), ["certificate"]);
    }

    #[test]
    fn a_certificate_that_is_none_is_found() {
        let (_outer, directory) = directory();
        fs::write(directory.root().join("server.pem"), "nothing").expect("written");
        assert_eq!(failed(&directory), ["certificate"]);
    }

    #[test]
    fn authorities_of_clients_that_are_none_are_found() {
        let (_outer, directory) = directory();
        let mut config = Config::load(&directory.config_path()).expect("valid settings");
        config.server.client_certificates = ClientCertificates::Required;
        config.server.client_ca_file = Some(directory.root().join("ca.pem"));
        assert!(certificate(&config.server).is_ok_and(|detail| detail.contains("required")));
        config.server.client_ca_file = Some(directory.root().join("jwks.json"));
        assert!(certificate(&config.server).is_err_and(|fault| fault.contains("jwks.json")));
        config.server.client_ca_file = None;
        assert!(certificate(&config.server).is_err(), "never for want of a file as if it were off");
    }

    #[test]
    fn a_key_set_that_is_none_is_found() {
        let (_outer, directory) = directory();
        fs::write(directory.root().join("jwks.json"), "{}").expect("written");
        assert_eq!(failed(&directory), ["issuer"]);
    }

    #[test]
    fn a_policy_that_does_not_compile_is_found_with_every_other_fault() {
        let (_outer, directory) = directory();
        fs::write(directory.policies_path().join("veribus.rego"), "package veribus\nallow if {").expect("written");
        fs::write(directory.root().join("jwks.json"), "{}").expect("written");
        assert_eq!(failed(&directory), ["issuer", "policy"]);
    }

    #[test]
    fn rules_that_are_none_are_found() {
        let (_outer, directory) = directory();
        let mut config = Config::load(&directory.config_path()).expect("valid settings");
        config.inspection.rules_file = Some(directory.root().join("veribus.toml"));
        assert!(inspection(&config).is_err());
    }
}
