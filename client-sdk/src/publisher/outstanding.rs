//! Everything that was sent and is not resolved, in order.

use std::{collections::VecDeque, sync::Arc, vec};

use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};
use veribus_proto::v1::{self, PublishResult, PublishStreamRequest, publish_result::Outcome};

use super::{codec::SharedRequest, window::Window};
use crate::{
    Credentials, Error, Receipt,
    error::Refusal,
    present::{Method, Presenter},
    session::Session,
};

/// How many messages go into one request.
const REQUEST_MESSAGES_MAX: usize = 64;
/// How many bytes of messages go into one request; a larger message goes alone.
const REQUEST_BYTES_MAX: u32 = 256 * 1024;

/// A message and where its outcome goes.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) message: v1::Message,
    pub(super) reply: Reply,
}

impl Submission {
    pub(super) const fn bytes(&self) -> u32 {
        self.reply.bytes
    }
}

/// Where an outcome goes, and how much room it gives back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) sender: oneshot::Sender<Result<Receipt, Error>>,
    pub(super) bytes: u32,
    /// Whose message it is, if each sending needs a proof of that.
    pub(super) speaker: Option<Credentials>,
}

/// One request, and the replies that it still owes: those to the last of its messages.
#[derive(Debug)]
struct Flight {
    request: SharedRequest,
    replies: vec::IntoIter<Reply>,
    maybe_recorded: bool,
}

impl Flight {
    /// The messages without an answer.
    fn unanswered(&self) -> &[v1::Message] {
        let answered = self.request.messages.len().saturating_sub(self.replies.len());
        self.request.messages.get(answered..).unwrap_or_default()
    }

    /// Makes fresh proofs for those messages that need them: each is good once.
    fn prove(&mut self, presenter: &Presenter) -> Result<(), Status> {
        if self.replies.as_slice().iter().all(|reply| reply.speaker.is_none()) {
            return Ok(());
        }
        let answered = self.request.messages.len().saturating_sub(self.replies.len());
        let messages = Arc::make_mut(&mut self.request).messages.iter_mut().skip(answered);
        for (message, reply) in messages.zip(self.replies.as_slice()) {
            if let Some(speaker) = &reply.speaker {
                message.credentials = Some(presenter.on_behalf_of(speaker, Method::PUBLISH_STREAM)?);
            }
        }
        Ok(())
    }

    /// The same, without what is answered, to be sent again.
    fn rest(self) -> Self {
        if self.replies.len() == self.request.messages.len() {
            return self;
        }
        let request = Arc::new(PublishStreamRequest { messages: self.unanswered().to_vec(), refresh: None });
        Self { request, ..self }
    }
}

/// Why an answer resolved nothing.
#[derive(Debug)]
pub(super) enum AnswerFault {
    /// The broker asks to come again.
    Again(Box<Refusal>),
    /// The broker broke the protocol.
    Protocol(Error),
}

/// What is under way. Order: `flying`, then `again`, then `waiting`.
pub(super) struct Outstanding {
    session: Arc<Session>,
    window: Arc<Window>,
    /// On the current stream.
    flying: VecDeque<Flight>,
    /// Were on a stream that is lost.
    again: VecDeque<Flight>,
    /// Never sent.
    waiting: VecDeque<Submission>,
    stream_is_open: bool,
}

impl Outstanding {
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

    pub(super) fn push(&mut self, submission: Submission) {
        self.waiting.push_back(submission);
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.is_flying() && !self.has_unsent()
    }

    pub(super) fn is_flying(&self) -> bool {
        !self.flying.is_empty()
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.again.is_empty() || !self.waiting.is_empty()
    }

    /// Sends whole requests while there is room for them.
    pub(super) fn send_whole_requests(&mut self, requests: &mpsc::Sender<SharedRequest>) {
        while !self.again.is_empty() || self.waiting.len() >= REQUEST_MESSAGES_MAX {
            let Ok(room) = requests.try_reserve() else { return };
            self.send_next(room);
        }
    }

