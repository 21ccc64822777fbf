//! A directory with everything that a broker needs to be tried out: certificates, keys, example agents with their
//! tokens, a configuration, the default policy.
//!
//! In scope: making it, reusing it, saying how to connect. Out of scope: starting the broker, and anything that a
//! production deployment needs; the authority and the issuer here belong to whoever can read the directory.

mod agents;
mod certificates;
mod directory;
mod error;
mod files;
mod output_file;
mod shell;
mod tokens;

pub use agents::{DEFAULT_AGENT, EXAMPLE_AGENTS, ExampleAgent};
pub use directory::{DevDirectory, DevOptions, client_url};
pub use error::DevError;
pub use files::{directory_of, private_directory, write_new_private, write_private, write_public};
pub use output_file::{OutputFile, OutputTarget, leads_to_same_file};
pub use shell::quote;
