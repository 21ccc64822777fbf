//! Two issuers: the house's own, which may grant everything, and a partner's, which may not.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tonic::{Code, Status};
use veribus_broker::{
    config::{Config, IssuerConfig},
    issue::{Claims, KeyKind, TokenIssuer},
    model::Clock,
};
use veribus_proto::v1::{
    Decision, EntryKind, ListSessionsRequest, PublishRequest, QueryRequest, Revocation, RevokeRequest,
    revocation::Target,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    messages::wire,
    raw::{Raw, reason},
    streams::RawSubscription,
};

const LIMITS: &str = r#"
audience = "veribus"
permissions_allowed = ["publish:partner.>", "subscribe:partner.>", "state.read:partner"]
roles_allowed = ["partner"]
decrypt_allowed = []
"#;

/// Lets through what it is not told of the role `security`, and says what it sees.
const POLICY: &str = r#"package veribus

import rego.v1

allow if true

deny contains {"rule": "is-security"} if "security" in input.agent.roles

deny contains {"rule": "is-partner"} if {
	input.message.type == "who"
	"partner" in input.agent.roles
}

deny contains {"rule": "may-revoke"} if "admin.revoke" in input.agent.permissions

deny contains {"rule": "may-decrypt"} if count(input.agent.decrypt) > 0

deny contains {"rule": "claims-security"} if {
	input.message.type == "claims"
	"security" in input.agent.claims.roles
}
"#;

/// An issuer besides the house's own.
struct Partner {
    issuer: TokenIssuer,
    _directory: TempDir,
}

impl Partner {
    async fn with_broker() -> Result<(Self, TestBroker)> {
        let pem = KeyKind::Es256.generate_pem()?;
        let issuer = TokenIssuer::from_pem("https://partner.example", "veribus", &pem)?;
        let directory = tempfile::tempdir()?;
        let keys = directory.path().join("partner.json");
        fs::write(&keys, issuer.jwks())?;
        let mut trusted: IssuerConfig = toml::from_str(&format!("issuer = \"https://partner.example\"\n{LIMITS}"))?;
        trusted.jwks_file = Some(keys);
        let configure = move |config: &mut Config| config.identity.issuers.push(trusted);
        let broker = Setup::default().open_policy().policy(POLICY).configure(configure).start().await?;
        Ok((Self { issuer, _directory: directory }, broker))
    }

    /// Claims that ask for more than this issuer may grant.
    fn claims(&self) -> Claims {
        let now = Clock::system().now().seconds();
        let claims = self.issuer.claims("partner-agent", now, Duration::from_secs(3_600));
        let claims = claims.role("security").role("partner").claim("decrypt", vec![">"]);
        let wanted =
            ["admin.revoke", "admin.sessions", "audit.read", "publish:>", "publish:partner.x", "subscribe:partner.>"];
        wanted.into_iter().fold(claims, Claims::permission)
    }

    async fn connect(&self, broker: &TestBroker) -> Result<Raw> {
        broker.raw(&self.issuer.issue(&self.claims())?).await
    }
}

fn refusal<T>(answer: Result<T, Status>) -> Option<(Code, String)> {
    answer.err().map(|status| (status.code(), reason(&status)))
}

async fn publish(caller: &Raw, topic: &str, kind: &str) -> Result<(), Status> {
    let mut message = wire("", topic, "text");
    kind.clone_into(&mut message.r#type);
    caller.broker().publish(PublishRequest { message: Some(message) }).await.map(drop)
}

#[tokio::test]
async fn what_a_partners_token_claims_beyond_what_its_issuer_may_grant_opens_nothing() -> Result<()> {
    let (partner, broker) = Partner::with_broker().await?;
    let caller = partner.connect(&broker).await?;
    let denied = Some((Code::PermissionDenied, "MISSING_PERMISSION".to_owned()));

    let target = Some(Target::WholeIssuer(true));
    let revocation = Some(Revocation { issuer: "veribus-dev".to_owned(), target, ..Revocation::default() });
    assert_eq!(refusal(caller.admin().revoke(RevokeRequest { revocation }).await), denied);
    assert_eq!(refusal(caller.admin().list_sessions(ListSessionsRequest::default()).await), denied);
    assert_eq!(refusal(caller.audit().query(QueryRequest::default()).await), denied);
    assert_eq!(refusal(publish(&caller, "finance.x", "text").await), denied);
    assert_eq!(refusal(publish(&caller, "partner.y", "text").await), denied, "`publish:>` is not narrowed");
    assert_eq!(refusal(publish(&caller, "partner.x", "text").await), None);

    let log = broker.log().await?;
    let of_partner = log
        .entries()
        .iter()
        .filter(|entry| entry.actor.as_ref().is_some_and(|actor| actor.issuer == "https://partner.example"));
    let (mut seen, mut allowed) = (0, 0);
    for entry in of_partner {
        let decision = entry.decision.as_ref().context("a decision")?;
        assert_eq!(entry.actor.as_ref().map(|actor| actor.roles.clone()), Some(vec!["partner".to_owned()]));
        (seen, allowed) = (seen + 1, allowed + u32::from(decision.decision() == Decision::Allow));
    }
    assert_eq!((seen, allowed), (6, 1));
    assert_eq!(log.of_kind(EntryKind::Revoked).count(), 1, "the attempt");
    Ok(())
}

#[tokio::test]
async fn a_policy_sees_what_an_issuer_may_grant_and_the_claims_as_they_came() -> Result<()> {
    let (partner, broker) = Partner::with_broker().await?;
    let caller = partner.connect(&broker).await?;
    let denied = Some((Code::PermissionDenied, "POLICY_DENIED".to_owned()));
    assert_eq!(refusal(publish(&caller, "partner.x", "text").await), None, "no role, permission or scope too many");
    assert_eq!(refusal(publish(&caller, "partner.x", "who").await), denied, "the role that it may have");
    assert_eq!(refusal(publish(&caller, "partner.x", "claims").await), denied, "raw claims are raw claims");

    // The same claims of an issuer without limits.
    let own = broker.claims("own").role("security").permission("publish:>");
    let own = broker.raw(&broker.sign(&own)?).await?;
    assert_eq!(refusal(publish(&own, "partner.x", "text").await), denied);
    Ok(())
}

#[tokio::test]
async fn a_message_to_a_role_does_not_reach_one_whose_issuer_may_not_grant_it() -> Result<()> {
    let (partner, broker) = Partner::with_broker().await?;
    let caller = partner.connect(&broker).await?;
    let mut subscription = RawSubscription::open(&caller, &["partner.>"]).await?;
    let sender = broker.client(&broker.token("sender", &["publish:>"])?).await?;
    for (id, role) in [("to-security", "role:security"), ("to-partner", "role:partner")] {
        let message = veribus_client::Message::text("partner.x", "text", "text").to(role).id(id);
        sender.publish(message).await?;
    }
    let batch = subscription.batch().await?.context("delivered")?;
    let ids: Vec<_> = batch.iter().flat_map(|delivery| &delivery.message).map(|message| message.id.as_str()).collect();
    assert_eq!(ids, ["to-partner"]);
    Ok(())
}
