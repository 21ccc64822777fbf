//! `kill -9` under load, again and again: every acknowledged message is in the log exactly once, and the chain is whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::oneshot;
use tonic::Code;
use veribus_broker::{dev::DevDirectory, model::Clock};
use veribus_proto::{
    chain::ChainVerifier,
    v1::{AuditEntry, EntryKind, PublishRequest, QueryRequest, Revocation, RevokeRequest, revocation},
};
use veribus_tests::{
    messages::wire,
    patiently,
    process::{Binary, Process, open_directory},
    raw::Raw,
    streams::{PublishStream, receipt},
};

const TEXT: &str = "some text that says nothing in particular";
const KILLS: usize = 20;
const FRAME: usize = 20;
const UNDER_WAY: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_under_load_twenty_times_has_every_acknowledged_message_exactly_once() -> Result<()> {
    let binary = Binary::build()?;
    let place = tempfile::tempdir()?;
    let directory = open_directory(&place.path().join("dev"))?;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut ledger = Ledger::new();
    let mut unanswered = BTreeSet::new();
    for round in 0..KILLS {
        let mut broker = binary.dev(directory.root()).await?;
        ledger.read_on(&broker, &directory).await?;
        ledger.check(round)?;
        // What was in flight is sent again, as a client would: it must not come twice.
        ledger.acknowledged.extend(publish_again(&broker, &directory, &unanswered).await?);
        let after = Duration::from_millis(random.random_range(1..150));
        let published = load_and_kill(&mut broker, &directory, round, after).await?;
        ledger.acknowledged.extend(published.acknowledged);
        unanswered = published.unanswered;
    }
    let broker = binary.dev(directory.root()).await?;
    ledger.read_on(&broker, &directory).await?;
    ledger.check(KILLS)?;
    println!("{} acknowledged, {} entries", ledger.acknowledged.len(), ledger.verifier.next_index());
    assert!(ledger.acknowledged.len() > KILLS * FRAME);
    assert_eq!(ledger.starts, KILLS + 1);
    // Once more from the first entry on, in one go.
    let mut whole = Ledger { acknowledged: ledger.acknowledged, ..Ledger::new() };
    whole.read_on(&broker, &directory).await?;
    whole.check(KILLS)
}

/// A revocation that was answered outlives the process, whatever became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_right_after_a_revocation_comes_back_with_it() -> Result<()> {
    let binary = Binary::build()?;
    let place = tempfile::tempdir()?;
    let directory = open_directory(&place.path().join("dev"))?;
    for round in 0..5 {
        let mut broker = binary.dev(directory.root()).await?;
        let agent = format!("agent-{round}");
        let agents = token(&directory, &agent, "publish:>")?;
        let before = broker.raw(&agents).await?.broker().publish(one(&agent)).await;
        ensure!(before.is_ok(), "before it is revoked: {before:?}");
        let operator = broker.raw(&token(&directory, "operator", "admin.revoke")?).await?;
        let target = Some(revocation::Target::Agent(agent));
        let issuer = directory.issuer().issuer().to_owned();
        let revocation = Some(Revocation { issuer, target, ..Revocation::default() });
        patiently(operator.admin().revoke(RevokeRequest { revocation })).await??;
        broker.kill().await?;

        let broker = binary.dev(directory.root()).await?;
        let after = broker.raw(&agents).await?.broker().publish(one("again")).await;
        ensure!(after.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated), "{after:?}");
    }
    Ok(())
}

fn one(id: &str) -> PublishRequest {
    PublishRequest { message: Some(wire(id, "x", "text")) }
}

fn token(directory: &DevDirectory, agent: &str, permission: &str) -> Result<String> {
    let (issuer, now) = (directory.issuer(), Clock::system().now().seconds());
    let claims = issuer.claims(agent, now, Duration::from_secs(3_600)).role("auditor").permission(permission);
    Ok(issuer.issue(&claims)?)
}

#[derive(Default)]
struct Published {
    acknowledged: BTreeMap<String, u64>,
    unanswered: BTreeSet<String>,
}

