//! A recognised caller on its connection.

use std::{net::SocketAddr, sync::Arc};

use super::Identity;

/// Who calls, and from where.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub identity: Arc<Identity>,
    /// The network address of the connection.
    pub peer: SocketAddr,
}
