//! A message as it arrives, and the check that the broker keeps its word about it.

use bytes::Bytes;
use veribus_proto::{
    content::{self, MessageContent, SALT_BYTES},
    v1,
};

use super::pattern;
use crate::{Error, error::DeliveryFault, receipt::names_index};

/// Who sent a message, as the broker verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedSender {
    /// Who issued its token.
    pub issuer: String,
    /// The agent's id, unique per issuer.
    pub agent: String,
    /// The roles that its token names.
    pub roles: Vec<String>,
    /// The token's id.
    pub token_id: String,
    /// Seconds since the Unix epoch.
    pub token_expires_at: i64,
}

/// A message that the broker handed over, and what proves its way here.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Delivery {
    /// As it was sent.
    pub message: v1::Message,
    /// Who sent it. Nothing in the message itself can say so.
    pub sender: VerifiedSender,
    /// The decision that let it pass.
    pub decision_id: String,
    /// Where that decision is recorded.
    pub audit_index: u64,
    /// See [`Delivery::content_digest`].
    pub content_salt: [u8; SALT_BYTES],
}

impl Delivery {
    /// The topic that it was published on.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.message.topic
    }

    /// The payload.
    #[must_use]
    pub const fn data(&self) -> &Bytes {
        &self.message.data
    }

    /// The payload as text.
    ///
    /// # Errors
    /// [`Error::NotText`] where it is not UTF-8.
    pub fn text(&self) -> Result<&str, Error> {
        std::str::from_utf8(&self.message.data).map_err(|_| Error::NotText)
    }

    /// What `message.content_digest` of the audit entry must be, if this is the message that was decided on.
    #[must_use]
    pub fn content_digest(&self) -> [u8; 32] {
        content::digest(&self.content_salt, &MessageContent::from(&self.message).hash())
    }
}

/// Checks the deliveries of one server stream.
#[derive(Debug)]
pub(super) struct Checker<'a> {
    patterns: &'a [String],
    last_index: Option<u64>,
}

impl<'a> Checker<'a> {
    pub(super) const fn new(patterns: &'a [String]) -> Self {
        Self { patterns, last_index: None }
    }

    /// Takes a delivery only if it holds together and was asked for.
    pub(super) fn check(&mut self, wire: v1::Delivery) -> Result<Delivery, Error> {
        let audit_index = wire.audit_index;
        self.take(wire).map_err(|fault| Error::InconsistentDelivery { audit_index, fault })
    }

    fn take(&mut self, wire: v1::Delivery) -> Result<Delivery, DeliveryFault> {
        let message = wire.message.ok_or(DeliveryFault::NoMessage)?;
        if message.credentials.is_some() {
            return Err(DeliveryFault::Credentials);
        }
        let sender = wire.sender.and_then(verified).ok_or(DeliveryFault::NoSender)?;
        let content_salt = wire.content_salt.try_into().map_err(|_| DeliveryFault::Salt)?;
        if !names_index(&wire.decision_id, wire.audit_index) {
            return Err(DeliveryFault::DecisionId);
        }
        if !self.patterns.iter().any(|pattern| pattern::matches(pattern, &message.topic)) {
            return Err(DeliveryFault::Topic);
        }
        if self.last_index.is_some_and(|last| wire.audit_index <= last) {
            return Err(DeliveryFault::Order);
        }
        self.last_index = Some(wire.audit_index);
        Ok(Delivery { message, sender, decision_id: wire.decision_id, audit_index: wire.audit_index, content_salt })
    }
}

fn verified(wire: v1::VerifiedSender) -> Option<VerifiedSender> {
    let v1::VerifiedSender { issuer, agent, roles, token_id, token_expires_at } = wire;
    let is_named = !issuer.is_empty() && !agent.is_empty();
    is_named.then_some(VerifiedSender { issuer, agent, roles, token_id, token_expires_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(audit_index: u64) -> v1::Delivery {
        v1::Delivery {
            message: Some(v1::Message {
                topic: "a.b".to_owned(),
                data: Bytes::from_static(b"data"),
                ..v1::Message::default()
            }),
            sender: Some(v1::VerifiedSender {
                issuer: "https://issuer".to_owned(),
                agent: "agent".to_owned(),
                ..v1::VerifiedSender::default()
            }),
            decision_id: format!("node-{audit_index}"),
            audit_index,
            content_salt: vec![5; SALT_BYTES],
        }
    }

    fn fault(wire: v1::Delivery) -> Option<DeliveryFault> {
        let patterns = ["a.*".to_owned(), "c".to_owned()];
        match Checker::new(&patterns).check(wire) {
            Ok(_) => None,
            Err(Error::InconsistentDelivery { fault, .. }) => Some(fault),
            Err(other) => panic!("{other}"),
        }
    }

    fn broken(breakage: impl FnOnce(&mut v1::Delivery)) -> Option<DeliveryFault> {
        let mut wire = sound(7);
        breakage(&mut wire);
        fault(wire)
    }

    #[test]
    fn a_sound_delivery_is_taken_and_gives_the_digest_of_the_audit_entry() {
        let patterns = [">".to_owned()];
        let delivery = Checker::new(&patterns).check(sound(7)).expect("sound");
        assert_eq!((delivery.topic(), delivery.text().expect("text")), ("a.b", "data"));
        let content = MessageContent { topic: "a.b", data: b"data", ..MessageContent::default() };
        assert_eq!(delivery.content_digest(), content::digest(&[5; 32], &content.hash()));
    }

    #[test]
    fn a_delivery_that_does_not_hold_together_is_not_taken() {
        assert_eq!(broken(|_| ()), None);
        assert_eq!(broken(|wire| wire.message = None), Some(DeliveryFault::NoMessage));
        assert_eq!(broken(|wire| wire.sender = None), Some(DeliveryFault::NoSender));
        let forward = |wire: &mut v1::Delivery| {
            wire.message.as_mut().expect("there").credentials = Some(v1::Credentials::default());
        };
        assert_eq!(broken(forward), Some(DeliveryFault::Credentials));
        assert_eq!(broken(|wire| wire.decision_id = "node-8".to_owned()), Some(DeliveryFault::DecisionId));
        assert_eq!(broken(|wire| wire.content_salt.push(0)), Some(DeliveryFault::Salt));
        assert_eq!(broken(|wire| wire.content_salt.clear()), Some(DeliveryFault::Salt));
    }

    #[test]
    fn a_sender_without_an_issuer_or_a_name_is_none() {
        let breakages: [fn(&mut v1::VerifiedSender); 2] =
            [|sender| sender.issuer.clear(), |sender| sender.agent.clear()];
        for clear in breakages {
            assert_eq!(broken(|wire| clear(wire.sender.as_mut().expect("there"))), Some(DeliveryFault::NoSender));
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_taken() {
        let topic = |topic: &str| broken(|wire| wire.message.as_mut().expect("there").topic = topic.to_owned());
        assert_eq!(topic("a.b.c"), Some(DeliveryFault::Topic));
        assert_eq!(topic("c"), None);
    }

    #[test]
    fn indexes_must_rise() {
        let patterns = [">".to_owned()];
        let mut checker = Checker::new(&patterns);
        assert!(checker.check(sound(7)).is_ok() && checker.check(sound(9)).is_ok());
        for index in [9, 8] {
            let error = checker.check(sound(index)).expect_err("not after 9");
            let audit_index = index;
            assert!(
                matches!(error, Error::InconsistentDelivery { audit_index: at, fault: DeliveryFault::Order } if at == audit_index)
            );
        }
    }
}
