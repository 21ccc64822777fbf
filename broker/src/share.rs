//! The way of an operation on shared state: who asks, what is in it, may they, record and carry it out, open what was read.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::Semaphore;
use veribus_proto::v1;

use crate::{
    authenticate::{Identity, TokenError},
    decide::{Access, Decider, Decision, Verdict},
    inspect::{INLINE_BYTES_MAX, ITEM_BYTES, Inspector, Submitted},
    model::{Clock, DecisionId, RefusalReason, Revision, StateKey, StatePrefix, UnixMicros, Write},
    record::{ANSWER_BYTES_MAX, Malformed, PendingState, RecordError, Recorder, StateOrder, StateOutcome, SubmitError},
    seal::{KeyRing, NodeKey},
    state::{Changes, Lookup, Metadata, OpenedValue, SealedValue, StateReader, TableError, Unreadable},
    workers::{TimeSlice, Workers, driven},
};

mod watch;

pub use watch::{Shown, ShownChange, Watch, WatchEnd};

/// How many look through the records at once, and how many of one agent.
const SCANS_MAX: usize = 2;
const SCANS_PER_AGENT_MAX: usize = 1;
/// How many watches decide and decrypt at once. A write wakes all watches of its prefix: what waits for its turn is nothing
/// that others have to wait for.
const WATCHES_AT_ONCE_MAX: usize = 2;
/// How many records a page reads beside those that it shows, and in how many goes.
const PAGE_SLACK: usize = 64;
const PAGES_MAX: usize = 64;
/// How many names that the policy hides one page passes by, at most.
const HIDDEN_MAX: usize = 1_024;

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
    /// those that this page token has not shown; the first if empty,
    pub page_token: String,
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
    /// Seals page tokens.
    pub node_key: NodeKey,
    /// Carry out what takes long.
    pub workers: Workers,
    /// Tells the time.
    pub clock: Clock,
}

/// Carries operations on shared state through every stage. Cheap to clone.
#[derive(Clone)]
pub struct Sharing {
    stages: Arc<ShareStages>,
    scans: Workers,
    watching: Arc<Semaphore>,
}

/// A list that was permitted, and who asked for it.
struct PermittedList {
    prefix: StatePrefix,
    after: Option<StateKey>,
    max: usize,
    verdict: Verdict,
    identity: Arc<Identity>,
    peer: SocketAddr,
}

/// A page of values, as one agent may see it.
#[derive(Debug)]
pub struct Listing {
    /// What is known of each value, in key order.
    pub values: Vec<Metadata>,
    /// The token of the next page; empty on the last.
    pub next_page_token: String,
}

/// What one page shows, and what it passed by.
#[derive(Default)]
struct Shelf {
    values: Vec<Metadata>,
    hidden: usize,
    /// Behind which key the next page begins; `None` on the last.
    next: Option<StateKey>,
}

/// Operations that are decided on.
pub struct Ordered {
    orders: Vec<StateOrder>,
    /// What is read once those before it are durable, by its place among all.
    lists: Vec<(usize, PermittedList)>,
}

/// Operations on their way to the record.
pub struct Operating {
    pending: PendingState,
    lists: Vec<(usize, PermittedList)>,
}

impl Ordered {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.orders.len() + self.lists.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.lists.is_empty()
    }
}

