//! The way to the writer: bounded, and every submission gets exactly one answer.

use std::sync::{Arc, Weak};

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    Copying, DiskWatch, Draft, FollowOrder, Following, LogReader, Routed, StateOrder, StateOutcome, journal::Journal,
};
use crate::{
    authenticate::{Identity, Revocation, Revoked, TokenError},
    model::{DecisionId, Epoch, Outcome, RefusalReason, Scope},
    seal::{KeyFact, RootKey},
    state::DueKey,
};

/// Why something is not recorded, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The write failed, or the broker stopped: the entry may or may not be in the log. Nothing was delivered.
    #[error("the audit log could not be written")]
    Failed,
    /// Too little disk is left to take more. Nothing was written.
    #[error("the disk of the audit log is nearly full")]
    DiskFloor,
    /// The reserve of the disk is used up too, so that not even reading is recorded. Nothing was written.
    #[error("the disk of the audit log is full")]
    DiskCritical,
}

/// Why nothing became of what was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// The caller's token is no longer good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The log did not take it.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The record of a decision on a request to read or to administer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessReceipt {
    /// Which decision, and with it the audit index.
    pub decision_id: DecisionId,
    /// Why it was refused after all: something changed while it waited for its record.
    pub refused: Option<RefusalReason>,
}

/// A decision to be recorded: whose request it was about, and what takes effect with its entry.
pub(super) struct Request {
    pub(super) draft: Draft,
    pub(super) asker: Option<Arc<Identity>>,
    pub(super) change: Change,
}

/// What takes effect with an entry.
pub(super) enum Change {
    None,
    Revoke(Revocation),
    /// Lifts this revocation, if it is still in force when that is recorded.
    Reinstate(Arc<Revoked>),
    /// Keeps a journal of what changes after this commit, as long as somebody has it.
    Copy(Weak<Journal>),
}

/// What is to become of keys.
pub enum KeyOrder {
    /// A new key for this scope, or for each.
    Rotate(Option<Scope>),
    /// All under this root key.
    Rewrap(Arc<dyn RootKey>),
    /// That of one epoch is destroyed, and all others go under this root key.
    Shred(Scope, Epoch, Arc<dyn RootKey>),
}

/// What became of keys.
#[derive(Debug)]
pub struct KeyReceipt {
    /// The record of that.
    pub access: AccessReceipt,
    /// Those that are new.
    pub begun: Vec<KeyFact>,
    /// How many live ones went under another root key.
    pub rewrapped: usize,
}

/// A permitted change of keys, to be recorded.
pub(super) struct KeyRequest {
    pub(super) draft: Draft,
    pub(super) asker: Arc<Identity>,
    pub(super) order: KeyOrder,
}

pub(super) enum Submission {
    /// The permit is the room that the messages take until they are committed.
    Messages(Vec<Routed>, oneshot::Sender<Vec<Outcome>>, OwnedSemaphorePermit),
    Access(Box<Request>, oneshot::Sender<AccessReceipt>),
    /// The permit is the room that the values take.
    State(Vec<StateOrder>, oneshot::Sender<Vec<StateOutcome>>, OwnedSemaphorePermit),
    Follow(Box<FollowOrder>, oneshot::Sender<Following>),
    /// In a commit of its own: keys that others begin would be wrapped by a root key on its way out.
    Keys(Box<KeyRequest>, oneshot::Sender<KeyReceipt>),
    /// Keys whose values' time may have run out.
    Due(Vec<DueKey>),
    Note(Draft),
    /// Some time has passed.
    Tick,
    /// The last entry: the writer ends after it.
    Finish(Draft),
    /// Nothing to record: answered once all that was handed in before is durable, with what came of handing it over.
    Barrier(oneshot::Sender<()>),
}

/// Hands things to the writer. Cheap to clone; the writer ends at [`Recorder::finish`], or when all clones are gone.
#[derive(Clone)]
pub struct Recorder {
    submissions: mpsc::Sender<Submission>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    disk: DiskWatch,
}

/// Answers that are on their way.
#[derive(Debug)]
pub struct PendingOutcomes(oneshot::Receiver<Vec<Outcome>>);

impl PendingOutcomes {
    /// One outcome for each message, in the order in which they were given.
    ///
    /// # Errors
    /// [`RecordError::Failed`]: nothing was delivered; whether an entry persisted is not known.
    pub async fn outcomes(self) -> Result<Vec<Outcome>, RecordError> {
        self.0.await.map_err(|_| RecordError::Failed)
    }
}

/// Answers about shared state that are on their way.
#[derive(Debug)]
pub struct PendingState(oneshot::Receiver<Vec<StateOutcome>>);

