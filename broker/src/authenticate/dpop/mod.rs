//! Proof of possession by DPoP (RFC 9449): whoever presents a token that names a key shows that it holds that key, for this
//! call, this token and this moment, and no proof counts twice.
//!
//! In scope: every check of RFC 9449, section 4.3, for gRPC: the HTTP method is always `POST`, the URL is the configured
//! public one with the path of the method. Out of scope: nonces chosen by the server (section 8). They bound the time for
//! which a proof can be made in advance; here the memory of proofs bounds their use.

mod error;
mod key;
mod memory;
mod proof;
mod target;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;

pub use error::ProofError;
pub use memory::ProofLimits;
use memory::{Memory, ProofId, Time};
use proof::Proof;
use target::Target;

use super::{Identity, token::BearerToken};
use crate::model::{Clock, UnixSeconds};

/// How far the clock of a client may be ahead.
const AHEAD_MAX_S: i64 = 5;

/// How proofs are checked.
#[derive(Debug, Clone)]
pub struct ProofSettings {
    /// Where clients reach the broker; without it no proof can be checked, and tokens that name a key are refused.
    pub public_url: Option<Url>,
    /// How old a proof may be, in seconds.
    pub max_age_s: u64,
    /// How many are remembered.
    pub limits: ProofLimits,
}

impl ProofSettings {
    /// No proof counts: tokens that name a key are refused.
    pub const NONE: Self =
        Self { public_url: None, max_age_s: 0, limits: ProofLimits { total_max: 0, per_agent_max: 0 } };
}

/// Checks proofs, and remembers those that it accepted.
pub(super) struct Proofs {
    target: Target,
    max_age_s: i64,
    memory: Mutex<Memory>,
}

/// What a proof must be for.
pub(super) struct Expected<'a> {
    /// Who presents it.
    pub(super) identity: &'a Identity,
    /// The thumbprint in its token.
    pub(super) thumbprint: &'a [u8; 32],
    /// Its token.
    pub(super) token: &'a BearerToken,
    /// The path of the gRPC method.
    pub(super) method: &'a str,
}

impl Proofs {
    /// `None` without a public URL.
    pub(super) fn new(settings: ProofSettings, started_at: UnixSeconds) -> Option<Self> {
        let max_age_s = i64::try_from(settings.max_age_s).unwrap_or(i64::MAX);
        // What was made before the start may have been accepted before it.
        let closed_until = UnixSeconds(started_at.0.saturating_sub(1).saturating_add(max_age_s));
        let memory = Mutex::new(Memory::new(settings.limits, closed_until));
        settings.public_url.map(|url| Self { target: Target::new(url), max_age_s, memory })
    }

    /// The broker ran before, and what it accepted it did at `last` at the latest.
    pub(super) fn accepted_until(&self, last: UnixSeconds) {
        self.memory.lock().close(UnixSeconds(last.0.saturating_add(self.max_age_s)));
    }

    /// Checks a proof. It is remembered only if everything else about it is right.
    pub(super) fn check(&self, text: &str, expected: &Expected<'_>, clock: &Clock) -> Result<(), ProofError> {
        let time = Time { now: clock.now().seconds(), confirmed: clock.confirmed().seconds() };
        let proof = proof::verify(text)?;
        if !bool::from(proof.thumbprint.ct_eq(expected.thumbprint)) {
            return Err(ProofError::OtherKey);
        }
        if proof.method != "POST" || !self.target.is(&proof.url, expected.method) {
            return Err(ProofError::OtherCall);
        }
        if !bool::from(proof.token_sha256.ct_eq(&expected.token.sha256())) {
            return Err(ProofError::OtherToken);
        }
        if proof.issued_at.0 > time.now.0.saturating_add(AHEAD_MAX_S) {
            return Err(ProofError::Early);
        }
        // The last second at which it is good; the memory refuses it after that.
        let end = UnixSeconds(proof.issued_at.0.saturating_add(self.max_age_s));
        let holder = (expected.identity.issuer().clone(), expected.identity.agent().clone());
        self.memory.lock().remember(id(&proof), holder, end, time)
    }
}

/// One `jti` is one proof for its key only.
fn id(proof: &Proof) -> ProofId {
    Sha256::new().chain_update(proof.thumbprint).chain_update(&proof.id).finalize().into()
}
