//! Who is calling. Only [`Verifier`], in this file, makes an [`Identity`], and only [`Authenticator`](super::Authenticator)
//! hands one out.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{Weighter, sync::Cache};
use serde_json::{Map, Value};

use super::{
    claims,
    confirmation::Confirmation,
    delegation::{self, DelegatedActor},
    error::TokenError,
    grants::{GrantLimits, Grants},
    keys::{IssuerKeys, KeyStanding},
    permission::{Permission, Permissions},
    revocation::Revocations,
    token::{self, BearerToken},
};
use crate::model::{AgentId, Clock, Destination, Issuer, Scope, TokenId, TopicPattern, UnixMicros, UnixSeconds};

/// How far ahead `iat` and `nbf` may lie, in seconds: the clock of an issuer may be ahead of ours.
pub const AHEAD_S_MAX: i64 = 60;

/// A caller whose token was verified.
// INVARIANT: no public field, `Default`, `Deserialize`, `From` or test-only maker.
pub struct Identity {
    issuer: Issuer,
    agent: AgentId,
    roles: Roles,
    permissions: Permissions,
    types: Option<Vec<String>>,
    decrypt: Vec<TopicPattern>,
    token_id: TokenId,
    token_sha256: [u8; 32],
    issued_at: UnixSeconds,
    not_before: UnixSeconds,
    expires_at: UnixSeconds,
    key: Arc<KeyStanding>,
    confirmation: Option<Confirmation>,
    actors: Vec<DelegatedActor>,
    claims: Map<String, Value>,
    revocations: Arc<Revocations>,
    /// At which generation of the revocations this was last found good.
    unrevoked_at: AtomicU64,
    /// See [`retained_bytes`].
    retained_bytes: u64,
}

