//! Signs tokens: for development, for tests, and for operators who run no identity provider yet.
//!
//! In scope: tokens in the form that the broker accepts (RFC 9068), the key set (RFC 7517) with which it checks them, and
//! the change from one signing key to the next. Out of scope: who may get a token, revoking one, and files.

mod claims;
mod confirmation;
mod issuer;
mod key_kind;
mod published;

pub use claims::Claims;
pub use confirmation::{Confirmation, ConfirmationError};
pub use issuer::{IssueError, TokenIssuer};
pub use key_kind::KeyKind;
pub use published::{Listed, PublishedKeys, PublishedKeysError};
