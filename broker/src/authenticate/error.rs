//! Why nobody was recognised. The details are for the audit log: a client learns only "unauthenticated".

use thiserror::Error;

use super::{dpop::ProofError, keys::SkippedEntries};
use crate::model::IdError;

/// Why a token does not identify a caller.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// No `authorization` metadata.
    #[error("no token")]
    Missing,
    /// The `authorization` metadata does not read `Bearer TOKEN` (RFC 6750, section 2.1) or `DPoP TOKEN` (RFC 9449,
    /// section 7.1).
    #[error("the authorization is neither a bearer nor a DPoP token")]
    NotBearer,
    /// Longer than [`BearerToken::LEN_BYTES_MAX`](super::BearerToken::LEN_BYTES_MAX).
    #[error("the token is longer than 8192 bytes")]
    TooLong,
    /// Not three base64url segments in their one canonical form (RFC 7515, section 3.1; RFC 4648, section 3.5).
    #[error("the token is not in compact form")]
    NotCompact,
    /// A segment is not JSON, or an object in it names a member twice (RFC 8725, section 3.1).
    #[error("the {0} is not unambiguous JSON")]
    NotStrictJson(&'static str),
    /// A header member that would change how the token is read (RFC 8725, sections 3.1 and 3.11).
    #[error("the header has the member `{0}`, which is not accepted")]
    ForbiddenHeader(&'static str),
    /// `typ` names another kind of token (RFC 8725, section 3.11).
    #[error("the header's `typ` is not that of an access token")]
    WrongType,
    /// `alg` is none that we verify (RFC 8725, section 3.2).
    #[error("the header's `alg`, `{0}`, is not accepted")]
    Algorithm(String),
    /// `kid` is there, and is not a name, so no key can be looked up.
    #[error("the header's `kid` is not a name")]
    NoKeyId,
    /// No `kid`, where it takes one to tell which key is meant.
    #[error("the header names no key, and the issuer has more than one")]
    KeyIdNeeded,
    /// Claims that only another kind of token has: an ID token or a logout token is no access token (RFC 8725, section
    /// 3.12; RFC 9068, section 5).
    #[error("the claim `{0}` is that of another kind of token")]
    OtherKind(&'static str),
    /// The issuer is not one that we trust.
    #[error("the issuer is not trusted")]
    UnknownIssuer,
    /// The issuer has no key of that name.
    #[error("the issuer has no such key")]
    UnknownKey,
    /// The key that vouched for the token is withdrawn, or its issuer has been silent for too long.
    #[error("the key of the token is withdrawn")]
    KeyWithdrawn,
    /// The key is for another algorithm than the header says.
    #[error("the header's `alg` is not that of the key")]
    KeyAlgorithmMismatch,
    /// The signature does not verify.
    #[error("the signature is not the issuer's")]
    Signature,
    /// The token is meant for somebody else (RFC 7519, section 4.1.3).
    #[error("the token is not meant for this broker")]
    Audience,
    /// A claim that must be there is not, or has another type.
    #[error("the claim `{0}` is missing or of the wrong type")]
    Claim(&'static str),
    /// A claim that is no identifier.
    #[error("the claim `{claim}` is not valid: {source}")]
    Identifier {
        /// Which claim.
        claim: &'static str,
        /// What is wrong with it.
        source: IdError,
    },
    /// Longer list than we take.
    #[error("the claim `{0}` has too many members")]
    TooMany(&'static str),
    /// `exp` lies too long after `iat`.
    #[error("the token's lifetime is longer than {max} s")]
    LifetimeTooLong {
        /// The longest accepted, in seconds.
        max: i64,
    },
    /// `exp` has passed (RFC 7519, section 4.1.4).
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The token was revoked.
    #[error("the token is revoked")]
    Revoked,
    /// `cnf` binds the token to something that is not checked here (RFC 7800).
    #[error("the claim `cnf` asks for a check that is not made here")]
    Confirmation,
    /// The token is bound to nothing, where its issuer's tokens must be.
    #[error("the token is bound neither to a certificate nor to a key")]
    Unbound,
    /// The token is bound to a certificate, and the connection has none.
    #[error("the token is bound to a client certificate, and the connection has none")]
    NoCertificate,
    /// The token is bound to another certificate than the connection's.
    #[error("the token is bound to another client certificate")]
    OtherCertificate,
    /// The token is bound to a key, and the caller did not show that it holds it.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// A fresh token on a stream is not one of the agent that opened it.
    #[error("the fresh token is another agent's")]
    OtherAgent,
    /// A fresh token on a stream is not bound to the same as the one before.
    #[error("the fresh token is not bound to the same certificate or key")]
    OtherBinding,
}

impl TokenError {
    /// Every word of [`TokenError::reason`], but those of proofs.
    pub const REASONS: [&'static str; 27] = [
        "missing",
        "not_bearer",
        "too_long",
        "not_compact",
        "not_strict_json",
        "forbidden_header",
        "wrong_type",
        "algorithm",
        "no_key_id",
        "other_kind",
        "unknown_issuer",
        "unknown_key",
        "key_withdrawn",
        "key_algorithm_mismatch",
        "signature",
        "audience",
        "claim",
        "lifetime_too_long",
        "expired",
        "not_yet_valid",
        "revoked",
        "confirmation",
        "unbound",
        "certificate_missing",
        "certificate_mismatch",
        "other_agent",
        "other_binding",
    ];

    /// What the reason is about: the claim, or the algorithm, escaped and no longer than 32 bytes.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        match self {
            Self::Algorithm(name) => Some(name),
            Self::OtherKind(claim) | Self::Claim(claim) | Self::TooMany(claim) | Self::Identifier { claim, .. } => {
                Some(claim)
            }
            _ => None,
        }
    }

    /// The stable word under which refusals are counted and recorded.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotBearer => "not_bearer",
            Self::TooLong => "too_long",
            Self::NotCompact => "not_compact",
            Self::NotStrictJson(_) => "not_strict_json",
            Self::ForbiddenHeader(_) => "forbidden_header",
            Self::WrongType => "wrong_type",
            Self::Algorithm(_) => "algorithm",
            Self::NoKeyId | Self::KeyIdNeeded => "no_key_id",
            Self::OtherKind(_) => "other_kind",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownKey => "unknown_key",
            Self::KeyWithdrawn => "key_withdrawn",
            Self::KeyAlgorithmMismatch => "key_algorithm_mismatch",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Claim(_) | Self::Identifier { .. } | Self::TooMany(_) => "claim",
            Self::LifetimeTooLong { .. } => "lifetime_too_long",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::Confirmation => "confirmation",
            Self::Unbound => "unbound",
            Self::NoCertificate => "certificate_missing",
            Self::OtherCertificate => "certificate_mismatch",
            Self::Proof(error) => error.reason(),
            Self::OtherAgent => "other_agent",
            Self::OtherBinding => "other_binding",
        }
    }
}

/// Why a JWK Set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeySetError {
    /// Not JSON, or a member is named twice.
    #[error("the key set is not unambiguous JSON")]
    NotStrictJson,
    /// Not of the form of RFC 7517, section 5.
    #[error("the key set has no list `keys`")]
    NoKeys,
    /// More keys than we take.
    #[error("the key set has more than {max} keys")]
    TooMany {
        /// The most we take.
        max: usize,
    },
    /// Larger than we take.
    #[error("the key set is larger than {max} bytes")]
    TooLarge {
        /// The most we take, in bytes.
        max: usize,
    },
    /// Nothing is left that we could verify with.
    #[error("the key set holds no signature key that can be used; skipped: {0}")]
    AllSkipped(SkippedEntries),
    /// Nothing that we could verify with.
    #[error("the key set holds no signature key for an algorithm that is allowed")]
    NoUsableKey,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fixtures::words_of;

    #[test]
    fn every_reason_is_listed() {
        assert_eq!(words_of(include_str!("error.rs"), "reason"), BTreeSet::from(TokenError::REASONS));
    }
}
