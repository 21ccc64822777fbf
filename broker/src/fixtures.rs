//! For unit tests: a real issuer, and identities got the only way there is, by verifying a token it signed.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    authenticate::{BearerToken, Identity, KeySet, TrustedIssuer, Verifier, VerifierSettings},
    decide::{Decider, DeciderSettings},
    inspect::{Inspector, InspectorSettings},
    issue::{Claims, KeyKind, TokenIssuer},
    model::{Clock, ContentType, Destination, Issuer, Message, MessageId, MessageType, Topic, UnixSeconds},
};

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
pub(crate) const LIFETIME: Duration = Duration::from_secs(3_600);

/// An issuer, the verifier that trusts it, and the clock that both go by.
pub(crate) struct World {
    pub(crate) issuer: TokenIssuer,
    pub(crate) verifier: Verifier,
    pub(crate) clock: Clock,
}

impl World {
    pub(crate) fn new(kind: KeyKind) -> Self {
        let clock = Clock::manual(NOW);
        let issuer = issuer("https://issuer.example", kind);
        let settings = VerifierSettings { leeway_s: 0, cache_entries_max: 16 };
        let verifier = Verifier::new(vec![trusted(&issuer)], settings, clock.clone());
        Self { issuer, verifier, clock }
    }

    /// The same issuer and clock, and a verifier that has seen nothing yet.
    pub(crate) fn restarted(self) -> Self {
        let settings = VerifierSettings { leeway_s: 0, cache_entries_max: 16 };
        let verifier = Verifier::new(vec![trusted(&self.issuer)], settings, self.clock.clone());
        Self { verifier, ..self }
    }

    pub(crate) fn claims(&self, agent: &str) -> Claims {
        self.issuer.claims(agent, NOW, LIFETIME)
    }

    pub(crate) fn identity(&self, claims: &Claims) -> Arc<Identity> {
        let token = self.issuer.issue(claims).expect("signed");
        self.verifier.verify(&BearerToken::new(&token).expect("short")).expect("verified")
    }
}

pub(crate) fn issuer(name: &str, kind: KeyKind) -> TokenIssuer {
    TokenIssuer::from_pem(name, "veribus", &kind.generate_pem().expect("a key")).expect("an issuer")
}

pub(crate) fn trusted(issuer: &TokenIssuer) -> TrustedIssuer {
    TrustedIssuer {
        issuer: Issuer::parse(issuer.issuer()).expect("an issuer"),
        audience: issuer.audience().to_owned(),
        keys: KeySet::from_json(issuer.jwks().as_bytes()).expect("a key set"),
        roles_claim: "roles".to_owned(),
        permissions_claim: "permissions".to_owned(),
    }
}

pub(crate) fn peer() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 4711))
}

pub(crate) fn message(id: &str, topic: &str, kind: &str, destination: &str, data: &str) -> Message {
    Message {
        id: MessageId::parse(id).expect("an id"),
        topic: Topic::parse(topic).expect("a topic"),
        kind: MessageType::parse(kind.to_owned()).expect("a type"),
        subject: String::new(),
        time: None,
        content_type: ContentType::parse("application/json".to_owned()).expect("a content type"),
        data: Bytes::copy_from_slice(data.as_bytes()),
        destination: (!destination.is_empty()).then(|| Destination::parse(destination).expect("a destination")),
        reply_to: None,
        correlation_id: String::new(),
        attributes: std::collections::BTreeMap::new(),
    }
}

pub(crate) fn inspector() -> &'static Inspector {
    static INSPECTOR: LazyLock<Inspector> =
        LazyLock::new(|| Inspector::new(InspectorSettings { rules: None, message_bytes_max: 100_000 }).expect("rules"));
    &INSPECTOR
}

/// A decider with the policy of these files.
pub(crate) fn decider(files: &[(&str, &str)], clock: Clock) -> Result<Decider, crate::decide::BundleError> {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("written");
    }
    let settings = DeciderSettings {
        directory: directory.path().to_owned(),
        evaluation_max: Duration::from_millis(200),
        cache_entries_max: 64,
    };
    Decider::load(&settings, clock)
}
