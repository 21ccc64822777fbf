//! The hostile clients. Each does what it does as fast as the broker lets it, and again when it was stopped.

mod broker;
mod connections;
mod state;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use tonic::{Code, Status};
use veribus_tests::{
    raw::{Raw, reason},
    wire::{Call, Wire},
};

use crate::target::Target;
pub(crate) use state::tombstones;

pub(crate) const ATTACKS: [&str; 9] =
    ["payloads", "frames", "malformed", "fan-out", "watches", "lists", "slow", "anonymous", "quota"];

/// How long who never reads does not read, before it looks at what became of its stream.
const UNREAD_FOR: Duration = Duration::from_secs(20);
/// How long it takes to be sure that nothing more comes.
const NOTHING_MORE: Duration = Duration::from_secs(5);
/// How long who was turned away waits before it comes back.
const COME_BACK: Duration = Duration::from_millis(50);

/// Does this until the runtime ends.
pub(crate) async fn run(attack: &'static str, target: Arc<Target>, outcomes: Arc<Outcomes>) {
    let attacker = Attacker { attack, target, outcomes };
    let begun = match attack {
        "payloads" => broker::payloads(&attacker).await,
        "frames" => broker::frames(&attacker).await,
        "malformed" => broker::malformed(&attacker).await,
        "fan-out" => broker::fan_out(&attacker).await,
        "watches" => state::watches(&attacker).await,
        "lists" => state::lists(&attacker).await,
        "slow" => connections::slow(&attacker).await,
        "anonymous" => connections::anonymous(&attacker),
        _ => connections::quota(&attacker).await,
    };
    if let Err(error) = begun {
        attacker.note(format!("did not begin: {error:#}"));
    }
}

/// What became of the hostile clients.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    counts: Mutex<BTreeMap<(&'static str, String), u64>>,
    open: AtomicUsize,
    peak: AtomicUsize,
}

impl Outcomes {
    /// By attack and outcome.
    pub(crate) fn counts(&self) -> BTreeMap<(&'static str, String), u64> {
        self.counts.lock().clone()
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn open_streams_peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

/// A stream that the broker let open, until this is dropped.
struct OpenStream(Arc<Outcomes>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of the attacks, and what its clients need.
#[derive(Clone)]
struct Attacker {
    attack: &'static str,
    target: Arc<Target>,
    outcomes: Arc<Outcomes>,
}

impl Attacker {
    fn note(&self, outcome: impl Into<String>) {
        *self.outcomes.counts.lock().entry((self.attack, outcome.into())).or_default() += 1;
    }

    fn opened(&self) -> OpenStream {
        let open = self.outcomes.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.outcomes.peak.fetch_max(open, Ordering::Relaxed);
        OpenStream(Arc::clone(&self.outcomes))
    }

    /// Spawns what is tried for ever, noting each outcome.
    fn again<F, A>(&self, mut attempt: F)
    where
        F: FnMut(Self) -> A + Send + 'static,
        A: Future<Output = Result<String>> + Send,
    {
        let attacker = self.clone();
        tokio::spawn(async move {
            loop {
                match attempt(attacker.clone()).await {
                    Ok(outcome) => attacker.note(outcome),
                    Err(error) => {
                        attacker.note(described(&error));
                        tokio::time::sleep(COME_BACK).await;
                    }
                }
            }
        });
    }

    /// A connection, as soon as there is one to be had.
    async fn raw(&self, token: &str) -> Raw {
        loop {
            match self.target.raw(Some(token)).await {
                Ok(raw) => return raw,
                Err(error) => self.note(format!("no connection: {}", described(&error))),
            }
            tokio::time::sleep(COME_BACK).await;
        }
    }

    async fn wire(&self) -> Arc<Wire> {
        loop {
            match self.target.wire().await {
                Ok(wire) => return Arc::new(wire),
                Err(error) => self.note(format!("no connection: {}", described(&error))),
            }
            tokio::time::sleep(COME_BACK).await;
        }
    }

    async fn link(&self) -> Arc<Link> {
        Arc::new(Link { attacker: self.clone(), wire: tokio::sync::Mutex::new(self.wire().await) })
    }

    /// Opens these streams, each with this first message, on connections that hold so many each, and does not read what
    /// comes.
    async fn hold_unread(&self, token: &str, path: &'static str, first: Bytes, streams: usize, per_connection: usize) {
        for opened in (0..streams).step_by(per_connection) {
            let connection = self.link().await;
            for _ in opened..streams.min(opened + per_connection) {
                let (connection, token, first) = (Arc::clone(&connection), token.to_owned(), first.clone());
                self.again(move |attacker| {
                    let (connection, token, first) = (Arc::clone(&connection), token.clone(), first.clone());
                    async move {
                        let mut call = connection.call(path, Some(&token)).await?;
                        call.requests.send_data(first, false)?;
                        let mut answers = call.answers().await?;
                        let _open = attacker.opened();
                        tokio::time::sleep(UNREAD_FOR).await;
                        let the_rest = async {
                            loop {
                                if let Err(code) = answers.next::<()>().await? {
                                    return anyhow::Ok(code);
                                }
                            }
                        };
                        match tokio::time::timeout(NOTHING_MORE, the_rest).await {
                            Ok(code) => Ok(format!("unread, then ended: {:?}", Code::from_i32(code?))),
                            Err(_) => Ok("unread, and still open".to_owned()),
                        }
                    }
                });
            }
        }
    }
}

/// A connection that is made anew when the broker ended it.
struct Link {
    attacker: Attacker,
    wire: tokio::sync::Mutex<Arc<Wire>>,
}

impl Link {
    async fn call(&self, path: &str, token: Option<&str>) -> Result<Call> {
        let wire = Arc::clone(&*self.wire.lock().await);
        let called = wire.call(path, token).await;
        if called.is_err() {
            let mut current = self.wire.lock().await;
            if Arc::ptr_eq(&current, &wire) {
                self.attacker.note("a connection was ended");
                *current = self.attacker.wire().await;
            }
        }
        called
    }
}

/// A status in a few words, the same for all of its kind.
fn status(status: &Status) -> String {
    match reason(status) {
        reason if !reason.is_empty() => format!("{:?} {reason}", status.code()),
        _ => format!("{:?}: {}", status.code(), shortened(status.message())),
    }
}

fn described(error: &anyhow::Error) -> String {
    error.downcast_ref::<Status>().map_or_else(|| shortened(&format!("{error:#}")), status)
}

fn shortened(text: &str) -> String {
    text.chars().take(100).map(|one| if one.is_ascii_digit() { '#' } else { one }).collect()
}

/// The status at the end of a call whose answer nobody reads, in a few words.
async fn end_of(response: h2::client::ResponseFuture) -> Result<String> {
    let response = response.await?;
    let at_once = Status::from_header_map(response.headers());
    let mut body = response.into_body();
    while let Some(part) = body.data().await {
        let bytes = part?.len();
        body.flow_control().release_capacity(bytes)?;
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(match (at_once, Status::from_header_map(&trailers)) {
        (Some(first), Some(then)) if first.code() != then.code() => {
            format!("{} in the headers, {} in the trailers", status(&first), status(&then))
        }
        (first, then) => status(&then.or(first).context("no status")?),
    })
}
