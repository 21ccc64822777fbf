//! `[identity]`: whose tokens are accepted, and how they are read.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::SettingFault;
use crate::model::Issuer;

/// `[identity]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// The issuers whose tokens are accepted, by their `iss`.
    pub issuers: Vec<IssuerConfig>,
    /// How many verified tokens are remembered.
    #[serde(default = "default_token_cache")]
    pub token_cache_entries_max: usize,
    /// How many bytes they may take in memory, together, by their claims.
    #[serde(default = "default_token_cache_bytes")]
    pub token_cache_bytes_max: usize,
    /// How long after `iat` the `exp` of a token may lie. A revocation of tokens ends by itself once they must have run out.
    #[serde(default = "default_token_lifetime")]
    pub token_lifetime_s_max: u64,
    /// How many revocations may be in force.
    #[serde(default = "default_revocations")]
    pub revocations_max: usize,
    /// Whether tokens must be bound to a client certificate or a key, so that a stolen one is worth nothing.
    #[serde(default)]
    pub require_bound: bool,
    /// How old a DPoP proof may be.
    #[serde(default = "default_dpop_max_age")]
    pub dpop_max_age_s: u64,
    /// How many DPoP proofs are remembered, so that none counts twice. Where no more can be, none is accepted.
    #[serde(default = "default_dpop_proofs")]
    pub dpop_proofs_max: usize,
    /// How many of one agent.
    #[serde(default = "default_dpop_proofs_per_agent")]
    pub dpop_proofs_per_agent_max: usize,
    /// How long a fetched key counts after its issuer last listed it; it is fetched anew at about half of that.
    #[serde(default = "default_keys_ttl")]
    pub keys_ttl_s: u64,
    /// How often, at most, tokens with a key id that is not known make the broker ask an issuer once more.
    #[serde(default = "default_keys_refresh_interval")]
    pub keys_refresh_interval_s_min: u64,
}

/// `[[identity.issuers]]`: exactly one of `discovery`, `jwks_url` and `jwks_file` says where the keys are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The `iss` claim, exactly.
    pub issuer: String,
    /// The `aud` claims that name this broker: one, or a list.
    pub audience: OneOrMore,
    /// Whether the keys are found by the issuer's `.well-known/openid-configuration` (or, where there is none, its
    /// `.well-known/oauth-authorization-server`), whose `issuer` must be the same.
    #[serde(default)]
    pub discovery: bool,
    /// The URL of the issuer's public keys, a JWK Set (RFC 7517).
    pub jwks_url: Option<String>,
    /// The issuer's public keys, in a file.
    pub jwks_file: Option<PathBuf>,
    /// As `identity.require_bound`, for the tokens of this issuer.
    pub require_bound: Option<bool>,
    /// The permissions that the issuer may grant, as in tokens, or `admin.*` or `audit.*` for all of a kind; all if absent.
    /// What a token of it claims beyond does not count.
    pub permissions_allowed: Option<Vec<String>>,
    /// The roles that it may grant; all if absent.
    pub roles_allowed: Option<Vec<String>>,
    /// The scopes of shared state whose values it may let its agents see in clear; all if absent.
    pub decrypt_allowed: Option<Vec<String>>,
    /// The algorithms that the issuer may sign with: any of `ES256`, `ES384`, `EdDSA`, `RS256`, `PS256`; all if absent.
    pub algorithms: Option<Vec<String>>,
    /// Where the claims stand, by the maker of the provider; each of the following settings with `claim` in its name wins over it.
    #[serde(default)]
    pub preset: Preset,
    /// Where the agent id stands; `sub` by default. Of the same issuer, no two agents may have the same.
    pub agent_claim: Option<String>,
    /// Where the token's own id stands; `jti` by default.
    pub token_id_claim: Option<String>,
    /// Where roles stand, for example `realm_access.roles`; `roles` by default.
    pub roles_claim: Option<String>,
    /// Where permissions stand, one claim or several: a list, or a space-separated string as OAuth's `scope`;
    /// `permissions` by default.
    pub permissions_claim: Option<OneOrMore>,
    /// Where the types of messages stand that a token may send; `types` by default.
    pub types_claim: Option<String>,
    /// Where the scopes of shared state stand whose values a token may see in clear; `decrypt` by default.
    pub decrypt_claim: Option<String>,
    /// Whether the token's `typ` must say that it is an access token (`at+jwt`, RFC 9068).
    #[serde(default)]
    pub require_at_jwt: bool,
    /// Whether the keys may be fetched over plain HTTP from this very machine (`localhost`, `127.0.0.0/8`, `::1`).
    #[serde(default)]
    pub allow_loopback_http: bool,
    /// The only authority, PEM, whose certificates the issuer may have; those that the system trusts if absent.
    pub ca_file: Option<PathBuf>,
}

