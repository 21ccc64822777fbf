use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{
    authenticate::TrustedIssuer,
    fixtures::{self, METHOD, NOW, PUBLIC_URL, Prover, World, bearer, proofs, trusted},
    issue::{Claims, KeyKind},
    model::{Clock, UnixMicros},
};

const CERTIFICATE: [u8; 32] = [7; 32];

fn world() -> World {
    World::new(KeyKind::Es256)
}

fn token(world: &World, cnf: Value) -> String {
    world.issuer.issue(&world.claims("agent").claim("cnf", cnf)).expect("signed")
}

fn certificate_bound(world: &World) -> String {
    token(world, json!({ "x5t#S256": data_encoding::BASE64URL_NOPAD.encode(&CERTIFICATE) }))
}

/// Who holds a key, and a token that names it.
fn key_bound(world: &World, kind: KeyKind) -> (Prover, String) {
    let prover = Prover::new(kind);
    let token = token(world, json!({ "jkt": prover.thumbprint }));
    (prover, token)
}

fn outcome(world: &World, presented: &Presented<'_>) -> Result<(), TokenError> {
    world.authenticator.authenticate(presented).map(drop)
}

fn with_proof(world: &World, token: &str, proof: &str) -> Result<(), TokenError> {
    outcome(world, &Presented { scheme: Scheme::Dpop, proof: Some(proof), ..bearer(token) })
}

fn refused(error: ProofError) -> Result<(), TokenError> {
    Err(TokenError::Proof(error))
}

#[test]
fn a_token_that_names_a_certificate_counts_on_its_connection_only_each_time_anew() {
    let world = world();
    let token = certificate_bound(&world);
    let over = |certificate_sha256| outcome(&world, &Presented { certificate_sha256, ..bearer(&token) });
    for _ in 0..2 {
        assert_eq!(over(Some(CERTIFICATE)), Ok(()));
        assert_eq!(over(None), Err(TokenError::NoCertificate));
        assert_eq!(over(Some([8; 32])), Err(TokenError::OtherCertificate));
    }
    let identity = world.authenticator.authenticate(&Presented {
        certificate_sha256: Some(CERTIFICATE),
        scheme: Scheme::Unsaid,
        ..bearer(&token)
    });
    assert_eq!(identity.expect("recognised").confirmation(), Some(&Confirmation::Certificate(CERTIFICATE)));
}

#[test]
fn a_certificate_is_no_matter_for_a_token_that_names_none() {
    let world = world();
    let token = world.issuer.issue(&world.claims("agent")).expect("signed");
    assert_eq!(outcome(&world, &Presented { certificate_sha256: Some(CERTIFICATE), ..bearer(&token) }), Ok(()));
}

#[test]
fn a_token_whose_binding_is_not_understood_is_refused() {
    let world = world();
    for cnf in [json!({}), json!({ "kid": "k" }), json!({ "jkt": "AAAA" }), json!(null)] {
        assert_eq!(outcome(&world, &bearer(&token(&world, cnf))), Err(TokenError::Confirmation));
    }
}

#[test]
fn a_token_that_names_a_key_counts_with_a_proof_by_it() {
    let world = world();
    for kind in [KeyKind::Es256, KeyKind::Es384, KeyKind::EdDsa] {
        let (prover, token) = key_bound(&world, kind);
        assert_eq!(with_proof(&world, &token, &prover.proof(&token, "1")), Ok(()));
        let proof = prover.proof(&token, "2");
        let in_a_message = Presented { scheme: Scheme::Unsaid, proof: Some(&proof), ..bearer(&token) };
        assert_eq!(outcome(&world, &in_a_message), Ok(()));
    }
}

