//! Compare and swap, until nobody else is faster.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::{
    State, StateValue, Written,
    put::{JSON, to_json},
};
use crate::{
    Error,
    retry::{Attempts, BackoffBounds},
};

/// How often others may be faster.
const CONFLICTS_MAX: usize = 64;
/// Those who collide come again soon, but not all at once.
const BACKOFF: BackoffBounds = BackoffBounds { min: Duration::from_millis(4), max: Duration::from_millis(250) };

/// What [`State::update`] writes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct NewValue {
    value: Bytes,
    content_type: Option<String>,
    ttl: Option<Duration>,
}

impl NewValue {
    /// A value of any content.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: value.into(), content_type: None, ttl: None }
    }

    /// Its media type, where it is not that of the value before.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// It is gone after this time, rounded up to whole seconds.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    pub(super) fn json<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<Self, Error> {
        Ok(Self::new(to_json(key, value)?).content_type(JSON))
    }
}

impl<T: Into<Bytes>> From<T> for NewValue {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

pub(super) async fn update(
    state: &State,
    key: String,
    mut change: impl FnMut(Option<StateValue>) -> Result<NewValue, Error>,
) -> Result<Written, Error> {
    let mut attempts = Attempts::new(BACKOFF, state.session.limits.publish_for);
    let mut conflicts = 0;
    loop {
        let current = state.get(&key).await?;
        let revision = current.as_ref().map_or(0, StateValue::revision);
        let content_type = current.as_ref().map(|value| value.metadata.content_type.clone()).unwrap_or_default();
        let new = change(current)?;
        let content_type = new.content_type.unwrap_or(content_type);
        let put = state.put(&key, new.value).content_type(content_type).if_revision(revision);
        let put = if let Some(ttl) = new.ttl { put.ttl(ttl) } else { put };
        match put.await {
            Err(error @ Error::Conflict { .. }) if conflicts < CONFLICTS_MAX => attempts.pause(error).await?,
            outcome => return outcome,
        }
        conflicts += 1;
    }
}
