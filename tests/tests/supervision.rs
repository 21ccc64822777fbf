//! Tasks that a broker cannot be without: whichever ends, the broker ends in good order and says which it was.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use veribus_broker::{
    config::IssuerConfig,
    server::{ServerError, TaskEnd, TaskEnded, TaskHandles},
};
use veribus_proto::v1::{EntryKind, PublishRequest};
use veribus_tests::{
    broker::{Setup, TestBroker},
    faults::{Fault, FaultyStore},
    messages::wire,
    patiently,
    raw::{Raw, reason},
    streams::RawSubscription,
};

/// A thread, which ends by itself or not at all.
const WRITER: &str = "audit writer";
/// Whoever adds a task sees the tests below end it, and adds its name here.
const TASKS: [&str; 13] = [
    "keys of http://127.0.0.1:9",
    WRITER,
    "queues watch",
    "accept loop",
    "gRPC server",
    "files watch",
    "disk watch",
    "clock watch",
    "sessions watch",
    "due values watch",
    "refusals record",
    "overruns record",
    "metrics listener",
];

/// A broker that has every task there is, in a configuration or another.
fn everything(tasks: &TaskHandles) -> Result<Setup> {
    let settings =
        "issuer = \"http://127.0.0.1:9\"\naudience = \"veribus\"\ndiscovery = true\nallow_loopback_http = true";
    let issuer: IssuerConfig = toml::from_str(settings)?;
    Ok(Setup::default().open_policy().tasks(tasks).configure(|config| {
        config.identity.issuers.push(issuer);
        config.metrics.listen = Some(([127, 0, 0, 1], 0).into());
    }))
}

async fn subscribed(broker: &TestBroker) -> Result<(Raw, RawSubscription)> {
    let agent = broker.raw(&broker.token("a", &["publish:>", "subscribe:>"])?).await?;
    let inbox = RawSubscription::open(&agent, &[">"]).await?;
    Ok((agent, inbox))
}

/// Why the subscription ended.
async fn end_of(mut inbox: RawSubscription) -> Result<tonic::Status> {
    loop {
        match patiently(inbox.batch()).await? {
            Ok(batch) => drop(batch.context("ended without a status")?),
            Err(status) => return Ok(status),
        }
    }
}

#[tokio::test]
async fn the_tasks_that_are_ended_here_are_all_that_there_are() -> Result<()> {
    let tasks = TaskHandles::default();
    let broker = everything(&tasks)?.start().await?;
    assert_eq!(tasks.names(), TASKS);
    broker.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_loses_any_of_its_tasks_says_which_and_drains() -> Result<()> {
    for name in TASKS.into_iter().filter(|name| *name != WRITER) {
        loses(name).await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

async fn loses(name: &str) -> Result<()> {
    let tasks = TaskHandles::default();
    let mut broker = everything(&tasks)?.start().await?;
    let (agent, inbox) = subscribed(&broker).await?;
    agent.broker().publish(PublishRequest { message: Some(wire("m-1", "x", "text")) }).await?;
    ensure!(tasks.end(name), "there is no such task");
    let failure = patiently(broker.failed()).await?;
    let ServerError::Task(TaskEnded { task, how }) = &failure else { anyhow::bail!("{failure}") };
    assert_eq!((&**task, *how), (name, TaskEnd::Aborted));
    assert!(failure.to_string().contains(name), "{failure}");
    let home = patiently(broker.stop()).await??;
    let end = end_of(inbox).await?;
    assert_eq!((end.code(), reason(&end)), (Code::Unavailable, "DRAINING".to_owned()), "{end:?}");

    let broker = patiently(home.start()).await??;
    let log = broker.log().await?;
    log.decision("m-1")?;
    let stopped = log.of_kind(EntryKind::BrokerStopped).next().context("the end is recorded")?.index;
    assert_eq!(log.at(stopped + 1)?.kind(), EntryKind::BrokerStarted, "it was the last entry");
    broker.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_writer_panics_says_so_and_closes_what_is_open() -> Result<()> {
    let (tasks, store) = (TaskHandles::default(), Arc::new(FaultyStore::default()));
    let mut broker = everything(&tasks)?.store(store.clone()).start().await?;
    let (agent, inbox) = subscribed(&broker).await?;
    store.fail_next(Fault::Panic);
    let refused = agent.broker().publish(PublishRequest { message: Some(wire("m-1", "x", "text")) }).await;
    assert_eq!(refused.err().map(|status| reason(&status)), Some("RECORD_FAILED".to_owned()));
    for _ in 0..2 {
        let failure = patiently(broker.failed()).await?;
        let ServerError::Task(TaskEnded { task, how }) = &failure else { anyhow::bail!("{failure}") };
        assert_eq!((&**task, *how), (WRITER, TaskEnd::Panicked));
    }
    let (server, _home) = broker.into_parts();
    assert!(patiently(server.drain()).await?.is_err(), "the log has not been ended");
    end_of(inbox).await?;
    Ok(())
}