impl Sharing {
    /// Put together from its stages.
    #[must_use]
    pub fn new(stages: ShareStages) -> Self {
        let watching = Arc::new(Semaphore::new(WATCHES_AT_ONCE_MAX));
        Self { stages: Arc::new(stages), scans: Workers::new(SCANS_MAX, SCANS_PER_AGENT_MAX), watching }
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
            Ok(Operation::Put(write)) => ITEM_BYTES + write.value.len(),
            _ => ITEM_BYTES,
        };
        let mut ordered = Ordered { orders: Vec::with_capacity(operations.len()), lists: Vec::new() };
        if operations.iter().map(size_bytes).sum::<usize>() <= INLINE_BYTES_MAX {
            let mut slice = TimeSlice::begin();
            for operation in operations {
                slice.yield_if_over().await;
                self.decide_next(identity, peer, operation, &mut ordered)?;
            }
            return Ok(ordered);
        }
        let (this, asker) = (self.clone(), Arc::clone(identity));
        let decide_all = move || {
            let decide = |operation| this.decide_next(&asker, peer, operation, &mut ordered);
            operations.into_iter().try_for_each(decide).map(|()| ordered)
        };
        // A stage that broke off: nothing of this request is recorded.
        Ok(self.stages.workers.run(identity, decide_all).await.map_err(|_| RecordError::Failed)??)
    }

    fn decide_next(
        &self,
        identity: &Arc<Identity>,
        peer: SocketAddr,
        operation: Result<Operation, Malformed>,
        ordered: &mut Ordered,
    ) -> Result<(), TokenError> {
        identity.check_standing(self.stages.clock.now())?;
        let place = ordered.len();
        match operation.map_or_else(
            |malformed| Ok(StateOrder::malformed(malformed)),
            |operation| self.decide_one(identity, peer, operation),
        ) {
            Ok(order) => ordered.orders.push(order),
            Err(list) => ordered.lists.push((place, *list)),
        }
        Ok(())
    }

    fn decide_one(
        &self,
        identity: &Arc<Identity>,
        peer: SocketAddr,
        operation: Operation,
    ) -> Result<StateOrder, Box<PermittedList>> {
        let access = |access| self.stages.decider.decide_access(access, identity, peer);
        let asker = Arc::clone(identity);
        match operation {
            Operation::Put(write) => {
                let submitted = Submitted::new(asker, peer, write);
                let decided = match self.stages.decider.admit_write(submitted) {
                    Ok(submitted) => self.stages.decider.decide_write(self.stages.inspector.inspect(submitted)),
                    Err(denied) => denied,
                };
                Ok(StateOrder::put(decided))
            }
            Operation::Get(key, revision) => {
                let verdict = access(Access::StateGet(&key));
                Ok(StateOrder::get((key, revision), &verdict, asker, peer))
            }
            Operation::Delete(key, expected) => {
                let verdict = access(Access::StateDelete(&key));
                Ok(StateOrder::delete((key, expected), &verdict, asker, peer))
            }
            Operation::List(ListQuery { prefix, page_token, max }) => {
                let after = match self.page_begin(identity, &prefix, &page_token) {
                    Ok(after) => after,
                    Err(fault) => {
                        let (message_id, fault) = (String::new(), fault.to_owned());
                        let malformed = Malformed { sender: asker, via: None, peer, message_id, fault, size_bytes: 0 };
                        return Ok(StateOrder::malformed(malformed));
                    }
                };
                let wanted = Access::StateList(&prefix);
                let verdict = access(wanted);
                if verdict.decision != Decision::Allow {
                    return Ok(StateOrder::note(wanted, &verdict, asker, peer));
                }
                Err(Box::new(PermittedList { prefix, after, max, verdict, identity: asker, peer }))
            }
        }
    }

    /// Behind which key a page begins.
    fn page_begin(
        &self,
        identity: &Identity,
        prefix: &StatePrefix,
        token: &str,
    ) -> Result<Option<StateKey>, &'static str> {
        if token.is_empty() {
            return Ok(None);
        }
        let foreign = "the page token is of another list";
        let key = self.stages.node_key.open_page(&page_context(identity, &prefix.to_string()), token);
        StateKey::parse(&key.map_err(|_| foreign)?).map(Some).map_err(|_| foreign)
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
        let mut answers = Vec::with_capacity(outcomes.len() + lists.len());
        let (mut outcomes, mut lists) = (outcomes.into_iter(), lists.into_iter().peekable());
        let mut slice = TimeSlice::begin();
        loop {
            slice.yield_if_over().await;
            if let Some((_, list)) = lists.next_if(|(place, _)| *place == answers.len()) {
                let listing = driven(self.clone().list(list, room_bytes));
                let (answer, left) = listing.await.map_err(|_| RecordError::Failed)??;
                room_bytes = left;
                answers.push(answer);
            } else if let Some(outcome) = outcomes.next() {
                answers.push(self.answer(outcome).await);
            } else {
                return Ok(answers);
            }
        }
    }

    async fn answer(&self, outcome: StateOutcome) -> Answer {
        match outcome {
            StateOutcome::Put { decision_id, salt } => Answer::Put { decision_id, salt },
            StateOutcome::Deleted { decision_id, existed } => Answer::Deleted { decision_id, existed },
            StateOutcome::Refused { decision_id, reason, current } => {
                Answer::Not { decision_id, why: WhyNot::Refused(reason, current) }
            }
            StateOutcome::Noted(decision_id) => Answer::Not { decision_id, why: WhyNot::NotFound },
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

    /// Shows a page of what the reader may see, as `Watch` does, once it is recorded what that is. All of it is durable then.
    /// With how many bytes of metadata the answers that follow may still hold.
    async fn list(self, list: PermittedList, room_bytes: u64) -> Result<(Answer, u64), RecordError> {
        let PermittedList { prefix, after, max, verdict, identity, peer } = list;
        let (stages, now) = (Arc::clone(&self.stages), self.stages.clock.now());
        let (reader, whose) = (Arc::clone(&identity), prefix.clone());
        let look = move |state: &StateReader| {
            let may_see = |value: &Metadata| {
                let access = Access::StateGet(&value.key);
                stages.decider.decide_access(access, &reader, peer).decision == Decision::Allow
            };
            shelf(state, &whose, after, max, now, may_see)
        };
        let seen = self.scan(&identity, look).await;
        let bytes = seen.iter().flat_map(|shelf| &shelf.values).map(Metadata::bytes).sum();
        let why = match &seen {
            None => Some(WhyNot::Damaged),
            Some(_) if room_bytes < bytes && room_bytes < ANSWER_BYTES_MAX => Some(WhyNot::TooMuch),
            Some(_) => None,
        };
        let left = room_bytes.saturating_sub(bytes.max(1));
        let shown = seen.filter(|_| why.is_none()).unwrap_or_default();
        let order = StateOrder::list(&prefix, listed(&shown), &verdict, Arc::clone(&identity), peer);
        let outcome = self.stages.recorder.state(vec![order]).await?.outcomes().await?.into_iter().next();
        let answer = match (outcome.ok_or(RecordError::Failed)?, why) {
            (StateOutcome::Noted(decision_id), Some(why)) => Answer::Not { decision_id, why },
            (StateOutcome::Noted(decision_id), None) => match self.page_end(&identity, &prefix, shown.next.as_ref()) {
                Ok(next_page_token) => {
                    Answer::Listed { decision_id, listing: Listing { values: shown.values, next_page_token } }
                }
                Err(why) => Answer::Not { decision_id, why },
            },
            (refused, _) => self.answer(refused).await,
        };
        Ok((answer, left))
    }

    /// The token of the page that begins behind `next`; empty if there is none.
    fn page_end(&self, identity: &Identity, prefix: &StatePrefix, next: Option<&StateKey>) -> Result<String, WhyNot> {
        let Some(next) = next else { return Ok(String::new()) };
        let prefix = prefix.to_string();
        let context = page_context(identity, &prefix);
        self.stages.node_key.close_page(&context, &next.to_string()).map_err(|error| {
            tracing::error!(%error, "a page token cannot be sealed");
            WhyNot::Damaged
        })
    }

    /// Looks through the records where that holds up nobody, a little at a time; `None` where that failed. A commit that was
    /// under way is durable when this returns.
    async fn scan<T: Send + 'static>(
        &self,
        identity: &Identity,
        look: impl FnOnce(&StateReader) -> Result<T, TableError> + Send + 'static,
    ) -> Option<T> {
        let reader = self.stages.reader.clone();
        let seen = self.scans.run(identity, move || look(&reader)).await.ok()?;
        let seen = seen.inspect_err(|error| tracing::error!(%error, "shared state cannot be read"));
        self.stages.recorder.caught_up().await.ok()?;
        seen.ok()
    }
}

