//! The SDK against a scripted broker over real TLS.

mod audit;
mod connecting;
mod fake;
mod publishing;
mod streaming;
mod subscribing;
