//! How much an agent may use: messages and bytes a second, calls and subscriptions at the same time.
//!
//! An agent is its issuer and its id: all its connections and tokens share one account. What it is allowed comes from the
//! settings, and from the policy's data for single agents and roles; see [`QuotaTable`]. A message that is over quota is
//! refused before anybody looks into it, takes nothing of any quota, and the refusal says when to come again; a message
//! after it that fits may pass. A gateway that speaks for several agents uses its own quota for all of them.
//!
//! Rates follow the generic cell rate algorithm (ITU-T I.371), which needs one number for each rate. Messages and bytes
//! are taken together or not at all, which limiters of a single rate cannot do: a message refused for its size would still
//! count as one.
//!
//! Bounded: an account is forgotten once its agent has nothing open and owes nothing, and beyond a number of accounts
//! nobody new is let in until one is, save those who may revoke.
//!
//! Out of scope: whether the agent may do it at all (see [`decide`](crate::decide)), and what all agents together may do.

mod account;
mod exceeded;
mod quotas;
mod rate;
mod receive;
mod table;

pub use account::{Meter, OpenCall, OpenSubscription};
pub use exceeded::{QuotaExceeded, QuotaKind};
pub use quotas::Quotas;
pub use rate::{Nanos, Rate, Shortage};
pub use receive::{ReceiveBudget, Reservation};
pub use table::QuotaTable;
