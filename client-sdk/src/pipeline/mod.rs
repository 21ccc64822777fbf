//! Many things under way at once over one stream, each answered in the order of sending.
//!
//! One driver task for each pipeline owns the stream and everything that is under way; senders only wait for room and put
//! things into its queue. Out of scope: what it is that goes over the stream, which is a [`Kind`]'s business.

mod codec;
mod driver;
mod outstanding;
mod stream;
mod window;

use std::sync::Arc;

use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use veribus_proto::v1;

use crate::{
    Error,
    error::Refusal,
    present::{Method, Presenter},
    session::Session,
};
use driver::Driver;
use outstanding::{Reply, Submission};
use window::Window;

/// What goes over a stream, and what comes back.
pub(crate) trait Kind: Sized + Send + Sync + 'static {
    /// The call.
    const METHOD: Method;
    /// How many items go into one request.
    const REQUEST_ITEMS_MAX: usize;
    /// Whether the broker knows an item that it has seen before. Where it does not, nothing is sent before the stream
    /// stands, and what had no answer when it broke is sent again only if it [may be repeated](Kind::may_repeat).
    const IS_RECOGNISED: bool;
    /// What is sent.
    type Item: Message + Clone;
    /// What is kept of an item until it is answered, and never sent.
    type Aside: Send;
    /// What the sender gets.
    type Outcome: Send;
    /// Items, or a fresh token.
    type Request: Message + Default + Clone + 'static;
    /// Results, or the answer to a fresh token.
    type Response: Message + Default + 'static;
    /// The broker's answer to one item.
    type Result;

    /// A request with these items, or with a fresh token.
    fn request(items: Vec<Self::Item>, refresh: Option<v1::Credentials>) -> Self::Request;
    /// The items of a request.
    fn items(request: &Self::Request) -> &[Self::Item];
    /// The same, to be changed.
    fn items_mut(request: &mut Self::Request) -> &mut [Self::Item];
    /// The parts of a response.
    fn parts(response: Self::Response) -> (Option<v1::Refreshed>, Vec<Self::Result>);
    /// What the sender of `item` is told.
    fn outcome(item: &Self::Item, result: Self::Result) -> Result<Result<Self::Outcome, Error>, AnswerFault>;
    /// What the sender of `item` is told where nobody knows what became of it.
    fn unknown(item: &Self::Item, cause: Error) -> Error;
    /// Whether the broker refused an item for want of a good token of the stream.
    fn is_about_the_token(item: &Self::Item, result: &Self::Result) -> bool;
    /// Whether an item does no harm if it is carried out twice.
    fn may_repeat(_item: &Self::Item) -> bool {
        Self::IS_RECOGNISED
    }
    /// Whether the answer to an item was too large only because of those to the others in its request.
    fn is_to_go_alone(_result: &Self::Result) -> bool {
        false
    }
    /// Whether each sending of an item needs a proof of its own.
    fn needs_proof(_aside: &Self::Aside) -> bool {
        false
    }
    /// Makes that proof.
    fn prove(_item: &mut Self::Item, _aside: &Self::Aside, _presenter: &Presenter) -> Result<(), Status> {
        Ok(())
    }
}

/// Why an answer does not resolve its item.
#[derive(Debug)]
pub(crate) enum AnswerFault {
    /// The broker asks to come again.
    Again(Box<Refusal>),
    /// The broker broke the protocol.
    Protocol(Error),
}

/// Where the outcome of an item will be.
pub(crate) type Outcome<K> = oneshot::Receiver<Result<<K as Kind>::Outcome, Error>>;

/// What a sender tells the driver.
enum Command<K: Kind> {
    Send(Submission<K>),
    Batch(Vec<Submission<K>>),
    /// Finish what is under way, then say so.
    Close(oneshot::Sender<()>),
}

/// The senders' end. Dropping it gives up what is under way.
pub(crate) struct Pipeline<K: Kind> {
    commands: mpsc::UnboundedSender<Command<K>>,
    window: Arc<Window>,
}

impl<K: Kind> Pipeline<K> {
    pub(crate) fn start(session: Arc<Session>) -> Self {
        let (commands, incoming) = mpsc::unbounded_channel();
        let window = Arc::new(Window::new(session.limits.in_flight_messages_max, session.limits.in_flight_bytes_max));
        tokio::spawn(Driver::new(session, incoming, Arc::clone(&window)).run());
        Self { commands, window }
    }

    /// Sends an item as soon as there is room among those under way.
    pub(crate) async fn send(&self, item: K::Item, aside: K::Aside) -> Result<Outcome<K>, Error> {
        let (submission, outcome) = self.submission(item, aside);
        self.window.enter(1, submission.bytes()).await?;
        self.commands.send(Command::Send(submission)).map_err(|_| Error::Closed)?;
        Ok(outcome)
    }

    /// Sends many items, in order. Waits for room as often as it takes.
    pub(crate) async fn send_batch(&self, items: Vec<(K::Item, K::Aside)>) -> Result<Vec<Outcome<K>>, Error> {
        let (submissions, outcomes): (Vec<_>, Vec<_>) =
            items.into_iter().map(|(item, aside)| self.submission(item, aside)).unzip();
        let mut submissions = submissions.into_iter().peekable();
        while submissions.peek().is_some() {
            let (part, bytes) = self.window.portion(&mut submissions);
            self.window.enter(part.len(), bytes).await?;
            self.commands.send(Command::Batch(part)).map_err(|_| Error::Closed)?;
        }
        Ok(outcomes)
    }

    /// Takes nothing more and waits until everything that was sent is resolved.
    pub(crate) async fn close(self) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Close(done)).is_ok() {
            // An error means that the driver is gone, and with it everything that was under way.
            let _ = finished.await;
        }
    }

    fn submission(&self, item: K::Item, aside: K::Aside) -> (Submission<K>, Outcome<K>) {
        let bytes = self.window.bytes_of(item.encoded_len());
        let (sender, outcome) = oneshot::channel();
        (Submission { item, reply: Reply { sender, bytes, aside } }, outcome)
    }
}