impl PendingState {
    /// One outcome for each operation, in the order in which they were given, once they are durable.
    ///
    /// # Errors
    /// [`RecordError::Failed`]: whether an entry persisted, and with it a write, is not known.
    pub async fn outcomes(self) -> Result<Vec<StateOutcome>, RecordError> {
        self.0.await.map_err(|_| RecordError::Failed)
    }
}

impl Recorder {
    pub(super) fn new(
        submissions_max: usize,
        waiting_bytes_max: usize,
        disk: DiskWatch,
    ) -> (Self, mpsc::Receiver<Submission>) {
        let (submissions, receiver) = mpsc::channel(submissions_max.max(1));
        let room_bytes = waiting_bytes_max.clamp(1, u32::MAX as usize);
        let room = Arc::new(Semaphore::new(room_bytes));
        (Self { submissions, room, room_bytes, disk }, receiver)
    }

    /// Queues messages; they are recorded in this order. Waits while too many bytes wait for their commit already.
    ///
    /// # Errors
    /// [`RecordError`]; then none of them is recorded.
    pub async fn messages(&self, messages: Vec<Routed>) -> Result<PendingOutcomes, RecordError> {
        if self.disk.is_below_floor() {
            return Err(RecordError::DiskFloor);
        }
        let room = self.room(messages.iter().map(|message| message.size_bytes).sum()).await?;
        let (reply, outcomes) = oneshot::channel();
        let submission = Submission::Messages(messages, reply, room);
        self.submissions.send(submission).await.map_err(|_| RecordError::Failed)?;
        Ok(PendingOutcomes(outcomes))
    }

    /// Queues operations on shared state; they are recorded and carried out in this order. Waits while too many bytes wait for
    /// their commit already. Below the floor, operations that write are for the caller to refuse.
    ///
    /// # Errors
    /// [`RecordError`]; then none of them is recorded.
    pub async fn state(&self, orders: Vec<StateOrder>) -> Result<PendingState, RecordError> {
        if self.disk.is_critical() {
            return Err(RecordError::DiskCritical);
        }
        let room = self.room(orders.iter().map(|order| order.size_bytes).sum()).await?;
        let (reply, outcomes) = oneshot::channel();
        self.submissions.send(Submission::State(orders, reply, room)).await.map_err(|_| RecordError::Failed)?;
        Ok(PendingState(outcomes))
    }