#[test]
fn scheme_proof_and_binding_must_fit_each_other() {
    let world = world();
    let (prover, bound) = key_bound(&world, KeyKind::Es256);
    let unbound = world.issuer.issue(&world.claims("agent")).expect("signed");
    let by_certificate = certificate_bound(&world);
    for (token, scheme, has_proof, expected) in [
        (&bound, Scheme::Bearer, false, refused(ProofError::AsBearer)),
        (&bound, Scheme::Bearer, true, refused(ProofError::AsBearer)),
        (&bound, Scheme::Dpop, false, refused(ProofError::Missing)),
        (&bound, Scheme::Unsaid, false, refused(ProofError::Missing)),
        (&unbound, Scheme::Dpop, false, refused(ProofError::Unbound)),
        (&unbound, Scheme::Dpop, true, refused(ProofError::Unbound)),
        (&unbound, Scheme::Bearer, true, refused(ProofError::Unbound)),
        (&unbound, Scheme::Unsaid, true, refused(ProofError::Unbound)),
        (&unbound, Scheme::Bearer, false, Ok(())),
        (&unbound, Scheme::Unsaid, false, Ok(())),
        (&by_certificate, Scheme::Dpop, true, refused(ProofError::Unbound)),
        (&by_certificate, Scheme::Bearer, true, refused(ProofError::Unbound)),
        (&by_certificate, Scheme::Bearer, false, Ok(())),
    ] {
        let proof = prover.proof(token, "1");
        let certificate_sha256 = Some(CERTIFICATE);
        let proof = has_proof.then_some(&*proof);
        let presented = Presented { scheme, proof, certificate_sha256, ..bearer(token) };
        assert_eq!(outcome(&world, &presented), expected, "{scheme:?}, proof: {has_proof}");
    }
}

#[test]
fn a_proof_counts_once() {
    let world = world();
    let (prover, token) = key_bound(&world, KeyKind::Es256);
    let proof = prover.proof(&token, "1");
    assert_eq!(with_proof(&world, &token, &proof), Ok(()));
    assert_eq!(with_proof(&world, &token, &proof), refused(ProofError::Replayed));
    let signed_anew = prover.proof(&token, "1");
    assert_eq!(with_proof(&world, &token, &signed_anew), refused(ProofError::Replayed), "it is the `jti` that counts");
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(with_proof(&world, &token, &proof), refused(ProofError::Replayed), "its last second");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(with_proof(&world, &token, &proof), refused(ProofError::Old));
}

#[test]
fn a_proof_that_does_not_count_uses_nothing_up() {
    let world = world();
    let (prover, token) = key_bound(&world, KeyKind::Es256);
    let mut elsewhere = Prover::claims(&token, "1");
    elsewhere["htu"] = json!("https://other.example/x");
    assert_eq!(with_proof(&world, &token, &prover.proof_of(&elsewhere)), refused(ProofError::OtherCall));
    assert_eq!(with_proof(&world, &token, &prover.proof(&token, "1")), Ok(()));
}

#[test]
fn a_proof_is_for_one_key_one_call_one_token_and_now() {
    let world = world();
    let (prover, token) = key_bound(&world, KeyKind::Es256);
    let stranger = Prover::new(KeyKind::Es256);
    assert_eq!(with_proof(&world, &token, &stranger.proof(&token, "1")), refused(ProofError::OtherKey));
    let other_method = format!("{PUBLIC_URL}/veribus.v1.BrokerService/PublishStream");
    let claim = ProofError::Claim;
    for (name, value, expected) in [
        ("htm", json!("GET"), ProofError::OtherCall),
        ("htm", json!("post"), ProofError::OtherCall),
        ("htu", json!(other_method), ProofError::OtherCall),
        ("htu", json!(format!("http://broker.example{METHOD}")), ProofError::OtherCall),
        ("ath", json!(data_encoding::BASE64URL_NOPAD.encode(&[1; 32])), ProofError::OtherToken),
        ("iat", json!(NOW.0 - 61), ProofError::Old),
        ("iat", json!(NOW.0 + AHEAD_MAX_S + 1), ProofError::Early),
        ("iat", json!(i64::MIN), ProofError::Old),
        ("iat", json!(i64::MAX), ProofError::Early),
        ("htm", json!(["POST"]), claim("htm")),
        ("htu", json!(null), claim("htu")),
        ("ath", json!("AAAA"), claim("ath")),
        ("ath", json!(1), claim("ath")),
        ("iat", json!("1800000000"), claim("iat")),
        ("jti", json!(""), claim("jti")),
        ("jti", json!("j".repeat(257)), claim("jti")),
        ("jti", json!(1), claim("jti")),
    ] {
        let mut claims = Prover::claims(&token, "1");
        claims[name] = value.clone();
        let proof = prover.proof_of(&claims);
        assert_eq!(with_proof(&world, &token, &proof), refused(expected), "`{name}` is {value}");
    }
    for name in ["htm", "htu", "ath", "iat", "jti"] {
        let mut claims = Prover::claims(&token, "1");
        claims.as_object_mut().expect("an object").remove(name);
        assert_eq!(with_proof(&world, &token, &prover.proof_of(&claims)), refused(claim(name)), "no `{name}`");
    }
}

