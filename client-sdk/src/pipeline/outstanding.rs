//! Everything that was sent and is not resolved, in order.

use std::{collections::VecDeque, sync::Arc, vec};

use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::{AnswerFault, Kind, window::Window};
use crate::{Error, present::Presenter, retry::Failed, session::Session, status::Verdict};

/// How many bytes of items go into one request; a larger item goes alone.
const REQUEST_BYTES_MAX: u32 = 256 * 1024;

/// An item and where its outcome goes.
pub(super) struct Submission<K: Kind> {
    pub(super) item: K::Item,
    pub(super) reply: Reply<K>,
}

impl<K: Kind> Submission<K> {
    pub(super) const fn bytes(&self) -> u32 {
        self.reply.bytes
    }
}

/// Where an outcome goes, and how much room it gives back.
pub(super) struct Reply<K: Kind> {
    pub(super) sender: oneshot::Sender<Result<K::Outcome, Error>>,
    pub(super) bytes: u32,
    pub(super) aside: K::Aside,
}

/// One request, and the replies that it still owes: those to the last of its items.
struct Flight<K: Kind> {
    request: Arc<K::Request>,
    replies: vec::IntoIter<Reply<K>>,
    maybe_recorded: bool,
}

impl<K: Kind> Flight<K> {
    fn new(items: Vec<K::Item>, replies: Vec<Reply<K>>, maybe_recorded: bool) -> Self {
        Self { request: Arc::new(K::request(items, None)), replies: replies.into_iter(), maybe_recorded }
    }

    fn answered(&self) -> usize {
        K::items(&self.request).len().saturating_sub(self.replies.len())
    }

    /// The items without an answer.
    fn unanswered(&self) -> &[K::Item] {
        K::items(&self.request).get(self.answered()..).unwrap_or_default()
    }

    /// Makes fresh proofs for those items that need them: each is good once.
    fn prove(&mut self, presenter: &Presenter) -> Result<(), Status> {
        if !self.replies.as_slice().iter().any(|reply| K::needs_proof(&reply.aside)) {
            return Ok(());
        }
        let answered = self.answered();
        let items = K::items_mut(Arc::make_mut(&mut self.request)).iter_mut().skip(answered);
        items.zip(self.replies.as_slice()).try_for_each(|(item, reply)| K::prove(item, &reply.aside, presenter))
    }

    /// The same, without what is answered, to be sent again.
    fn rest(self) -> Self {
        if self.answered() == 0 {
            return self;
        }
        Self { request: Arc::new(K::request(self.unanswered().to_vec(), None)), ..self }
    }

    /// What may be carried out again, and the replies to the rest with what to tell them.
    fn without_unrepeatable(self, cause: &Error) -> (Option<Self>, Vec<(Reply<K>, Error)>) {
        let unanswered = self.unanswered().to_vec();
        let (mut items, mut replies, mut given_up) = (Vec::new(), Vec::new(), Vec::new());
        for (item, reply) in unanswered.into_iter().zip(self.replies) {
            if K::may_repeat(&item) {
                items.push(item);
                replies.push(reply);
            } else {
                given_up.push((reply, K::unknown(&item, cause.clone())));
            }
        }
        ((!items.is_empty()).then(|| Self::new(items, replies, self.maybe_recorded)), given_up)
    }
}

/// What is under way. Order: `flying`, then `again`, then `waiting`.
pub(super) struct Outstanding<K: Kind> {
    session: Arc<Session>,
    window: Arc<Window>,
    /// On the current stream.
    flying: VecDeque<Flight<K>>,
    /// Were on a stream that is lost.
    again: VecDeque<Flight<K>>,
    /// Never sent.
    waiting: VecDeque<Submission<K>>,
    stream_is_open: bool,
}

impl<K: Kind> Outstanding<K> {
    pub(super) const fn new(session: Arc<Session>, window: Arc<Window>) -> Self {
        Self {
            session,
            window,
            flying: VecDeque::new(),
            again: VecDeque::new(),
            waiting: VecDeque::new(),
            stream_is_open: false,
        }
    }

    pub(super) fn push(&mut self, submission: Submission<K>) {
        self.waiting.push_back(submission);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_empty() && !self.has_unsent()
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.again.is_empty() || !self.waiting.is_empty()
    }

    /// Sends whole requests while there is room for them.
    pub(super) fn send_whole_requests(&mut self, requests: &mpsc::Sender<Arc<K::Request>>) {
        while !self.again.is_empty() || self.waiting.len() >= K::REQUEST_ITEMS_MAX {
            let Ok(room) = requests.try_reserve() else { return };
            self.send_next(room);
        }
    }

