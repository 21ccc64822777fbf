//! The audit log: nothing is acknowledged before it is durable, nothing handed over before it is recorded.
//!
//! One writer gives out the indexes. It takes what waits, checks again what may have changed meanwhile, encodes and
//! chains the entries, makes them durable in one commit, hands the batch to delivery in index order, and only then
//! answers the senders.
//!
//! Out of scope: how chunks are stored (see [`engine`](crate::engine)), who is in an audience (see
//! [`deliver`](crate::deliver)).

mod audience;
mod commit;
mod copying;
mod disk;
mod draft;
mod duplicates;
mod events;
mod fingerprint;
mod journal;
mod order;
mod prepared;
mod queue;
mod reader;
mod recorded;
mod revocation;
mod routed;
mod running;
mod tail;
mod writer;

pub use audience::{Audience, Recipient};
pub use copying::{CopyError, CopyPart, Copying};
pub use disk::DiskWatch;
pub use draft::{Draft, UndeliveredCount, actor, timestamp};
pub use fingerprint::{Fingerprints, RecordedText};
pub use journal::{JournalFault, LogEnd};
pub(crate) use order::ANSWER_BYTES_MAX;
pub use order::{FollowOrder, Followed, Following, StateOrder, StateOutcome, WatchedChange};
pub use queue::{
    AccessReceipt, KeyOrder, KeyReceipt, PendingOutcomes, PendingState, RecordError, Recorder, SubmitError,
};
pub use reader::{EntryAt, LogReader};
pub use recorded::Recorded;
pub use revocation::{RevocationError, revocation_facts};
pub use routed::{Malformed, Routed};
pub use tail::StartError;
pub use writer::{Handover, Writer, WriterEnd, WriterSettings};