const AHEAD_MAX_S: i64 = 5;

#[test]
fn a_client_whose_clock_is_a_little_ahead_is_served_and_one_behind_after_a_while() {
    let world = world();
    let (prover, token) = key_bound(&world, KeyKind::Es256);
    let at = |second: i64| {
        let mut claims = Prover::claims(&token, &second.to_string());
        claims["iat"] = json!(second);
        with_proof(&world, &token, &prover.proof_of(&claims))
    };
    assert_eq!(at(NOW.0 + AHEAD_MAX_S), Ok(()));
    assert_eq!(at(NOW.0 - 1), refused(ProofError::Old), "made before the broker started: it may have been used then");
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(at(NOW.0), Ok(()), "the oldest that counts");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(at(NOW.0), refused(ProofError::Old));
}

#[test]
fn after_a_restart_no_proof_comes_again_and_none_is_locked_out_whatever_the_clock_said_at_the_start() {
    for wrong_by in [0, 1_800, -3_600] {
        let world = world();
        let (prover, token) = key_bound(&world, KeyKind::Es256);
        let used = prover.proof(&token, "used");
        assert_eq!(with_proof(&world, &token, &used), Ok(()));
        let set = |seconds: i64| world.clock.set(UnixMicros(seconds * 1_000_000));
        set(NOW.0 + wrong_by);
        let restarted = Authenticator::new(Arc::clone(&world.verifier), proofs(Some(PUBLIC_URL)), world.clock.clone());
        restarted.proofs_accepted_until(UnixMicros(NOW.0 * 1_000_000));
        set(NOW.0 + 1);
        let outcome = |proof: &str| {
            let presented = Presented { scheme: Scheme::Dpop, proof: Some(proof), ..bearer(&token) };
            restarted.authenticate(&presented).map(drop)
        };
        assert_eq!(outcome(&used), refused(ProofError::Old), "by {wrong_by} s");
        let mut fresh = Prover::claims(&token, "fresh");
        fresh["iat"] = json!(NOW.0 + 1);
        assert_eq!(outcome(&prover.proof_of(&fresh)), Ok(()), "by {wrong_by} s");
    }
}