/// Where a provider's tokens say what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// `sub`, `jti`, `roles`, `permissions`: as `veribus token issue` makes them.
    #[default]
    Veribus,
    /// Keycloak: realm roles from `realm_access.roles`, permissions from `scope`.
    Keycloak,
    /// The same with clients as agents, by `client_id`: only tokens of their own service accounts are accepted.
    KeycloakClients,
    /// Microsoft Entra ID: the agent from `oid`, the token id from `uti` (there is no `jti`), roles from `roles`,
    /// permissions from `scp` and from app `roles` that read as permissions, since an application has no `scp`.
    Entra,
    /// Any OAuth 2.0 server: permissions from `scope`.
    Oauth,
}

/// One text, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several.
    More(Vec<String>),
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysFrom<'a> {
    /// Where the issuer says.
    Discovery,
    /// At this URL.
    Url(&'a str),
    /// In this file.
    File(&'a Path),
}

impl OneOrMore {
    /// The texts.
    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::More(more) => more.clone(),
        }
    }
}

impl From<&str> for OneOrMore {
    fn from(text: &str) -> Self {
        Self::One(text.to_owned())
    }
}

impl Preset {
    const fn agent(self) -> &'static str {
        match self {
            Self::Entra => "oid",
            Self::KeycloakClients => "client_id",
            Self::Veribus | Self::Keycloak | Self::Oauth => "sub",
        }
    }

    const fn token_id(self) -> &'static str {
        match self {
            Self::Entra => "uti",
            Self::Veribus | Self::Keycloak | Self::KeycloakClients | Self::Oauth => "jti",
        }
    }

    const fn roles(self) -> &'static str {
        match self {
            Self::Keycloak | Self::KeycloakClients => "realm_access.roles",
            Self::Veribus | Self::Entra | Self::Oauth => "roles",
        }
    }

    const fn permissions(self) -> &'static [&'static str] {
        match self {
            Self::Veribus => &["permissions"],
            Self::Keycloak | Self::KeycloakClients | Self::Oauth => &["scope"],
            Self::Entra => &["scp", "roles"],
        }
    }
}

impl IssuerConfig {
    /// Where the keys are; `None` unless exactly one setting says so.
    #[must_use]
    pub fn keys_from(&self) -> Option<KeysFrom<'_>> {
        match (self.discovery, &self.jwks_url, &self.jwks_file) {
            (true, None, None) => Some(KeysFrom::Discovery),
            (false, Some(url), None) => Some(KeysFrom::Url(url)),
            (false, None, Some(file)) => Some(KeysFrom::File(file)),
            _ => None,
        }
    }

    /// Where the agent id stands.
    #[must_use]
    pub fn agent_path(&self) -> &str {
        self.agent_claim.as_deref().unwrap_or(self.preset.agent())
    }

    /// Where the token's own id stands.
    #[must_use]
    pub fn token_id_path(&self) -> &str {
        self.token_id_claim.as_deref().unwrap_or(self.preset.token_id())
    }

    /// Where roles stand.
    #[must_use]
    pub fn roles_path(&self) -> &str {
        self.roles_claim.as_deref().unwrap_or(self.preset.roles())
    }

    /// Where permissions stand.
    #[must_use]
    pub fn permissions_paths(&self) -> Vec<String> {
        let preset = || self.preset.permissions().iter().map(|&path| path.to_owned()).collect();
        self.permissions_claim.as_ref().map_or_else(preset, OneOrMore::to_vec)
    }

    /// Where the types of messages stand that a token may send.
    #[must_use]
    pub fn types_path(&self) -> &str {
        self.types_claim.as_deref().unwrap_or("types")
    }

    /// Where the scopes of shared state stand whose values a token may see in clear.
    #[must_use]
    pub fn decrypt_path(&self) -> &str {
        self.decrypt_claim.as_deref().unwrap_or("decrypt")
    }

    /// The files that must be there, with the settings that name them.
    pub(super) fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let keys = self.jwks_file.iter().map(|file| ("identity.issuers.jwks_file", file));
        keys.chain(self.ca_file.iter().map(|file| ("identity.issuers.ca_file", file)))
    }

    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.jwks_file.iter_mut().chain(self.ca_file.iter_mut())
    }

    fn faults(&self) -> Vec<SettingFault> {
        let mut faults = Vec::new();
        if let Err(error) = Issuer::parse(&self.issuer) {
            faults.push(("identity.issuers.issuer", format!("is not an issuer: {error}")));
        }
        let audiences = self.audience.to_vec();
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            faults.push(("identity.issuers.audience", "is empty".to_owned()));
        }
        if self.keys_from().is_none() {
            let fault =
                format!("`{}` needs exactly one of `discovery = true`, `jwks_url` and `jwks_file`", self.issuer);
            faults.push(("identity.issuers", fault));
        }
        if self.algorithms.as_ref().is_some_and(Vec::is_empty) {
            faults.push(("identity.issuers.algorithms", "is empty, so no token could be verified".to_owned()));
        }
        let is_local = self.jwks_file.is_some();
        if is_local && (self.ca_file.is_some() || self.allow_loopback_http) {
            let fault = "goes with keys that are fetched, not with `jwks_file`".to_owned();
            let key = if self.ca_file.is_some() { "ca_file" } else { "allow_loopback_http" };
            faults.push(("identity.issuers", format!("`{key}` {fault}")));
        }
        faults
    }
}

