use serde_json::json;

use super::*;
use crate::authenticate::{
    keys::SignatureAlgorithm,
    token::{self, BearerToken},
};

// RFC 7515, appendix A.3.1, and RFC 8037, appendix A.2.
fn ec() -> Value {
    json!({"kid": "ec", "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
}

fn ed() -> Value {
    json!({"kid": "ed", "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
}

/// With a modulus of `lead` and 255 further bytes.
fn rsa(kid: &str, lead: &[u8]) -> Value {
    let n = data_encoding::BASE64URL_NOPAD.encode(&[lead, &[0x55; 255]].concat());
    json!({"kid": kid, "kty": "RSA", "n": n, "e": "AQAB"})
}

/// With these members instead of its own; without those that are `null`.
fn with(mut jwk: Value, members: &Value) -> Value {
    let own = jwk.as_object_mut().expect("an object");
    for (name, value) in members.as_object().expect("an object") {
        own.insert(name.clone(), value.clone());
    }
    own.retain(|_, value| !value.is_null());
    jwk
}

fn parse(entries: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": entries }).to_string().as_bytes(), &Algorithms::default()).expect("a key set")
}

/// The names of those that count, sorted, and why others do not.
fn read(entries: &[Value]) -> (Vec<String>, Vec<SkipReason>) {
    let set = parse(entries);
    let mut names: Vec<_> = set.keys.keys().map(|name| format!("{name} {}", name.algorithm)).collect();
    names.sort();
    (names, set.skipped().iter().map(|skipped| skipped.why).collect())
}

fn error(text: &[u8]) -> Option<KeySetError> {
    KeySet::from_json(text, &Algorithms::default()).err()
}

#[test]
fn keys_of_every_kind_are_read() {
    let entries = [ec(), with(ed(), &json!({"use": "sig"})), rsa("rsa", &[0x80])];
    assert_eq!(read(&entries), (["ec ES256", "ed EdDSA", "rsa RS256"].map(str::to_owned).to_vec(), vec![]));
}

#[test]
fn keys_for_something_else_are_passed_over() {
    for other in [
        with(ec(), &json!({"use": "enc"})),
        with(ec(), &json!({"alg": "ES384"})),
        with(ec(), &json!({"key_ops": ["sign"]})),
        json!({"kid": "a", "kty": "EC", "crv": "secp256k1", "x": "AQAB", "y": "AQAB"}),
        json!({"kid": "a", "kty": "OKP", "crv": "X25519", "x": "AQAB"}),
    ] {
        assert_eq!(read(std::slice::from_ref(&other)), (vec![], vec![]), "{other}");
        assert_eq!(error(json!({"keys": [other]}).to_string().as_bytes()), Some(KeySetError::NoUsableKey));
    }
}

#[test]
fn an_entry_that_is_no_good_key_is_skipped_and_the_others_count() {
    let long = json!({"kid": "k".repeat(1_000)});
    for (bad, why) in [
        (rsa("a", &[0, 0x80]), "begins with zeros"),
        (with(rsa("a", &[0x80]), &json!({"n": null})), "`n` is missing"),
        (json!({"kid": "a", "kty": "RSA", "x5c": ["MIIB"]}), "`n` is missing"),
        (
            with(rsa("a", &[0x80]), &json!({"n": data_encoding::BASE64URL_NOPAD.encode(&[0xd5; 128])})),
            "fewer than 2048",
        ),
        (with(rsa("a", &[0x80]), &json!({"e": "Aw"})), "less than 65537"),
        (with(ed(), &json!({"x": "AAAA"})), "`x` is missing"),
        (with(ec(), &json!({"y": null})), "`y` is missing"),
        (with(ec(), &json!({"kty": null})), "no `kty`"),
        (with(ed(), &json!({"kid": 1})), "not a string"),
        (Value::Null, "not an object"),
        (json!("key"), "not an object"),
        (with(with(ed(), &long), &json!({"x": "AAAA"})), "k..."),
    ] {
        let set = parse(&[bad.clone(), rsa("good", &[0xc0])]);
        let told = set.skipped().to_string();
        assert_eq!((set.len(), set.skipped().len()), (1, 1), "{bad}: {told}");
        assert!(told.contains(why) && told.len() < 200, "{bad}: {told}");
    }
}

#[test]
fn a_published_private_part_spoils_the_key_wherever_it_stands_and_no_other() {
    let secret = json!({"kid": "secret", "kty": "oct", "k": "AAAA"});
    assert_eq!(read(&[secret, ec()]), (vec!["ec ES256".to_owned()], vec![SkipReason::Private]));
    for member in jwk::PRIVATE_MEMBERS {
        for (good, written_otherwise) in [
            (ec(), json!({"kid": "b"})),
            (ed(), json!({"kid": "b", "x": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="})),
            (rsa("a", &[0x80]), json!({"kid": null, "alg": "PS256", "e": "AQAD"})),
            (rsa("a", &[0x80]), json!({"kid": "b", "use": "enc", "n": rsa("", &[0, 0, 0x80])["n"]})),
        ] {
            let private = with(with(good.clone(), &written_otherwise), &json!({member: "AAAA"}));
            let expected = vec![SkipReason::PrivateElsewhere, SkipReason::Private];
            assert_eq!(read(&[good.clone(), private.clone()]), (vec![], expected), "{member} {good}");
            let (counted, skipped) = read(&[private, rsa("other", &[0xc0]), good]);
            let expected = vec![SkipReason::Private, SkipReason::PrivateElsewhere];
            assert_eq!((counted, skipped), (vec!["other RS256".to_owned()], expected), "{member}");
        }
    }
}

#[test]
fn keys_of_one_name_are_told_apart_by_their_algorithm_and_not_at_all_within_one() {
    let ec = with(ec(), &json!({"kid": "a"}));
    let (one, other) = (rsa("a", &[0x80]), rsa("a", &[0xc0]));
    let pss = with(other.clone(), &json!({"alg": "PS256"}));
    let (counted, skipped) = read(&[ec.clone(), one.clone(), pss]);
    assert_eq!((counted.join(","), skipped), ("a ES256,a PS256,a RS256".to_owned(), vec![]));
    assert_eq!(read(&[ec.clone(), ec.clone()]), (vec!["a ES256".to_owned()], vec![]));
    assert_eq!(
        read(&[one.clone(), other, one, ec]),
        (vec!["a ES256".to_owned()], vec![SkipReason::Ambiguous; 3]),
        "neither, although one of them is there twice"
    );
}

/// What a token with this header finds in a set.
fn find(entries: &[Value], header: &Value) -> Result<SignatureAlgorithm, TokenError> {
    let [header, payload] =
        [header, &json!({})].map(|part| data_encoding::BASE64URL_NOPAD.encode(part.to_string().as_bytes()));
    let token = BearerToken::new(format!("{header}.{payload}.AAAA")).expect("short");
    let jws = token::parse(&token)?;
    let set = parse(entries);
    let key = set.find(&jws)?;
    match key.check_signature(&jws) {
        Err(TokenError::Signature) => Ok(jws.algorithm),
        outcome => Err(outcome.expect_err("no good signature")),
    }
}

#[test]
fn a_token_that_names_no_key_means_the_only_one_and_one_that_names_another_never_does() {
    let nameless = with(ec(), &json!({"kid": null}));
    let [kidless, unknown] = [json!({"alg": "ES256"}), json!({"alg": "ES256", "kid": "other"})];
    let bad = with(ed(), &json!({"x": "AAAA"}));
    let twice = vec![bad, nameless.clone(), nameless.clone()];
    for only in [vec![ec()], vec![nameless.clone()], vec![ec(), ec()], twice] {
        assert_eq!(find(&only, &kidless), Ok(SignatureAlgorithm::Es256), "{only:?}");
        assert_eq!(find(&only, &unknown), Err(TokenError::UnknownKey), "{only:?}");
        assert_eq!(find(&only, &json!({"alg": "EdDSA"})), Err(TokenError::KeyAlgorithmMismatch));
    }
    assert_eq!(find(&[ec(), ed()], &kidless), Err(TokenError::KeyIdNeeded));
    assert_eq!(find(&[], &kidless), Err(TokenError::UnknownKey));
    assert_eq!(read(&[nameless, ed()]), (vec!["ed EdDSA".to_owned()], vec![SkipReason::NoKeyId]));
}

#[test]
fn a_key_is_found_by_its_name_and_the_algorithm_of_the_token() {
    let entries = [with(ec(), &json!({"kid": "a"})), rsa("a", &[0x80])];
    let named = |alg: &str| find(&entries, &json!({"alg": alg, "kid": "a"}));
    assert_eq!(named("ES256"), Ok(SignatureAlgorithm::Es256));
    assert_eq!(named("RS256"), Ok(SignatureAlgorithm::Rs256));
    assert_eq!(named("PS256"), Err(TokenError::KeyAlgorithmMismatch));
}

#[test]
fn ed25519_is_another_name_of_eddsa() {
    for (key, token) in [("Ed25519", "EdDSA"), ("EdDSA", "Ed25519"), ("Ed25519", "Ed25519")] {
        let entry = with(ed(), &json!({ "alg": key }));
        assert_eq!(find(&[entry], &json!({"alg": token, "kid": "ed"})), Ok(SignatureAlgorithm::EdDsa));
    }
    assert_eq!(read(&[with(ec(), &json!({"alg": "Ed25519"}))]), (vec![], vec![]), "on its own curve only");
}

#[test]
fn what_is_no_key_set_is_refused() {
    assert_eq!(error(b""), Some(KeySetError::NotStrictJson));
    assert_eq!(error(b"{}"), Some(KeySetError::NoKeys));
    assert_eq!(error(br#"{"keys":[]}"#), Some(KeySetError::NoUsableKey));
    let many = json!({ "keys": vec![Value::Null; KeySet::KEYS_MAX + 1] });
    assert_eq!(error(many.to_string().as_bytes()), Some(KeySetError::TooMany { max: 64 }));
    let twice = format!(r#"{{"keys":[{},{{"kid":"a","kid":"b","kty":"EC"}}]}}"#, ec());
    assert_eq!(error(twice.as_bytes()), Some(KeySetError::NotStrictJson), "not only that entry");
}

#[test]
fn a_set_of_which_nothing_is_left_says_what_was_skipped() {
    let private = with(ec(), &json!({"d": "AAAA"}));
    let Some(KeySetError::AllSkipped(skipped)) = error(json!({"keys": [private]}).to_string().as_bytes()) else {
        panic!("another error");
    };
    assert!(skipped.to_string().starts_with("`ec` (it shows its private part"), "{skipped}");
    let all = json!({ "keys": vec![Value::Null; KeySet::KEYS_MAX] });
    let told = error(all.to_string().as_bytes()).expect("an error").to_string();
    assert!(told.ends_with("and 56 more") && told.len() < 1_000, "{told}");
}