#[test]
fn a_proof_is_read_as_strictly_as_a_token() {
    let world = world();
    let (prover, token) = key_bound(&world, KeyKind::Es256);
    let claims = Prover::claims(&token, "1");
    let good = prover.proof(&token, "1");
    let (signing_input, signature) = good.rsplit_once('.').expect("dots");
    let (header, _) = signing_input.split_once('.').expect("dots");
    for proof in [
        "",
        "..",
        "a.b",
        signing_input,
        &format!("{good}="),
        &format!("{good}.{signature}"),
        &format!(" {good}"),
        &format!("{header}.e30+.{signature}"),
        &prover.sign(r#"{"typ":"dpop+jwt","typ":"dpop+jwt"}"#, &claims.to_string()),
        &prover.sign(&prover.header().to_string(), r#"{"jti":"a","jti":"b"}"#),
        &prover.sign("[]", "{}"),
    ] {
        assert_eq!(with_proof(&world, &token, proof), refused(ProofError::Form), "{proof}");
    }
    let long = format!("{good}{}", "a".repeat(2_048));
    assert_eq!(with_proof(&world, &token, &long), refused(ProofError::TooLong { max: 2_048 }));
    let last = if good.ends_with('A') { "Q" } else { "A" };
    let forged = format!("{}{last}", good.get(..good.len() - 1).expect("a proof"));
    assert_eq!(with_proof(&world, &token, &forged), refused(ProofError::Signature));
}

#[test]
fn a_proofs_header_says_what_it_must_and_nothing_that_changes_its_meaning() {
    let world = world();
    let (prover, token) = key_bound(&world, KeyKind::Es256);
    let with = |name: &str, value: Value| {
        let mut header = prover.header();
        header[name] = value;
        with_proof(&world, &token, &prover.sign(&header.to_string(), &Prover::claims(&token, "1").to_string()))
    };
    for typ in [json!("jwt"), json!("at+jwt"), json!("DPoP+JWT"), json!(null), json!(["dpop+jwt"])] {
        assert_eq!(with("typ", typ), refused(ProofError::Type));
    }
    for name in ["crit", "b64", "jku", "x5u", "x5c", "zip", "cty", "enc", "epk", "p2c"] {
        assert_eq!(with(name, json!(["x"])), refused(ProofError::ForbiddenHeader(name)));
    }
    assert_eq!(with("alg", json!("none")), refused(ProofError::Algorithm));
    assert_eq!(with("alg", json!("ES384")), refused(ProofError::Key));
    let mut private = prover.jwk.clone();
    private["d"] = json!("AAAA");
    assert_eq!(with("jwk", private), refused(ProofError::PrivateKey));
    assert_eq!(with("jwk", Prover::new(KeyKind::Es256).jwk), refused(ProofError::Signature));
}

#[test]
fn without_a_public_url_no_token_that_names_a_key_is_accepted() {
    let world = world();
    let (prover, token) = key_bound(&world, KeyKind::Es256);
    let authenticator = Authenticator::new(Arc::clone(&world.verifier), proofs(None), world.clock.clone());
    let proof = prover.proof(&token, "1");
    let presented = Presented { scheme: Scheme::Dpop, proof: Some(&proof), ..bearer(&token) };
    let error = authenticator.authenticate(&presented).expect_err("cannot be checked");
    assert_eq!(error, TokenError::Proof(ProofError::NoPublicUrl));
    assert!(error.reason().contains("server.public_url") && error.to_string().contains("`server.public_url`"));
}

#[test]
fn one_agent_that_uses_up_its_proofs_does_not_lock_out_another() {
    let world = world();
    let (prover, greedy) = key_bound(&world, KeyKind::Es256);
    for number in 0..10 {
        assert_eq!(with_proof(&world, &greedy, &prover.proof(&greedy, &number.to_string())), Ok(()));
    }
    assert_eq!(with_proof(&world, &greedy, &prover.proof(&greedy, "10")), refused(ProofError::TooMany));
    // Another token and another key of the same agent do not help it.
    let (other_key, other_token) = key_bound(&world, KeyKind::Es256);
    let proof = other_key.proof(&other_token, "1");
    assert_eq!(with_proof(&world, &other_token, &proof), refused(ProofError::TooMany));
    let modest = Prover::new(KeyKind::Es256);
    let claims = world.claims("another").claim("cnf", json!({ "jkt": modest.thumbprint }));
    let token = world.issuer.issue(&claims).expect("signed");
    assert_eq!(with_proof(&world, &token, &modest.proof(&token, "1")), Ok(()));
}

#[test]
fn an_issuer_may_be_held_to_binding_its_tokens() {
    let clock = Clock::manual(NOW);
    let issuer = fixtures::issuer("https://issuer.example", KeyKind::Es256);
    let trusted = TrustedIssuer { require_bound: true, ..trusted(&issuer) };
    let verifier = Arc::new(Verifier::new(vec![trusted], fixtures::VERIFIER_SETTINGS, clock.clone()));
    let authenticator = Authenticator::new(verifier, proofs(None), clock);
    let claims: Claims = issuer.claims("agent", NOW, fixtures::LIFETIME);
    let outcome = |claims: &Claims| {
        let token = issuer.issue(claims).expect("signed");
        let presented = Presented { certificate_sha256: Some(CERTIFICATE), ..bearer(&token) };
        authenticator.authenticate(&presented).map(drop)
    };
    assert_eq!(outcome(&claims), Err(TokenError::Unbound));
    let digest = data_encoding::BASE64URL_NOPAD.encode(&CERTIFICATE);
    assert_eq!(outcome(&claims.claim("cnf", json!({ "x5t#S256": digest }))), Ok(()));
}

#[test]
fn actors_are_read_with_the_token() {
    let world = world();
    let claims = world.claims("agent").claim("act", json!({ "sub": "helper" }));
    let identity = world.identity(&claims);
    assert_eq!(
        identity
            .actors()
            .iter()
            .map(|actor| actor.agent.as_ref().map_or("", |agent| agent.as_str()))
            .collect::<Vec<_>>(),
        ["helper"]
    );
    let claims = world.claims("agent").claim("act", json!("helper"));
    let token = world.issuer.issue(&claims).expect("signed");
    assert_eq!(world.authenticate(&token).map(drop), Err(TokenError::Claim("act")));
}