impl Identity {
    /// Who vouches for the caller.
    #[must_use]
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The caller's id with that issuer.
    #[must_use]
    pub const fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The caller's roles, as the issuer spells them. Not all of them need be names that a destination can have.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        &self.roles.listed
    }

    /// What the token permits.
    #[must_use]
    pub const fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// Whether the token may send messages of this type: any, if it has no `types` claim.
    #[must_use]
    pub fn may_send_type(&self, kind: &str) -> bool {
        self.types.as_ref().is_none_or(|types| types.iter().any(|one| one == kind))
    }

    /// The scopes of shared state whose values the token may see in clear.
    #[must_use]
    pub fn decrypt(&self) -> &[TopicPattern] {
        &self.decrypt
    }

    /// Whether the token may see the values of this scope in clear.
    #[must_use]
    pub fn may_decrypt(&self, scope: &Scope) -> bool {
        self.decrypt.iter().any(|pattern| pattern.matches(scope.as_topic()))
    }

    /// The token's `jti`.
    #[must_use]
    pub const fn token_id(&self) -> &TokenId {
        &self.token_id
    }

    /// SHA-256 of the token's JWS signing input.
    #[must_use]
    pub const fn token_sha256(&self) -> &[u8; 32] {
        &self.token_sha256
    }

    /// When the token was issued.
    #[must_use]
    pub const fn issued_at(&self) -> UnixSeconds {
        self.issued_at
    }

    /// When the token runs out.
    #[must_use]
    pub const fn expires_at(&self) -> UnixSeconds {
        self.expires_at
    }

    /// What the token is bound to, if anything. Whoever has the identity has shown it.
    #[must_use]
    pub const fn confirmation(&self) -> Option<&Confirmation> {
        self.confirmation.as_ref()
    }

    /// Who acts for the agent, the current actor first. Only that one may count for access; the others are history
    /// (RFC 8693, section 4.1).
    #[must_use]
    pub fn actors(&self) -> &[DelegatedActor] {
        &self.actors
    }

    /// All claims, for the policy.
    #[must_use]
    pub const fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Whether a message from `sender` with this destination is meant for this caller: it holds the role, or it is that
    /// agent of the sender's own issuer.
    #[must_use]
    pub fn is_meant_by(&self, destination: &Destination, sender: &Self) -> bool {
        match destination {
            Destination::Agent(agent) => *agent == self.agent && sender.issuer == self.issuer,
            Destination::Role(role) => self.roles.contains(role.as_str()),
        }
    }

    /// Whether the token is good at this moment: asked again for every message.
    ///
    /// # Errors
    /// [`TokenError::Expired`] from `exp` on (RFC 7519, section 4.1.4: "on or after"), [`TokenError::NotYetValid`] more than
    /// [`AHEAD_S_MAX`] before `nbf` or `iat`. [`TokenError::KeyWithdrawn`] once the key that vouched for
    /// the token no longer counts. [`TokenError::Revoked`].
    pub fn check_standing(&self, at: UnixMicros) -> Result<(), TokenError> {
        let now = at.seconds().0;
        if now >= self.expires_at.0 {
            return Err(TokenError::Expired);
        }
        if now.saturating_add(AHEAD_S_MAX) < self.not_before.0.max(self.issued_at.0) {
            return Err(TokenError::NotYetValid);
        }
        if !self.key.is_good(at) {
            return Err(TokenError::KeyWithdrawn);
        }
        if self.unrevoked_at.load(Ordering::Relaxed) == self.revocations.generation() {
            return Ok(());
        }
        if let Some(generation) = self.revocations.look_up(self, at.seconds()).map_err(|_| TokenError::Revoked)? {
            self.unrevoked_at.store(generation, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The last second at which the token is still good, counted from `now`; zero if it is not.
    #[must_use]
    pub fn remaining(&self, now: UnixMicros) -> std::time::Duration {
        let end = self.expires_at.0.saturating_mul(1_000_000);
        std::time::Duration::from_micros(u64::try_from(end.saturating_sub(now.0)).unwrap_or(0))
    }
}

/// As the token lists them, which may be some thousand, and sorted, since it is asked for each message and recipient whether one is
/// among them.
struct Roles {
    listed: Vec<String>,
    sorted: Box<[u16]>,
}

impl Roles {
    fn new(listed: Vec<String>) -> Self {
        // A token is shorter than what `u16` counts.
        let mut sorted: Vec<u16> = (0..u16::try_from(listed.len()).unwrap_or(u16::MAX)).collect();
        sorted.sort_unstable_by_key(|place| listed.get(usize::from(*place)));
        Self { listed, sorted: sorted.into() }
    }

    fn contains(&self, role: &str) -> bool {
        let name = |place: &u16| self.listed.get(usize::from(*place)).map(String::as_str);
        self.sorted.binary_search_by(|place| name(place).cmp(&Some(role))).is_ok()
    }
}

/// Whose a token is that is refused although its signature is good: for the record, and good for nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Who vouches for it.
    pub issuer: Issuer,
    /// Of which agent.
    pub agent: AgentId,
    /// The token's `jti`.
    pub token_id: TokenId,
    /// SHA-256 of its JWS signing input.
    pub token_sha256: [u8; 32],
}

impl From<&Identity> for Bearer {
    fn from(identity: &Identity) -> Self {
        let Identity { issuer, agent, token_id, token_sha256, .. } = identity;
        let (issuer, agent, token_id) = (issuer.clone(), agent.clone(), token_id.clone());
        Self { issuer, agent, token_id, token_sha256: *token_sha256 }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Identity");
        shown.field("issuer", &self.issuer).field("agent", &self.agent).field("token_id", &self.token_id);
        shown.finish_non_exhaustive()
    }
}

/// What a verified token says of its bearer, before it is known whether the bearer is the one that it is bound to. That
/// is a matter of each presentation, while the token's signature is remembered.
// INVARIANT: the identity comes out only through `Verified::bound`.
pub(super) struct Verified(Arc<Identity>);

impl Verified {
    /// The identity, if `check` finds that it is presented by whom it is bound to.
    pub(super) fn bound(
        self,
        check: impl FnOnce(&Identity) -> Result<(), TokenError>,
    ) -> Result<Arc<Identity>, TokenError> {
        check(&self.0)?;
        Ok(self.0)
    }
}

/// An issuer whose tokens are accepted.
pub struct TrustedIssuer {
    /// Its `iss`.
    pub issuer: Issuer,
    /// Each `aud` that names this broker.
    pub audiences: Vec<String>,
    /// Its public keys.
    pub keys: IssuerKeys,
    /// Where it says what in the claims.
    pub claims: ClaimPaths,
    /// Whether only tokens count whose `typ` says that they are access tokens (RFC 9068, section 4).
    pub require_at_jwt: bool,
    /// Whether its tokens must be bound to a certificate or a key.
    pub require_bound: bool,
    /// What its tokens may grant.
    pub may_grant: GrantLimits,
}

/// Where an issuer's tokens say what: the names of claims, or dotted paths to them.
#[derive(Debug, Clone)]
pub struct ClaimPaths {
    /// The agent id.
    pub agent: String,
    /// The token's own id.
    pub token_id: String,
    /// Roles.
    pub roles: String,
    /// Permissions: a list, or words in one string; all of them count.
    pub permissions: Vec<String>,
    /// The types of messages that the token may send.
    pub types: String,
    /// The scopes of shared state whose values it may see in clear.
    pub decrypt: String,
    /// Whether only the service accounts of Keycloak's clients are accepted.
    pub service_accounts_only: bool,
    /// Whether the claim `typ: Bearer` says that a token with a `nonce` is an access token, as with Keycloak before 25.
    pub bearer_typ_outweighs_nonce: bool,
}

impl Default for ClaimPaths {
    fn default() -> Self {
        let [agent, token_id, roles, permissions, types, decrypt] =
            ["sub", "jti", "roles", "permissions", "types", "decrypt"].map(str::to_owned);
        Self {
            agent,
            token_id,
            roles,
            permissions: vec![permissions],
            types,
            decrypt,
            service_accounts_only: false,
            bearer_typ_outweighs_nonce: false,
        }
    }
}

/// How tokens are verified.
#[derive(Debug, Clone, Copy)]
pub struct VerifierSettings {
    /// How many verified tokens are remembered.
    pub cache_entries_max: usize,
    /// How many bytes they may take in memory, together.
    pub cache_bytes_max: u64,
    /// How long after `iat` a token's `exp` may lie, in seconds.
    pub token_lifetime_s_max: u64,
}

/// Weighs identities by their bytes, and none so low that more than so many would fit: a cache has one capacity only.
#[derive(Clone)]
struct RetainedBytes {
    min: u64,
}

impl RetainedBytes {
    fn new(entries_max: usize, bytes_max: u64) -> Self {
        Self { min: bytes_max.div_ceil(entries_max.max(1) as u64).max(1) }
    }
}

impl Weighter<[u8; 32], Arc<Identity>> for RetainedBytes {
    fn weight(&self, _: &[u8; 32], identity: &Arc<Identity>) -> u64 {
        identity.retained_bytes.max(self.min)
    }
}

/// What an identity with these claims takes in memory, in bytes, about: the claims twice, since what they say is kept parsed
/// too, and so many words of them each by itself.
fn retained_bytes(claims: &Map<String, Value>, words: usize) -> u64 {
    (size_of::<Identity>() + 2 * claims.iter().map(member_bytes).sum::<usize>() + words * WORD_BYTES) as u64
}

/// What a word takes beside its text, with the least that is allocated for that.
const WORD_BYTES: usize = size_of::<Permission>() + 16;

fn member_bytes((name, value): (&String, &Value)) -> usize {
    size_of::<String>() + name.len() + value_bytes(value)
}

/// As deep as the JSON reader goes, which has a limit.
fn value_bytes(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(value_bytes).sum(),
        Value::Object(members) => members.iter().map(member_bytes).sum(),
    };
    size_of::<Value>() + inside
}

