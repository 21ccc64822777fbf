//! Names that were looked at before, and in which nothing was found.
//!
//! Topics, types, member names come again in message after message. What is found in a text depends on the text and the
//! rules alone, so looking once is enough. Only texts without any finding are remembered, so nothing goes unreported.

use quick_cache::sync::Cache;

/// How many names are remembered.
const NAMES_MAX: usize = 4_096;
/// The longest name that is remembered, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// The names that are known to be clean, for one set of rules.
#[derive(Debug)]
pub(super) struct CleanNames(Cache<Box<str>, ()>);

impl Default for CleanNames {
    fn default() -> Self {
        Self(Cache::new(NAMES_MAX))
    }
}

impl CleanNames {
    pub(super) fn holds(&self, text: &str) -> bool {
        text.len() <= NAME_BYTES_MAX && self.0.get(text).is_some()
    }

    pub(super) fn add(&self, text: &str) {
        if text.len() <= NAME_BYTES_MAX {
            self.0.insert(Box::from(text), ());
        }
    }
}
