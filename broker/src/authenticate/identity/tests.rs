use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    authenticate::{AllowedPermission, Permission},
    fixtures::{LIFETIME, NOW, VERIFIER_SETTINGS, World, issuer, trusted},
    issue::KeyKind,
};

fn verify(world: &World, token: &str) -> Result<Arc<Identity>, TokenError> {
    world.verifier.verify(&BearerToken::new(token)?).map(|verified| verified.0)
}

fn world() -> World {
    World::new(KeyKind::Es256)
}

#[test]
fn a_token_of_a_trusted_issuer_is_recognised_with_either_algorithm() {
    for kind in [KeyKind::Es256, KeyKind::EdDsa] {
        let world = World::new(kind);
        let claims = world.claims("finance-agent").role("finance").permission("publish:finance.>");
        let identity = world.identity(&claims);
        assert_eq!(identity.agent().as_str(), "finance-agent");
        assert_eq!(identity.roles().len(), 1);
        assert_eq!(identity.expires_at().0, NOW.0 + 3_600);
    }
}

#[test]
fn a_token_signed_with_another_key_is_refused_even_under_the_same_names() {
    let world = world();
    let impostor = issuer("https://issuer.example", KeyKind::Es256);
    let token = impostor.issue(&world.claims("finance-agent")).expect("signed");
    assert_eq!(verify(&world, &token).err(), Some(TokenError::UnknownKey));

    let pem = KeyKind::Es256.generate_pem().expect("a key");
    let same_kid =
        crate::issue::TokenIssuer::with_key_id("https://issuer.example", "veribus", &pem, world.issuer.key_id())
            .expect("an issuer");
    let token = same_kid.issue(&world.claims("finance-agent")).expect("signed");
    assert_eq!(verify(&world, &token).err(), Some(TokenError::Signature));
}

#[test]
fn one_issuers_key_does_not_sign_for_another() {
    let (one, other) = (issuer("https://one.example", KeyKind::Es256), issuer("https://two.example", KeyKind::Es256));
    let verifier = Verifier::new(vec![trusted(&one), trusted(&other)], VERIFIER_SETTINGS, Clock::manual(NOW));
    let mut claims = one.claims("agent", NOW, LIFETIME);
    claims.iss = "https://two.example".to_owned();
    let token = BearerToken::new(one.issue(&claims).expect("signed")).expect("short");
    assert_eq!(verifier.verify(&token).map(drop).err(), Some(TokenError::UnknownKey));
}

#[test]
fn an_algorithm_other_than_the_keys_is_refused() {
    let world = world();
    let token = world.issuer.issue(&world.claims("agent")).expect("signed");
    let (header, rest) = token.split_once('.').expect("dots");
    let header = String::from_utf8(BASE64URL_NOPAD.decode(header.as_bytes()).expect("base64url")).expect("text");
    let header = BASE64URL_NOPAD.encode(header.replace("ES256", "EdDSA").as_bytes());
    assert_eq!(verify(&world, &format!("{header}.{rest}")).err(), Some(TokenError::KeyAlgorithmMismatch));
}

#[test]
fn every_required_claim_is_required_and_of_its_type() {
    let world = world();
    let good = serde_json::to_value(world.claims("agent")).expect("JSON");
    for name in ["iss", "aud", "sub", "exp", "iat", "jti"] {
        for wrong in [None, Some(json!(null)), Some(json!({})), Some(json!(["agent"])), Some(json!(true))] {
            let mut claims = good.clone();
            let members = claims.as_object_mut().expect("an object");
            match &wrong {
                Some(value) => members.insert(name.to_owned(), value.clone()),
                None => members.remove(name),
            };
            let token = world.issuer.sign(&claims).expect("signed");
            assert!(verify(&world, &token).is_err(), "`{name}` as {wrong:?}");
        }
    }
}

