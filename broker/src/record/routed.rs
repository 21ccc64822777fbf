//! What the writer takes: a decided message, with its audience where it is permitted, and its entry drafted.

use std::{net::SocketAddr, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{Audience, Draft, duplicates::ContentHash, prepared::Prepared};
use crate::{
    authenticate::Identity,
    decide::{Decided, Permitted},
    model::{Destination, Message, MessageId, RefusalReason, Topic},
};

/// A message that is ready to be recorded.
#[derive(Debug)]
pub struct Routed {
    pub(super) entry: Prepared,
    pub(super) salt: [u8; 32],
    pub(super) content: ContentHash,
    pub(super) sender: Arc<Identity>,
    pub(super) via: Option<Arc<Identity>>,
    pub(super) size_bytes: usize,
    pub(super) ending: Ending,
}

/// Where the message ends. Only a permitted one has an audience.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every message is of the large kind")]
pub(super) enum Ending {
    HandedOver(Permitted, Audience),
    Held(MessageId),
    Refused(MessageId, RefusalReason),
    Malformed(String),
}

impl Routed {
    /// Gives a permitted message the audience that `audience` finds for it; the others have none. Makes the salt of the
    /// payload digest: fresh for each message, from the thread's cryptographic generator.
    pub fn new(decided: Decided, audience: impl FnOnce(&Permitted) -> Audience) -> Self {
        let salt = rand::random();
        let (inspected, verdict) = (decided.inspected(), decided.verdict());
        let entry = Prepared::deniable(Draft::decided(inspected, verdict, &salt));
        let (sender, via) = (Arc::clone(inspected.sender()), inspected.via().cloned());
        let id = inspected.message().id.clone();
        let size_bytes = inspected.message().size_bytes();
        let content = content_hash(inspected.message());
        let reason = verdict.reason.unwrap_or(RefusalReason::DecisionFailed);
        let ending = match decided {
            Decided::Permitted(permitted) => {
                let audience = audience(&permitted);
                Ending::HandedOver(permitted, audience)
            }
            Decided::Held(_) => Ending::Held(id),
            Decided::Denied(_) => Ending::Refused(id, reason),
        };
        Self { entry, salt, content, sender, via, size_bytes, ending }
    }

    /// A message that could not be read as one.
    #[must_use]
    pub fn malformed(malformed: Malformed) -> Self {
        let entry = Draft::malformed(&malformed).into();
        let ending = Ending::Malformed(malformed.message_id);
        Self {
            entry,
            salt: [0; 32],
            content: [0; 16],
            sender: malformed.sender,
            via: malformed.via,
            size_bytes: malformed.size_bytes,
            ending,
        }
    }
}

/// Over everything that the message says, each part behind its length.
fn content_hash(message: &Message) -> ContentHash {
    let destination = message.destination.as_ref().map(Destination::text).unwrap_or_default();
    let time = message.time.map_or(0, |time| time.0).to_be_bytes();
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(bytes.len().to_be_bytes());
        hasher.update(bytes);
    };
    for text in [message.topic.as_str(), message.kind.as_str(), message.content_type.as_str(), &destination] {
        part(text.as_bytes());
    }
    part(message.reply_to.as_ref().map_or("", Topic::as_str).as_bytes());
    part(message.subject.as_bytes());
    part(message.correlation_id.as_bytes());
    part(&time);
    message.attributes.iter().flat_map(|(key, value)| [key, value]).for_each(|text| part(text.as_bytes()));
    part(&message.data);
    hasher.finalize().first_chunk().copied().unwrap_or_default()
}

/// A message of a known sender that could not be read as one.
#[derive(Debug)]
pub struct Malformed {
    /// Who sent it.
    pub sender: Arc<Identity>,
    /// Who brought it, where that is not the sender.
    pub via: Option<Arc<Identity>>,
    /// From where.
    pub peer: SocketAddr,
    /// The message id as sent, cut to what an entry can hold.
    pub message_id: String,
    /// What is wrong with it, in our own words.
    pub fault: String,
    /// How large its data is, in bytes.
    pub size_bytes: usize,
}
