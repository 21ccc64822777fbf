//! An issuer's public keys, from a JWK Set (RFC 7517).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{
    algorithm::Algorithms,
    jwk::{self, ExposedKeys, KeyName, VerificationKey},
    skipped::{SkipReason, Skipped, SkippedEntries},
};
use crate::authenticate::{
    error::{KeySetError, TokenError},
    strict_json,
    token::Jws,
};

/// An issuer's signature keys by `kid` and algorithm, and what else stands in its set.
#[derive(Debug)]
pub struct KeySet {
    keys: HashMap<KeyName, Arc<VerificationKey>>,
    skipped: SkippedEntries,
}

impl KeySet {
    /// How many keys a set may hold.
    pub const KEYS_MAX: usize = 64;
    /// The largest set read, in bytes.
    pub const BYTES_MAX: usize = 256 * 1024;

    /// Reads a JWK Set. Keys for encryption, of kinds that are not verified here or not allowed to this issuer are passed
    /// over; what is no key that is safe to verify with is skipped, and the others count (RFC 7517, section 5).
    ///
    /// # Errors
    /// [`KeySetError`]; also where no key can be used.
    pub fn from_json(bytes: &[u8], allowed: &Algorithms) -> Result<Self, KeySetError> {
        let keys = Self::parse(bytes, allowed)?;
        match (keys.is_empty(), keys.skipped.is_empty()) {
            (false, _) => Ok(keys),
            (true, true) => Err(KeySetError::NoUsableKey),
            (true, false) => Err(KeySetError::AllSkipped(keys.skipped)),
        }
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
        let exposed = ExposedKeys::among(listed);
        let (mut usable, mut skipped) = (Vec::new(), Vec::new());
        for entry in listed {
            let found =
                entry.as_object().ok_or(SkipReason::NotAnObject).and_then(|jwk| jwk::read(jwk, allowed, &exposed));
            match found {
                Ok(found) => usable.extend(found),
                Err(why) => skipped.push(Skipped::new(entry.get("kid").and_then(Value::as_str), why)),
            }
        }
        let keys = unambiguous(usable, &mut skipped);
        Ok(Self { keys, skipped: SkippedEntries::of(skipped) })
    }

    pub(super) fn empty() -> Self {
        Self { keys: HashMap::new(), skipped: SkippedEntries::default() }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The entries that do not count.
    #[must_use]
    pub const fn skipped(&self) -> &SkippedEntries {
        &self.skipped
    }

    /// Takes the place of `known`: a key that stays remains the same one, so that what it vouched for goes on; the others of
    /// `known` are withdrawn, and their names returned. `listed` is told each key that counts from now on.
    pub(super) fn succeed(self, known: &Self, listed: impl Fn(&VerificationKey)) -> (Self, Vec<KeyName>) {
        let kept = |(name, key): (KeyName, Arc<VerificationKey>)| {
            let kept = known.keys.get(&name).filter(|old| old.is_the_same_as(&key)).map_or(key, Arc::clone);
            listed(&kept);
            (name, kept)
        };
        let keys: HashMap<_, _> = self.keys.into_iter().map(kept).collect();
        let mut withdrawn = Vec::new();
        for (name, old) in &known.keys {
            if !keys.get(name).is_some_and(|new| Arc::ptr_eq(new, old)) {
                old.standing.withdraw();
                withdrawn.push(name.clone());
            }
        }
        (Self { keys, ..self }, withdrawn)
    }

    /// The key that a token names; where there is none for its algorithm, one of that `kid` for another. The only key for a
    /// token that names none (RFC 7515, section 4.1.4).
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`], [`TokenError::KeyIdNeeded`].
    pub(super) fn find(&self, jws: &Jws<'_>) -> Result<&Arc<VerificationKey>, TokenError> {
        let Some(kid) = &jws.key_id else { return self.only() };
        let named = || self.keys.iter().filter(|(name, _)| name.kid.as_ref() == Some(kid));
        let found = named().find(|(name, _)| name.algorithm == jws.algorithm).or_else(|| named().next());
        found.map(|(_, key)| key).ok_or(TokenError::UnknownKey)
    }

    fn only(&self) -> Result<&Arc<VerificationKey>, TokenError> {
        let mut keys = self.keys.values();
        match (keys.next(), keys.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(TokenError::UnknownKey),
            (Some(_), Some(_)) => Err(TokenError::KeyIdNeeded),
        }
    }
}

/// Entries that say the same are one; of those that say different keys under one name none counts, and one without a `kid`
/// only if there is no other.
fn unambiguous(
    usable: Vec<(KeyName, VerificationKey)>,
    skipped: &mut Vec<Skipped>,
) -> HashMap<KeyName, Arc<VerificationKey>> {
    let mut materials: HashMap<KeyName, HashSet<[u8; 32]>> = HashMap::new();
    for (name, key) in &usable {
        materials.entry(name.clone()).or_default().insert(*key.material());
    }
    let mut keys = HashMap::new();
    for (name, key) in usable {
        let is_one = materials.get(&name).is_some_and(|several| several.len() == 1);
        let fault = match &name.kid {
            None if !is_one || materials.len() > 1 => SkipReason::NoKeyId,
            Some(_) if !is_one => SkipReason::Ambiguous,
            None | Some(_) => {
                keys.insert(name, Arc::new(key));
                continue;
            }
        };
        skipped.push(Skipped::new(name.kid.as_deref(), fault));
    }
    keys
}

#[cfg(test)]
mod tests;
