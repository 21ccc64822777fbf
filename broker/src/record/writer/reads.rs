//! What watchers are shown in one commit: who is shown the same stands in the same entry.

use std::{collections::HashMap, vec};

use prost::Message as _;
use veribus_proto::v1::{Reader, StateFacts};

use crate::{authenticate::Identity, model::StatePrefix, record::prepared::Prepared};

/// How many bytes of readers one entry names, about.
const READERS_BYTES_MAX: usize = 8 * 1024;

/// The reads of one commit, before they are recorded.
#[derive(Default)]
pub(super) struct Reads {
    entries: Vec<(Prepared, StateFacts)>,
    /// The latest entry for what is read, and how many bytes of readers it names.
    latest: HashMap<Vec<u8>, (usize, usize)>,
}

impl Reads {
    /// Adds what one watcher is shown, under a decision; returns the place of its entry.
    pub(super) fn add(
        &mut self,
        entry: Prepared,
        prefix: &StatePrefix,
        state: StateFacts,
        reader: &Identity,
        opened_by: u64,
    ) -> usize {
        let mut key = prefix.to_string().into_bytes();
        key.push(0);
        state.encode(&mut key).unwrap_or_default();
        entry.encode_decision(&mut key);
        let reader = Reader {
            issuer: reader.issuer().as_str().to_owned(),
            agent: reader.agent().as_str().to_owned(),
            token_id: reader.token_id().as_str().to_owned(),
            watches: vec![opened_by],
        };
        let bytes = reader.encoded_len();
        if let Some((place, named)) = self.latest.get_mut(&key)
            && *named + bytes <= READERS_BYTES_MAX
            && let Some((_, state)) = self.entries.get_mut(*place)
        {
            *named += bytes;
            name(reader, &mut state.readers);
            return *place;
        }
        let place = self.entries.len();
        self.latest.insert(key, (place, bytes));
        self.entries.push((entry, StateFacts { readers: vec![reader], ..state }));
        place
    }

    /// The entries in their places. One reader alone is named as the actor.
    pub(super) fn take(&mut self) -> vec::IntoIter<(Prepared, StateFacts)> {
        self.latest.clear();
        for (_, state) in &mut self.entries {
            if let [Reader { watches, .. }] = &state.readers[..]
                && watches.len() == 1
            {
                state.readers.clear();
            }
        }
        std::mem::take(&mut self.entries).into_iter()
    }
}

fn name(reader: Reader, readers: &mut Vec<Reader>) {
    let is_same = |known: &&mut Reader| {
        (&known.issuer, &known.agent, &known.token_id) == (&reader.issuer, &reader.agent, &reader.token_id)
    };
    match readers.iter_mut().find(is_same) {
        Some(known) => known.watches.extend(reader.watches),
        None => readers.push(reader),
    }
}
