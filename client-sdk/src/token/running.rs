//! The token that a running stream stands on, and the fresh ones on their way to the broker.

use std::collections::VecDeque;

use tokio::time::sleep_until;
use tonic::Status;

use super::{Standing, Token, Tokens, keeper::Changes};
use crate::{Error, retry::Failed};

/// The tokens of one stream. The broker answers fresh ones in the order in which they were sent.
#[derive(Debug)]
pub(crate) struct RunningToken {
    accepted: Token,
    sent: VecDeque<Token>,
    changes: Changes,
    standing: Standing,
}

impl RunningToken {
    /// For a stream that was opened with `token`.
    pub(crate) fn new(tokens: &Tokens, token: Token) -> Self {
        let standing = tokens.standing().clone();
        standing.took(&token);
        Self { accepted: token, sent: VecDeque::new(), changes: tokens.changes(), standing }
    }

    /// Whether there is a fresh token that the broker has not seen.
    pub(crate) fn is_due(&self) -> bool {
        let held = self.changes.borrow();
        !held.token().is(self.newest()) && self.standing.rests_until(held.token()).is_none()
    }

    fn newest(&self) -> &Token {
        self.sent.back().unwrap_or(&self.accepted)
    }

    /// Waits until there is a fresh token that the broker has not seen, which is at once as long as there is one, or until one
    /// may be offered again that it did not take.
    /// Where there will be none any more, it waits for ever.
    pub(crate) async fn due(&mut self) -> Token {
        let newest = self.newest().clone();
        loop {
            let fresh = self.changes.wait_for(|held| !held.token().is(&newest)).await.map(|held| held.token().clone());
            let Ok(fresh) = fresh else { return std::future::pending().await };
            let Some(again_at) = self.standing.rests_until(&fresh) else { return fresh };
            tokio::select! {
                () = sleep_until(again_at) => {}
                _ = self.changes.changed() => {}
            }
        }
    }

    pub(crate) fn sent(&mut self, token: Token) {
        self.sent.push_back(token);
    }

    /// The broker took the oldest of those that were sent.
    pub(crate) fn accepted(&mut self) -> Result<(), Error> {
        self.accepted = self.answered()?;
        self.standing.took(&self.accepted);
        Ok(())
    }

    /// The broker did not take the oldest of those that were sent: the stream goes on under the one before.
    pub(crate) fn refused(&mut self) -> Result<(), Error> {
        let refused = self.answered()?;
        self.standing.refused(&refused);
        Ok(())
    }

    fn answered(&mut self) -> Result<Token, Error> {
        self.sent.pop_front().ok_or(Error::Protocol("an answer to a token that was not sent"))
    }

    /// The stream failed. Its token is the last that the broker took: if there is a newer one, the next stream begins
    /// with that, whether or not it was on its way.
    pub(crate) fn failed(&self, status: Status) -> Failed {
        Failed { status, token: self.accepted.clone() }
    }

    pub(crate) const fn token(&self) -> &Token {
        &self.accepted
    }
}
