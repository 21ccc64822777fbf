//! Why a DPoP proof does not count. Like every reason for which a caller is not recognised, for the audit log only.

use thiserror::Error;

/// Why a caller did not show that it holds the key of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The token names a key, and came without a proof.
    #[error("the token is bound to a key, and there is no DPoP proof")]
    Missing,
    /// More than one proof (RFC 9449, section 4.3, check 1).
    #[error("there is more than one DPoP proof")]
    Several,
    /// The token names a key, and came as if it named none (RFC 9449, section 7.2).
    #[error("the token is bound to a key, and was presented as a bearer token")]
    AsBearer,
    /// A proof, or the scheme `DPoP`, with a token that names no key.
    #[error("the token is not bound to a key, and was presented with a DPoP proof or under that scheme")]
    Unbound,
    /// The operator has not said under which URL clients know the broker.
    #[error("the token is bound to a key; set `server.public_url` to accept such tokens")]
    NoPublicUrl,
    /// Longer than a proof may be.
    #[error("the DPoP proof is longer than {max} bytes")]
    TooLong {
        /// The longest accepted, in bytes.
        max: usize,
    },
    /// Not a JWS in compact form, or not unambiguous JSON.
    #[error("the DPoP proof is not a token in compact form")]
    Form,
    /// A header member that would change how the proof is read.
    #[error("the proof's header has the member `{0}`, which is not accepted")]
    ForbiddenHeader(&'static str),
    /// `typ` is another than `dpop+jwt`.
    #[error("the proof's `typ` is not `dpop+jwt`")]
    Type,
    /// `alg` is none that we verify.
    #[error("the proof's `alg` is not accepted")]
    Algorithm,
    /// `jwk` is not a public key for that algorithm.
    #[error("the proof's `jwk` is not a public key for its `alg`")]
    Key,
    /// `jwk` shows a private key.
    #[error("the proof's `jwk` is a private key")]
    PrivateKey,
    /// The signature is not by `jwk`.
    #[error("the proof's signature is not by its `jwk`")]
    Signature,
    /// A claim is missing or of the wrong type.
    #[error("the proof's claim `{0}` is missing or of the wrong type")]
    Claim(&'static str),
    /// The key is another than the token's.
    #[error("the proof is by another key than the token names")]
    OtherKey,
    /// `htm` is not `POST`, or `htu` is not the URL of the method that is called.
    #[error("the proof is for another call")]
    OtherCall,
    /// `ath` is the hash of another token.
    #[error("the proof is for another token")]
    OtherToken,
    /// `iat` lies too far back.
    #[error("the proof is too old")]
    Old,
    /// `iat` lies ahead.
    #[error("the proof is from the future")]
    Early,
    /// The same proof was accepted before.
    #[error("the proof was used before")]
    Replayed,
    /// No more proofs can be remembered, so that no more can be accepted.
    #[error("too many proofs in a short time")]
    TooMany,
}

impl ProofError {
    /// Every word of [`ProofError::reason`].
    pub const REASONS: [&'static str; 21] = [
        "dpop_missing",
        "dpop_several",
        "dpop_as_bearer",
        "dpop_unbound_token",
        "dpop_needs_server.public_url",
        "dpop_too_long",
        "dpop_form",
        "dpop_forbidden_header",
        "dpop_type",
        "dpop_algorithm",
        "dpop_key",
        "dpop_private_key",
        "dpop_signature",
        "dpop_claim",
        "dpop_other_key",
        "dpop_other_call",
        "dpop_other_token",
        "dpop_old",
        "dpop_early",
        "dpop_replayed",
        "dpop_too_many",
    ];

    /// See [`TokenError::reason`](crate::authenticate::TokenError::reason).
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "dpop_missing",
            Self::Several => "dpop_several",
            Self::AsBearer => "dpop_as_bearer",
            Self::Unbound => "dpop_unbound_token",
            Self::NoPublicUrl => "dpop_needs_server.public_url",
            Self::TooLong { .. } => "dpop_too_long",
            Self::Form => "dpop_form",
            Self::ForbiddenHeader(_) => "dpop_forbidden_header",
            Self::Type => "dpop_type",
            Self::Algorithm => "dpop_algorithm",
            Self::Key => "dpop_key",
            Self::PrivateKey => "dpop_private_key",
            Self::Signature => "dpop_signature",
            Self::Claim(_) => "dpop_claim",
            Self::OtherKey => "dpop_other_key",
            Self::OtherCall => "dpop_other_call",
            Self::OtherToken => "dpop_other_token",
            Self::Old => "dpop_old",
            Self::Early => "dpop_early",
            Self::Replayed => "dpop_replayed",
            Self::TooMany => "dpop_too_many",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fixtures::words_of;

    #[test]
    fn every_reason_is_listed() {
        assert_eq!(words_of(include_str!("error.rs"), "reason"), BTreeSet::from(ProofError::REASONS));
    }
}
