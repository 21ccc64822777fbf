//! `veribus config`: is the configuration, and everything that it names, fit to start with?

use std::{fs, path::Path, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use comfy_table::{Cell, Color};
use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::Serialize;

use super::{failure::Failure, output};
use crate::{
    authenticate::KeySet,
    config::{Config, IssuerConfig},
    decide::Bundle,
};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the configuration, its certificate, key sets and policy
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object per check
    #[arg(long)]
    json: bool,
}

pub(super) fn run(ConfigCommand::Check(args): ConfigCommand) -> Result<(), Failure> {
    let checks = match Config::load(&args.config) {
        Ok(config) => checks(&config),
        Err(error) => vec![Check::new("settings", Err(error.to_string()))],
    };
    print(&checks, args.json)?;
    if checks.iter().all(|check| check.ok) { Ok(()) } else { Err(Failure::ReportedUsage) }
}

/// Loads a configuration that passes every check, or says what is wrong with it.
pub(super) fn checked(path: &Path) -> Result<Config, String> {
    let config = Config::load(path).map_err(|error| error.to_string())?;
    faults(&config)?;
    Ok(config)
}

/// The first fault, if there is one.
pub(super) fn faults(config: &Config) -> Result<(), String> {
    match checks(config).into_iter().find(|check| !check.ok) {
        Some(check) => Err(format!("{}: {}", check.name, check.detail)),
        None => Ok(()),
    }
}

/// What was looked at, and what came of it.
#[derive(Debug, Serialize)]
struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Check {
    fn new(name: &'static str, outcome: Result<String, String>) -> Self {
        let ok = outcome.is_ok();
        Self { name, ok, detail: outcome.unwrap_or_else(|fault| fault) }
    }
}

fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![
        Check::new("settings", Ok(format!("node `{}`, listening on {}", config.node.name, config.server.listen))),
        Check::new("certificate", certificate(&config.server.certificate_file, &config.server.private_key_file)),
    ];
    checks.extend(config.identity.issuers.iter().map(|issuer| Check::new("issuer", key_set(issuer))));
    let evaluation_max = Duration::from_millis(config.policy.evaluation_ms_max);
    checks.push(Check::new("policy", policy(&config.policy.directory, evaluation_max)));
    checks
}

fn certificate(certificate: &Path, key: &Path) -> Result<String, String> {
    let invalid = |path: &Path, fault: &dyn ToString| format!("`{}`: {}", path.display(), fault.to_string());
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| invalid(certificate, &error))?;
    if chain.is_empty() {
        return Err(invalid(certificate, &"holds no PEM certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| invalid(key, &error))?;
    let count = chain.len();
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("`{}` is not the key of `{}`", key.display(), certificate.display())
        }
        other => invalid(certificate, &other),
    })?;
    Ok(format!("`{}`, {count} in the chain, its key fits", certificate.display()))
}

fn key_set(issuer: &IssuerConfig) -> Result<String, String> {
    let invalid = |fault: &dyn ToString| format!("`{}`: {}", issuer.jwks_file.display(), fault.to_string());
    let bytes = fs::read(&issuer.jwks_file).map_err(|error| invalid(&error))?;
    let keys = KeySet::from_json(&bytes).map_err(|error| invalid(&error))?;
    Ok(format!("`{}`, audience `{}`, keys: {}", issuer.issuer, issuer.audience, keys.len()))
}

fn policy(directory: &Path, evaluation_max: Duration) -> Result<String, String> {
    let bundle = Bundle::load(directory, evaluation_max).map_err(|error| error.to_string())?;
    let digest = data_encoding::HEXLOWER.encode(bundle.sha256());
    Ok(format!("`{}`, files: {}, SHA-256 {digest}", directory.display(), bundle.files()))
}

fn print(checks: &[Check], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return Ok(checks.iter().try_for_each(output::json)?);
    }
    let mut table = output::new_table(["", "CHECK", "DETAIL"]);
    for check in checks {
        let (mark, color) = if check.ok { ("✓", Color::Green) } else { ("✗", Color::Red) };
        table.add_row([Cell::new(mark).fg(color), Cell::new(check.name), Cell::new(&check.detail)]);
    }
    Ok(output::table(&table)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::{DevDirectory, DevOptions};

    fn directory() -> (tempfile::TempDir, DevDirectory) {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = DevDirectory::create_or_reuse(outer.path(), DevOptions::default()).expect("made");
        (outer, directory)
    }

    fn fault(directory: &DevDirectory) -> String {
        checked(&directory.config_path()).expect_err("a fault")
    }

    #[test]
    fn a_development_directory_passes_every_check() {
        let (_outer, directory) = directory();
        let config = checked(&directory.config_path()).expect("no fault");
        let names: Vec<_> = checks(&config).iter().map(|check| check.name).collect();
        assert_eq!(names, ["settings", "certificate", "issuer", "policy"]);
    }

    #[test]
    fn a_key_of_another_certificate_is_found() {
        let (_outer, directory) = directory();
        fs::copy(directory.root().join("ca.key"), directory.root().join("server.key")).expect("copied");
        assert!(fault(&directory).contains("server.key` is not the key of `"), "{}", fault(&directory));
    }

    #[test]
    fn a_certificate_that_is_none_is_found() {
        let (_outer, directory) = directory();
        fs::write(directory.root().join("server.pem"), "nothing").expect("written");
        assert!(fault(&directory).ends_with("server.pem`: holds no PEM certificate"), "{}", fault(&directory));
    }

    #[test]
    fn a_key_set_that_is_none_is_found() {
        let (_outer, directory) = directory();
        fs::write(directory.root().join("jwks.json"), "{}").expect("written");
        assert!(fault(&directory).starts_with("issuer: `"), "{}", fault(&directory));
    }

    #[test]
    fn a_policy_that_does_not_compile_is_found() {
        let (_outer, directory) = directory();
        fs::write(directory.policies_path().join("veribus.rego"), "package veribus\nallow if {").expect("written");
        assert!(fault(&directory).starts_with("policy: "), "{}", fault(&directory));
    }

    #[test]
    fn a_configuration_that_is_not_there_is_found() {
        let error = checked(Path::new("/nowhere/veribus.toml")).expect_err("nothing there");
        assert!(error.contains("`/nowhere/veribus.toml`"), "{error}");
    }
}