    /// Sends what comes next.
    pub(super) fn send_next(&mut self, room: mpsc::Permit<'_, SharedRequest>) {
        let next = self.again.pop_front().or_else(|| self.batch());
        if let Some(mut flight) = next {
            if let Err(status) = flight.prove(&self.session.presenter) {
                // The broker refuses a message without its proof, and says so; the others go their way.
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

    /// Whether the oldest message on the stream carries its own credentials.
    pub(super) fn next_speaks_for_another(&self) -> bool {
        let next = self.flying.front().and_then(|flight| flight.unanswered().first());
        next.is_some_and(|message| message.credentials.is_some())
    }

    /// Resolves the oldest message on the stream.
    pub(super) fn answer(&mut self, result: PublishResult) -> Result<usize, AnswerFault> {
        let protocol = |fault| AnswerFault::Protocol(Error::Protocol(fault));
        let flight = self.flying.front_mut().ok_or_else(|| protocol("more results than messages"))?;
        let outcome = match result.outcome.ok_or_else(|| protocol("a result without an outcome"))? {
            Outcome::Receipt(receipt) => {
                let sent_id = flight.unanswered().first().map_or("", |message| &message.id);
                Ok(Receipt::check(receipt, sent_id).map_err(AnswerFault::Protocol)?)
            }
            Outcome::Refusal(refusal) => Err(final_refusal(refusal)?),
        };
        let bytes = flight.replies.next().map_or(0, |reply| settle(reply, outcome));
        if flight.replies.len() == 0 {
            self.flying.pop_front();
        }
        Ok(bytes)
    }

    /// Gives room back to senders.
    pub(super) fn make_room(&self, messages: usize, bytes: usize) {
        self.window.leave(messages, bytes);
    }

    /// Resolves everything to `error`, or, where a message may have been recorded, to an unknown outcome for that
    /// reason.
    pub(super) fn fail_all(&mut self, error: &Error) {
        self.stream_ended();
        let (mut messages, mut bytes) = (0, 0);
        for flight in std::mem::take(&mut self.again) {
            let ids: Vec<_> = flight.unanswered().iter().map(|message| message.id.clone()).collect();
            for (id, reply) in ids.into_iter().zip(flight.replies) {
                let is_unknown = flight.maybe_recorded;
                let error = if is_unknown { Error::outcome_unknown(id, error.clone()) } else { error.clone() };
                bytes += settle(reply, Err(error));
                messages += 1;
            }
        }
        for submission in std::mem::take(&mut self.waiting) {
            bytes += settle(submission.reply, Err(error.clone()));
            messages += 1;
        }
        self.make_room(messages, bytes);
    }

    fn batch(&mut self) -> Option<Flight> {
        let capacity = self.waiting.len().min(REQUEST_MESSAGES_MAX);
        let (mut messages, mut replies) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let mut bytes = 0_u32;
        while messages.len() < REQUEST_MESSAGES_MAX {
            let Some(next) = self.waiting.front() else { break };
            bytes = bytes.saturating_add(next.bytes());
            if !messages.is_empty() && bytes > REQUEST_BYTES_MAX {
                break;
            }
            let Some(Submission { message, reply }) = self.waiting.pop_front() else { break };
            messages.push(message);
            replies.push(reply);
        }
        (!messages.is_empty()).then(|| Flight {
            request: Arc::new(PublishStreamRequest { messages, refresh: None }),
            replies: replies.into_iter(),
            maybe_recorded: false,
        })
    }
}

/// A refusal that leaves open what will become of the message is no outcome: the message is sent again.
fn final_refusal(wire: v1::Refusal) -> Result<Error, AnswerFault> {
    let refusal = Box::new(Refusal::from(wire));
    if refusal.code == Code::Unavailable {
        return Err(AnswerFault::Again(refusal));
    }
    Ok(Error::Refused(refusal))
}

/// Hands an outcome over and returns the bytes of room that this frees. Whoever dropped the other end does not care.
fn settle(reply: Reply, outcome: Result<Receipt, Error>) -> usize {
    let _ = reply.sender.send(outcome);
    usize::try_from(reply.bytes).unwrap_or(0)
}