    /// Records what a watcher is shown, and finds it.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn follow(&self, order: FollowOrder) -> Result<Following, RecordError> {
        if self.disk.is_critical() {
            return Err(RecordError::DiskCritical);
        }
        let (reply, following) = oneshot::channel();
        self.submissions.send(Submission::Follow(Box::new(order), reply)).await.map_err(|_| RecordError::Failed)?;
        following.await.map_err(|_| RecordError::Failed)
    }

    /// Queues keys about which something is due, to be looked at again.
    ///
    /// # Errors
    /// [`RecordError::DiskCritical`]: that can wait. [`RecordError::Failed`] where the writer is gone.
    pub async fn due(&self, due: Vec<DueKey>) -> Result<(), RecordError> {
        if self.disk.is_critical() {
            return Err(RecordError::DiskCritical);
        }
        self.submissions.send(Submission::Due(due)).await.map_err(|_| RecordError::Failed)
    }

    /// What is larger than all the room there is takes all of it.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, RecordError> {
        let permits = u32::try_from(bytes.min(self.room_bytes)).unwrap_or(u32::MAX);
        Arc::clone(&self.room).acquire_many_owned(permits).await.map_err(|_| RecordError::Failed)
    }

    /// Records a decision on a request of `asker`, before anything is handed over. Whether the asker's token is still good
    /// is looked at once more. Reading goes on below the floor too, as long as the reserve lasts.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn access(&self, draft: Draft, asker: Arc<Identity>) -> Result<AccessReceipt, RecordError> {
        if self.disk.is_critical() {
            return Err(RecordError::DiskCritical);
        }
        self.submit(Request { draft, asker: Some(asker), change: Change::None }).await
    }

    /// Records a permitted revocation, which is in force from its entry on, and its name the decision id.
    ///
    /// # Errors
    /// [`RecordError::Failed`]: it is in force until the broker stops, and recorded once the log can be written again.
    pub async fn revoke(
        &self,
        draft: Draft,
        revocation: Revocation,
        asker: Arc<Identity>,
    ) -> Result<AccessReceipt, RecordError> {
        self.submit(Request { draft, asker: Some(asker), change: Change::Revoke(revocation) }).await
    }

    /// Records that a revocation is lifted, which it is once that is durable.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn reinstate(
        &self,
        draft: Draft,
        revoked: Arc<Revoked>,
        asker: Arc<Identity>,
    ) -> Result<AccessReceipt, RecordError> {
        self.submit(Request { draft, asker: Some(asker), change: Change::Reinstate(revoked) }).await
    }

    /// Records a permitted change of keys, which is in effect once that is durable.
    ///
    /// # Errors
    /// [`RecordError::DiskCritical`]: nothing has happened. [`RecordError::Failed`]: it may be in the store or not; where the
    /// root key was to change, the writer has ended over it.
    pub async fn change_keys(
        &self,
        draft: Draft,
        order: KeyOrder,
        asker: Arc<Identity>,
    ) -> Result<KeyReceipt, RecordError> {
        if self.disk.is_critical() {
            return Err(RecordError::DiskCritical);
        }
        let (reply, receipt) = oneshot::channel();
        let submission = Submission::Keys(Box::new(KeyRequest { draft, asker, order }), reply);
        self.submissions.send(submission).await.map_err(|_| RecordError::Failed)?;
        receipt.await.map_err(|_| RecordError::Failed)
    }

    /// Records that everything is copied, and begins with that: `log` is read, and what changes meanwhile, up to
    /// `journal_bytes_max` at a time, is kept until it was handed out. One copy at a time.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn copy(
        &self,
        draft: Draft,
        asker: Arc<Identity>,
        log: &LogReader,
        journal_bytes_max: usize,
    ) -> Result<(AccessReceipt, Copying), RecordError> {
        if self.disk.is_critical() {
            return Err(RecordError::DiskCritical);
        }
        let journal = Journal::new(journal_bytes_max);
        let change = Change::Copy(Arc::downgrade(&journal));
        let receipt = self.submit(Request { draft, asker: Some(asker), change }).await?;
        Ok((receipt, Copying::new(log.store().clone(), journal)))
    }

    /// Records what has happened already, and waits until that is durable.
    ///
    /// # Errors
    /// [`RecordError::Failed`].
    pub async fn report(&self, draft: Draft) -> Result<AccessReceipt, RecordError> {
        self.submit(Request { draft, asker: None, change: Change::None }).await
    }

    async fn submit(&self, request: Request) -> Result<AccessReceipt, RecordError> {
        let (reply, receipt) = oneshot::channel();
        self.submissions.send(Submission::Access(Box::new(request), reply)).await.map_err(|_| RecordError::Failed)?;
        receipt.await.map_err(|_| RecordError::Failed)
    }

    /// Records something that a caller did wrong, and waits until that is durable: only then is the caller told. Below the
    /// floor there is no room for it, so the caller must be refused instead.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn complaint(&self, draft: Draft) -> Result<(), RecordError> {
        if self.disk.is_below_floor() { Err(RecordError::DiskFloor) } else { self.report(draft).await.map(drop) }
    }

    /// Queues a note that nobody waits for, on something that has happened already.
    ///
    /// # Errors
    /// [`RecordError::Failed`] where the writer is gone.
    pub async fn note(&self, draft: Draft) -> Result<(), RecordError> {
        self.submissions.send(Submission::Note(draft)).await.map_err(|_| RecordError::Failed)
    }

    /// Has the writer look at what the passing of time and the setting of the clock have done. To be called about each
    /// second.
    ///
    /// # Errors
    /// [`RecordError::Failed`] where the writer is gone.
    pub async fn tick(&self) -> Result<(), RecordError> {
        self.submissions.send(Submission::Tick).await.map_err(|_| RecordError::Failed)
    }

    /// Waits until everything that was recorded before this is durable, also what its delivery left to be noted.
    ///
    /// # Errors
    /// [`RecordError::Failed`].
    pub async fn caught_up(&self) -> Result<(), RecordError> {
        let (reply, done) = oneshot::channel();
        self.submissions.send(Submission::Barrier(reply)).await.map_err(|_| RecordError::Failed)?;
        done.await.map_err(|_| RecordError::Failed)
    }

    /// Queues the last entry. What is submitted after it is not recorded, and is told so.
    ///
    /// # Errors
    /// [`RecordError::Failed`] where the writer is gone.
    pub async fn finish(&self, draft: Draft) -> Result<(), RecordError> {
        self.submissions.send(Submission::Finish(draft)).await.map_err(|_| RecordError::Failed)
    }

    /// The disk that holds the log.
    #[must_use]
    pub const fn disk(&self) -> &DiskWatch {
        &self.disk
    }

    /// How many submissions wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.submissions.max_capacity() - self.submissions.capacity()
    }
}
