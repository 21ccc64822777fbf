//! What a decision by the default policy costs, in nanoseconds: one that is remembered, and one that is evaluated.

#![expect(
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a tool for developers: it may stop where it stands"
)]

use std::{
    hint::black_box,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use veribus_broker::{
    authenticate::{
        Algorithms, Authenticator, BearerToken, ClaimPaths, GrantLimits, Identity, KeySet, Presented, ProofSettings,
        TrustedIssuer, Verifier, VerifierSettings,
    },
    decide::{Access, Decider, DeciderSettings, Decision},
    inspect::{Inspected, Inspector, Submitted},
    issue::{KeyKind, TokenIssuer},
    model::{Clock, ContentType, Destination, Issuer, Message, MessageId, MessageType, Topic, TopicPattern},
};

const ROUNDS: usize = 20_000;

fn main() {
    // As the threads of the broker: with less, each evaluation would get a stack of its own.
    let thread = std::thread::Builder::new().stack_size(32 * 1024 * 1024);
    thread.spawn(measure).expect("a thread").join().expect("it ends well");
}

fn measure() {
    let clock = Clock::system();
    let sender = identity(&clock);
    let inspector = Inspector::new(None).expect("rules");
    let inspect = |bytes: usize| inspector.inspect(Submitted::new(Arc::clone(&sender), peer(), message(bytes)));
    let known: Vec<_> = (0..ROUNDS).map(|_| inspect(64)).collect();
    let new: Vec<_> = (0..ROUNDS).map(|round| inspect(65 + round)).collect();

    let stage = decider(&clock);
    assert_eq!(stage.decide(inspect(64)).verdict().decision, Decision::Allow);
    let remembered = decide_all(&stage, known);
    let evaluated = decide_all(&stage, new);
    let patterns = [TopicPattern::parse("finance.*").expect("a pattern")];
    let started = Instant::now();
    for round in 0..ROUNDS {
        let pattern = TopicPattern::parse(&format!("finance.x{round}")).expect("a pattern");
        black_box(stage.decide_access(Access::Subscribe(&[pattern]), &sender, peer()));
    }
    let subscribed = started.elapsed().as_nanos() as f64 / ROUNDS as f64;
    black_box(stage.decide_access(Access::Subscribe(&patterns), &sender, peer()));
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "publish: remembered {remembered:.0} ns, evaluated {evaluated:.0} ns; subscribe: evaluated {subscribed:.0} ns"
    )
    .expect("stdout");
}

fn decide_all(stage: &Decider, inspected: Vec<Inspected>) -> f64 {
    let rounds = inspected.len();
    let started = Instant::now();
    for one in inspected {
        black_box(stage.decide(one));
    }
    started.elapsed().as_nanos() as f64 / rounds as f64
}

fn decider(clock: &Clock) -> Decider {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let settings = DeciderSettings {
        directory,
        evaluation_steps_max: 200_000,
        cache_entries_max: 65_536,
        message_bytes_max: 1 << 20,
    };
    Decider::load(settings, clock.clone()).expect("the default policy")
}

fn identity(clock: &Clock) -> Arc<Identity> {
    let pem = KeyKind::EdDsa.generate_pem().expect("a key");
    let issuer = TokenIssuer::from_pem("https://issuer.example", "veribus", &pem).expect("an issuer");
    let trusted = TrustedIssuer {
        issuer: Issuer::parse(issuer.issuer()).expect("an issuer"),
        audiences: vec![issuer.audience().to_owned()],
        keys: KeySet::from_json(issuer.jwks().as_bytes(), &Algorithms::default()).expect("keys").into(),
        claims: ClaimPaths::default(),
        require_at_jwt: false,
        require_bound: false,
        may_grant: GrantLimits::default(),
    };
    let settings = VerifierSettings { cache_entries_max: 16, cache_bytes_max: 1 << 20, token_lifetime_s_max: 86_400 };
    let verifier = Arc::new(Verifier::new(vec![trusted], settings, clock.clone()));
    let authenticator = Authenticator::new(verifier, ProofSettings::NONE, clock.clone());
    let claims = issuer.claims("finance-agent", clock.now().seconds(), Duration::from_secs(3_600));
    let claims = claims.role("finance").permission("publish:finance.>").permission("subscribe:>");
    let token = issuer.issue(&claims).expect("signed");
    let presented = Presented::as_bearer(BearerToken::new(&token).expect("short"), "/veribus.v1.BrokerService/Publish");
    authenticator.authenticate(&presented).expect("recognised")
}

fn peer() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 4711))
}

/// Its size is what the policy reads of it.
fn message(bytes: usize) -> Message {
    Message {
        id: MessageId::parse("m").expect("an id"),
        topic: Topic::parse("finance.transactions").expect("a topic"),
        kind: MessageType::parse("finance.transaction".to_owned()).expect("a type"),
        subject: String::new(),
        time: None,
        content_type: ContentType::parse("application/json".to_owned()).expect("a content type"),
        data: Bytes::from(format!("\"{}\"", "x".repeat(bytes))),
        destination: Some(Destination::parse("role:compliance").expect("a destination")),
        reply_to: None,
        correlation_id: String::new(),
        attributes: std::collections::BTreeMap::new(),
    }
}
