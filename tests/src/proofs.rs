//! Skipping a step does not compile: a proof can be made only in the file that defines it. Each example below that must
//! not compile has a twin that differs in the one line that forges, and compiles.
//!
//! Nobody is recognised without a verified token.
//!
//! ```
//! use veribus_broker::authenticate::Identity;
//! fn forge(identity: Identity) -> Identity {
//!     identity
//! }
//! ```
//!
//! ```compile_fail,E0451
//! use veribus_broker::authenticate::Identity;
//! fn forge(identity: Identity) -> Identity {
//!     Identity { retained_bytes: 0, ..identity }
//! }
//! ```
//!
//! ```compile_fail,E0277
//! use veribus_broker::authenticate::Identity;
//! fn forge(identity: Identity) -> Identity {
//!     serde_json::from_str("{}").unwrap_or(identity)
//! }
//! ```
//!
//! Nothing counts as inspected that was not.
//!
//! ```
//! use veribus_broker::inspect::{Inspected, Submitted};
//! fn exchange(inspected: Inspected, submitted: Submitted) -> Inspected {
//!     inspected
//! }
//! ```
//!
//! ```compile_fail,E0451
//! use veribus_broker::inspect::{Inspected, Submitted};
//! fn exchange(inspected: Inspected, submitted: Submitted) -> Inspected {
//!     Inspected { submitted, ..inspected }
//! }
//! ```
//!
//! A message that is held cannot be turned into one that is permitted, nor a verdict be exchanged.
//!
//! ```
//! use veribus_broker::decide::{Decided, Held, Verdict};
//! fn permit(held: Held, verdict: Verdict) -> Decided {
//!     Decided::Held(held)
//! }
//! ```
//!
//! ```compile_fail,E0532
//! use veribus_broker::decide::{Decided, Held, Verdict};
//! fn permit(Held(judged): Held, verdict: Verdict) -> Decided {
//!     loop {}
//! }
//! ```
//!
//! ```compile_fail,E0308
//! use veribus_broker::decide::{Decided, Held, Verdict};
//! fn permit(held: Held, verdict: Verdict) -> Decided {
//!     Decided::Permitted(held)
//! }
//! ```
//!
//! ```compile_fail,E0624
//! use veribus_broker::{decide::{Decided, Verdict}, inspect::Inspected};
//! fn permit(inspected: Inspected, verdict: Verdict) -> Decided {
//!     Decided::new(inspected, verdict)
//! }
//! ```
//!
//! Nothing is delivered that was not recorded: delivery takes only what the writer made.
//!
//! ```
//! use veribus_broker::{deliver::Deliverer, record::{Handover as _, Recorded}};
//! fn deliver(deliverer: &mut Deliverer, message: Recorded) {
//!     deliverer.hand_over(vec![message]);
//! }
//! ```
//!
//! ```compile_fail,E0308
//! use veribus_broker::{decide::Permitted, deliver::Deliverer, record::{Handover as _, Recorded}};
//! fn deliver(deliverer: &mut Deliverer, message: Permitted) {
//!     deliverer.hand_over(vec![message]);
//! }
//! ```
//!
//! ```
//! use veribus_broker::{decide::Permitted, model::DecisionId, record::{Audience, Recorded}};
//! fn record(permitted: Permitted, audience: Audience, id: DecisionId, recorded: Recorded) -> Recorded {
//!     recorded
//! }
//! ```
//!
//! ```compile_fail,E0624
//! use veribus_broker::{decide::Permitted, model::DecisionId, record::{Audience, Recorded}};
//! fn record(permitted: Permitted, audience: Audience, id: DecisionId, recorded: Recorded) -> Recorded {
//!     Recorded::new(permitted, audience, id, [0; 32])
//! }
//! ```
