//! `[state]`: how shared state is kept, and the root key that everything is encrypted under.

use std::path::PathBuf;

use serde::Deserialize;

use super::SettingFault;
use crate::model::TopicPattern;

/// `[state]`: exactly one of `root_key_file` and `root_key_descriptor_variable` says where the root key is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// The file with the root key, as `veribus keys init` makes it; nobody but the broker's user may read it.
    pub root_key_file: Option<PathBuf>,
    /// The environment variable that holds the number of an open file descriptor, from which the root key is read at start.
    pub root_key_descriptor_variable: Option<String>,
    /// How many versions of each value are kept, by scope.
    #[serde(default)]
    pub histories: Vec<HistoryConfig>,
    /// How long it is remembered that a value was deleted or has run out: whoever watches may be away for so long.
    #[serde(default = "default_gone_kept")]
    pub gone_kept_s: u64,
    /// How many scopes may have keys.
    #[serde(default = "default_scopes")]
    pub scopes_max: usize,
    /// How many of them with the same first level, so that who may write below one cannot use up all.
    #[serde(default = "default_scopes_per_level")]
    pub scopes_per_level_max: usize,
    /// How many bytes of values longer than 4 KiB may wait for their readers to take them. Beyond that such a read may have
    /// to be repeated, where the value is replaced meanwhile.
    #[serde(default = "default_read_bytes")]
    pub read_bytes_max: usize,
}

/// `[[state.histories]]`: the first whose pattern names a scope counts; where none does, only the newest version is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryConfig {
    /// A pattern like those of topics.
    pub scopes: String,
    /// How many versions, the newest among them.
    pub versions: usize,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            root_key_file: None,
            root_key_descriptor_variable: None,
            histories: Vec::new(),
            gone_kept_s: default_gone_kept(),
            scopes_max: default_scopes(),
            scopes_per_level_max: default_scopes_per_level(),
            read_bytes_max: default_read_bytes(),
        }
    }
}

impl StateConfig {
    /// The settings that cannot be, and why.
    pub(super) fn faults(&self) -> Vec<SettingFault> {
        let mut faults = Vec::new();
        match (&self.root_key_file, &self.root_key_descriptor_variable) {
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => {
                let fault = "is missing, and so is `state.root_key_descriptor_variable`: one of them says where the root key is; \
                             `veribus keys init FILE` makes one";
                faults.push(("state.root_key_file", fault.to_owned()));
            }
            (Some(_), Some(_)) => {
                let fault =
                    "and `state.root_key_descriptor_variable` both say where the root key is: take one of them out";
                faults.push(("state.root_key_file", fault.to_owned()));
            }
        }
        faults.extend(self.histories.iter().filter_map(|history| {
            let error = TopicPattern::parse(&history.scopes).err()?;
            Some(("state.histories", format!("`{}`: {error}", history.scopes)))
        }));
        faults
    }
}

const fn default_gone_kept() -> u64 {
    86_400
}

const fn default_scopes() -> usize {
    10_000
}

const fn default_scopes_per_level() -> usize {
    1_000
}

const fn default_read_bytes() -> usize {
    64 << 20
}
