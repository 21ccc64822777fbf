//! Signs tokens: for development, for tests, and for operators who run no identity provider yet.
//!
//! In scope: ES256 and EdDSA tokens in the form that the broker accepts (RFC 9068), and the key set (RFC 7517) with
//! which it checks them. Out of scope: who may get a token, and revoking one.

mod claims;
mod issuer;

pub use claims::Claims;
pub use issuer::{IssueError, KeyKind, TokenIssuer};
