//! The JSON Web Signatures of Project Wycheproof, against the strict form, the key set and the signature check.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Algorithms, KeySet};
use crate::authenticate::{
    error::TokenError,
    token::{self, BearerToken},
};

#[derive(Deserialize)]
struct Corpus {
    #[serde(rename = "testGroups")]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    public: Option<Value>,
    private: Value,
    tests: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    #[serde(rename = "tcId")]
    id: u32,
    result: String,
    /// A text, or the JSON serialisation.
    jws: Value,
}

/// Vectors that are valid signatures and refused all the same, and why.
const REFUSED: [(&str, &[u32]); 5] = [
    ("HS256: whoever can verify can sign", &[1, 348, 352, 357, 358, 359, 372, 373, 376, 377]),
    ("RS384 and RS512: none of the algorithms here", &[264, 265, 266, 267, 268, 269, 270, 271]),
    ("PS384 and PS512: none of the algorithms here", &[320, 321, 322, 323, 325, 326, 327, 328]),
    ("PS384 under a key that says PS256: one key, one algorithm", &[346, 350]),
    ("ES512 on P-521: none of the algorithms here", &[347, 351]),
];

/// The file, or `None` where it may be missing and is.
fn corpus() -> Option<Corpus> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora");
    let folder = env::var_os("VERIBUS_CORPORA").map_or(beside, PathBuf::from);
    let file = folder.join("jws/wycheproof_json_web_signature_test.json");
    if let Ok(bytes) = fs::read(&file) {
        return Some(serde_json::from_slice(&bytes).expect("the corpus"));
    }
    assert_ne!(env::var("VERIBUS_CORPORA_REQUIRED").as_deref(), Ok("1"), "no corpus at {}", file.display());
    writeln!(std::io::stderr(), "skipped: no corpus at {}", file.display()).expect("stderr");
    None
}

fn verify(group: &Group, jws: &Value) -> Result<(), TokenError> {
    let keys = json!({ "keys": [group.public.as_ref().unwrap_or(&group.private)] }).to_string();
    let keys = KeySet::from_json(keys.as_bytes(), &Algorithms::default()).map_err(|_| TokenError::UnknownKey)?;
    let text = jws.as_str().map_or_else(|| jws.to_string(), str::to_owned);
    let token = BearerToken::new(&text)?;
    let jws = token::parse(&token)?;
    keys.find(&jws)?.check_signature(&jws)
}

#[test]
fn of_wycheproofs_signatures_exactly_the_valid_ones_of_our_algorithms_verify() {
    let Some(corpus) = corpus() else { return };
    let (mut accepted, mut refused) = (0, 0);
    for group in &corpus.groups {
        for vector in &group.tests {
            let on_purpose = REFUSED.iter().find(|(_, ids)| ids.contains(&vector.id));
            let is_valid = vector.result == "valid";
            assert!(is_valid || on_purpose.is_none(), "{} is in the table, and not valid", vector.id);
            let outcome = verify(group, &vector.jws);
            assert_eq!(outcome.is_ok(), is_valid && on_purpose.is_none(), "{}: {outcome:?}", vector.id);
            *if outcome.is_ok() { &mut accepted } else { &mut refused } += 1;
        }
    }
    assert_eq!((accepted, refused), (16, 385));
}
