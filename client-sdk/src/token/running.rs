//! The token that a running stream stands on, and the fresh ones on their way to the broker.

use std::collections::VecDeque;

use tonic::Status;

use super::{Token, Tokens, keeper::Changes};
use crate::{Error, retry::Failed};

/// The tokens of one stream. The broker answers fresh ones in the order in which they were sent.
#[derive(Debug)]
pub(crate) struct RunningToken {
    accepted: Token,
    sent: VecDeque<Token>,
    changes: Changes,
}

impl RunningToken {
    /// For a stream that was opened with `token`.
    pub(crate) fn new(tokens: &Tokens, token: Token) -> Self {
        Self { accepted: token, sent: VecDeque::new(), changes: tokens.changes() }
    }

    /// Whether there is a fresh token that the broker has not seen.
    pub(crate) fn is_due(&self) -> bool {
        !self.changes.borrow().token().is(self.newest())
    }

    fn newest(&self) -> &Token {
        self.sent.back().unwrap_or(&self.accepted)
    }

    /// Waits until there is a fresh token that the broker has not seen, which is at once as long as there is one.
    /// Where there will be none any more, it waits for ever.
    pub(crate) async fn due(&mut self) -> Token {
        let newest = self.newest().clone();
        let fresh = self.changes.wait_for(|held| !held.token().is(&newest)).await.map(|held| held.token().clone());
        match fresh {
            Ok(fresh) => fresh,
            Err(_) => std::future::pending().await,
        }
    }

    pub(crate) fn sent(&mut self, token: Token) {
        self.sent.push_back(token);
    }

    /// The broker took the oldest of those that were sent.
    pub(crate) fn accepted(&mut self) -> Result<(), Error> {
        self.accepted = self.sent.pop_front().ok_or(Error::Protocol("an answer to a token that was not sent"))?;
        Ok(())
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
