//! The broker: one message, the whole way.

pub mod config;
pub mod inspect;
pub mod model;
