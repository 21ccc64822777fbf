//! Against `StateService`.

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use veribus_proto::v1::{
    SessionRequest, StateOperation, WatchRequest, WatchTarget, state_operation::Operation,
    state_result::Result as Answer, watch_request,
};
use veribus_tests::{
    raw::Raw,
    state::{StateSession, StateWatch, delete, list, put},
    wire::frame,
};

use super::{Attacker, status};
use crate::target::Target;

const WATCH: &str = "/veribus.v1.StateService/Watch";
pub(super) const SESSION: &str = "/veribus.v1.StateService/Session";

/// Writes so many keys in the scope `graves`, and deletes them.
pub(crate) async fn tombstones(target: &Target, count: usize) -> Result<()> {
    const BATCH: usize = 250;
    let token = target.token("undertaker", &["state.write:graves"])?;
    let mut session = StateSession::open(&target.raw(Some(&token)).await?).await?;
    for first in (0..count).step_by(BATCH) {
        let keys = || (first..count.min(first + BATCH)).map(|number| format!("graves/{number:06}"));
        let puts = keys().map(|key| Operation::Put(put(&key, "x")));
        let deletes = keys().map(|key| Operation::Delete(delete(&key)));
        for result in session.run(puts.chain(deletes).collect()).await? {
            if let Answer::Refusal(refusal) = result {
                anyhow::bail!("refused: {refusal:?}");
            }
        }
    }
    Ok(())
}

/// Sends such requests on one `Session` as fast as they are taken.
pub(super) fn pump(attacker: &Attacker, raw: Raw, make: impl Fn() -> SessionRequest + Clone + Send + 'static) {
    attacker.again(move |attacker| {
        let (raw, make) = (raw.clone(), make.clone());
        async move {
            let (sender, receiver) = mpsc::channel(2);
            tokio::spawn(async move { while sender.send(make()).await.is_ok() {} });
            let mut responses = raw.state().session(ReceiverStream::new(receiver)).await?.into_inner();
            let _open = attacker.opened();
            while let Some(response) = responses.message().await? {
                if response.refreshed.is_some() {
                    attacker.note("refreshed a session");
                }
                for result in response.results {
                    match result.result {
                        Some(Answer::Refusal(refusal)) => attacker.note(refusal.reason),
                        Some(_) => attacker.note("operations done"),
                        None => attacker.note("no result"),
                    }
                }
            }
            Ok("a session ended".to_owned())
        }
    });
}

/// Many watches of one scope, of which half never read, and somebody who writes there all the time.
pub(super) async fn watches(attacker: &Attacker) -> Result<()> {
    const EACH: usize = 100;
    const KEYS: usize = 500;
    let token = |agent: &str| attacker.target.token(agent, &["state.read:churn"]);
    for agent in ["watch-reader-1", "watch-reader-2"] {
        let raw = attacker.raw(&token(agent)?).await;
        for _ in 0..EACH {
            let raw = raw.clone();
            attacker.again(move |attacker| {
                let raw = raw.clone();
                async move {
                    let mut watch = StateWatch::open(&raw, "churn/", 0).await?;
                    let _open = attacker.opened();
                    loop {
                        match watch.response().await {
                            Ok(Some(_)) => attacker.note("batches read"),
                            Ok(None) => return Ok("a watch ended".to_owned()),
                            Err(error) => return Ok(format!("a watch ended: {}", status(&error))),
                        }
                    }
                }
            });
        }
    }
    let target = WatchTarget { prefix: "churn/".to_owned(), after_revision: 0 };
    let first = frame(&WatchRequest { request: Some(watch_request::Request::Target(target)) }.encode_to_vec());
    for agent in ["watch-mute-1", "watch-mute-2"] {
        attacker.hold_unread(&token(agent)?, WATCH, first.clone(), EACH, 25).await;
    }
    let writing = attacker.raw(&attacker.target.token("overwriter", &["state.write:churn"])?).await;
    let value = "x".repeat(512);
    let operation = move |number| {
        let put = put(&format!("churn/{number}"), &value);
        StateOperation { operation: Some(Operation::Put(put)) }
    };
    pump(attacker, writing, move || SessionRequest { operations: (0..KEYS).map(&operation).collect(), refresh: None });
    Ok(())
}

/// A hundred listings at once of a scope that is full of tombstones.
pub(super) async fn lists(attacker: &Attacker) -> Result<()> {
    const AT_ONCE: usize = 100;
    let raw = attacker.raw(&attacker.target.token("lister", &["state.read:graves"])?).await;
    attacker.again(move |attacker| {
        let raw = raw.clone();
        async move {
            let all = (0..AT_ONCE).map(|_| async {
                let mut state = raw.state();
                let _open = attacker.opened();
                match state.list(list("graves/")).await {
                    Ok(page) => format!("{} values listed", page.into_inner().values.len()),
                    Err(error) => status(&error),
                }
            });
            let mut answers = join_all(all).await;
            let last = answers.pop().context("a hundred")?;
            for answer in answers {
                attacker.note(answer);
            }
            Ok(last)
        }
    });
    Ok(())
}