#[test]
fn names_that_are_none_are_refused() {
    let world = world();
    for agent in ["", "role:compliance", "a b", "a\u{200b}b", &"a".repeat(256)] {
        let token = world.issuer.issue(&world.claims(agent)).expect("signed");
        assert!(matches!(verify(&world, &token), Err(TokenError::Identifier { claim: "agent", .. })), "{agent:?}");
    }
    let mut other_audience = world.claims("agent");
    other_audience.aud = "another-service".to_owned();
    let token = world.issuer.issue(&other_audience).expect("signed");
    assert_eq!(verify(&world, &token).err(), Some(TokenError::Audience));
}

#[test]
fn a_token_counts_from_nbf_until_just_before_exp() {
    let world = world();
    let mut claims = world.claims("agent");
    claims.nbf = Some(NOW.0 + AHEAD_S_MAX + 10);
    let token = world.issuer.issue(&claims).expect("signed");
    assert_eq!(verify(&world, &token).err(), Some(TokenError::NotYetValid));
    world.clock.advance(std::time::Duration::from_secs(10));
    assert!(verify(&world, &token).is_ok());
    world.clock.advance(std::time::Duration::from_secs(3_589));
    assert!(verify(&world, &token).is_ok(), "the second before exp");
    world.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(verify(&world, &token).err(), Some(TokenError::Expired), "remembered, and expired all the same");
}

#[test]
fn a_token_from_the_future_is_refused() {
    let world = world();
    let mut claims = world.claims("agent");
    for (ahead_s, refused) in [(AHEAD_S_MAX, None), (AHEAD_S_MAX + 1, Some(TokenError::NotYetValid))] {
        claims.iat = NOW.0 + ahead_s;
        let token = world.issuer.issue(&claims).expect("signed");
        assert_eq!(verify(&world, &token).err(), refused, "{ahead_s}");
    }
}

#[test]
fn a_type_that_the_token_does_not_list_may_not_be_sent() {
    let world = world();
    let limited = world.identity(&world.claims("agent").message_type("ticket.resolved"));
    assert!(limited.may_send_type("ticket.resolved"));
    assert!(!limited.may_send_type("finance.transaction"));
    assert!(world.identity(&world.claims("other")).may_send_type("anything"));
}

#[test]
fn a_destination_means_a_role_or_that_agent_of_the_senders_issuer() {
    let (one, other) = (issuer("https://one.example", KeyKind::Es256), issuer("https://two.example", KeyKind::Es256));
    let verifier = Verifier::new(vec![trusted(&one), trusted(&other)], VERIFIER_SETTINGS, Clock::manual(NOW));
    let identity = |issuer: &crate::issue::TokenIssuer, agent: &str| {
        let token = issuer.issue(&issuer.claims(agent, NOW, LIFETIME).role("compliance")).expect("signed");
        verifier.verify(&BearerToken::new(&token).expect("short")).expect("verified").0
    };
    let (sender, namesake, stranger) = (identity(&one, "a"), identity(&other, "b"), identity(&one, "b"));
    let to_b = Destination::parse("b").expect("an agent");
    assert!(stranger.is_meant_by(&to_b, &sender), "of the same issuer");
    assert!(!namesake.is_meant_by(&to_b, &sender), "a namesake of another issuer");
    assert!(namesake.is_meant_by(&Destination::parse("role:compliance").expect("a role"), &sender));
    assert!(!namesake.is_meant_by(&Destination::parse("role:finance").expect("a role"), &sender));
}

#[test]
fn each_of_many_roles_is_meant_and_no_other() {
    let world = world();
    let names: Vec<_> = (0..600).rev().map(|number| format!("r{number}")).collect();
    let identity = world.identity(&names.iter().fold(world.claims("agent"), |claims, name| claims.role(name)));
    assert_eq!(identity.roles(), names, "in the order of the token");
    let is_meant =
        |role: &str| identity.is_meant_by(&Destination::parse(&format!("role:{role}")).expect("a role"), &identity);
    assert!(names.iter().all(|name| is_meant(name)));
    assert!(!["r", "r600", "r60x", "s", "q"].into_iter().any(is_meant));
}

