//! From the configuration to the issuers whose tokens are accepted.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{
    reload::{Loaded, Reloadable, Subject, WatchedFiles},
    supervisor::Supervisor,
};
use crate::{
    authenticate::{
        Access, Algorithms, AllowedPermission, ClaimPaths, GrantLimits, IssuerKeys, KeySet, KeySetError, KeySource,
        LocalKeys, Permission, RemoteKeys, RemoteKeysSettings, SignatureAlgorithm, SourceError, TrustedIssuer,
        Verifier, VerifierSettings,
    },
    config::{IdentityConfig, IssuerConfig, KeysFrom, Preset},
    metrics::Metrics,
    model::{Clock, IdError, Issuer, TopicPattern},
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
    Local(Box<KeyFile>),
    /// They can be fetched.
    Remote(Box<KeySource>),
}

/// The keys in a file, where they may be read again.
pub(crate) struct KeyFile {
    path: PathBuf,
    algorithms: Algorithms,
    pub(crate) keys: KeySet,
    sha256: [u8; 32],
    watched: WatchedFiles,
}

impl KeyFile {
    fn read(path: &Path, algorithms: Algorithms) -> Result<Self, IssuerError> {
        let (path, watched) = (path.to_owned(), WatchedFiles::bytes(vec![path.to_owned()]));
        let bytes = fs::read(&path).map_err(|source| IssuerError::Read { path: path.clone(), source })?;
        let keys = KeySet::from_json(&bytes, &algorithms);
        let keys = keys.map_err(|source| IssuerError::Keys { path: path.clone(), source })?;
        Ok(Self { path, algorithms, keys, sha256: Sha256::digest(&bytes).into(), watched })
    }

    /// Takes what the file holds for the keys of `issuer`, which can be loaded anew.
    fn watched(self, issuer: &Issuer, metrics: &Metrics) -> (LocalKeys, Reloadable) {
        let Self { path, algorithms, keys, sha256, watched } = self;
        let keys = LocalKeys::from(keys);
        let (known, name, metrics) = (keys.clone(), issuer.clone(), metrics.clone());
        let load = move || {
            let Self { keys, sha256, .. } = Self::read(&path, algorithms.clone()).map_err(|error| error.to_string())?;
            let (known, name, metrics) = (known.clone(), name.clone(), metrics.clone());
            let put_in_force = Box::new(move || {
                keys.skipped().tell(&name, &metrics);
                for withdrawn in known.replace(keys) {
                    tracing::info!(issuer = %name, kid = withdrawn, "a key was withdrawn");
                }
            });
            Ok(Loaded { sha256, put_in_force })
        };
        (keys, Reloadable::new(Subject::KeySet, issuer.as_str(), watched, sha256, load))
    }
}

/// A verifier that trusts the configured issuers, and waits for none of them; and those of their keys that come from files.
pub(super) fn verifier(
    config: &IdentityConfig,
    clock: Clock,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<(Verifier, Vec<Reloadable>), IssuerError> {
    let mut files = Vec::new();
    let trust = |issuer| trusted(issuer, config, &clock, metrics, supervisor, &mut files);
    let issuers = config.issuers.iter().map(trust).collect::<Result<_, _>>()?;
    let settings = VerifierSettings {
        cache_entries_max: config.token_cache_entries_max,
        cache_bytes_max: config.token_cache_bytes_max as u64,
        token_lifetime_s_max: config.token_lifetime_s_max,
    };
    Ok((Verifier::new(issuers, settings, clock), files))
}

fn trusted(
    config: &IssuerConfig,
    identity: &IdentityConfig,
    clock: &Clock,
    metrics: &Metrics,
    supervisor: &Supervisor,
    files: &mut Vec<Reloadable>,
) -> Result<TrustedIssuer, IssuerError> {
    let issuer = Issuer::parse(&config.issuer)?;
    let may_grant = may_grant(config)?;
    let keys = match keys(config)? {
        Keys::Local(file) => {
            file.keys.skipped().tell(&issuer, metrics);
            let (keys, reloadable) = file.watched(&issuer, metrics);
            files.push(reloadable);
            IssuerKeys::Local(keys)
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
            types: config.types_path().to_owned(),
            decrypt: config.decrypt_path().to_owned(),
            service_accounts_only: config.preset == Preset::KeycloakClients,
            bearer_typ_outweighs_nonce: matches!(config.preset, Preset::Keycloak | Preset::KeycloakClients),
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
            return KeyFile::read(path, access.algorithms).map(|file| Keys::Local(Box::new(file)));
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
        None if text.is_empty() => Err("no role"),
        None => Ok(text.to_owned()),
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
