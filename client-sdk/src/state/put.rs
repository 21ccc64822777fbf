//! Writes and deletions before they are sent.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use veribus_proto::v1::{DeleteRequest, PutRequest, StateOperation, state_operation::Operation};

use super::{
    Deleted, PendingState, State, StateSession, Written,
    call::{self, Effect, Service},
};
use crate::{Error, present::Method};

/// The media type of JSON.
pub(super) const JSON: &str = "application/json";

type Sending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A write; awaiting it sends it. On a [`State`] it ends when the write is recorded ([`Written`]), on a [`StateSession`]
/// when it is under way ([`PendingState`]).
///
/// It ends in [`Error::Conflict`], in [`Error::Refused`], in [`Error::TooLarge`], in [`Error::Json`], or in
/// [`Error::ChangeUnknown`]; any other error means that it was not sent.
#[must_use = "nothing is written before it is awaited"]
pub struct StatePut<T> {
    target: T,
    request: Result<PutRequest, Error>,
}

impl<T> StatePut<T> {
    pub(super) fn new(target: T, key: String, value: Bytes) -> Self {
        Self { target, request: Ok(PutRequest { key, value, ..PutRequest::default() }) }
    }

    pub(super) fn json<V: Serialize + ?Sized>(target: T, key: String, value: &V) -> Self {
        let request = to_json(&key, value).map(|value| {
            let content_type = JSON.to_owned();
            PutRequest { key, value, content_type, ..PutRequest::default() }
        });
        Self { target, request }
    }

    /// The media type; `application/octet-stream` unless set, `application/json` for JSON.
    pub fn content_type(self, content_type: impl Into<String>) -> Self {
        self.with(|request| request.content_type = content_type.into())
    }

    /// The value is gone after this time, rounded up to whole seconds.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|request| request.ttl_s = whole_seconds(ttl))
    }

    /// Writes only if this is the revision that stands there.
    pub fn if_revision(self, revision: u64) -> Self {
        self.with(|request| request.expected_revision = Some(revision))
    }

    /// Writes only if there is no value.
    pub fn if_absent(self) -> Self {
        self.if_revision(0)
    }

    fn with(mut self, change: impl FnOnce(&mut PutRequest)) -> Self {
        if let Ok(request) = &mut self.request {
            change(request);
        }
        self
    }
}

/// A deletion; awaiting it sends it. On a [`State`] it ends when it is recorded ([`Deleted`]), on a [`StateSession`] when
/// it is under way ([`PendingState`]). It ends in errors as [`StatePut`] does.
#[must_use = "nothing is deleted before it is awaited"]
pub struct StateDelete<T> {
    target: T,
    request: DeleteRequest,
}

impl<T> StateDelete<T> {
    pub(super) fn new(target: T, key: String) -> Self {
        Self { target, request: DeleteRequest { key, expected_revision: None } }
    }

    /// Deletes only if this is the revision that stands there.
    pub fn if_revision(mut self, revision: u64) -> Self {
        self.request.expected_revision = Some(revision);
        self
    }
}

impl<'a> IntoFuture for StatePut<&'a State> {
    type Output = Result<Written, Error>;
    type IntoFuture = Sending<'a, Written>;

    fn into_future(self) -> Self::IntoFuture {
        let State { session } = self.target;
        Box::pin(async move {
            let request = self.request?;
            session.write_within_size(request.clone())?;
            let (key, effect) = (request.key.clone(), Effect::of_change(request.expected_revision));
            let once = |mut service: Service, request| async move { service.put(request).await };
            let answer = call::call(session, Method::STATE_PUT, effect, &key, request, once).await?;
            Written::check(answer).map_err(|fault| Error::change_unknown(&key, fault))
        })
    }
}

impl<'a> IntoFuture for StateDelete<&'a State> {
    type Output = Result<Deleted, Error>;
    type IntoFuture = Sending<'a, Deleted>;

    fn into_future(self) -> Self::IntoFuture {
        let State { session } = self.target;
        Box::pin(async move {
            let (key, effect) = (self.request.key.clone(), Effect::of_change(self.request.expected_revision));
            let once = |mut service: Service, request| async move { service.delete(request).await };
            let answer = call::call(session, Method::STATE_DELETE, effect, &key, self.request, once).await?;
            Deleted::check(answer).map_err(|fault| Error::change_unknown(&key, fault))
        })
    }
}

impl<'a> IntoFuture for StatePut<&'a StateSession> {
    type Output = Result<PendingState<Written>, Error>;
    type IntoFuture = Sending<'a, PendingState<Written>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.target.send(self.target.session.write_within_size(self.request?)?).await })
    }
}

impl<'a> IntoFuture for StateDelete<&'a StateSession> {
    type Output = Result<PendingState<Deleted>, Error>;
    type IntoFuture = Sending<'a, PendingState<Deleted>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.target.send(StateOperation { operation: Some(Operation::Delete(self.request)) }))
    }
}

impl<T> fmt::Debug for StatePut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.request.as_ref().map(|request| &request.key);
        f.debug_struct("StatePut").field("key", &key).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for StateDelete<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateDelete").field("key", &self.request.key).finish_non_exhaustive()
    }
}

pub(super) fn to_json<V: Serialize + ?Sized>(key: &str, value: &V) -> Result<Bytes, Error> {
    let fault = |fault: serde_json::Error| Error::Json { key: key.to_owned(), fault: fault.to_string() };
    serde_json::to_vec(value).map(Bytes::from).map_err(fault)
}

/// Zero would mean that the value stays.
pub(super) fn whole_seconds(ttl: Duration) -> u64 {
    ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_never_rounded_to_one_without_end() {
        for (ttl_ms, whole_s) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (3_600_000, 3_600)] {
            assert_eq!(whole_seconds(Duration::from_millis(ttl_ms)), whole_s, "{ttl_ms} ms");
        }
    }
}
