//! From the configuration to the issuers whose tokens are accepted.

use std::{fs, io, path::PathBuf, time::Duration};

use thiserror::Error;

use super::supervisor::Supervisor;
use crate::{
    authenticate::{
        Access, Algorithms, AllowedPermission, ClaimPaths, GrantLimits, IssuerKeys, KeySet, KeySetError, KeySource,
        Permission, RemoteKeys, RemoteKeysSettings, SignatureAlgorithm, SourceError, TrustedIssuer, Verifier,
        VerifierSettings,
    },
    config::{IdentityConfig, IssuerConfig, KeysFrom, Preset},
    metrics::Metrics,
    model::{Clock, IdError, Issuer, RoleName, TopicPattern},
};

/// Why an issuer cannot be trusted as it is configured.
#[derive(Debug, Error)]
pub enum IssuerError {
    /// Its name is none.
    #[error(transparent)]
    Name(#[from] IdError),
    /// None of the algorithms that are verified.
    #[error("`algorithms` names `{0}`, which is none of ES256, ES384, EdDSA, RS256 and PS256")]
    Algorithm(String),
    /// A setting of what it may grant names what nobody can grant.
    #[error("`{setting}` of `{issuer}` names `{entry}`, which is {fault}")]
    Grant {
        /// Which setting.
        setting: &'static str,
        /// The issuer.
        issuer: String,
        /// What it names.
        entry: String,
        /// Why that cannot be.
        fault: &'static str,
    },
    /// Not exactly one place where its keys are.
    #[error("the issuer `{0}` does not say where its keys are")]
    NoKeys(String),
    /// Its key file cannot be read.
    #[error("cannot read the key set `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its key file is no key set.
    #[error("the key set `{path}` is not valid: {source}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeySetError,
    },
    /// Its keys cannot be fetched as it is configured.
    #[error("the keys of `{issuer}` cannot be fetched: {source}")]
    Source {
        /// The issuer.
        issuer: String,
        /// What is wrong.
        source: SourceError,
    },
}

/// Where the keys of an issuer come from.
pub(crate) enum Keys {
    /// They are here.
    Local(KeySet),
    /// They can be fetched.
    Remote(Box<KeySource>),
}

/// A verifier that trusts the configured issuers, and waits for none of them.
pub(super) fn verifier(
    config: &IdentityConfig,
    clock: Clock,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<Verifier, IssuerError> {
    let trust = |issuer| trusted(issuer, config, &clock, metrics, supervisor);
    let issuers = config.issuers.iter().map(trust).collect::<Result<_, _>>()?;
    let settings = VerifierSettings {
        leeway_s: config.leeway_s,
        cache_entries_max: config.token_cache_entries_max,
        cache_bytes_max: config.token_cache_bytes_max as u64,
        token_lifetime_s_max: config.token_lifetime_s_max,
    };
    Ok(Verifier::new(issuers, settings, clock))
}

fn trusted(
    config: &IssuerConfig,
    identity: &IdentityConfig,
    clock: &Clock,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<TrustedIssuer, IssuerError> {
    let issuer = Issuer::parse(&config.issuer)?;
    let may_grant = may_grant(config)?;
    let keys = match keys(config)? {
        Keys::Local(keys) => {
            keys.skipped().tell(&issuer, metrics);
            keys.into()
        }
        Keys::Remote(source) => {
            let settings = remote_settings(identity);
            let name = format!("keys of {issuer}");
            let spawn = |task| supervisor.spawn(name, task).abort_handle();
            let keys = RemoteKeys::start(issuer.clone(), *source, settings, clock.clone(), metrics.clone(), spawn);
            IssuerKeys::Remote(keys)
        }
    };
    Ok(TrustedIssuer {
        issuer,
        audiences: config.audience.to_vec(),
        keys,
        claims: ClaimPaths {
            agent: config.agent_path().to_owned(),
            token_id: config.token_id_path().to_owned(),
            roles: config.roles_path().to_owned(),
            permissions: config.permissions_paths(),
            bearer_typ_outweighs_nonce: config.preset == Preset::Keycloak,
        },
        require_at_jwt: config.require_at_jwt,
        require_bound: config.require_bound.unwrap_or(identity.require_bound),
        may_grant,
    })
}

const fn remote_settings(identity: &IdentityConfig) -> RemoteKeysSettings {
    RemoteKeysSettings {
        ttl: Duration::from_secs(identity.keys_ttl_s),
        refresh_interval_min: Duration::from_secs(identity.keys_refresh_interval_s_min),
    }
}

/// An issuer's keys, or where to fetch them; fetches nothing.
pub(crate) fn keys(config: &IssuerConfig) -> Result<Keys, IssuerError> {
    let access = Access {
        algorithms: algorithms(config)?,
        allow_loopback_http: config.allow_loopback_http,
        ca_file: config.ca_file.clone(),
    };
    let source = match config.keys_from().ok_or_else(|| IssuerError::NoKeys(config.issuer.clone()))? {
        KeysFrom::File(path) => {
            let path = path.to_owned();
            let bytes = fs::read(&path).map_err(|source| IssuerError::Read { path: path.clone(), source })?;
            let keys = KeySet::from_json(&bytes, &access.algorithms);
            return Ok(Keys::Local(keys.map_err(|source| IssuerError::Keys { path, source })?));
        }
        KeysFrom::Url(url) => KeySource::jwks_url(url, access),
        KeysFrom::Discovery => KeySource::discovery(Issuer::parse(&config.issuer)?, access),
    };
    let issuer = config.issuer.clone();
    source.map(|source| Keys::Remote(Box::new(source))).map_err(|source| IssuerError::Source { issuer, source })
}

fn algorithms(config: &IssuerConfig) -> Result<Algorithms, IssuerError> {
    let Some(names) = &config.algorithms else { return Ok(Algorithms::default()) };
    let read = |name: &String| SignatureAlgorithm::from_name(name).ok_or_else(|| IssuerError::Algorithm(name.clone()));
    names.iter().map(read).collect::<Result<_, _>>().map(Algorithms::new)
}

/// What an issuer may grant.
pub(crate) fn may_grant(config: &IssuerConfig) -> Result<GrantLimits, IssuerError> {
    let read_permission = |text: &str| {
        AllowedPermission::parse(text).ok_or("no permission: write it as in a token, or `admin.*` or `audit.*`")
    };
    let read_role = |text: &str| match Permission::parse(text) {
        Some(_) => Err("a permission, and belongs in `permissions_allowed`"),
        None => RoleName::parse(text).map_err(|_| "no role"),
    };
    let read_scope = |text: &str| TopicPattern::parse(text).map_err(|_| "no pattern of scopes");
    Ok(GrantLimits {
        permissions: allowed(config, "permissions_allowed", config.permissions_allowed.as_deref(), read_permission)?,
        roles: allowed(config, "roles_allowed", config.roles_allowed.as_deref(), read_role)?,
        decrypt: allowed(config, "decrypt_allowed", config.decrypt_allowed.as_deref(), read_scope)?,
        ..GrantLimits::default()
    })
}

fn allowed<T>(
    config: &IssuerConfig,
    setting: &'static str,
    entries: Option<&[String]>,
    read: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Option<Vec<T>>, IssuerError> {
    let read = |entry: &String| {
        read(entry).map_err(|fault| {
            let (issuer, entry) = (config.issuer.clone(), entry.clone());
            IssuerError::Grant { setting, issuer, entry, fault }
        })
    };
    entries.map(|entries| entries.iter().map(read).collect()).transpose()
}