    /// Sends what comes next.
    pub(super) fn send_next(&mut self, room: mpsc::Permit<'_, Arc<K::Request>>) {
        let next = self.again.pop_front().or_else(|| self.batch());
        if let Some(mut flight) = next {
            if let Err(status) = flight.prove(&self.session.presenter) {
                // The broker refuses an item without its proof, and says so; the others go their way.
                tracing::warn!(%status, "no proof for a message");
            }
            flight.maybe_recorded |= self.stream_is_open;
            room.send(Arc::clone(&flight.request));
            self.flying.push_back(flight);
        }
    }

    /// The broker listens: it may have recorded whatever is sent.
    pub(super) fn stream_opened(&mut self) {
        self.stream_is_open = true;
        self.flying.iter_mut().for_each(|flight| flight.maybe_recorded = true);
    }

    /// Puts what was on the stream back in its place before everything else.
    pub(super) fn stream_ended(&mut self) {
        self.stream_is_open = false;
        while let Some(flight) = self.flying.pop_back() {
            self.again.push_front(flight.rest());
        }
    }

    /// Resolves what may have been carried out and must not be twice.
    pub(super) fn give_up_unrepeatable(&mut self, failed: &Failed) {
        if K::IS_RECOGNISED {
            return;
        }
        let cause = Verdict::of(&failed.status).to_error();
        let (mut items, mut bytes) = (0, 0);
        for flight in std::mem::take(&mut self.again) {
            let (rest, given_up) = match flight.maybe_recorded {
                true => flight.without_unrepeatable(&cause),
                false => (Some(flight), Vec::new()),
            };
            self.again.extend(rest);
            items += given_up.len();
            bytes += given_up.into_iter().map(|(reply, error)| settle(reply, Err(error))).sum::<usize>();
        }
        self.make_room(items, bytes);
    }

    /// Whether the answer to the oldest item on the stream says that the stream's token is no good.
    pub(super) fn is_about_the_token(&self, result: &K::Result) -> bool {
        let next = self.flying.front().and_then(|flight| flight.unanswered().first());
        next.is_some_and(|item| K::is_about_the_token(item, result))
    }

    /// Resolves the oldest item on the stream, and says how many items and bytes of room that frees.
    pub(super) fn answer(&mut self, result: K::Result) -> Result<(usize, usize), AnswerFault> {
        let too_many = || AnswerFault::Protocol(Error::Protocol("more results than were asked for"));
        let flight = self.flying.front_mut().ok_or_else(too_many)?;
        let item = flight.unanswered().first().ok_or_else(too_many)?;
        let freed = if K::items(&flight.request).len() > 1 && K::is_to_go_alone(&result) {
            let items = vec![item.clone()];
            self.again.push_back(Flight::new(items, flight.replies.next().into_iter().collect(), true));
            (0, 0)
        } else {
            let outcome = K::outcome(item, result)?;
            (1, flight.replies.next().map_or(0, |reply| settle(reply, outcome)))
        };
        if flight.replies.len() == 0 {
            self.flying.pop_front();
        }
        Ok(freed)
    }

    /// Gives room back to senders.
    pub(super) fn make_room(&self, items: usize, bytes: usize) {
        self.window.leave(items, bytes);
    }

    /// Resolves everything to `error`, or, where an item may have been recorded, to an unknown outcome for that reason.
    pub(super) fn fail_all(&mut self, error: &Error) {
        self.stream_ended();
        let (mut items, mut bytes) = (0, 0);
        for flight in std::mem::take(&mut self.again) {
            let told = |item| if flight.maybe_recorded { K::unknown(item, error.clone()) } else { error.clone() };
            let errors: Vec<_> = flight.unanswered().iter().map(told).collect();
            for (error, reply) in errors.into_iter().zip(flight.replies) {
                bytes += settle(reply, Err(error));
                items += 1;
            }
        }
        for submission in std::mem::take(&mut self.waiting) {
            bytes += settle(submission.reply, Err(error.clone()));
            items += 1;
        }
        self.make_room(items, bytes);
    }

    fn batch(&mut self) -> Option<Flight<K>> {
        let capacity = self.waiting.len().min(K::REQUEST_ITEMS_MAX);
        let (mut items, mut replies) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let mut bytes = 0_u32;
        while items.len() < K::REQUEST_ITEMS_MAX {
            let Some(next) = self.waiting.front() else { break };
            bytes = bytes.saturating_add(next.bytes());
            if !items.is_empty() && bytes > REQUEST_BYTES_MAX {
                break;
            }
            let Some(Submission { item, reply }) = self.waiting.pop_front() else { break };
            items.push(item);
            replies.push(reply);
        }
        (!items.is_empty()).then(|| Flight::new(items, replies, false))
    }
}

/// Hands an outcome over and returns the bytes of room that this frees. Whoever dropped the other end does not care.
fn settle<K: Kind>(reply: Reply<K>, outcome: Result<K::Outcome, Error>) -> usize {
    let _ = reply.sender.send(outcome);
    usize::try_from(reply.bytes).unwrap_or(0)
}
