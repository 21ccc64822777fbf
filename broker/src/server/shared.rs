//! Shared state at start: the root key, the keys under it, and what looks after values whose time runs out.

use std::{env, sync::Arc, time::Duration};

use thiserror::Error;

use crate::{
    config::StateConfig,
    engine::{AppendError, ReadError, SharedLogStore},
    model::{Clock, TopicPattern, UnixMicros},
    record::Recorder,
    seal::{KEY_PREFIX, KeyRing, KeyRingError, NodeKey, RootKeyError, RootKeySource, RootKeys},
    state::{Changes, DueFrom, DueKey, StateReader, StateSettings, StateTable},
};

/// How often it is looked for values whose time has run out.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many are handed to the writer at a time.
const DUE_MAX: usize = 256;
/// How many times that is looked at of what is due by a clock that was just set.
const UNCONFIRMED_PAGES_MAX: usize = 8;

/// Why the keys cannot be used.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The variable that should name the descriptor of the root key does not.
    #[error("`{0}` should hold the number of the file descriptor with the root key")]
    Variable(String),
    /// The root key.
    #[error(transparent)]
    Root(#[from] RootKeyError),
    /// The keys under it.
    #[error(transparent)]
    Ring(#[from] KeyRingError),
    /// The store.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The key of this node is new, and cannot be kept.
    #[error("the key of this node could not be kept: {0}")]
    Append(#[from] AppendError),
}

/// What the keys and values of shared state need to begin.
pub(super) struct OpenState {
    pub(super) roots: RootKeys,
    pub(super) keys: Arc<KeyRing>,
    pub(super) node_key: NodeKey,
    pub(super) changes: Arc<Changes>,
    pub(super) table: StateTable,
    pub(super) reader: StateReader,
}

pub(super) fn open(config: &StateConfig, store: &SharedLogStore, clock: &Clock) -> Result<OpenState, KeysError> {
    let records = store.records(KEY_PREFIX)?;
    let roots = RootKeys::new(source(config)?);
    let root = roots.settle(&KeyRing::roots_in_use(&records)?)?;
    let keys = Arc::new(KeyRing::load(records, root)?);
    let node_key = node_key(&keys, store, clock)?;
    let changes = Arc::new(Changes::new());
    let table = StateTable::new(Arc::clone(store), settings(config), Arc::clone(&keys), Arc::clone(&changes));
    let reader = StateReader::new(Arc::clone(store));
    Ok(OpenState { roots, keys, node_key, changes, table, reader })
}

/// Durable before anything is recorded under it.
fn node_key(keys: &KeyRing, store: &SharedLogStore, clock: &Clock) -> Result<NodeKey, KeysError> {
    let (node_key, new) = keys.node_key(clock.now())?;
    if let Some(change) = new {
        store.append(&[], change.records())?;
        keys.apply(change);
    }
    Ok(node_key)
}

pub(crate) fn source(config: &StateConfig) -> Result<RootKeySource, KeysError> {
    if let Some(file) = &config.root_key_file {
        return Ok(RootKeySource::File(file.clone()));
    }
    let variable = config.root_key_descriptor_variable.clone().unwrap_or_default();
    let number = env::var(&variable).ok().and_then(|number| number.parse().ok());
    number.map(RootKeySource::Descriptor).ok_or(KeysError::Variable(variable))
}

fn settings(config: &StateConfig) -> StateSettings {
    let history = |(pattern, versions): (&String, usize)| Some((TopicPattern::parse(pattern).ok()?, versions));
    let histories = config.histories.iter().map(|one| (&one.scopes, one.versions));
    StateSettings {
        histories: histories.filter_map(history).collect(),
        gone_kept_s: config.gone_kept_s,
        scopes_max: config.scopes_max,
        scopes_per_level_max: config.scopes_per_level_max,
        read_bytes_max: config.read_bytes_max,
    }
}

/// Hands the writer what is due, a little at a time. What cannot be done now is looked at again later.
pub(super) async fn watch_due(reader: StateReader, recorder: Recorder, clock: Clock) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    let mut later = None;
    'looking: loop {
        interval.tick().await;
        let now = clock.now();
        let confirmed = clock.confirmed().min(now);
        let mut from = DueFrom::time(UnixMicros(0));
        while let Some(next) = hand_over_due(&reader, &recorder, from, confirmed).await {
            from = next;
        }
        // By the clock alone: only what is younger than that is done about these, so not all are looked at each time.
        let mut unconfirmed = later.take().unwrap_or_else(|| DueFrom::time(confirmed));
        for _ in 0..UNCONFIRMED_PAGES_MAX {
            match hand_over_due(&reader, &recorder, unconfirmed, now).await {
                Some(next) => unconfirmed = next,
                None => continue 'looking,
            }
        }
        later = Some(unconfirmed);
    }
}

/// Hands a page of what is due over, and waits until that is done. Where to go on; `None` where there is no more, or no use.
async fn hand_over_due(reader: &StateReader, recorder: &Recorder, from: DueFrom, until: UnixMicros) -> Option<DueFrom> {
    let (due, next) = look_for_due(reader, from, until).await?;
    let is_all = due.len() < DUE_MAX;
    recorder.due(due).await.ok()?;
    recorder.caught_up().await.ok()?;
    (!is_all).then_some(next)
}

/// `None` where there is nothing.
async fn look_for_due(reader: &StateReader, from: DueFrom, until: UnixMicros) -> Option<(Vec<DueKey>, DueFrom)> {
    let looking = reader.clone();
    match tokio::task::spawn_blocking(move || looking.due(&from, until, DUE_MAX)).await {
        Ok(Ok((due, next))) => (!due.is_empty()).then_some((due, next)),
        Ok(Err(error)) => {
            tracing::error!(%error, "values whose time has run out cannot be looked for");
            None
        }
        Err(_) => None,
    }
}
