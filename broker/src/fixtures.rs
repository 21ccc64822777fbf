//! For unit tests: a real issuer, and identities got the only way there is, by verifying a token it signed.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    authenticate::{
        Algorithms, Authenticator, BearerToken, ClaimPaths, GrantLimits, Identity, KeySet, Presented, ProofLimits,
        ProofSettings, TokenError, TrustedIssuer, Verifier, VerifierSettings,
    },
    decide::{Decider, DeciderSettings},
    engine::SharedLogStore,
    inspect::Inspector,
    issue::{Claims, KeyKind, TokenIssuer},
    model::{
        Clock, ContentType, Destination, Issuer, Message, MessageId, MessageType, SubjectRecording, Topic, UnixMicros,
        UnixSeconds,
    },
    record::Fingerprints,
    seal::{KeyRing, NodeKey, RootKeySource, RootKeys},
    state::{Changes, StateSettings, StateTable},
};

mod memory;
mod prover;
pub(crate) use memory::{MemoryStore, apply};
pub(crate) use prover::Prover;

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const NOW_US: UnixMicros = UnixMicros(NOW.0 * 1_000_000);
pub(crate) const LIFETIME: Duration = Duration::from_secs(3_600);

pub(crate) const VERIFIER_SETTINGS: VerifierSettings =
    VerifierSettings { cache_entries_max: 16, cache_bytes_max: 1 << 20, token_lifetime_s_max: 86_400 };

/// Where the broker is, for DPoP proofs, and the path of the method that is called.
pub(crate) const PUBLIC_URL: &str = "https://broker.example";
pub(crate) const METHOD: &str = "/veribus.v1.BrokerService/Publish";

/// An issuer, the verifier that trusts it, who recognises callers by it, and the clock that all go by.
pub(crate) struct World {
    pub(crate) issuer: TokenIssuer,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) authenticator: Authenticator,
    pub(crate) clock: Clock,
}

impl World {
    pub(crate) fn new(kind: KeyKind) -> Self {
        Self::of(issuer("https://issuer.example", kind), Clock::manual(NOW))
    }

    /// With this issuer and clock.
    pub(crate) fn of(issuer: TokenIssuer, clock: Clock) -> Self {
        let verifier = Arc::new(Verifier::new(vec![trusted(&issuer)], VERIFIER_SETTINGS, clock.clone()));
        let authenticator = Authenticator::new(Arc::clone(&verifier), proofs(Some(PUBLIC_URL)), clock.clone());
        Self { issuer, verifier, authenticator, clock }
    }

    /// The same issuer and clock, and a verifier that has seen nothing yet.
    pub(crate) fn restarted(self) -> Self {
        Self::of(self.issuer, self.clock)
    }

    pub(crate) fn claims(&self, agent: &str) -> Claims {
        self.issuer.claims(agent, NOW, LIFETIME)
    }

    pub(crate) fn identity(&self, claims: &Claims) -> Arc<Identity> {
        let token = self.issuer.issue(claims).expect("signed");
        self.authenticate(&token).expect("recognised")
    }

    /// Recognises the bearer of a token.
    pub(crate) fn authenticate(&self, token: &str) -> Result<Arc<Identity>, TokenError> {
        self.authenticator.authenticate(&bearer(token))
    }
}

/// A token and nothing else.
pub(crate) fn bearer(token: &str) -> Presented<'static> {
    Presented::as_bearer(BearerToken::new(token).expect("short"), METHOD)
}

pub(crate) fn proofs(public_url: Option<&str>) -> ProofSettings {
    ProofSettings {
        public_url: public_url.map(|url| url.parse().expect("a URL")),
        max_age_s: 60,
        limits: ProofLimits { total_max: 100, per_agent_max: 10 },
    }
}

pub(crate) fn issuer(name: &str, kind: KeyKind) -> TokenIssuer {
    TokenIssuer::from_pem(name, "veribus", &kind.generate_pem().expect("a key")).expect("an issuer")
}

pub(crate) fn trusted(issuer: &TokenIssuer) -> TrustedIssuer {
    TrustedIssuer {
        issuer: Issuer::parse(issuer.issuer()).expect("an issuer"),
        audiences: vec![issuer.audience().to_owned()],
        keys: KeySet::from_json(issuer.jwks().as_bytes(), &Algorithms::default()).expect("a key set").into(),
        claims: ClaimPaths::default(),
        require_at_jwt: false,
        require_bound: false,
        may_grant: GrantLimits::default(),
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
    static INSPECTOR: LazyLock<Inspector> = LazyLock::new(|| Inspector::new(None).expect("rules"));
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
        evaluation_steps_max: 100_000,
        cache_entries_max: 64,
        message_bytes_max: 100_000,
    };
    Decider::load(settings, clock)
}

/// Under a node's key that is made once.
pub(crate) fn fingerprints() -> Fingerprints {
    static KEY: LazyLock<NodeKey> = LazyLock::new(|| key_ring().node_key(NOW_US).expect("a key").0);
    Fingerprints::new(KEY.clone(), SubjectRecording::Hashed)
}

/// Shared state in `store`, under a root key of its own.
pub(crate) fn state_table(store: &SharedLogStore) -> StateTable {
    state_table_with(
        store,
        StateSettings {
            histories: Vec::new(),
            gone_kept_s: 60,
            scopes_max: 2,
            scopes_per_level_max: 2,
            read_bytes_max: 1 << 20,
        },
    )
}

pub(crate) fn state_table_with(store: &SharedLogStore, settings: StateSettings) -> StateTable {
    StateTable::new(store.clone(), settings, Arc::new(key_ring()), Arc::new(Changes::new()))
}

/// Without keys, under a root key of its own.
fn key_ring() -> KeyRing {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("root.key");
    RootKeys::create(&file).expect("a root key");
    let root = RootKeys::new(RootKeySource::File(file)).settle(&BTreeSet::new()).expect("read");
    KeyRing::load(Vec::new(), root).expect("no keys yet")
}

/// The words that a function of this source gives, one for each arm of its match.
pub(crate) fn words_of<'a>(source: &'a str, function: &str) -> BTreeSet<&'a str> {
    let (_, rest) = source.split_once(&format!("const fn {function}(")).expect("the function");
    let (body, _) = rest.split_once("\n    }\n").expect("its end");
    body.split("=> \"").skip(1).filter_map(|arm| arm.split('"').next()).collect()
}