fn page_context<'a>(identity: &'a Identity, prefix: &'a str) -> [&'a str; 3] {
    [identity.issuer().as_str(), identity.agent().as_str(), prefix]
}

/// Fills a page with what may be seen. It ends before it is full only where there is no more, or where it has passed by
/// [`HIDDEN_MAX`] values that may not.
fn shelf(
    state: &StateReader,
    prefix: &StatePrefix,
    after: Option<StateKey>,
    max: usize,
    now: UnixMicros,
    may_see: impl Fn(&Metadata) -> bool,
) -> Result<Shelf, TableError> {
    let (mut shelf, mut behind, mut pages) = (Shelf::default(), after, 0);
    loop {
        let page = state.list(prefix, behind.as_ref(), max - shelf.values.len() + PAGE_SLACK, now)?;
        pages += 1;
        for value in page.found {
            let key = value.key.clone();
            if !may_see(&value) {
                shelf.hidden += 1;
            } else if shelf.values.len() < max {
                shelf.values.push(value);
            } else {
                shelf.next = behind;
                return Ok(shelf);
            }
            behind = Some(key);
            if shelf.hidden >= HIDDEN_MAX {
                shelf.next = behind;
                return Ok(shelf);
            }
        }
        match page.next {
            Some(next) => behind = Some(next),
            None => return Ok(shelf),
        }
        // Values whose time has run out, and that are not removed yet.
        if pages >= PAGES_MAX {
            shelf.next = behind;
            return Ok(shelf);
        }
    }
}

fn listed(shelf: &Shelf) -> v1::ListedValues {
    let name = |value: Option<&Metadata>| value.map(|value| value.key.to_string()).unwrap_or_default();
    v1::ListedValues {
        count: u32::try_from(shelf.values.len()).unwrap_or(u32::MAX),
        first_key: name(shelf.values.first()),
        last_key: name(shelf.values.last()),
        hidden: u32::try_from(shelf.hidden).unwrap_or(u32::MAX),
    }
}
