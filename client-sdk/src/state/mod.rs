//! The state that agents share: values under keys like `scope/name`.
//!
//! In scope: reading, writing, comparing and swapping, watching, each answer checked before it is handed on. Out of scope:
//! encryption, which is the broker's: values are encrypted where it keeps them, and the broker can read them.

mod call;
mod list;
mod outcome;
mod put;
mod session;
mod update;
mod value;
mod watch;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use veribus_proto::v1::{GetRequest, PutRequest, StateOperation, state_operation::Operation};

use crate::{Error, present::Method, session::Session};
use call::Effect;

pub use list::StateList;
pub use outcome::{Deleted, StatePage, Written};
pub use put::{StateDelete, StatePut};
pub use session::{PendingState, StateSession};
pub use update::NewValue;
pub use value::{StateMetadata, StateValue, StateWriter};
pub use watch::{StateChange, StateWatch};

/// The state that agents share. Cheap to clone.
///
/// Reads are made again where the connection breaks. A write is, only where that cannot do it twice: until it was sent, or
/// if it is [conditional](StatePut::if_revision). Any other ends as [`Error::ChangeUnknown`].
///
/// ```no_run
/// # async fn share(client: veribus_client::Client) -> Result<(), veribus_client::Error> {
/// let state = client.state();
/// let written = state.put("tickets/4711", "resolved").content_type("text/plain").await?;
/// match state.put("tickets/4711", "closed").if_revision(written.revision).await {
///     Err(veribus_client::Error::Conflict { current_revision, .. }) => println!("now at {current_revision:?}"),
///     other => println!("{:?}", other?),
/// }
/// let count = |count: Option<u64>| count.unwrap_or(0) + 1;
/// state.update_json("tickets/count", count).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct State {
    session: Arc<Session>,
}

impl State {
    pub(crate) const fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// Reads a value; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Refused`], the same whether the key exists or not; [`Error::Shredded`], [`Error::Unauthenticated`], or
    /// what kept the connection from coming back in time.
    pub async fn get(&self, key: impl Into<String>) -> Result<Option<StateValue>, Error> {
        self.read(GetRequest { key: key.into(), revision: 0 }).await
    }

    /// Reads an earlier revision; `None` where it is not kept any more, or never was.
    ///
    /// # Errors
    /// As [`State::get`].
    pub async fn get_revision(&self, key: impl Into<String>, revision: u64) -> Result<Option<StateValue>, Error> {
        match revision {
            0 => Ok(None), // No value has it, and the broker takes it for the latest.
            revision => self.read(GetRequest { key: key.into(), revision }).await,
        }
    }

    /// Reads a JSON value; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Json`], else those of [`State::get`].
    pub async fn get_json<T: DeserializeOwned>(&self, key: impl Into<String>) -> Result<Option<T>, Error> {
        self.get(key).await?.map(|value| value.json()).transpose()
    }

    /// Writes a value, once the returned builder is awaited.
    pub fn put(&self, key: impl Into<String>, value: impl Into<Bytes>) -> StatePut<&Self> {
        StatePut::new(self, key.into(), value.into())
    }

    /// Writes a value as JSON, once the returned builder is awaited.
    pub fn put_json<T: Serialize + ?Sized>(&self, key: impl Into<String>, value: &T) -> StatePut<&Self> {
        StatePut::json(self, key.into(), value)
    }

    /// Deletes a value with all its revisions, once the returned builder is awaited.
    pub fn delete(&self, key: impl Into<String>) -> StateDelete<&Self> {
        StateDelete::new(self, key.into())
    }

    /// What is known of the values under a prefix (`scope/beginning`, or a scope alone), in key order. Pages are asked for
    /// as the stream is polled, so that what changes meanwhile may be in it or not.
    #[must_use]
    pub fn list(&self, prefix: impl Into<String>) -> StateList {
        StateList::new(self.clone(), prefix.into())
    }

    /// Reads, changes and writes back, again and again until nobody else wrote in between.
    ///
    /// `change` gets what stands there; it may be called several times. The new value has the media type of the old one
    /// unless it [says otherwise](NewValue::content_type), and stays unless it [is to go](NewValue::ttl).
    ///
    /// # Errors
    /// [`Error::Conflict`] where others were faster all the time, else those of [`State::get`] and [`StatePut`].
    pub async fn update<N: Into<NewValue>>(
        &self,
        key: impl Into<String>,
        mut change: impl FnMut(Option<StateValue>) -> N,
    ) -> Result<Written, Error> {
        update::update(self, key.into(), |current| Ok(change(current).into())).await
    }

    /// As [`State::update`], of JSON.
    ///
    /// # Errors
    /// [`Error::Json`], else those of [`State::update`].
    pub async fn update_json<T: DeserializeOwned + Serialize>(
        &self,
        key: impl Into<String>,
        mut change: impl FnMut(Option<T>) -> T,
    ) -> Result<Written, Error> {
        let key = key.into();
        let changed = |current: Option<StateValue>| {
            let current = current.map(|value| value.json()).transpose()?;
            NewValue::json(&key, &change(current))
        };
        update::update(self, key.clone(), changed).await
    }

    /// Everything under a prefix (`scope/beginning`, or a scope alone) that may be read, then each change of it.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unauthenticated`], or what kept the connection from coming back in time.
    pub async fn watch(&self, prefix: impl Into<String>) -> Result<StateWatch, Error> {
        self.watch_after(prefix, 0).await
    }

    /// Only what was written after `revision`: with the last [`StateWatch::position`], a watch that was dropped goes on
    /// without gap or repetition.
    ///
    /// # Errors
    /// As [`State::watch`].
    pub async fn watch_after(&self, prefix: impl Into<String>, revision: u64) -> Result<StateWatch, Error> {
        StateWatch::open(Arc::clone(&self.session), prefix.into(), revision).await
    }

    /// The same operations, pipelined over one stream: many under way at once, carried out in the order of sending.
    #[must_use]
    pub fn session(&self) -> StateSession {
        StateSession::start(Arc::clone(&self.session))
    }

    async fn read(&self, request: GetRequest) -> Result<Option<StateValue>, Error> {
        let once = |mut service: call::Service, request| async move { service.get(request).await };
        match call::call(&self.session, Method::STATE_GET, Effect::None, &request.key, request.clone(), once).await {
            Ok(answer) => StateValue::of_get(answer, &request).map(Some),
            Err(error) => outcome::none_if_absent(error),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl Session {
    /// A write as it goes out, unless it is too large to be decoded.
    fn write_within_size(&self, request: PutRequest) -> Result<StateOperation, Error> {
        let operation = StateOperation { operation: Some(Operation::Put(request)) };
        let (bytes, bytes_max) = (prost::Message::encoded_len(&operation), self.limits.message_bytes_max);
        if bytes > bytes_max { Err(Error::TooLarge { bytes, bytes_max }) } else { Ok(operation) }
    }
}
