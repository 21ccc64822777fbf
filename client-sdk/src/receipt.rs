//! The broker's proof that a message was decided on and recorded.

use veribus_proto::{content::SALT_BYTES, v1};

use crate::Error;

/// What the policy said about a message that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Handed to its audience.
    Allow,
    /// Recorded and withheld.
    Quarantine,
}

/// The decision on a message is durably in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Which message.
    pub message_id: String,
    /// Whether it was handed over or withheld.
    pub decision: Decision,
    /// The decision's id.
    pub decision_id: String,
    /// Where it is recorded.
    pub audit_index: u64,
    /// With the message as it is delivered it gives the content digest in the audit entry
    /// ([`veribus_proto::content`]). `None` on a duplicate that was first recorded before the broker last started.
    pub content_salt: Option<[u8; SALT_BYTES]>,
    /// Whether the broker keeps the message. False: at most once, for those who are subscribed now.
    pub retained: bool,
    /// This message id was recorded before; this is the receipt of that first time.
    pub duplicate: bool,
    /// How many subscriptions are its audience: 0 says that nobody gets it. `None` on a duplicate of which the broker no
    /// longer knows it.
    pub recipients: Option<u32>,
}

impl Receipt {
    /// Takes a receipt only if it holds together and is for the message that was sent.
    pub(crate) fn check(wire: v1::Receipt, sent_id: &str) -> Result<Self, Error> {
        if wire.message_id != sent_id {
            return Err(Error::Protocol("a receipt is for another message than the one sent"));
        }
        if !names_index(&wire.decision_id, wire.audit_index) {
            return Err(Error::Protocol("a receipt's decision id does not name its audit index"));
        }
        let decision = match wire.decision() {
            v1::Decision::Allow => Decision::Allow,
            v1::Decision::Quarantine => Decision::Quarantine,
            v1::Decision::Deny | v1::Decision::Unspecified => {
                return Err(Error::Protocol("a receipt does not say what was decided"));
            }
        };
        let content_salt = <[u8; SALT_BYTES]>::try_from(wire.content_salt.as_slice()).ok();
        if content_salt.is_none() && !(wire.duplicate && wire.content_salt.is_empty()) {
            return Err(Error::Protocol("a receipt's content salt is not 32 bytes"));
        }
        Ok(Self {
            message_id: wire.message_id,
            decision,
            decision_id: wire.decision_id,
            audit_index: wire.audit_index,
            content_salt,
            retained: wire.retained,
            duplicate: wire.duplicate,
            recipients: wire.recipients,
        })
    }
}

/// Whether a decision id is of the form `NODE-INDEX` with that index.
pub(crate) fn names_index(decision_id: &str, audit_index: u64) -> bool {
    let Some((node, index)) = decision_id.rsplit_once('-') else { return false };
    let canonical = index == "0" || index.starts_with(|first: char| matches!(first, '1'..='9'));
    canonical && !node.is_empty() && index.parse() == Ok(audit_index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> v1::Receipt {
        v1::Receipt {
            message_id: "m".to_owned(),
            decision: v1::Decision::Allow.into(),
            decision_id: "node-7".to_owned(),
            audit_index: 7,
            content_salt: vec![1; SALT_BYTES],
            retained: false,
            duplicate: false,
            recipients: Some(1),
        }
    }

    #[test]
    fn a_sound_receipt_is_taken() {
        let receipt = Receipt::check(sound(), "m").expect("sound");
        assert_eq!((receipt.audit_index, receipt.content_salt), (7, Some([1; SALT_BYTES])));
    }

    #[test]
    fn a_receipt_that_does_not_hold_together_is_not_taken() {
        let breakages: [fn(&mut v1::Receipt); 6] = [
            |receipt| receipt.message_id = "other".to_owned(),
            |receipt| receipt.decision_id = "node-17".to_owned(),
            |receipt| receipt.decision_id = "7".to_owned(),
            |receipt| receipt.decision = v1::Decision::Deny.into(),
            |receipt| receipt.content_salt.truncate(31),
            |receipt| receipt.content_salt.clear(),
        ];
        for (number, breakage) in breakages.into_iter().enumerate() {
            let mut receipt = sound();
            breakage(&mut receipt);
            assert!(matches!(Receipt::check(receipt, "m"), Err(Error::Protocol(_))), "breakage {number}");
        }
    }

    #[test]
    fn an_index_is_named_in_one_way_only() {
        assert!(names_index("node-0", 0) && names_index("a-b-12", 12));
        for id in ["node-07", "node-+7", "-7", "node-", "7", "node7", "node-77", ""] {
            assert!(!names_index(id, 7), "{id:?}");
        }
    }

    #[test]
    fn only_a_duplicate_may_come_without_its_salt() {
        let duplicate = v1::Receipt { duplicate: true, content_salt: Vec::new(), ..sound() };
        assert_eq!(Receipt::check(duplicate, "m").expect("sound").content_salt, None);
    }
}
