//! Who is calling. Only [`Verifier::verify`], in this file, makes an [`Identity`].

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use jsonwebtoken::Validation;
use quick_cache::sync::Cache;
use serde_json::{Map, Value};

use super::{
    claims,
    error::TokenError,
    keys::KeySet,
    permission::Permissions,
    revocation::Revocations,
    token::{self, BearerToken, ParsedToken},
};
use crate::model::{AgentId, Clock, Destination, Issuer, RoleName, TokenId, UnixMicros, UnixSeconds};

/// A caller whose token was verified.
// INVARIANT: no public field, `Default`, `Deserialize`, `From` or test-only maker.
pub struct Identity {
    issuer: Issuer,
    agent: AgentId,
    roles: Vec<RoleName>,
    permissions: Permissions,
    types: Option<Vec<String>>,
    token_id: TokenId,
    token_sha256: [u8; 32],
    issued_at: UnixSeconds,
    not_before: UnixSeconds,
    expires_at: UnixSeconds,
    leeway_s: i64,
    claims: Map<String, Value>,
    revocations: Arc<Revocations>,
    /// At which generation of the revocations this was last found good.
    unrevoked_at: AtomicU64,
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

    /// The caller's roles.
    #[must_use]
    pub fn roles(&self) -> &[RoleName] {
        &self.roles
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
            Destination::Role(role) => self.roles.contains(role),
        }
    }

    /// Whether the token is good at this moment: asked again for every message.
    ///
    /// # Errors
    /// [`TokenError::Expired`] from `exp` on (RFC 7519, section 4.1.4: "on or after"), [`TokenError::NotYetValid`] before
    /// `nbf` or `iat`; each with the leeway of the verifier. [`TokenError::Revoked`].
    pub fn check_standing(&self, now: UnixMicros) -> Result<(), TokenError> {
        let now = now.seconds().0;
        if now >= self.expires_at.0.saturating_add(self.leeway_s) {
            return Err(TokenError::Expired);
        }
        if now.saturating_add(self.leeway_s) < self.not_before.0.max(self.issued_at.0) {
            return Err(TokenError::NotYetValid);
        }
        if self.unrevoked_at.load(Ordering::Relaxed) == self.revocations.generation() {
            return Ok(());
        }
        let generation = self.revocations.look_up(self, UnixSeconds(now)).map_err(|_| TokenError::Revoked)?;
        self.unrevoked_at.store(generation, Ordering::Relaxed);
        Ok(())
    }

    /// The last second at which the token is still good, counted from `now`; zero if it is not.
    #[must_use]
    pub fn remaining(&self, now: UnixMicros) -> std::time::Duration {
        let end = self.expires_at.0.saturating_add(self.leeway_s).saturating_mul(1_000_000);
        std::time::Duration::from_micros(u64::try_from(end.saturating_sub(now.0)).unwrap_or(0))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Identity");
        shown.field("issuer", &self.issuer).field("agent", &self.agent).field("token_id", &self.token_id);
        shown.finish_non_exhaustive()
    }
}

/// An issuer whose tokens are accepted.
pub struct TrustedIssuer {
    /// Its `iss`.
    pub issuer: Issuer,
    /// The `aud` that names this broker.
    pub audience: String,
    /// Its public keys.
    pub keys: KeySet,
    /// Where roles stand in the claims.
    pub roles_claim: String,
    /// Where permissions stand in the claims.
    pub permissions_claim: String,
}

/// How tokens are verified.
#[derive(Debug, Clone, Copy)]
pub struct VerifierSettings {
    /// How far clocks may differ, in seconds.
    pub leeway_s: u64,
    /// How many verified tokens are remembered.
    pub cache_entries_max: usize,
}

/// Verifies tokens. The signature of one token is checked once and remembered under its SHA-256; its lifetime is checked
/// each time.
pub struct Verifier {
    issuers: HashMap<Issuer, TrustedIssuer>,
    leeway_s: i64,
    clock: Clock,
    verified: Cache<[u8; 32], Arc<Identity>>,
    revocations: Arc<Revocations>,
}