/// Verifies tokens. The signature of one token is checked once and remembered under its SHA-256; its lifetime, and whether
/// its key still counts, are checked each time.
pub struct Verifier {
    issuers: HashMap<Issuer, TrustedIssuer>,
    lifetime_s_max: i64,
    clock: Clock,
    verified: Cache<[u8; 32], Arc<Identity>, RetainedBytes>,
    revocations: Arc<Revocations>,
}

impl Verifier {
    /// Trusts these issuers.
    #[must_use]
    pub fn new(issuers: Vec<TrustedIssuer>, settings: VerifierSettings, clock: Clock) -> Self {
        Self {
            issuers: issuers.into_iter().map(|issuer| (issuer.issuer.clone(), issuer)).collect(),
            lifetime_s_max: i64::try_from(settings.token_lifetime_s_max).unwrap_or(i64::MAX),
            clock,
            verified: Cache::with_weighter(
                settings.cache_entries_max,
                settings.cache_bytes_max,
                RetainedBytes::new(settings.cache_entries_max, settings.cache_bytes_max),
            ),
            revocations: Arc::default(),
        }
    }

    /// The revocations that its identities go by; none to begin with.
    #[must_use]
    pub const fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Verifies a token by the keys that are known now, whoever presents it. Does not wait.
    ///
    /// # Errors
    /// [`TokenError`]: for the audit log, not for the caller. [`TokenError::UnknownKey`] is worth a
    /// [`Verifier::fetch_keys`].
    pub(super) fn verify(&self, token: &BearerToken) -> Result<Verified, TokenError> {
        let (key, now) = (token.sha256(), self.clock.now());
        // A key may be withdrawn and come back: then the token is verified anew.
        let remembered = self.verified.get(&key).filter(|identity| identity.key.is_good(now));
        let identity = match remembered {
            Some(identity) => identity,
            None => {
                let identity = Arc::new(self.verify_signature(token, now)?);
                self.verified.insert(key, Arc::clone(&identity));
                identity
            }
        };
        identity.check_standing(now)?;
        Ok(Verified(identity))
    }

