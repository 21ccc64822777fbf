//! Following values as they change.
//!
//! A driver task keeps the watch alive and checks each change; the [`StateWatch`] hands them on. Whatever breaks is taken up
//! where it was: no key's last change is missed.

mod driver;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use futures_util::Stream;
use tokio::sync::mpsc;

use super::StateValue;
use crate::{Error, session::Session};
use driver::{Driver, Link, Place};

/// How many batches wait for a slow reader before the broker is made to wait.
const BATCHES_QUEUED_MAX: usize = 4;

/// A change of a value under the watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateChange {
    /// It was written. Where it was written several times before the watch came to it, earlier revisions may be left out: see
    /// [`StateWatch::skipped`].
    Put(Box<StateValue>),
    /// It was deleted.
    Deleted {
        /// Its key.
        key: String,
        /// The deletion's.
        revision: u64,
    },
    /// Its time had run out.
    Expired {
        /// Its key.
        key: String,
        /// Since when it is gone.
        revision: u64,
    },
    /// It was written, and cannot be read any more: the key that it was encrypted with has been destroyed.
    Shredded {
        /// Its key.
        key: String,
        /// The write's.
        revision: u64,
    },
}

impl StateChange {
    /// What changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(value) => &value.metadata.key,
            Self::Deleted { key, .. } | Self::Expired { key, .. } | Self::Shredded { key, .. } => key,
        }
    }

    /// The change's place in the order of all changes.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(value) => value.revision(),
            Self::Deleted { revision, .. } | Self::Expired { revision, .. } | Self::Shredded { revision, .. } => {
                *revision
            }
        }
    }
}

/// What the driver hands on.
#[derive(Debug)]
enum Chunk {
    /// Changes, and up to where everything was looked at.
    Batch { changes: Vec<StateChange>, through_revision: u64, skipped: u64 },
    /// The watch stands again.
    Resumed,
    /// There is nothing more.
    Ended(Error),
}

/// A live watch: a stream of changes. Of one key, each is newer than those before; a watch that keeps up shows all changes in
/// the order of their revisions, and one that is behind the newest version of each key, which may be ahead of changes of
/// other keys.
///
/// It goes on under fresh tokens, and shows only what the token at hand permits. It comes back by itself after the
/// connection was lost or the broker asked to come again, from where it was: without gap; what it was shown ahead of
/// [`position`](Self::position) comes again then. It ends with
/// an error where the broker says no, does not accept the token, breaks its word, or stays away for too long. Dropping it
/// ends the watch.
pub struct StateWatch {
    chunks: mpsc::Receiver<Chunk>,
    current: vec::IntoIter<StateChange>,
    /// Where the batch at hand ends.
    through_revision: u64,
    position: u64,
    skipped: u64,
    skipped_before: u64,
    reconnects: u64,
    has_ended: bool,
}

impl StateWatch {
    pub(super) async fn open(session: Arc<Session>, prefix: String, after_revision: u64) -> Result<Self, Error> {
        let mut attempts = session.publish_attempts();
        let place = Place { prefix, revision: after_revision, skipped: 0 };
        let link = Link::open(&session, &place, &mut attempts).await?;
        let (sender, chunks) = mpsc::channel(BATCHES_QUEUED_MAX);
        tokio::spawn(Driver::new(session, place, sender).run(link));
        Ok(Self {
            chunks,
            current: Vec::new().into_iter(),
            through_revision: after_revision,
            position: after_revision,
            skipped: 0,
            skipped_before: 0,
            reconnects: 0,
            has_ended: false,
        })
    }

    /// Up to where everything was taken from this stream: what [`State::watch_after`](super::State::watch_after) goes on
    /// from.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// How many changes were not shown up to here because they were overtaken by others of the same key.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped_before.saturating_add(self.skipped)
    }

    /// How often the watch had to be opened anew, up to the last change taken from this stream.
    #[must_use]
    pub const fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// The next change at hand. The batch is looked through once its last change is taken.
    fn take_change(&mut self) -> Option<StateChange> {
        let change = self.current.next();
        if self.current.len() == 0 {
            self.position = self.through_revision;
        }
        change
    }

    fn take_chunk(&mut self, chunk: Chunk) -> Option<Error> {
        match chunk {
            Chunk::Batch { changes, through_revision, skipped } => {
                (self.current, self.through_revision) = (changes.into_iter(), through_revision);
                self.skipped = skipped;
            }
            Chunk::Resumed => {
                self.reconnects = self.reconnects.saturating_add(1);
                self.skipped_before = self.skipped();
                self.skipped = 0;
            }
            Chunk::Ended(error) => {
                self.has_ended = true;
                return Some(error);
            }
        }
        None
    }
}

impl Stream for StateWatch {
    type Item = Result<StateChange, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(change) = self.take_change() {
                return Poll::Ready(Some(Ok(change)));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            // Without an end the runtime of the driver is gone.
            let chunk = std::task::ready!(self.chunks.poll_recv(cx)).unwrap_or(Chunk::Ended(Error::Closed));
            if let Some(error) = self.take_chunk(chunk) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

impl fmt::Debug for StateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateWatch")
            .field("position", &self.position)
            .field("reconnects", &self.reconnects)
            .finish_non_exhaustive()
    }
}
