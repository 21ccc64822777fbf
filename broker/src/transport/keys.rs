//! Keys of shared state on the wire: facts about them, and where a page of them begins.

use tonic::Status;
use veribus_proto::v1::{KeyEpoch, ListKeysResponse};

use super::status;
use crate::{
    administer::KeyPage,
    model::{Epoch, Scope},
    record::timestamp,
    seal::KeyFact,
};

/// The scope that is meant; none if empty.
pub(super) fn scope(text: &str) -> Result<Option<Scope>, Status> {
    if text.is_empty() { Ok(None) } else { Scope::parse(text).map(Some).map_err(status::argument) }
}

/// Behind which key a page begins: `SCOPE/EPOCH`, as an answer's `next_page_token` says it.
pub(super) fn after(token: &str) -> Result<Option<(Scope, Epoch)>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let parse = |(scope, epoch): (&str, &str)| Some((Scope::parse(scope).ok()?, Epoch(epoch.parse().ok()?)));
    token.split_once('/').and_then(parse).map(Some).ok_or_else(|| status::invalid("that is no page token"))
}

pub(super) fn listed(page: KeyPage, max: usize) -> ListKeysResponse {
    let last = (page.keys.len() == max).then(|| page.keys.last()).flatten();
    ListKeysResponse {
        next_page_token: last.map(|last| format!("{}/{}", last.scope, last.epoch.0)).unwrap_or_default(),
        keys: page.keys.into_iter().map(key).collect(),
        root_key_id: page.root.as_str().to_owned(),
    }
}

pub(super) fn key(fact: KeyFact) -> KeyEpoch {
    KeyEpoch {
        scope: fact.scope.to_string(),
        epoch: fact.epoch.0,
        created_at: Some(timestamp(fact.created_at)),
        current: fact.current,
        shredded_at: fact.shredded_at.map(timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_names_the_last_key_of_a_page_and_nothing_else_is_one() {
        let token = after("tickets.open/3").expect("a token");
        assert_eq!(token, Some((Scope::parse("tickets.open").expect("a scope"), Epoch(3))));
        assert_eq!(after("").expect("the beginning"), None);
        for text in ["tickets", "tickets/", "/3", "tickets/x", "tickets/-1", "tickets/4294967296", "tickets/1/2"] {
            assert!(after(text).is_err(), "{text}");
        }
    }
}