/// Publishes as fast as it goes from two connections, and kills the broker a while after its first answer to each.
async fn load_and_kill(
    broker: &mut Process,
    directory: &DevDirectory,
    round: usize,
    after: Duration,
) -> Result<Published> {
    let mut publishing = Vec::new();
    for sender in ["p0", "p1"] {
        let raw = broker.raw(&token(directory, sender, "publish:>")?).await?;
        let (answered, first) = oneshot::channel();
        publishing.push(tokio::spawn(publish_on(raw, format!("{sender}-{round}"), answered)));
        patiently(first).await??;
    }
    // The moment of the kill is to be any.
    tokio::time::sleep(after).await;
    broker.kill().await?;
    let mut all = Published::default();
    for publisher in publishing {
        let published = patiently(publisher).await???;
        all.acknowledged.extend(published.acknowledged);
        all.unanswered.extend(published.unanswered);
    }
    Ok(all)
}

/// Keeps some frames under way until the stream breaks.
async fn publish_on(raw: Raw, name: String, answered: oneshot::Sender<()>) -> Result<Published> {
    let mut stream = PublishStream::open(&raw).await?;
    let (mut published, mut answered) = (Published::default(), Some(answered));
    for number in 0.. {
        let ids: Vec<_> = (0..FRAME).map(|part| format!("{name}-{number}-{part}")).collect();
        let messages = ids.iter().map(|id| wire(id, "x", TEXT)).collect();
        published.unanswered.extend(ids);
        let is_over = stream.send(messages).await.is_err();
        if number < UNDER_WAY && !is_over {
            continue;
        }
        let Ok(Some(results)) = stream.results().await else { return Ok(published) };
        for outcome in results {
            let receipt = receipt(&outcome)?;
            ensure!(published.unanswered.remove(&receipt.message_id), "an answer to nothing");
            published.acknowledged.insert(receipt.message_id.clone(), receipt.audit_index);
        }
        if let Some(answered) = answered.take() {
            answered.send(()).ok();
        }
    }
    anyhow::bail!("never ended")
}

async fn publish_again(
    broker: &Process,
    directory: &DevDirectory,
    ids: &BTreeSet<String>,
) -> Result<BTreeMap<String, u64>> {
    let mut acknowledged = BTreeMap::new();
    for sender in ["p0", "p1"] {
        let mut stream = PublishStream::open(&broker.raw(&token(directory, sender, "publish:>")?).await?).await?;
        let ids: Vec<_> = ids.iter().filter(|id| id.starts_with(sender)).collect();
        for part in ids.chunks(1_000) {
            for outcome in stream.publish(part.iter().map(|id| wire(id, "x", TEXT)).collect()).await? {
                let receipt = receipt(&outcome)?;
                acknowledged.insert(receipt.message_id.clone(), receipt.audit_index);
            }
        }
    }
    Ok(acknowledged)
}

/// The log as far as it was read, entry by entry over all restarts.
struct Ledger {
    verifier: ChainVerifier,
    found: BTreeMap<String, u64>,
    starts: usize,
    acknowledged: BTreeMap<String, u64>,
}

impl Ledger {
    fn new() -> Self {
        let verifier = ChainVerifier::from_genesis();
        Self { verifier, found: BTreeMap::new(), starts: 0, acknowledged: BTreeMap::new() }
    }

    /// Goes on where it was: the chain of the new entries has to follow from those that were read before the crash.
    async fn read_on(&mut self, broker: &Process, directory: &DevDirectory) -> Result<()> {
        let auditor = broker.raw(&token(directory, "auditor", "audit.read")?).await?;
        let request = QueryRequest { from_index: self.verifier.next_index(), ..QueryRequest::default() };
        let mut responses = auditor.audit().query(request).await?.into_inner();
        while let Some(response) = patiently(responses.message()).await?? {
            for stored in response.entries {
                let entry = self.verifier.push(&stored.entry)?;
                self.take(entry)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: AuditEntry) -> Result<()> {
        match entry.kind() {
            EntryKind::BrokerStarted => self.starts += 1,
            EntryKind::Publish => {
                let id = entry.message.context("facts")?.id;
                let earlier = self.found.insert(id.clone(), entry.index);
                ensure!(earlier.is_none(), "`{id}` at {earlier:?} and at {}", entry.index);
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self, round: usize) -> Result<()> {
        for (id, index) in &self.acknowledged {
            ensure!(self.found.get(id) == Some(index), "round {round}: `{id}` was acknowledged at {index}");
        }
        Ok(())
    }
}
