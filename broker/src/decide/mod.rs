//! What the caller may do: the native permission check first, the policy second; both must agree, and whatever fails on
//! the way denies.
//!
//! The policy is Rego (package `veribus`, the layout of the `opa` tool), evaluated by `regorus`. What loads means what it means
//! under OPA, or it does not load: [`language`] says which Rego is taken, [`data`] which data. The broker asks for the sets
//! `deny` and `quarantine` and for `allow`, in that order: an evaluation that errs, goes beyond its bound ([`meter`]) or
//! answers in an unknown shape denies; else any `deny`; else any `quarantine`; else `allow == true`; else no.
//!
//! Fast without a second engine: the broker learns from the compiled policy which parts of the input it can read, makes
//! only those, and remembers the verdict under exactly them. The projection *is* the policy's input, so a verdict that is
//! remembered and one that is evaluated cannot have seen different things.
//!
//! Out of scope: looking into content (see [`inspect`](crate::inspect)), keeping what was decided (see
//! [`record`](crate::record)).

mod bundle;
mod data;
mod decider;
mod functions;
mod input;
mod language;
mod meter;
mod permitted;
mod policy;
mod quotas;
mod reads;
mod sink;
mod verdict;

pub use bundle::{Bundle, BundleError, EvaluationError};
pub use decider::{Decider, DeciderSettings, LoadedPolicy};
pub use language::Diagnostic;
pub use meter::Interruption;
pub use permitted::{Decided, Denied, Held, Permitted};
pub use verdict::{Access, Decision, Verdict};
