//! The verifier against tokens that are wrong in every way we know, and against valid ones of every algorithm.
//!
//! `cargo run --release -p veribus-broker --example hostile_tokens` does the same with 100,000.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a failed expectation is a failed test, in what the tests share too"
)]

mod attack;
mod run;
mod signers;

use std::sync::Arc;

use jsonwebtoken::Algorithm;
use serde_json::json;
use veribus_broker::authenticate::{
    Algorithms, Authenticator, BearerToken, ClaimPaths, GrantLimits, KeySet, KeySetError, Presented, ProofSettings,
    SignatureAlgorithm, TokenError, TrustedIssuer, Verifier, VerifierSettings,
};
use veribus_broker::model::{Clock, Issuer, UnixSeconds};

use attack::{CLASSES, ISSUER};
use run::{METHOD, NOW};
use signers::{ALGORITHMS, Signer, name};

#[test]
fn no_hostile_token_is_accepted_and_no_valid_one_refused() {
    let tally = run::run(10_000, 1);
    assert_eq!(tally.accepted, []);
    assert_eq!(tally.refused, []);
    assert_eq!((tally.panics, tally.hostile, tally.valid), (0, 10_000, 1_111));
    assert_eq!(tally.reasons.len(), CLASSES.len(), "every class was there: {:?}", tally.reasons.keys());
}

struct Case {
    issuer: TrustedIssuer,
    token: String,
}

/// A token of this key, and an issuer with this key set that may sign with these algorithms.
fn case(signer: &Signer, key_set: &str, algorithms: &Algorithms, claims: &serde_json::Value) -> Case {
    let issuer = TrustedIssuer {
        issuer: Issuer::parse(ISSUER).expect("an issuer"),
        audiences: vec!["veribus".to_owned()],
        keys: KeySet::from_json(key_set.as_bytes(), algorithms).expect("a key").into(),
        claims: ClaimPaths::default(),
        require_at_jwt: false,
        require_bound: false,
        may_grant: GrantLimits::default(),
    };
    Case { issuer, token: signer.sign(&signer.header(), claims) }
}

fn verify(case: Case) -> Result<Arc<veribus_broker::authenticate::Identity>, TokenError> {
    let settings = VerifierSettings { cache_entries_max: 16, cache_bytes_max: 1 << 20, token_lifetime_s_max: 86_400 };
    let clock = Clock::manual(UnixSeconds(NOW));
    let verifier = Verifier::new(vec![case.issuer], settings, clock.clone());
    let authenticator = Authenticator::new(Arc::new(verifier), ProofSettings::NONE, clock);
    authenticator.authenticate(&Presented::as_bearer(BearerToken::new(&case.token)?, METHOD))
}

fn claims() -> serde_json::Value {
    json!({"iss": ISSUER, "aud": "veribus", "sub": "agent", "iat": NOW - 10, "exp": NOW + 60, "jti": "t-1"})
}

fn set_of(jwk: &serde_json::Value) -> String {
    json!({ "keys": [jwk] }).to_string()
}

#[test]
fn a_key_without_alg_is_for_the_algorithm_of_its_kind_and_an_rsa_key_for_rs256() {
    for algorithm in ALGORITHMS {
        let mut signer = Signer::new(algorithm, "k");
        signer.jwk.as_object_mut().expect("an object").remove("alg");
        let verified = verify(case(&signer, &set_of(&signer.jwk), &Algorithms::default(), &claims()));
        let expected = (algorithm == Algorithm::PS256).then_some(TokenError::KeyAlgorithmMismatch);
        assert_eq!(verified.err(), expected, "{}", name(algorithm));
    }
}

#[test]
fn an_rsa_key_without_alg_is_for_ps256_where_the_issuer_may_not_sign_with_rs256() {
    let only_ps256 = Algorithms::new(vec![SignatureAlgorithm::Ps256, SignatureAlgorithm::Es256]);
    for (algorithm, expected) in [(Algorithm::PS256, None), (Algorithm::RS256, Some(TokenError::KeyAlgorithmMismatch))]
    {
        let mut signer = Signer::new(algorithm, "k");
        signer.jwk.as_object_mut().expect("an object").remove("alg");
        let verified = verify(case(&signer, &set_of(&signer.jwk), &only_ps256, &claims()));
        assert_eq!(verified.err(), expected, "{}", name(algorithm));
    }
}

#[test]
fn a_key_for_an_algorithm_that_its_issuer_may_not_use_is_none() {
    let signer = Signer::new(Algorithm::ES256, "k");
    let set = set_of(&signer.jwk);
    let without = SignatureAlgorithm::ALL.into_iter().filter(|one| *one != SignatureAlgorithm::Es256).collect();
    let read = KeySet::from_json(set.as_bytes(), &Algorithms::new(without));
    assert_eq!(read.err(), Some(KeySetError::NoUsableKey));
    assert_eq!(KeySet::from_json(set.as_bytes(), &Algorithms::default()).map(|keys| keys.len()), Ok(1));
}
