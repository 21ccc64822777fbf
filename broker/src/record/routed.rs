//! What the writer takes: a decided message, with its audience where it is permitted, and its entry drafted.

use std::{net::SocketAddr, sync::Arc};

use super::{Audience, Draft, Fingerprints, fingerprint::content_hash, prepared::Prepared};
use crate::{
    authenticate::Identity,
    decide::{Decided, Permitted},
    model::{MessageId, RefusalReason},
    seal::Fingerprint,
};

/// A message that is ready to be recorded.
#[derive(Debug)]
pub struct Routed {
    pub(super) entry: Prepared,
    pub(super) salt: [u8; 32],
    pub(super) fingerprint: Fingerprint,
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
    /// content digest: fresh for each message, from the thread's cryptographic generator.
    pub fn new(decided: Decided, fingerprints: &Fingerprints, audience: impl FnOnce(&Permitted) -> Audience) -> Self {
        let salt = rand::random();
        let submitted = decided.submitted();
        let (sender, via) = (Arc::clone(&submitted.sender), submitted.via.clone());
        let message = &submitted.content;
        let (id, size_bytes, content) = (message.id.clone(), message.size_bytes(), content_hash(message));
        let fingerprint = fingerprints.of_message(&sender, &id, &content);
        let mut draft = Draft::decided(&decided);
        draft.bind(&salt, &content, &fingerprint);
        draft.name_subject(fingerprints, message);
        let entry = Prepared::deniable(draft);
        let reason = decided.verdict().reason.unwrap_or(RefusalReason::DecisionFailed);
        let ending = match decided {
            Decided::Permitted(permitted) => {
                let audience = audience(&permitted);
                Ending::HandedOver(permitted, audience)
            }
            Decided::Held(_) => Ending::Held(id),
            Decided::Denied(_) => Ending::Refused(id, reason),
        };
        Self { entry, salt, fingerprint, sender, via, size_bytes, ending }
    }

    /// A message that could not be read as one.
    #[must_use]
    pub fn malformed(malformed: Malformed) -> Self {
        let entry = Draft::malformed(&malformed).into();
        let ending = Ending::Malformed(malformed.message_id);
        Self {
            entry,
            salt: [0; 32],
            fingerprint: Fingerprint::default(),
            sender: malformed.sender,
            via: malformed.via,
            size_bytes: malformed.size_bytes,
            ending,
        }
    }
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
