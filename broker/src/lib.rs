//! The broker: one message, the whole way.

pub mod administer;
pub mod authenticate;
pub mod backup;
pub mod check;
pub mod cli;
pub mod config;
pub mod decide;
pub mod deliver;
pub mod dev;
pub mod engine;
#[cfg(test)]
mod fixtures;
pub mod inspect;
pub mod issue;
pub mod metrics;
pub mod model;
pub mod publish;
pub mod quota;
pub mod record;
pub mod seal;
pub mod server;
pub mod share;
pub mod state;
pub mod subscribe;
pub mod transport;
pub mod workers;
