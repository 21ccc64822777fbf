//! Publishing many messages, pipelined over one stream.
//!
//! One driver task for each publisher owns the stream and everything that is under way; senders only wait for room
//! and put messages into its queue. Out of scope: what the broker does with a message.

mod codec;
mod driver;
mod outstanding;
mod stream;
mod window;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use crate::{Error, Message, Receipt, message::Outgoing, session::Session};
use driver::Driver;
use outstanding::{Reply, Submission};
use window::Window;

/// What a sender tells the driver.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would cost an allocation for each message")]
enum Command {
    Publish(Submission),
    Batch(Vec<Submission>),
    /// Finish what is under way, then say so.
    Close(oneshot::Sender<()>),
}

/// Publishes messages without waiting for each one's receipt.
///
/// Messages sent one after another are recorded in that order. Where the stream breaks, everything without an answer
/// is sent again, in order and with the same ids, so that the broker records it once. Each message resolves exactly
/// once. A fresh token is sent in the stream, which goes on. Dropping the publisher gives up what is under way; [`Publisher::close`] waits for it.
pub struct Publisher {
    session: Arc<Session>,
    commands: mpsc::UnboundedSender<Command>,
    window: Arc<Window>,
}

impl Publisher {
    pub(crate) fn start(session: Arc<Session>) -> Self {
        let (commands, incoming) = mpsc::unbounded_channel();
        let window = Arc::new(Window::new(session.limits.in_flight_messages_max, session.limits.in_flight_bytes_max));
        tokio::spawn(Driver::new(Arc::clone(&session), incoming, Arc::clone(&window)).run());
        Self { session, commands, window }
    }

    /// Sends a message as soon as there is room among those under way. The returned [`Pending`] resolves to its
    /// receipt; it may be dropped, the message is published all the same.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Closed`]: it was not sent.
    pub async fn send(&self, message: Message) -> Result<Pending, Error> {
        let (submission, pending) = self.submission(message)?;
        self.window.enter(1, submission.bytes()).await?;
        self.commands.send(Command::Publish(submission)).map_err(|_| Error::Closed)?;
        Ok(pending)
    }

    /// Sends many messages, in order, at a lower cost for each. Waits for room as often as it takes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]: none was sent. [`Error::Closed`]: those for which there was no room were not sent, and
    /// nobody can say what became of the others.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Result<Vec<Pending>, Error> {
        let (submissions, pendings): (Vec<_>, Vec<_>) =
            messages.into_iter().map(|message| self.submission(message)).collect::<Result<_, _>>()?;
        let mut submissions = submissions.into_iter().peekable();
        while submissions.peek().is_some() {
            let (part, bytes) = self.window.portion(&mut submissions);
            self.window.enter(part.len(), bytes).await?;
            self.commands.send(Command::Batch(part)).map_err(|_| Error::Closed)?;
        }
        Ok(pendings)
    }

    /// Takes no more messages and waits until each one that was sent is resolved.
    pub async fn close(self) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Close(done)).is_ok() {
            // An error means that the driver is gone, and with it everything that was under way.
            let _ = finished.await;
        }
    }

    fn submission(&self, message: Message) -> Result<(Submission, Pending), Error> {
        let Outgoing { wire: message, speaker } = self.session.within_size(message)?;
        let bytes = self.window.bytes_of(message.encoded_len());
        let (sender, outcome) = oneshot::channel();
        let pending = Pending { message_id: message.id.clone(), outcome };
        Ok((Submission { message, reply: Reply { sender, bytes, speaker } }, pending))
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

/// The receipt to come of a message that was sent.
///
/// It resolves to [`Error::Refused`] where the broker said no, to [`Error::OutcomeUnknown`] where no answer came, and
/// to another error where the message never left.
#[derive(Debug)]
#[must_use = "it says whether the message was recorded"]
pub struct Pending {
    message_id: String,
    outcome: oneshot::Receiver<Result<Receipt, Error>>,
}

impl Pending {
    /// Which message.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.message_id
    }
}

impl Future for Pending {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.outcome).poll(cx));
        // Without an outcome the driver itself is gone, with its runtime.
        Poll::Ready(
            outcome
                .unwrap_or_else(|_| Err(Error::outcome_unknown(std::mem::take(&mut self.message_id), Error::Closed))),
        )
    }
}