    /// Whose a token is that was just refused, if its signature is good: that is remembered.
    pub(super) fn bearer(&self, token: &BearerToken) -> Option<Bearer> {
        let remembered = self.verified.get(&token.sha256())?;
        remembered.key.is_good(self.clock.now()).then(|| Bearer::from(&*remembered))
    }

    /// Asks the issuer of a token for its keys, as often as the settings allow: it may have published the token's key just
    /// now. Waits a few seconds for the answer.
    pub(super) async fn fetch_keys(&self, token: &BearerToken) {
        let claims = token::parse(token).and_then(|jws| jws.claims());
        let trusted = claims.and_then(|claims| self.trusted(&claims));
        if let Ok(TrustedIssuer { keys: IssuerKeys::Remote(keys), .. }) = trusted {
            keys.fetch_once_more().await;
        }
    }

    fn trusted(&self, claims: &Map<String, Value>) -> Result<&TrustedIssuer, TokenError> {
        self.issuers.get(&claims::issuer(claims)?).ok_or(TokenError::UnknownIssuer)
    }

    fn verify_signature(&self, token: &BearerToken, now: UnixMicros) -> Result<Identity, TokenError> {
        let jws = token::parse(token)?;
        let claims = jws.claims()?;
        let trusted = self.trusted(&claims)?;
        if trusted.require_at_jwt && !jws.is_at_jwt {
            return Err(TokenError::WrongType);
        }
        let key = trusted.keys.find(&jws, now)?;
        key.check_signature(&jws)?;
        claims::check_audience(&claims, &trusted.audiences)?;
        claims::check_purpose(&claims, jws.is_at_jwt, trusted.claims.bearer_typ_outweighs_nonce)?;
        self.identity(claims, jws.signing_input_sha256(), trusted, Arc::clone(&key.standing))
    }

    fn identity(
        &self,
        claims: Map<String, Value>,
        token_sha256: [u8; 32],
        trusted: &TrustedIssuer,
        key: Arc<KeyStanding>,
    ) -> Result<Identity, TokenError> {
        let paths = &trusted.claims;
        let (issued_at, expires_at) = (claims::date(&claims, "iat")?, claims::date(&claims, "exp")?);
        if expires_at.0.saturating_sub(issued_at.0) > self.lifetime_s_max {
            return Err(TokenError::LifetimeTooLong { max: self.lifetime_s_max });
        }
        let confirmation = Confirmation::from_claims(&claims)?;
        if trusted.require_bound && confirmation.is_none() {
            return Err(TokenError::Unbound);
        }
        if paths.service_accounts_only {
            claims::check_service_account(&claims)?;
        }
        let agent = claims::agent(&claims, &paths.agent)?;
        let granted = Grants {
            roles: claims::roles(&claims, &paths.roles)?,
            permissions: claims::permissions(&claims, &paths.permissions)?,
            decrypt: claims::decrypt(&claims, &paths.decrypt)?,
        };
        let Grants { roles, mut permissions, decrypt } = trusted.may_grant.confine(granted, &trusted.issuer, &agent);
        let actors = delegation::actors(&claims, &trusted.issuer)?;
        if actors.iter().any(|actor| actor.agent.is_none()) {
            permissions = permissions.without_admin();
        }
        let types = claims::types(&claims, &paths.types)?;
        let retained_bytes =
            retained_bytes(&claims, roles.len() + permissions.len() + types.as_ref().map_or(0, Vec::len));
        Ok(Identity {
            issuer: trusted.issuer.clone(),
            agent,
            roles: Roles::new(roles),
            permissions,
            types,
            decrypt,
            token_id: claims::token_id(&claims, &paths.token_id)?,
            token_sha256,
            issued_at,
            not_before: claims::optional_date(&claims, "nbf")?.unwrap_or(issued_at),
            expires_at,
            key,
            confirmation,
            actors,
            retained_bytes,
            claims,
            revocations: Arc::clone(&self.revocations),
            unrevoked_at: AtomicU64::new(0),
        })
    }
}

#[cfg(test)]
mod tests;
