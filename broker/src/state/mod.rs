//! Shared state: what stands under a key, and how it changes.
//!
//! The one writer of the log carries out every read and write in the order of their entries ([`StateTable`]); a change and
//! its entry are one commit. What was read comes out of the writer sealed, and is opened once its entry is durable
//! ([`SealedValue::open`]). Whoever watches is told only that there is something new ([`Changes`]), and reads it like
//! anybody else.
//!
//! In scope: the records beside the log, versions, expiry, the sealing of values. Out of scope: who may do what
//! ([`decide`](crate::decide)), how keys are made and kept ([`seal`](crate::seal)), the entries ([`record`](crate::record)).

mod changes;
mod reader;
mod stored;
mod table;
mod value;

pub use changes::{Change, Changes, CollectLimits, Since};
pub use reader::{Cursor, DueFrom, PAGE_RECORDS, Page, StateReader};
pub use table::{Current, DueKey, Lookup, StateSettings, StateTable, TableError};
pub use value::{Metadata, OpenedValue, SealedValue, Unreadable};
