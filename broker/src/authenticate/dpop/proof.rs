//! A DPoP proof's form and signature (RFC 9449, section 4.2), read as strictly as a token.

use serde_json::{Map, Value};

use super::{error::ProofError, key::ProofKey};
use crate::{
    authenticate::{claims, confirmation, token},
    model::UnixSeconds,
};

/// The longest proof accepted, in bytes: several times what the largest accepted key and long URLs take.
pub(super) const LEN_BYTES_MAX: usize = 2_048;
/// The longest `jti` accepted, in bytes.
const ID_BYTES_MAX: usize = 256;
/// Header members that tell a verifier to fetch, trust, unpack or understand something else than `jwk`.
const FORBIDDEN_HEADERS: [&str; 10] = ["crit", "b64", "jku", "x5u", "x5c", "zip", "cty", "enc", "epk", "p2c"];

/// A proof whose signature is good. What it is a proof of remains to be compared.
#[derive(Debug)]
pub(super) struct Proof {
    /// Thumbprint of the key that signed it.
    pub(super) thumbprint: [u8; 32],
    pub(super) id: String,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) token_sha256: [u8; 32],
    pub(super) issued_at: UnixSeconds,
}

/// Checks form and signature.
pub(super) fn verify(text: &str) -> Result<Proof, ProofError> {
    if text.len() > LEN_BYTES_MAX {
        return Err(ProofError::TooLong { max: LEN_BYTES_MAX });
    }
    let (signing_input, signature) = text.rsplit_once('.').ok_or(ProofError::Form)?;
    let (header, payload) = signing_input.split_once('.').ok_or(ProofError::Form)?;
    let (header, payload) = (members(header)?, members(payload)?);
    token::decode(signature).map_err(|_| ProofError::Form)?;
    check_header(&header)?;
    let key = ProofKey::from_header(&header)?;
    let is_signed = jsonwebtoken::crypto::verify(signature, signing_input.as_bytes(), &key.key, key.algorithm);
    if !is_signed.is_ok_and(|is_signed| is_signed) {
        return Err(ProofError::Signature);
    }
    claims(key.thumbprint, &payload)
}

fn members(segment: &str) -> Result<Map<String, Value>, ProofError> {
    let bytes = token::decode(segment).map_err(|_| ProofError::Form)?;
    token::object(&bytes, "proof").map_err(|_| ProofError::Form)
}

fn check_header(header: &Map<String, Value>) -> Result<(), ProofError> {
    for name in FORBIDDEN_HEADERS {
        if header.contains_key(name) {
            return Err(ProofError::ForbiddenHeader(name));
        }
    }
    if header.get("typ").is_some_and(|name| name == "dpop+jwt") { Ok(()) } else { Err(ProofError::Type) }
}

fn claims(thumbprint: [u8; 32], payload: &Map<String, Value>) -> Result<Proof, ProofError> {
    let text = |name| payload.get(name).and_then(Value::as_str).ok_or(ProofError::Claim(name));
    let id = text("jti")?;
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(ProofError::Claim("jti"));
    }
    Ok(Proof {
        thumbprint,
        id: id.to_owned(),
        method: text("htm")?.to_owned(),
        url: text("htu")?.to_owned(),
        token_sha256: confirmation::sha256(text("ath")?).ok_or(ProofError::Claim("ath"))?,
        issued_at: claims::date(payload, "iat").map_err(|_| ProofError::Claim("iat"))?,
    })
}