impl Verifier {
    /// Trusts these issuers.
    #[must_use]
    pub fn new(issuers: Vec<TrustedIssuer>, settings: VerifierSettings, clock: Clock) -> Self {
        Self {
            issuers: issuers.into_iter().map(|issuer| (issuer.issuer.clone(), issuer)).collect(),
            leeway_s: i64::try_from(settings.leeway_s).unwrap_or(i64::MAX),
            clock,
            verified: Cache::new(settings.cache_entries_max),
            revocations: Arc::default(),
        }
    }

    /// The revocations that its identities go by; none to begin with.
    #[must_use]
    pub const fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Recognises the bearer of a token.
    ///
    /// # Errors
    /// [`TokenError`]: for the audit log, not for the caller.
    pub fn verify(&self, token: &BearerToken) -> Result<Arc<Identity>, TokenError> {
        let key = token.sha256();
        let identity = match self.verified.get(&key) {
            Some(identity) => identity,
            None => {
                let identity = Arc::new(self.verify_signature(token)?);
                self.verified.insert(key, Arc::clone(&identity));
                identity
            }
        };
        identity.check_standing(self.clock.now())?;
        Ok(identity)
    }

    fn verify_signature(&self, token: &BearerToken) -> Result<Identity, TokenError> {
        let parsed = token::parse(token)?;
        let trusted = self.issuers.get(&claims::issuer(&parsed.claims)?).ok_or(TokenError::UnknownIssuer)?;
        let found = trusted.keys.find(&parsed.key_id).ok_or(TokenError::UnknownKey)?;
        if found.algorithm != parsed.algorithm {
            return Err(TokenError::KeyAlgorithmMismatch);
        }
        let validation = validation(found.algorithm, trusted);
        jsonwebtoken::decode::<serde::de::IgnoredAny>(token.as_str(), &found.key, &validation)
            .map_err(|error| refusal(error.kind()))?;
        claims::check_audience(&parsed.claims, &trusted.audience)?;
        identity(parsed, trusted, self.leeway_s, Arc::clone(&self.revocations))
    }
}

/// Every option by name: the crate's defaults leave gaps. Times are checked against our own clock, for every message.
fn validation(algorithm: jsonwebtoken::Algorithm, trusted: &TrustedIssuer) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.algorithms = vec![algorithm];
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&[trusted.issuer.as_str()]);
    validation.validate_aud = true;
    validation.set_audience(&[&trusted.audience]);
    validation.leeway = 0;
    validation.reject_tokens_expiring_in_less_than = 0;
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
}

fn refusal(kind: &jsonwebtoken::errors::ErrorKind) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match kind {
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidIssuer => TokenError::UnknownIssuer,
        ErrorKind::MissingRequiredClaim(_) => TokenError::Claim("required"),
        _ => TokenError::Signature,
    }
}

fn identity(
    parsed: ParsedToken,
    trusted: &TrustedIssuer,
    leeway_s: i64,
    revocations: Arc<Revocations>,
) -> Result<Identity, TokenError> {
    let issued_at = claims::date(&parsed.claims, "iat")?;
    Ok(Identity {
        issuer: trusted.issuer.clone(),
        agent: claims::agent(&parsed.claims)?,
        roles: claims::roles(&parsed.claims, &trusted.roles_claim)?,
        permissions: claims::permissions(&parsed.claims, &trusted.permissions_claim)?,
        types: claims::types(&parsed.claims)?,
        token_id: claims::token_id(&parsed.claims)?,
        token_sha256: parsed.signing_input_sha256,
        issued_at,
        not_before: claims::optional_date(&parsed.claims, "nbf")?.unwrap_or(issued_at),
        expires_at: claims::date(&parsed.claims, "exp")?,
        leeway_s,
        claims: parsed.claims,
        revocations,
        unrevoked_at: AtomicU64::new(0),
    })
}

#[cfg(test)]
mod tests;
