//! An issuer's public keys, from a JWK Set (RFC 7517).

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{
    algorithm::Algorithms,
    jwk::{self, VerificationKey},
};
use crate::authenticate::{error::KeySetError, strict_json};

/// An issuer's signature keys by `kid`.
#[derive(Debug)]
pub struct KeySet(HashMap<String, Arc<VerificationKey>>);

impl KeySet {
    /// How many keys a set may hold.
    pub const KEYS_MAX: usize = 64;
    /// The largest set read, in bytes.
    pub const BYTES_MAX: usize = 256 * 1024;

    /// Reads a JWK Set. Keys for encryption, without a `kid`, of kinds that are not verified here or not allowed to this
    /// issuer are passed over.
    ///
    /// # Errors
    /// [`KeySetError`]; also where a key is private, since then it is known to too many, and where no key can be used.
    pub fn from_json(bytes: &[u8], allowed: &Algorithms) -> Result<Self, KeySetError> {
        let keys = Self::parse(bytes, allowed)?;
        if keys.is_empty() { Err(KeySetError::NoUsableKey) } else { Ok(keys) }
    }

    /// The same, where it may be that the issuer has withdrawn every key.
    pub(super) fn parse(bytes: &[u8], allowed: &Algorithms) -> Result<Self, KeySetError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(KeySetError::TooLarge { max: Self::BYTES_MAX });
        }
        let document = strict_json::parse(bytes).map_err(|_| KeySetError::NotStrictJson)?;
        let listed = document.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        if listed.len() > Self::KEYS_MAX {
            return Err(KeySetError::TooMany { max: Self::KEYS_MAX });
        }
        let mut keys = HashMap::new();
        for jwk in listed {
            let jwk = jwk.as_object().ok_or(KeySetError::NoKeys)?;
            if let Some((kid, key)) = jwk::read(jwk, allowed)?
                && keys.insert(kid.clone(), Arc::new(key)).is_some()
            {
                return Err(KeySetError::DuplicateKeyId(kid));
            }
        }
        Ok(Self(keys))
    }

    pub(super) fn empty() -> Self {
        Self(HashMap::new())
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn find(&self, key_id: &str) -> Option<&Arc<VerificationKey>> {
        self.0.get(key_id)
    }

    /// Takes the place of `known`: a key that stays remains the same one, so that what it vouched for goes on; the others of
    /// `known` are withdrawn, and their ids returned. `listed` is told each key that counts from now on.
    pub(super) fn succeed(self, known: &Self, listed: impl Fn(&VerificationKey)) -> (Self, Vec<String>) {
        let kept = |(kid, key): (String, Arc<VerificationKey>)| {
            let kept = known.find(&kid).filter(|old| old.is_the_same_as(&key)).map_or(key, Arc::clone);
            listed(&kept);
            (kid, kept)
        };
        let next: HashMap<_, _> = self.0.into_iter().map(kept).collect();
        let mut withdrawn = Vec::new();
        for (kid, old) in &known.0 {
            if !next.get(kid).is_some_and(|new| Arc::ptr_eq(new, old)) {
                old.standing.withdraw();
                withdrawn.push(kid.clone());
            }
        }
        (Self(next), withdrawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7515, appendix A.3.1, and RFC 8037, appendix A.2.
    const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
    const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    fn read(keys: &[String]) -> Result<usize, KeySetError> {
        KeySet::from_json(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes(), &Algorithms::default())
            .map(|set| set.len())
    }

    #[test]
    fn keys_of_both_kinds_are_read() {
        assert_eq!(read(&[format!(r#"{{"kid":"a",{EC}}}"#), format!(r#"{{"kid":"b","use":"sig",{ED}}}"#)]), Ok(2));
    }

    #[test]
    fn keys_for_something_else_are_passed_over() {
        for other in [
            format!(r#"{{{EC}}}"#),
            format!(r#"{{"kid":"a","use":"enc",{EC}}}"#),
            format!(r#"{{"kid":"a","alg":"ES384",{EC}}}"#),
            format!(r#"{{"kid":"a","key_ops":["sign"],{EC}}}"#),
            r#"{"kid":"a","kty":"EC","crv":"secp256k1","x":"AQAB","y":"AQAB"}"#.to_owned(),
            r#"{"kid":"a","kty":"OKP","crv":"X25519","x":"AQAB"}"#.to_owned(),
        ] {
            assert_eq!(read(std::slice::from_ref(&other)), Err(KeySetError::NoUsableKey), "{other}");
        }
    }

    #[test]
    fn a_private_key_or_a_repeated_name_spoils_the_set() {
        let private = format!(r#"{{"kid":"a","d":"x",{EC}}}"#);
        assert_eq!(read(&[private]), Err(KeySetError::Private("a".to_owned())));
        let secret = r#"{"kid":"a","kty":"oct","k":"x"}"#.to_owned();
        assert_eq!(read(&[secret]), Err(KeySetError::Private("a".to_owned())));
        let twice = format!(r#"{{"kid":"a",{EC}}}"#);
        assert_eq!(read(&[twice.clone(), twice]), Err(KeySetError::DuplicateKeyId("a".to_owned())));
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        assert_eq!(KeySet::from_json(b"", &Algorithms::default()).err(), Some(KeySetError::NotStrictJson));
        assert_eq!(KeySet::from_json(b"{}", &Algorithms::default()).err(), Some(KeySetError::NoKeys));
        assert_eq!(read(&[]), Err(KeySetError::NoUsableKey));
        assert_eq!(read(&vec!["{}".to_owned(); KeySet::KEYS_MAX + 1]), Err(KeySetError::TooMany { max: 64 }));
        let short = r#"{"kid":"a","kty":"OKP","crv":"Ed25519","x":"AAAA"}"#.to_owned();
        assert_eq!(read(&[short]), Err(KeySetError::Invalid("a".to_owned())));
    }
}
