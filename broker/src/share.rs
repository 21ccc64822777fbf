//! The way of an operation on shared state: who asks, what is in it, may they, record and carry it out, open what was read.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::Semaphore;

use crate::{
    authenticate::{Identity, TokenError},
    decide::{Access, Decider, Decision},
    inspect::{INLINE_BYTES_MAX, Inspector, Submitted},
    model::{Clock, DecisionId, RefusalReason, Revision, StateKey, StatePrefix, Write},
    record::{ANSWER_BYTES_MAX, Malformed, PendingState, RecordError, Recorder, StateOrder, StateOutcome, SubmitError},
    seal::KeyRing,
    state::{Changes, Listing, Lookup, Metadata, OpenedValue, SealedValue, StateReader, TableError, Unreadable},
    workers::Workers,
};

mod watch;

pub use watch::{Shown, ShownChange, Watch, WatchEnd};

/// How many look through the records at once.
const SCANS_MAX: usize = 2;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// To write a value.
    Put(Write),
    /// To read the newest version of a value, or one.
    Get(StateKey, Option<Revision>),
    /// To delete a value, if this is its current revision.
    Delete(StateKey, Option<Revision>),
    /// To list keys.
    List(ListQuery),
}

/// Which keys to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Of these,
    pub prefix: StatePrefix,
    /// those after this one,
    pub after: Option<StateKey>,
    /// and at most so many.
    pub max: usize,
}

/// What became of an operation.
#[derive(Debug)]
pub enum Answer {
    /// Written; the revision is the decision's audit index.
    Put {
        /// Which decision.
        decision_id: DecisionId,
        /// With the value it gives the content digest in the log.
        salt: [u8; 32],
    },
    /// Read.
    Got {
        /// Which decision.
        decision_id: DecisionId,
        /// The value.
        value: OpenedValue,
    },
    /// Deleted; the revision is the decision's audit index.
    Deleted {
        /// Which decision.
        decision_id: DecisionId,
        /// Whether there was a value.
        existed: bool,
    },
    /// Listed.
    Listed {
        /// Which decision.
        decision_id: DecisionId,
        /// The page.
        listing: Listing,
    },
    /// Decided, and not done or not there.
    Not {
        /// Which decision.
        decision_id: DecisionId,
        /// Why.
        why: WhyNot,
    },
}

/// Why there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyNot {
    /// There is no such value.
    NotFound,
    /// The value's key was destroyed.
    Shredded,
    /// The value was replaced while it was being read.
    Replaced,
    /// What is stored cannot be opened.
    Damaged,
    /// The values that one request asks for are too many bytes.
    TooMuch,
    /// Refused; for a conflict, with what stands there.
    Refused(RefusalReason, Option<Revision>),
}

/// The stages that an operation goes through.
pub struct ShareStages {
    /// Looks into what is written.
    pub inspector: Arc<Inspector>,
    /// Says who may.
    pub decider: Arc<Decider>,
    /// Records, and carries out.
    pub recorder: Recorder,
    /// Reads what is durable.
    pub reader: StateReader,
    /// Opens values.
    pub keys: Arc<KeyRing>,
    /// Knows what changed.
    pub changes: Arc<Changes>,
    /// Carry out what takes long.
    pub workers: Workers,
    /// Tells the time.
    pub clock: Clock,
}

/// Carries operations on shared state through every stage. Cheap to clone.
#[derive(Clone)]
pub struct Sharing {
    stages: Arc<ShareStages>,
    scans: Arc<Semaphore>,
}

/// A list that was permitted, and who asked for it.
struct Asked {
    query: ListQuery,
    identity: Arc<Identity>,
    peer: SocketAddr,
}

/// Operations that are decided on.
pub struct Ordered {
    orders: Vec<StateOrder>,
    lists: Vec<Option<Asked>>,
}

/// Operations on their way to the record.
pub struct Operating {
    pending: PendingState,
    lists: Vec<Option<Asked>>,
}

impl Ordered {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.orders.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }
}

