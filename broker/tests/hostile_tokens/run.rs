//! Puts tokens before the verifier, and counts.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use veribus_broker::{
    authenticate::{
        Algorithms, Authenticator, BearerToken, ClaimPaths, Identity, KeySet, Presented, ProofLimits, ProofSettings,
        Scheme, TokenError, TrustedIssuer, Verifier, VerifierSettings,
    },
    model::{Clock, Issuer, UnixSeconds},
};

use crate::{
    attack::{AUDIENCE, Attack, ISSUER, OTHER_ISSUER},
    signers::key_set,
};

pub(crate) const NOW: i64 = 1_900_000_000;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) hostile: usize,
    pub(crate) valid: usize,
    pub(crate) panics: usize,
    /// Hostile ones that were accepted: must be empty.
    pub(crate) accepted: Vec<(&'static str, String)>,
    /// Valid ones that were refused: must be empty.
    pub(crate) refused: Vec<(TokenError, String)>,
    /// How many of each class were refused for which reason.
    pub(crate) reasons: BTreeMap<&'static str, BTreeMap<&'static str, usize>>,
}

/// Recognises callers by the tokens of these issuers, at a fixed time.
pub(crate) fn authenticator(issuers: Vec<TrustedIssuer>) -> Authenticator {
    let clock = Clock::manual(UnixSeconds(NOW));
    let settings = VerifierSettings { leeway_s: 0, cache_entries_max: 1_024, token_lifetime_s_max: 86_400 };
    let limits = ProofLimits { total_max: 16, per_agent_max: 16 };
    let proofs = ProofSettings { public_url: None, max_age_s: 60, limits };
    Authenticator::new(Arc::new(Verifier::new(issuers, settings, clock.clone())), proofs, clock)
}

/// Presents a token over a connection without a certificate, and without a proof.
pub(crate) fn present(authenticator: &Authenticator, text: &str) -> Result<Arc<Identity>, TokenError> {
    authenticator.authenticate(&Presented {
        token: BearerToken::new(text)?,
        scheme: Scheme::Bearer,
        proof: None,
        certificate_sha256: None,
        method: "/veribus.v1.BrokerService/Publish",
    })
}

/// An issuer whose keys are in this set.
pub(crate) fn trusted(issuer: &str, key_set: &str, algorithms: &Algorithms) -> TrustedIssuer {
    TrustedIssuer {
        issuer: Issuer::parse(issuer).expect("an issuer"),
        audiences: vec![AUDIENCE.to_owned()],
        keys: KeySet::from_json(key_set.as_bytes(), algorithms).expect("keys").into(),
        claims: ClaimPaths::default(),
        require_at_jwt: false,
        require_bound: false,
    }
}

/// So many hostile tokens, and a valid one after every ninth.
pub(crate) fn run(tokens: usize, seed: u64) -> Tally {
    let mut attack = Attack::new(seed, NOW);
    let all = Algorithms::default();
    let issuers =
        vec![trusted(ISSUER, &key_set(&attack.known), &all), trusted(OTHER_ISSUER, &key_set(&attack.others), &all)];
    let authenticator = authenticator(issuers);
    let verify = |text: &str| std::panic::catch_unwind(AssertUnwindSafe(|| present(&authenticator, text).map(drop)));
    let mut tally = Tally::default();
    while tally.hostile < tokens {
        let (class, text) = attack.hostile();
        tally.hostile += 1;
        match verify(&text) {
            Err(_) => tally.panics += 1,
            Ok(Ok(())) => tally.accepted.push((class, text)),
            Ok(Err(error)) => {
                *tally.reasons.entry(class).or_default().entry(error.reason()).or_default() += 1;
            }
        }
        if tally.hostile % 9 == 0 {
            let text = attack.valid();
            tally.valid += 1;
            match verify(&text) {
                Err(_) => tally.panics += 1,
                Ok(Ok(())) => {}
                Ok(Err(error)) => tally.refused.push((error, text)),
            }
        }
    }
    tally
}