/// A verifier that trusts the issuer of `world` on other terms.
fn on_terms(world: &World, terms: impl FnOnce(&mut TrustedIssuer)) -> Verifier {
    let mut trusted = trusted(&world.issuer);
    terms(&mut trusted);
    Verifier::new(vec![trusted], VERIFIER_SETTINGS, world.clock.clone())
}

fn verify_on(verifier: &Verifier, world: &World, claims: &Value) -> Result<Arc<Identity>, TokenError> {
    verifier.verify(&BearerToken::new(world.issuer.sign(claims).expect("signed")).expect("short"))?.bound(|_| Ok(()))
}

#[test]
fn claims_are_read_where_the_issuer_has_them() {
    let world = world();
    // As Microsoft Entra ID makes them for an application.
    let verifier = on_terms(&world, |trusted| {
        trusted.audiences = vec!["api://veribus".to_owned(), "veribus".to_owned()];
        trusted.claims = ClaimPaths {
            agent: "oid".to_owned(),
            token_id: "uti".to_owned(),
            roles: "roles".to_owned(),
            permissions: vec!["scp".to_owned(), "roles".to_owned()],
            types: "acme.types".to_owned(),
            decrypt: "acme.open".to_owned(),
            ..ClaimPaths::default()
        };
    });
    let good = json!({
        "iss": world.issuer.issuer(), "aud": "api://veribus", "sub": "s", "oid": "o", "uti": "u", "azp": "client",
        "iat": NOW.0, "nbf": NOW.0, "exp": NOW.0 + 3_600, "roles": ["finance", "publish:finance.>"],
        "acme": {"types": ["note"], "open": "notes"}, "types": ["other"], "decrypt": [">"],
    });
    let identity = verify_on(&verifier, &world, &good).expect("recognised");
    assert_eq!((identity.agent().as_str(), identity.token_id().as_str()), ("o", "u"));
    assert_eq!(identity.roles(), ["finance"]);
    assert!(identity.may_send_type("note") && !identity.may_send_type("other"));
    assert_eq!(identity.decrypt().iter().map(TopicPattern::as_str).collect::<Vec<_>>(), ["notes"]);
    let permission = Permission::parse("publish:finance.>").expect("a permission");
    assert_eq!(*identity.permissions(), Permissions::new(vec![permission]));
    for name in ["oid", "uti", "sub"] {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        assert!(matches!(verify_on(&verifier, &world, &claims), Err(TokenError::Claim(_))), "{name}");
    }
}

#[test]
fn an_identity_has_nothing_that_its_issuer_may_not_grant() {
    let world = world();
    let verifier = on_terms(&world, |trusted| {
        trusted.may_grant.permissions = Some(vec![AllowedPermission::parse("publish:finance.>").expect("one")]);
        trusted.may_grant.roles = Some(vec!["finance".to_owned()]);
        trusted.may_grant.decrypt = Some(vec![TopicPattern::parse("finance.*").expect("a pattern")]);
    });
    let claims = world.claims("agent").role("finance").role("security").claim("decrypt", json!([">", "finance.x"]));
    let wanted = ["publish:finance.x", "publish:>", "audit.read", "admin.revoke"];
    let claims = wanted.into_iter().fold(claims, crate::issue::Claims::permission);
    let identity = verify_on(&verifier, &world, &serde_json::to_value(claims).expect("JSON")).expect("recognised");
    assert_eq!(identity.permissions().iter().map(ToString::to_string).collect::<Vec<_>>(), ["publish:finance.x"]);
    assert_eq!(identity.roles(), ["finance"]);
    assert_eq!(identity.decrypt().iter().map(TopicPattern::as_str).collect::<Vec<_>>(), ["finance.x"]);
    let permissions = identity.permissions();
    assert!(!permissions.admin_revoke() && !permissions.audit_read());
    assert_eq!(identity.claims().get("roles"), Some(&json!(["finance", "security"])), "the claims are as they came");
}