impl Sharing {
    /// Put together from its stages.
    #[must_use]
    pub fn new(stages: ShareStages) -> Self {
        Self { stages: Arc::new(stages), scans: Arc::new(Semaphore::new(SCANS_MAX)) }
    }

    /// Whether too little disk is left to write.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.stages.recorder.disk().is_below_floor()
    }

    /// Every stage between the caller and the record. Those that could not be read as operations are recorded as such.
    ///
    /// # Errors
    /// [`SubmitError`]: the caller's token is no longer good, or a stage broke off.
    pub async fn decide(
        &self,
        identity: &Arc<Identity>,
        peer: SocketAddr,
        operations: Vec<Result<Operation, Malformed>>,
    ) -> Result<Ordered, SubmitError> {
        let size_bytes = |operation: &Result<Operation, Malformed>| match operation {
            Ok(Operation::Put(write)) => write.value.len(),
            _ => 0,
        };
        if operations.iter().map(size_bytes).sum::<usize>() <= INLINE_BYTES_MAX {
            return Ok(self.decide_all(identity, peer, operations)?);
        }
        let (this, asker) = (self.clone(), Arc::clone(identity));
        let ordered = self.stages.workers.run(identity, move || this.decide_all(&asker, peer, operations)).await;
        // A stage that broke off: nothing of this request is recorded.
        Ok(ordered.map_err(|_| RecordError::Failed)??)
    }

    fn decide_all(
        &self,
        identity: &Arc<Identity>,
        peer: SocketAddr,
        operations: Vec<Result<Operation, Malformed>>,
    ) -> Result<Ordered, TokenError> {
        let mut ordered = Ordered { orders: Vec::with_capacity(operations.len()), lists: Vec::new() };
        for operation in operations {
            identity.check_standing(self.stages.clock.now())?;
            let (order, list) = match operation {
                Ok(operation) => self.decide_one(identity, peer, operation),
                Err(malformed) => (StateOrder::malformed(malformed), None),
            };
            ordered.orders.push(order);
            ordered.lists.push(list);
        }
        Ok(ordered)
    }

    fn decide_one(
        &self,
        identity: &Arc<Identity>,
        peer: SocketAddr,
        operation: Operation,
    ) -> (StateOrder, Option<Asked>) {
        let access = |access| self.stages.decider.decide_access(access, identity, peer);
        let asker = Arc::clone(identity);
        match operation {
            Operation::Put(write) => {
                let submitted = Submitted::new(asker, peer, write);
                let decided = match self.stages.decider.admit_write(submitted) {
                    Ok(submitted) => self.stages.decider.decide_write(self.stages.inspector.inspect(submitted)),
                    Err(denied) => denied,
                };
                (StateOrder::put(decided), None)
            }
            Operation::Get(key, revision) => {
                let verdict = access(Access::StateGet(&key));
                (StateOrder::get((key, revision), &verdict, asker, peer), None)
            }
            Operation::Delete(key, expected) => {
                let verdict = access(Access::StateDelete(&key));
                (StateOrder::delete((key, expected), &verdict, asker, peer), None)
            }
            Operation::List(query) => {
                let wanted = Access::StateList(&query.prefix);
                let order = StateOrder::note(wanted, &access(wanted), Arc::clone(&asker), peer);
                (order, Some(Asked { query, identity: asker, peer }))
            }
        }
    }

    /// Queues operations for their record, in this order.
    ///
    /// # Errors
    /// [`RecordError`]: none of them is recorded.
    pub async fn record(&self, ordered: Ordered) -> Result<Operating, RecordError> {
        let pending = self.stages.recorder.state(ordered.orders).await?;
        Ok(Operating { pending, lists: ordered.lists })
    }

    /// One answer for each operation, in the order in which they were given, once they are durable.
    ///
    /// # Errors
    /// [`RecordError`]: whether an entry persisted, and with it a write, is not known.
    pub async fn answers(&self, operating: Operating) -> Result<Vec<Answer>, RecordError> {
        let Operating { pending, lists } = operating;
        let outcomes = pending.outcomes().await?;
        let mut room_bytes = ANSWER_BYTES_MAX;
        let mut answers = Vec::with_capacity(outcomes.len());
        for (outcome, list) in outcomes.into_iter().zip(lists) {
            answers.push(self.answer(outcome, list, &mut room_bytes).await);
        }
        Ok(answers)
    }

    async fn answer(&self, outcome: StateOutcome, list: Option<Asked>, room_bytes: &mut u64) -> Answer {
        match outcome {
            StateOutcome::Put { decision_id, salt } => Answer::Put { decision_id, salt },
            StateOutcome::Deleted { decision_id, existed } => Answer::Deleted { decision_id, existed },
            StateOutcome::Refused { decision_id, reason, current } => {
                Answer::Not { decision_id, why: WhyNot::Refused(reason, current) }
            }
            StateOutcome::Noted(decision_id) => match self.list(list, room_bytes).await {
                Ok(listing) => Answer::Listed { decision_id, listing },
                Err(why) => Answer::Not { decision_id, why },
            },
            StateOutcome::Read { decision_id, found } => match self.found(found).await {
                Ok(value) => Answer::Got { decision_id, value },
                Err(why) => Answer::Not { decision_id, why },
            },
        }
    }

    async fn found(&self, found: Lookup) -> Result<OpenedValue, WhyNot> {
        match found {
            Lookup::Found(sealed) => self.open(*sealed).await,
            Lookup::Nothing | Lookup::Gone { .. } => Err(WhyNot::NotFound),
            Lookup::Shredded(_) => Err(WhyNot::Shredded),
        }
    }

    /// Long values are fetched and opened where waiting for the disk holds up nobody else.
    async fn open(&self, sealed: SealedValue) -> Result<OpenedValue, WhyNot> {
        let stages = Arc::clone(&self.stages);
        let (key, is_long) = (sealed.key().clone(), sealed.is_long());
        let open = move || sealed.open(&stages.keys, stages.reader.store());
        let opened = if is_long { tokio::task::spawn_blocking(open).await } else { Ok(open()) };
        opened.map_err(|_| WhyNot::Damaged)?.map_err(|error| match error {
            Unreadable::Shredded => WhyNot::Shredded,
            Unreadable::Replaced => WhyNot::Replaced,
            Unreadable::Damaged(_) | Unreadable::Store(_) => {
                tracing::error!(%error, %key, "a value cannot be opened");
                WhyNot::Damaged
            }
        })
    }

    /// Of what the reader may see, as `Watch` does. What was listed is durable when it is handed over.
    async fn list(&self, asked: Option<Asked>, room_bytes: &mut u64) -> Result<Listing, WhyNot> {
        let Asked { query, identity, peer } = asked.ok_or(WhyNot::NotFound)?;
        let now = self.stages.clock.now();
        let look = move |reader: &StateReader| reader.list(&query.prefix, query.after.as_ref(), query.max, now);
        let mut listing = self.scan(look).await.ok_or(WhyNot::Damaged)?;
        listing.values.retain(|value| {
            let access = Access::StateGet(&value.key);
            self.stages.decider.decide_access(access, &identity, peer).decision == Decision::Allow
        });
        let bytes = listing.values.iter().map(Metadata::bytes).sum();
        if *room_bytes < bytes && *room_bytes < ANSWER_BYTES_MAX {
            return Err(WhyNot::TooMuch);
        }
        *room_bytes = room_bytes.saturating_sub(bytes.max(1));
        Ok(listing)
    }

    /// Looks through the records where that holds up nobody, few at a time; `None` where that failed. A commit that was under
    /// way is durable when this returns.
    async fn scan<T: Send + 'static>(
        &self,
        look: impl FnOnce(&StateReader) -> Result<T, TableError> + Send + 'static,
    ) -> Option<T> {
        let place = Arc::clone(&self.scans).acquire_owned().await.ok()?;
        let reader = self.stages.reader.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let seen = look(&reader);
            drop(place);
            seen
        });
        let seen = looking.await.ok()?.inspect_err(|error| tracing::error!(%error, "shared state cannot be read"));
        self.stages.recorder.caught_up().await.ok()?;
        seen.ok()
    }
}
