//! What it costs to know who is calling, in nanoseconds: a token that is verified for the first time, one that is
//! remembered, and the check before each message of a stream.

#![expect(
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a tool for developers: it may stop where it stands"
)]

use std::{
    hint::black_box,
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use veribus_broker::{
    authenticate::{
        Algorithms, Authenticator, BearerToken, ClaimPaths, GrantLimits, KeySet, Presented, ProofSettings,
        TrustedIssuer, Verifier, VerifierSettings,
    },
    issue::{KeyKind, TokenIssuer},
    model::{Clock, Issuer},
};

const METHOD: &str = "/veribus.v1.BrokerService/Publish";
const TOKENS: usize = 500;
const ROUNDS: usize = 1_000_000;

fn main() {
    for kind in [KeyKind::Es256, KeyKind::EdDsa] {
        measure(kind);
    }
}

fn measure(kind: KeyKind) {
    let pem = kind.generate_pem().expect("a key");
    let issuer = TokenIssuer::from_pem("https://issuer.example", "veribus", &pem).expect("an issuer");
    let clock = Clock::system();
    let trusted = TrustedIssuer {
        issuer: Issuer::parse(issuer.issuer()).expect("an issuer"),
        audiences: vec![issuer.audience().to_owned()],
        keys: KeySet::from_json(issuer.jwks().as_bytes(), &Algorithms::default()).expect("keys").into(),
        claims: ClaimPaths::default(),
        require_at_jwt: false,
        require_bound: false,
        may_grant: GrantLimits::default(),
    };
    let settings =
        VerifierSettings { cache_entries_max: 65_536, cache_bytes_max: 64 << 20, token_lifetime_s_max: 86_400 };
    let verifier = Verifier::new(vec![trusted], settings, clock.clone());
    let authenticator = Authenticator::new(Arc::new(verifier), ProofSettings::NONE, clock.clone());
    let token = || {
        let claims = issuer.claims("agent", clock.now().seconds(), Duration::from_secs(3_600)).permission("publish:>");
        issuer.issue(&claims).expect("signed")
    };
    let authenticate = |text: &str| {
        let presented = Presented::as_bearer(BearerToken::new(text).expect("short"), METHOD);
        authenticator.authenticate(&presented).expect("recognised")
    };

    let fresh: Vec<String> = (0..TOKENS).map(|_| token()).collect();
    let first = per_round(TOKENS, |round| drop(authenticate(fresh.get(round).expect("one for each round"))));
    let known = token();
    let identity = authenticate(&known);
    let again = per_round(ROUNDS, |_| drop(authenticate(&known)));
    let message = per_round(ROUNDS, |_| black_box(&identity).check_standing(clock.now()).expect("good"));
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{kind:?}, {} bytes: first {first:.0} ns, remembered {again:.0} ns a call, {message:.0} ns a message of a stream",
        known.len()
    )
    .expect("stdout");
}

fn per_round(rounds: usize, mut each: impl FnMut(usize)) -> f64 {
    let started = Instant::now();
    (0..rounds).for_each(&mut each);
    started.elapsed().as_nanos() as f64 / rounds as f64
}
