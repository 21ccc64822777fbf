//! The key set that verifiers read: keys come at the end, and are taken out when nothing that they signed is to count
//! any more.
//!
//! In scope: the document (RFC 7517). Out of scope: where it is kept.

use serde_json::{Map, Value, json};
use thiserror::Error;

/// Why a key set stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishedKeysError {
    /// Not JSON, or not of the form of RFC 7517, section 5.
    #[error("it is not a JSON object with a list `keys` of objects")]
    NotAKeySet,
    /// There is a key of that name.
    #[error("there is a key `{0}` in it already")]
    Duplicate(String),
    /// There is no key of that name.
    #[error("there is no key `{0}` in it")]
    Unknown(String),
    /// Without a key the set would verify nothing, and a broker would not start with it.
    #[error("`{0}` is the only key in it: add another one first")]
    Last(String),
    /// More than verifiers take.
    #[error("it holds {0} keys already: retire some first")]
    Full(usize),
}

/// A set of public keys, in the order in which they came. What others wrote into it stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKeys {
    document: Map<String, Value>,
    keys: Vec<Map<String, Value>>,
}

/// A key as a set lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The oldest key has place 0.
    pub place: usize,
    /// Its `kid`.
    pub key_id: &'a str,
    /// Its `alg`, if it is bound to one.
    pub algorithm: Option<&'a str>,
}

impl PublishedKeys {
    /// How many keys a set may hold: what the broker's verifier takes.
    pub const KEYS_MAX: usize = 64;

    /// A set with no key.
    #[must_use]
    pub fn empty() -> Self {
        Self { document: Map::new(), keys: Vec::new() }
    }

    /// Reads a JWK Set.
    ///
    /// # Errors
    /// [`PublishedKeysError::NotAKeySet`].
    pub fn from_json(text: &str) -> Result<Self, PublishedKeysError> {
        let not_a_set = || PublishedKeysError::NotAKeySet;
        let mut document: Map<String, Value> = serde_json::from_str(text).map_err(|_| not_a_set())?;
        let Some(Value::Array(listed)) = document.remove("keys") else { return Err(not_a_set()) };
        let object = |key| if let Value::Object(key) = key { Ok(key) } else { Err(not_a_set()) };
        Ok(Self { document, keys: listed.into_iter().map(object).collect::<Result<_, _>>()? })
    }

    /// The set as JSON, over several lines.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut document = self.document.clone();
        document.insert("keys".to_owned(), json!(self.keys));
        format!("{:#}\n", Value::Object(document))
    }

    /// Takes the key of another set in, at the end.
    ///
    /// # Errors
    /// [`PublishedKeysError::Duplicate`], [`PublishedKeysError::Full`].
    pub fn add(&mut self, key_id: &str, key: Map<String, Value>) -> Result<(), PublishedKeysError> {
        if self.age_of(key_id).is_some() {
            return Err(PublishedKeysError::Duplicate(key_id.to_owned()));
        }
        if self.keys.len() >= Self::KEYS_MAX {
            return Err(PublishedKeysError::Full(self.keys.len()));
        }
        self.keys.push(key);
        Ok(())
    }

    /// Takes a key out: nothing that it signed counts with a verifier that reads the set afterwards.
    ///
    /// # Errors
    /// [`PublishedKeysError::Unknown`], [`PublishedKeysError::Last`].
    pub fn retire(&mut self, key_id: &str) -> Result<(), PublishedKeysError> {
        let Some(place) = self.age_of(key_id) else { return Err(PublishedKeysError::Unknown(key_id.to_owned())) };
        if self.keys.len() == 1 {
            return Err(PublishedKeysError::Last(key_id.to_owned()));
        }
        self.keys.remove(place);
        Ok(())
    }

    /// The key ids, the oldest first.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.get("kid")?.as_str())
    }

    /// How the set holds a public key, by its material (RFC 7638, section 3.2); `None` where it does not.
    #[must_use]
    pub fn find(&self, public: &Map<String, Value>) -> Option<Listed<'_>> {
        let same = |key: &Map<String, Value>| MATERIAL.iter().all(|member| key.get(*member) == public.get(*member));
        let place = self.keys.iter().position(same)?;
        let text = |member| self.keys.get(place)?.get(member)?.as_str();
        Some(Listed { place, key_id: text("kid")?, algorithm: text("alg") })
    }

    fn age_of(&self, key_id: &str) -> Option<usize> {
        self.keys.iter().position(|key| key.get("kid").is_some_and(|kid| kid == key_id))
    }
}

/// What makes a public key the one that it is (RFC 7638, section 3.2).
const MATERIAL: [&str; 6] = ["kty", "crv", "x", "y", "n", "e"];

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kid: &str) -> Map<String, Value> {
        let key = json!({"kid": kid, "kty": "OKP", "crv": "Ed25519", "x": format!("{kid}-x")});
        key.as_object().expect("an object").clone()
    }

    fn set(kids: &[&str]) -> PublishedKeys {
        let mut set = PublishedKeys::empty();
        for kid in kids {
            set.add(kid, key(kid)).expect("added");
        }
        set
    }

    #[test]
    fn the_newest_key_stands_last() {
        let set = set(&["a", "b"]);
        assert_eq!(set.key_ids().collect::<Vec<_>>(), ["a", "b"]);
        let places = ["a", "b"].map(|kid| set.find(&key(kid)).map(|listed| (listed.place, listed.key_id)));
        assert_eq!(places, [Some((0, "a")), Some((1, "b"))]);
        assert_eq!(set.find(&key("c")), None);
    }

    #[test]
    fn a_name_stands_for_one_key() {
        let mut set = set(&["a"]);
        assert_eq!(set.add("a", key("a")), Err(PublishedKeysError::Duplicate("a".to_owned())));
    }

    #[test]
    fn a_set_keeps_one_key_and_takes_no_more_than_verifiers_do() {
        let names: Vec<_> = (0..PublishedKeys::KEYS_MAX).map(|index| index.to_string()).collect();
        let mut full = set(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(full.add("x", key("x")), Err(PublishedKeysError::Full(64)));
        let mut one = set(&["a"]);
        assert_eq!(one.retire("a"), Err(PublishedKeysError::Last("a".to_owned())));
        assert_eq!(one.retire("b"), Err(PublishedKeysError::Unknown("b".to_owned())));
    }

    #[test]
    fn what_others_wrote_into_the_set_stays() {
        let text = r#"{"note":"ours","keys":[{"kid":"a","kty":"RSA","n":"AQAB","e":"AQAB","x5c":["c"]}]}"#;
        let mut set = PublishedKeys::from_json(text).expect("a set");
        set.add("b", key("b")).expect("added");
        let again: Value = serde_json::from_str(&set.to_json()).expect("JSON");
        assert_eq!((&again["note"], &again["keys"][0]["x5c"][0]), (&json!("ours"), &json!("c")));
        set.retire("b").expect("retired");
        assert_eq!(PublishedKeys::from_json(text), Ok(set));
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#] {
            assert_eq!(PublishedKeys::from_json(text), Err(PublishedKeysError::NotAKeySet), "{text}");
        }
    }
}