#[test]
fn who_acts_for_an_agent_without_a_name_administers_nothing() {
    let world = world();
    let claims = world.claims("agent").permission("admin.revoke").permission("audit.read");
    assert!(world.identity(&claims).permissions().admin_revoke());
    assert!(world.identity(&claims.clone().claim("act", json!({"sub": "b"}))).permissions().admin_revoke());
    for act in [json!({}), json!({"client_id": "b"}), json!({"sub": "b", "act": {}})] {
        let identity = world.identity(&claims.clone().claim("act", act.clone()));
        let permissions = identity.permissions();
        assert!(permissions.audit_read() && !permissions.admin_revoke(), "{act}");
    }
}

#[test]
fn of_keycloak_clients_only_service_accounts_are_agents() {
    let world = world();
    let verifier = on_terms(&world, |trusted| {
        trusted.claims =
            ClaimPaths { agent: "client_id".to_owned(), service_accounts_only: true, ..ClaimPaths::default() };
    });
    let mut claims = serde_json::to_value(world.claims("a-uuid")).expect("JSON");
    claims["client_id"] = json!("billing");
    for (user, expected) in [
        (json!("service-account-billing"), Ok("billing".to_owned())),
        (json!("alice"), Err(TokenError::Claim("preferred_username"))),
        (json!("service-account-other"), Err(TokenError::Claim("preferred_username"))),
        (json!(null), Err(TokenError::Claim("preferred_username"))),
    ] {
        claims["preferred_username"] = user.clone();
        let agent = verify_on(&verifier, &world, &claims).map(|identity| identity.agent().to_string());
        assert_eq!(agent, expected, "{user}");
    }
}