impl IdentityConfig {
    /// The settings that cannot be, and what is wrong with them.
    pub(super) fn faults(&self) -> Vec<SettingFault> {
        if self.issuers.is_empty() {
            return vec![("identity.issuers", "names no issuer, so nobody could connect".to_owned())];
        }
        let mut faults: Vec<_> = self.issuers.iter().flat_map(IssuerConfig::faults).collect();
        let mut names: Vec<_> = self.issuers.iter().map(|one| &one.issuer).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find_map(|pair| pair.first().filter(|one| pair.last() == Some(one))) {
            faults.push(("identity.issuers.issuer", format!("`{twice}` is there twice")));
        }
        faults
    }
}

const fn default_token_cache() -> usize {
    65_536
}
const fn default_token_cache_bytes() -> usize {
    64 << 20
}
const fn default_dpop_max_age() -> u64 {
    60
}
const fn default_dpop_proofs() -> usize {
    131_072
}
const fn default_dpop_proofs_per_agent() -> usize {
    16_384
}
const fn default_revocations() -> usize {
    100_000
}
/// How long a token may be good for where nothing else is set, in seconds.
pub const TOKEN_LIFETIME_S_MAX: u64 = 86_400;

const fn default_token_lifetime() -> u64 {
    TOKEN_LIFETIME_S_MAX
}
const fn default_keys_ttl() -> u64 {
    600
}
const fn default_keys_refresh_interval() -> u64 {
    30
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(issuers: &str) -> Result<IdentityConfig, String> {
        let config: IdentityConfig = toml::from_str(issuers).map_err(|error| error.to_string())?;
        match config.faults().first() {
            Some((key, fault)) => Err(format!("`{key}` {fault}")),
            None => Ok(config),
        }
    }

    fn issuer(settings: &str) -> Result<IssuerConfig, String> {
        let text = format!("[[issuers]]\nissuer = \"https://a.example\"\naudience = \"veribus\"\n{settings}\n");
        identity(&text).map(|mut config| config.issuers.remove(0))
    }

    #[test]
    fn an_issuer_has_its_keys_in_exactly_one_place() {
        assert_eq!(issuer("discovery = true").expect("one").keys_from(), Some(KeysFrom::Discovery));
        assert_eq!(issuer("jwks_url = \"https://a\"").expect("one").keys_from(), Some(KeysFrom::Url("https://a")));
        let file = issuer("jwks_file = \"k\"").expect("one");
        assert_eq!(file.keys_from(), Some(KeysFrom::File(Path::new("k"))));
        for settings in
            ["", "discovery = false", "discovery = true\njwks_file = \"k\"", "jwks_url = \"u\"\njwks_file = \"k\""]
        {
            let error = issuer(settings).expect_err(settings);
            assert!(error.contains("exactly one of") && error.contains("https://a.example"), "{error}");
        }
    }

    #[test]
    fn a_preset_says_where_claims_stand_and_a_setting_wins_over_it() {
        let paths = |settings: &str| {
            let issuer = issuer(&format!("discovery = true\n{settings}")).expect("valid");
            let [agent, id, roles] = [issuer.agent_path(), issuer.token_id_path(), issuer.roles_path()];
            format!("{agent} {id} {roles} {}", issuer.permissions_paths().join("+"))
        };
        assert_eq!(paths(""), "sub jti roles permissions");
        assert_eq!(paths("preset = \"keycloak\""), "sub jti realm_access.roles scope");
        assert_eq!(paths("preset = \"keycloak-clients\""), "client_id jti realm_access.roles scope");
        assert_eq!(paths("preset = \"entra\""), "oid uti roles scp+roles");
        assert_eq!(paths("preset = \"oauth\""), "sub jti roles scope");
        assert_eq!(
            paths("preset = \"entra\"\nagent_claim = \"azp\"\npermissions_claim = [\"scp\"]\nroles_claim = \"r\""),
            "azp uti r scp"
        );
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        for (settings, word) in [
            ("discovery = true\nalgorithms = []", "algorithms"),
            ("discovery = true\npreset = \"okta\"", "okta"),
            ("jwks_file = \"k\"\nca_file = \"c\"", "ca_file"),
            ("jwks_file = \"k\"\nallow_loopback_http = true", "allow_loopback_http"),
            ("discovery = true\ndiscover = true", "discover"),
        ] {
            let error = issuer(settings).expect_err(settings);
            assert!(error.contains(word), "{error}");
        }
        let no_audience = "[[issuers]]\nissuer = \"https://a.example\"\naudience = []\ndiscovery = true";
        assert!(identity(no_audience).expect_err("nobody").contains("identity.issuers.audience"));
    }

    #[test]
    fn an_issuer_stands_there_once() {
        let one = "[[issuers]]\nissuer = \"https://a.example\"\naudience = \"v\"\ndiscovery = true\n";
        assert!(identity(&format!("{one}{one}")).expect_err("twice").contains("twice"));
    }
}
