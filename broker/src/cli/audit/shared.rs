//! What entries say about shared state and its keys.

use serde::Serialize;
use veribus_proto::v1::{KeyFacts, ListedValues, Reader, StateFacts};

use crate::cli::instant;

/// What happened to shared state, for programs.
#[derive(Debug, Serialize)]
pub(super) struct StateJson {
    #[serde(skip_serializing_if = "is_zero")]
    previous_revision: u64,
    #[serde(skip_serializing_if = "is_zero_epoch")]
    epoch: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    reads: Vec<ReadJson>,
    #[serde(skip_serializing_if = "is_zero_epoch")]
    withheld: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    listed: Option<ListedJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    readers: Vec<ReaderJson>,
}

/// What one page of a list showed.
#[derive(Debug, Serialize)]
struct ListedJson {
    count: u32,
    first_key: String,
    last_key: String,
    hidden: u32,
}

/// One of several who were shown the same.
#[derive(Debug, Serialize)]
struct ReaderJson {
    issuer: String,
    agent: String,
    token_id: String,
    watches: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct ReadJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    revision: u64,
}

/// Which keys changed, for programs.
#[derive(Debug, Serialize)]
pub(super) struct KeysJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    #[serde(skip_serializing_if = "is_zero_epoch")]
    epoch: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    root_key_id: String,
}

impl From<StateFacts> for StateJson {
    fn from(facts: StateFacts) -> Self {
        let reads = facts.reads.into_iter().map(|read| ReadJson { key: read.key, revision: read.revision });
        let readers = facts.readers.into_iter().map(|Reader { issuer, agent, token_id, watches }| ReaderJson {
            issuer,
            agent,
            token_id,
            watches,
        });
        let listed = facts.listed.map(|ListedValues { count, first_key, last_key, hidden }| ListedJson {
            count,
            first_key,
            last_key,
            hidden,
        });
        Self {
            previous_revision: facts.previous_revision,
            epoch: facts.epoch,
            expires_at: facts.expires_at.map(|end| instant::from_seconds(end.seconds)),
            reads: reads.collect(),
            withheld: facts.withheld,
            listed,
            readers: readers.collect(),
        }
    }
}

impl From<KeyFacts> for KeysJson {
    fn from(facts: KeyFacts) -> Self {
        Self { scope: facts.scope, epoch: facts.epoch, root_key_id: facts.root_key_id }
    }
}

/// The same in a few words.
pub(super) fn state_words(facts: &StateFacts) -> Vec<String> {
    let mut words = Vec::new();
    words.extend((facts.previous_revision > 0).then(|| format!("after {}", facts.previous_revision)));
    match facts.reads.as_slice() {
        [] => {}
        [one] => words.push(format!("revision {}", one.revision)),
        several => words.push(format!("{} values", several.len())),
    }
    if let Some(listed) = &facts.listed {
        words.push(format!("{} listed", listed.count));
        words.extend((listed.hidden > 0).then(|| format!("{} hidden", listed.hidden)));
    }
    if !facts.readers.is_empty() {
        let watches: usize = facts.readers.iter().map(|reader| reader.watches.len()).sum();
        words.push(format!("to {watches} watches of {} tokens", facts.readers.len()));
    }
    words.extend((facts.withheld > 0).then(|| format!("{} withheld", facts.withheld)));
    words
}

/// The same in a few words.
pub(super) fn key_words(facts: &KeyFacts) -> Vec<String> {
    let mut words = Vec::new();
    words.extend((!facts.scope.is_empty()).then(|| format!("{} epoch {}", facts.scope, facts.epoch)));
    words.extend((!facts.root_key_id.is_empty()).then(|| format!("root key {}", facts.root_key_id)));
    words
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
const fn is_zero_epoch(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use veribus_proto::v1::StateRead;

    use super::*;

    #[test]
    fn a_read_says_what_was_read_and_a_change_of_keys_which() {
        let reads = vec![StateRead { key: String::new(), revision: 7 }];
        let facts = StateFacts { reads, ..StateFacts::default() };
        assert_eq!(state_words(&facts), ["revision 7"]);
        assert_eq!(
            serde_json::to_value(StateJson::from(facts)).expect("JSON"),
            json!({ "reads": [{ "revision": 7 }] })
        );
        let keys = KeyFacts { scope: "notes".to_owned(), epoch: 2, root_key_id: "ab".to_owned() };
        assert_eq!(key_words(&keys), ["notes epoch 2", "root key ab"]);
        let json = serde_json::to_value(KeysJson::from(keys)).expect("JSON");
        assert_eq!(json, json!({ "scope": "notes", "epoch": 2, "root_key_id": "ab" }));
    }
}
