//! What entries say about what was loaded anew.

use data_encoding::HEXLOWER;
use serde::Serialize;
use veribus_proto::v1::{Reload, ReloadCause};

/// What became of it, for programs.
#[derive(Debug, Serialize)]
pub(super) struct ReloadJson {
    cause: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    previous_sha256: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sha256: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

impl From<Reload> for ReloadJson {
    fn from(facts: Reload) -> Self {
        Self {
            cause: cause_word(&facts),
            previous_sha256: HEXLOWER.encode(&facts.previous_sha256),
            sha256: HEXLOWER.encode(&facts.sha256),
            error: facts.error,
        }
    }
}

fn cause_word(facts: &Reload) -> &'static str {
    match facts.cause() {
        ReloadCause::Unspecified => "unknown",
        ReloadCause::Signal => "signal",
        ReloadCause::FileChanged => "file_changed",
        ReloadCause::LinkChanged => "link_changed",
    }
}

/// The same in a few words: of hashes, what tells them apart.
pub(super) fn reload_words(facts: &Reload) -> Vec<String> {
    let short = |hash: &[u8]| HEXLOWER.encode(hash.get(..6).unwrap_or(hash));
    let became = if facts.error.is_empty() {
        format!("{} -> {}", short(&facts.previous_sha256), short(&facts.sha256))
    } else {
        format!("not loaded: {}", facts.error)
    };
    vec![became, format!("by {}", cause_word(facts))]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_says_what_is_in_force_and_why_or_what_was_wrong() {
        let loaded = Reload {
            cause: ReloadCause::Signal.into(),
            previous_sha256: vec![1; 32],
            sha256: vec![2; 32],
            error: String::new(),
        };
        assert_eq!(reload_words(&loaded), ["010101010101 -> 020202020202", "by signal"]);
        let (before, after) = ("01".repeat(32), "02".repeat(32));
        assert_eq!(
            serde_json::to_value(ReloadJson::from(loaded.clone())).expect("JSON"),
            json!({ "cause": "signal", "previous_sha256": before, "sha256": after })
        );
        let failed = Reload { sha256: Vec::new(), error: "no file".to_owned(), ..loaded };
        assert_eq!(reload_words(&failed), ["not loaded: no file", "by signal"]);
    }
}
