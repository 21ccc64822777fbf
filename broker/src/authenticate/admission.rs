//! Who presents a token: the one place where an [`Identity`] is handed out, to the gate, for a refresh within a stream,
//! and for the sender of a single message.
//!
//! The signature of a token is checked once and remembered. Whether it is presented by whom it is bound to is checked
//! here each time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use subtle::ConstantTimeEq as _;

use super::{
    confirmation::Confirmation,
    dpop::{Expected, ProofError, ProofSettings, Proofs},
    error::TokenError,
    identity::{Bearer, Identity, Verifier},
    revocation::Revocations,
    token::{BearerToken, Scheme},
};
use crate::model::{Clock, UnixMicros};

/// A token, and what was presented with it.
#[derive(Debug, Clone)]
pub struct Presented<'a> {
    /// The token.
    pub token: BearerToken,
    /// As what it was presented.
    pub scheme: Scheme,
    /// A DPoP proof, if there is one.
    pub proof: Option<&'a str>,
    /// SHA-256 of the client certificate of the connection, if there is one.
    pub certificate_sha256: Option<[u8; 32]>,
    /// The path of the gRPC method that is called.
    pub method: &'a str,
}

impl<'a> Presented<'a> {
    /// A token of which nothing is known but that somebody has it.
    #[must_use]
    pub const fn as_bearer(token: BearerToken, method: &'a str) -> Self {
        Self { token, scheme: Scheme::Bearer, proof: None, certificate_sha256: None, method }
    }
}

/// Recognises callers.
pub struct Authenticator {
    verifier: Arc<Verifier>,
    proofs: Option<Proofs>,
    clock: Clock,
    warned: AtomicBool,
}

impl Authenticator {
    /// Recognises by the tokens that `verifier` accepts.
    #[must_use]
    pub fn new(verifier: Arc<Verifier>, proofs: ProofSettings, clock: Clock) -> Self {
        let proofs = Proofs::new(proofs, clock.now().seconds());
        Self { verifier, proofs, clock, warned: AtomicBool::new(false) }
    }

    /// A broker on the same log accepted DPoP proofs until `last`, which may come again.
    pub fn proofs_accepted_until(&self, last: UnixMicros) {
        if let Some(proofs) = &self.proofs {
            proofs.accepted_until(last.seconds());
        }
    }

    /// The revocations that its identities go by.
    #[must_use]
    pub fn revocations(&self) -> &Arc<Revocations> {
        self.verifier.revocations()
    }

    /// Recognises who presents a token, if the token is good and bound to nobody else.
    ///
    /// A token that names a key is accepted under the scheme `DPoP` only, with a proof; under `Bearer` it is refused even
    /// with one (RFC 9449, section 7.2): a broker that takes both would let a client believe that it is protected where
    /// another server would take the token alone. Metadata are free in gRPC, so that no client needs the exception.
    /// Conversely a proof or the scheme `DPoP` with a token that names no key is refused: whoever sends it counts on a
    /// protection that is not there.
    ///
    /// # Errors
    /// [`TokenError`]: for the audit log, not for the caller. [`TokenError::UnknownKey`] is worth an
    /// [`Authenticator::authenticate_or_fetch`].
    pub fn authenticate(&self, presented: &Presented<'_>) -> Result<Arc<Identity>, TokenError> {
        self.verifier.verify(&presented.token)?.bound(|identity| self.check_binding(identity, presented))
    }

    /// The same; where the token's key is not known, its issuer is asked first, as often as the settings allow. That takes
    /// a few seconds at most.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn authenticate_or_fetch(&self, presented: &Presented<'_>) -> Result<Arc<Identity>, TokenError> {
        match self.authenticate(presented) {
            Err(TokenError::UnknownKey) => {}
            decided => return decided,
        }
        self.verifier.fetch_keys(&presented.token).await;
        self.authenticate(presented)
    }

    /// Whose a token is that [`Authenticator::authenticate`] has just refused, if its signature is good.
    #[must_use]
    pub fn bearer(&self, token: &BearerToken) -> Option<Bearer> {
        self.verifier.bearer(token)
    }

    fn check_binding(&self, identity: &Identity, presented: &Presented<'_>) -> Result<(), TokenError> {
        match (identity.confirmation(), presented.scheme, presented.proof) {
            (Some(Confirmation::Key(_)), Scheme::Bearer, _) => Err(ProofError::AsBearer.into()),
            (Some(Confirmation::Key(_)), Scheme::Dpop | Scheme::Unsaid, None) => Err(ProofError::Missing.into()),
            (Some(Confirmation::Key(thumbprint)), Scheme::Dpop | Scheme::Unsaid, Some(proof)) => {
                self.check_proof(proof, identity, thumbprint, presented)
            }
            (_, Scheme::Dpop, _) | (_, _, Some(_)) => Err(ProofError::Unbound.into()),
            (Some(Confirmation::Certificate(digest)), Scheme::Bearer | Scheme::Unsaid, None) => {
                check_certificate(digest, presented.certificate_sha256.as_ref())
            }
            (None, Scheme::Bearer | Scheme::Unsaid, None) => Ok(()),
        }
    }

    fn check_proof(
        &self,
        proof: &str,
        identity: &Identity,
        thumbprint: &[u8; 32],
        presented: &Presented<'_>,
    ) -> Result<(), TokenError> {
        let Some(proofs) = &self.proofs else {
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!("a token is bound to a key (DPoP): set `server.public_url` to accept such tokens");
            }
            return Err(ProofError::NoPublicUrl.into());
        };
        let expected = Expected { identity, thumbprint, token: &presented.token, method: presented.method };
        Ok(proofs.check(proof, &expected, &self.clock)?)
    }
}

fn check_certificate(bound_to: &[u8; 32], presented: Option<&[u8; 32]>) -> Result<(), TokenError> {
    let presented = presented.ok_or(TokenError::NoCertificate)?;
    if bool::from(presented.ct_eq(bound_to)) { Ok(()) } else { Err(TokenError::OtherCertificate) }
}

#[cfg(test)]
mod tests;
