//! The task behind a pipeline: it takes what senders send, keeps a stream to the broker, and sees to it that each
//! item is resolved once.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Command, Kind, outstanding::Outstanding, window::Window};
use crate::{
    Error,
    retry::{Attempts, Failed},
    session::Session,
};

/// How many commands are taken at once.
const COMMANDS_TAKEN_MAX: usize = 256;

pub(super) struct Driver<K: Kind> {
    pub(super) session: Arc<Session>,
    pub(super) inbox: Inbox<K>,
    pub(super) outstanding: Outstanding<K>,
    pub(super) attempts: Attempts,
    window: Arc<Window>,
}

/// How a stream came to its end.
#[derive(Debug)]
pub(super) enum StreamEnd {
    /// There was no more need of it.
    Finished,
    /// It broke, or never came to be.
    Lost(Failed),
    /// The broker cannot be relied on, or does not answer: what is under way gets this error.
    Failed(Error),
    /// Nobody is interested any more.
    Abandoned,
}

impl<K: Kind> Driver<K> {
    pub(super) fn new(
        session: Arc<Session>,
        commands: mpsc::UnboundedReceiver<Command<K>>,
        window: Arc<Window>,
    ) -> Self {
        let attempts = session.publish_attempts();
        let outstanding = Outstanding::new(Arc::clone(&session), Arc::clone(&window));
        Self { session, inbox: Inbox::new(commands), outstanding, attempts, window }
    }

    pub(super) async fn run(mut self) {
        while self.has_work().await {
            let end = self.run_stream().await;
            self.outstanding.stream_ended();
            match end {
                StreamEnd::Finished => {}
                StreamEnd::Failed(error) => self.fail_all(&error),
                StreamEnd::Lost(failed) => self.recover(&failed).await,
                StreamEnd::Abandoned => break,
            }
        }
        self.outstanding.fail_all(&Error::Closed);
    }

    /// Waits until there is something to send; false when there will be nothing any more.
    async fn has_work(&mut self) -> bool {
        while self.outstanding.is_empty() && self.inbox.is_open() {
            self.inbox.receive(&mut self.outstanding).await;
            self.attempts.progressed();
        }
        !self.outstanding.is_empty() && !self.inbox.is_abandoned()
    }

    /// Waits until the next attempt, or gives up on all that is under way.
    async fn recover(&mut self, failed: &Failed) {
        self.outstanding.give_up_unrepeatable(failed);
        if self.outstanding.is_empty() {
            return;
        }
        let gave_up = tokio::select! {
            again = self.attempts.after(&self.session, failed) => again.err(),
            () = self.inbox.receive_until_abandoned(&mut self.outstanding) => None,
        };
        if let Some(error) = gave_up {
            self.fail_all(&error);
        }
    }

    fn fail_all(&mut self, error: &Error) {
        self.outstanding.fail_all(error);
        self.attempts.progressed();
    }
}

impl<K: Kind> Drop for Driver<K> {
    /// Also where the runtime ends: senders must not wait for room that never comes.
    fn drop(&mut self) {
        self.window.close();
    }
}

/// What senders send.
pub(super) struct Inbox<K: Kind> {
    commands: mpsc::UnboundedReceiver<Command<K>>,
    taken: Vec<Command<K>>,
    state: InboxState,
}

enum InboxState {
    Open,
    /// Nothing more comes; the sender is dropped when all is done, which is the sign.
    Closing {
        _done: oneshot::Sender<()>,
    },
    Abandoned,
}

impl<K: Kind> Inbox<K> {
    fn new(commands: mpsc::UnboundedReceiver<Command<K>>) -> Self {
        Self { commands, taken: Vec::with_capacity(COMMANDS_TAKEN_MAX), state: InboxState::Open }
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.state, InboxState::Open)
    }

    pub(super) const fn is_abandoned(&self) -> bool {
        matches!(self.state, InboxState::Abandoned)
    }

    /// Waits for commands and takes those that are there. May be dropped while it waits without losing any.
    pub(super) async fn receive(&mut self, outstanding: &mut Outstanding<K>) {
        if self.commands.recv_many(&mut self.taken, COMMANDS_TAKEN_MAX).await == 0 {
            self.state = InboxState::Abandoned;
        }
        for command in self.taken.drain(..) {
            match command {
                Command::Send(submission) => outstanding.push(submission),
                Command::Batch(submissions) => submissions.into_iter().for_each(|one| outstanding.push(one)),
                Command::Close(done) => self.state = InboxState::Closing { _done: done },
            }
        }
    }

    /// Takes commands until the pipeline is dropped without having been closed.
    pub(super) async fn receive_until_abandoned(&mut self, outstanding: &mut Outstanding<K>) {
        while self.is_open() {
            self.receive(outstanding).await;
        }
        if !self.is_abandoned() {
            std::future::pending::<()>().await;
        }
    }
}
