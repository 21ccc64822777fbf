//! Puts tokens before the verifier, and counts.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use veribus_broker::{
    authenticate::{
        Algorithms, Authenticator, BearerToken, ClaimPaths, GrantLimits, KeySet, Presented, ProofSettings, TokenError,
        TrustedIssuer, Verifier, VerifierSettings,
    },
    model::{Clock, Issuer, UnixSeconds},
};

use crate::{
    attack::{AUDIENCE, Attack, ISSUER, OTHER_ISSUER},
    signers::{Signer, key_set},
};

/// The method that they are presented to.
pub(crate) const METHOD: &str = "/veribus.v1.BrokerService/Publish";
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

pub(crate) fn authenticator(attack: &Attack) -> Authenticator {
    let settings =
        VerifierSettings { cache_entries_max: 1_024, cache_bytes_max: 16 << 20, token_lifetime_s_max: 86_400 };
    let issuers = vec![trusted(ISSUER, &attack.known), trusted(OTHER_ISSUER, &attack.others)];
    let clock = Clock::manual(UnixSeconds(NOW));
    let verifier = Verifier::new(issuers, settings, clock.clone());
    Authenticator::new(Arc::new(verifier), ProofSettings::NONE, clock)
}

fn trusted(issuer: &str, signers: &[Signer]) -> TrustedIssuer {
    TrustedIssuer {
        issuer: Issuer::parse(issuer).expect("an issuer"),
        audiences: vec![AUDIENCE.to_owned()],
        keys: KeySet::from_json(key_set(signers).as_bytes(), &Algorithms::default()).expect("keys").into(),
        claims: ClaimPaths::default(),
        require_at_jwt: false,
        require_bound: false,
        may_grant: GrantLimits::default(),
    }
}

/// So many hostile tokens, and a valid one after every ninth.
pub(crate) fn run(tokens: usize, seed: u64) -> Tally {
    let mut attack = Attack::new(seed, NOW);
    let authenticator = authenticator(&attack);
    let verify = |text: &str| {
        let verified = || {
            let presented = Presented::as_bearer(BearerToken::new(text)?, METHOD);
            authenticator.authenticate(&presented).map(drop)
        };
        std::panic::catch_unwind(AssertUnwindSafe(verified))
    };
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