#[test]
fn an_issuer_may_have_to_say_that_a_token_is_an_access_token() {
    let world = world();
    let claims = serde_json::to_value(world.claims("agent")).expect("JSON");
    let verifier = on_terms(&world, |trusted| trusted.require_at_jwt = true);
    assert!(verify_on(&verifier, &world, &claims).is_ok(), "`veribus token issue` says so");
    let header = BASE64URL_NOPAD.encode(br#"{"alg":"ES256","kid":"k","typ":"JWT"}"#);
    let token = format!("{header}.{}.AAAA", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let refused = verifier.verify(&BearerToken::new(&token).expect("short"));
    assert_eq!(refused.err(), Some(TokenError::WrongType));
    assert_eq!(verify(&world, &token).err(), Some(TokenError::UnknownKey), "where that is not asked for");
}

#[test]
fn a_token_of_another_kind_is_no_access_token() {
    for (claims, is_at_jwt, expected) in [
        (json!({}), false, Ok(())),
        (json!({"nonce": "n"}), false, Err(TokenError::OtherKind("nonce"))),
        (json!({"at_hash": "h"}), false, Err(TokenError::OtherKind("at_hash"))),
        (json!({"events": {}}), false, Err(TokenError::OtherKind("events"))),
        // An ID token does not say that it is an access token.
        (json!({"nonce": "n"}), true, Ok(())),
        (json!({"typ": "Bearer", "client_id": "c"}), false, Ok(())),
        (json!({"typ": "DPoP"}), true, Ok(())),
        (json!({"typ": "ID"}), false, Err(TokenError::OtherKind("typ"))),
        (json!({"typ": "Refresh"}), true, Err(TokenError::OtherKind("typ"))),
        (json!({"client_id": ""}), true, Err(TokenError::Claim("client_id"))),
        (json!({"client_id": ["c"]}), false, Err(TokenError::Claim("client_id"))),
    ] {
        let members = claims.as_object().expect("an object");
        assert_eq!(claims::check_purpose(members, is_at_jwt, false), expected, "{claims}");
    }
    for (claims, expected) in [
        (json!({"nonce": "n", "typ": "Bearer"}), Ok(())),
        (json!({"nonce": "n"}), Err(TokenError::OtherKind("nonce"))),
        (json!({"nonce": "n", "typ": "ID"}), Err(TokenError::OtherKind("nonce"))),
        (json!({"nonce": "n", "at_hash": "h", "typ": "Bearer"}), Err(TokenError::OtherKind("at_hash"))),
    ] {
        let members = claims.as_object().expect("an object");
        assert_eq!(claims::check_purpose(members, false, true), expected, "{claims}, as with Keycloak");
    }
    let bearer = json!({"nonce": "n", "typ": "Bearer"});
    let bearer = bearer.as_object().expect("an object");
    assert_eq!(claims::check_purpose(bearer, false, false), Err(TokenError::OtherKind("nonce")), "as with others");
    let world = world();
    let id_token = world.claims("agent").claim("typ", "ID");
    let token = world.issuer.issue(&id_token).expect("signed");
    assert_eq!(verify(&world, &token).err(), Some(TokenError::OtherKind("typ")));
}

#[test]
fn a_token_lives_as_long_as_the_settings_allow_and_no_longer() {
    let world = world();
    let mut claims = world.claims("agent");
    claims.exp = claims.iat + 86_400;
    assert!(verify(&world, &world.issuer.issue(&claims).expect("signed")).is_ok());
    claims.exp += 1;
    let token = world.issuer.issue(&claims).expect("signed");
    assert_eq!(verify(&world, &token).err(), Some(TokenError::LifetimeTooLong { max: 86_400 }));
    (claims.iat, claims.exp) = (i64::MIN, i64::MAX);
    let token = world.issuer.issue(&claims).expect("signed");
    assert_eq!(verify(&world, &token).err(), Some(TokenError::LifetimeTooLong { max: 86_400 }));
}

static WORLD: std::sync::LazyLock<World> = std::sync::LazyLock::new(world);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_token_with_any_character_changed_is_refused(position in 0usize..2_000, replacement in "[A-Za-z0-9_.-]") {
        let world = &*WORLD;
        let token = world.issuer.issue(&world.claims("agent").role("finance")).expect("signed");
        let position = position % token.len();
        let mut changed = token.clone();
        changed.replace_range(position..=position, &replacement);
        prop_assume!(changed != token);
        prop_assert!(verify(world, &changed).is_err());
    }

    #[test]
    fn arbitrary_text_is_refused_without_a_panic(text in ".{0,300}") {
        prop_assert!(verify(&WORLD, &text).is_err());
    }
}

#[test]
fn remembered_tokens_are_bounded_in_bytes_and_in_number() {
    const BYTES_MAX: u64 = 1 << 20;
    const ENTRIES_MAX: usize = 64;
    let issuer = issuer("https://one.example", KeyKind::EdDsa);
    let settings = VerifierSettings { cache_entries_max: ENTRIES_MAX, cache_bytes_max: BYTES_MAX, ..VERIFIER_SETTINGS };
    // Two bytes each in a token, and many times that in memory.
    for (name, many, entries_max) in [
        ("many", json!(vec![0; 2_000]), 10),
        ("many", json!([]), ENTRIES_MAX),
        ("roles", json!("r ".repeat(2_000)), 10),
    ] {
        let verifier = Verifier::new(vec![trusted(&issuer)], settings, Clock::manual(NOW));
        for number in 0..2 * ENTRIES_MAX {
            let mut claims =
                serde_json::to_value(issuer.claims(format!("agent-{number}"), NOW, LIFETIME)).expect("JSON");
            claims[name] = many.clone();
            let token = BearerToken::new(issuer.sign(&claims).expect("signed")).expect("short");
            verifier.verify(&token).map(drop).expect("good");
        }
        let own = |identity: &Identity| 2 * value_bytes(&identity.claims[name]) + size_of_val(identity.roles());
        let bytes: usize = verifier.verified.iter().map(|(_, identity)| own(&identity)).sum();
        assert!(bytes as u64 <= BYTES_MAX, "{bytes}");
        let entries = verifier.verified.len();
        assert!((1..=entries_max).contains(&entries), "{entries}");
    }
}
