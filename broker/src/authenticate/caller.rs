//! A recognised caller on its connection.

use std::{net::SocketAddr, sync::Arc};

use super::{Identity, Session};

/// Who calls, in which session.
#[derive(Debug, Clone)]
pub struct Caller {
    session: Arc<Session>,
}

impl Caller {
    /// Who calls in `session`.
    #[must_use]
    pub const fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// Who, as in the token that is in force now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.session.identity()
    }

    /// The network address of the connection.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.session.peer()
    }

    /// The call or stream.
    #[must_use]
    pub const fn session(&self) -> &Arc<Session> {
        &self.session
    }
}
