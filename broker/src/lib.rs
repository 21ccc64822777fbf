//! The broker: one message, the whole way.

pub mod config;
pub mod dev;
pub mod issue;
pub mod model;
