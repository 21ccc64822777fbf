//! Tokens that must not be accepted, made from valid ones; wherever it can be, they carry a signature that verifies.

mod claims;
mod form;
mod header;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::signers::{ALGORITHMS, Signer, name};

/// The issuer whose keys are known.
pub(crate) const ISSUER: &str = "https://issuer.example";
/// Another one whose keys are known.
pub(crate) const OTHER_ISSUER: &str = "https://other.example";
pub(crate) const AUDIENCE: &str = "veribus";

/// Makes a token of its class.
type Make = fn(&mut Attack) -> String;

/// Every class of hostile token.
pub(crate) const CLASSES: [(&str, Make); 24] = [
    ("a character is changed", Attack::changed_character),
    ("a bit of what is signed is changed", Attack::changed_bit),
    ("the segments are not three, or not in order", Attack::segments),
    ("a segment is not canonical base64url", Attack::encoding),
    ("the header asks for more", Attack::header_member),
    ("the header names another type", Attack::header_type),
    ("the header names no key, or another one", Attack::header_key),
    ("the header names another algorithm", Attack::header_algorithm),
    ("no signature is asked for", Attack::none),
    ("the public key is the secret of an HMAC", Attack::hmac),
    ("the attacker's key is in the header", Attack::embedded_key),
    ("another key has signed under the same name", Attack::impostor),
    ("the issuer is another one", Attack::issuer),
    ("the audience is another one", Attack::audience),
    ("a date is not valid, or not now", Attack::dates),
    ("a name is missing or none", Attack::names),
    ("a list is none or too long", Attack::lists),
    ("a member is there twice", Attack::duplicates),
    ("the JSON is none, or ambiguous", Attack::json),
    ("the JSON is nested too deep", Attack::depth),
    ("it is another kind of token", Attack::other_kind),
    ("it is too long", Attack::length),
    ("it is bound to what is not shown", Attack::binding),
    ("the actors are none", Attack::actors),
];

/// Makes hostile and valid tokens, the same ones for the same seed and keys.
pub(crate) struct Attack {
    random: StdRng,
    now: i64,
    pub(crate) known: Vec<Signer>,
    pub(crate) others: Vec<Signer>,
    unknown: Vec<Signer>,
    serial: u64,
}

impl Attack {
    pub(crate) fn new(seed: u64, now: i64) -> Self {
        let signers = |prefix: &str| -> Vec<_> {
            ALGORITHMS.iter().map(|one| Signer::new(*one, &format!("{prefix}{}", name(*one)))).collect()
        };
        let (known, others) = (signers("k-"), signers("o-"));
        // Under the same names as the known ones.
        Self { random: StdRng::seed_from_u64(seed), now, known, others, unknown: signers("k-"), serial: 0 }
    }

    /// A token of a class chosen at random.
    pub(crate) fn hostile(&mut self) -> (&'static str, String) {
        let (class, make) = CLASSES[self.below(CLASSES.len())];
        (class, make(self))
    }

    /// A token that must be accepted.
    pub(crate) fn valid(&mut self) -> String {
        let mut claims = self.claims();
        let changes = [
            json!({}),
            json!({"aud": ["somebody", AUDIENCE]}),
            json!({"aud": [AUDIENCE]}),
            json!({"nbf": self.now - 5, "exp": self.now as f64 + 60.5, "iat": self.now as f64 - 9.5}),
            json!({"types": ["ticket.resolved"], "roles": [], "permissions": "openid publish:a.>"}),
            json!({"act": {"sub": "assistant", "act": {"sub": "user", "iss": OTHER_ISSUER}}}),
            json!({"client_id": "agent", "typ": "Bearer", "nested": {"a": [{"a": 1}, {"a": 2}]}}),
        ];
        merge(&mut claims, self.pick(&changes).clone());
        let signer = self.signer();
        let mut header = self.known[signer].header();
        header["typ"] = (*self.pick(&["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt"])).into();
        if self.below(5) == 0 {
            header.as_object_mut().expect("an object").remove("typ");
        }
        self.known[signer].sign(&header, &claims)
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// RSA signs slowly: most are signed by curves.
    fn signer(&mut self) -> usize {
        if self.below(10) == 0 { 3 + self.below(2) } else { self.below(3) }
    }

    fn claims(&mut self) -> Value {
        self.serial += 1;
        json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "agent", "iat": self.now - 10, "exp": self.now + 3_000,
            "jti": format!("t-{}", self.serial), "roles": ["finance"], "permissions": ["publish:>"],
        })
    }

    /// Signed by a known key: claims as they should be but for `changes`, where `null` at the top takes a claim away.
    fn with_claims(&mut self, changes: Value) -> String {
        let mut claims = self.claims();
        merge(&mut claims, changes);
        let signer = self.signer();
        self.known[signer].sign(&self.known[signer].header(), &claims)
    }

    fn with_header(&mut self, changes: Value) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let mut header = self.known[signer].header();
        merge(&mut header, changes);
        self.known[signer].sign(&header, &claims)
    }

    fn good(&mut self) -> String {
        self.with_claims(json!({}))
    }
}

/// Sets each member; `null` takes it away.
fn merge(object: &mut Value, changes: Value) {
    let members = object.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
}

fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<_> = token.split('.').collect();
    parts.try_into().expect("three segments")
}
