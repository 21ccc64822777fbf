//! Who gets a message: fixed before the message is recorded, and named in its entry.

use std::sync::{Arc, OnceLock};

use sha2::{Digest as _, Sha256};

use crate::model::{AgentId, Issuer, SubscriptionId};

/// One subscription that gets a message, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Who vouches for the agent.
    pub issuer: Issuer,
    /// The agent, as verified.
    pub agent: AgentId,
}

/// Everybody who gets a message, in order of their subscriptions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audience(Arc<Listed>);

#[derive(Debug)]
struct Listed {
    recipients: Box<[Recipient]>,
    digest: OnceLock<AudienceDigest>,
}

/// SHA-256 of the subscriptions of an audience, or of a part of one.
pub(super) type AudienceDigest = [u8; 32];

impl Audience {
    /// These recipients.
    #[must_use]
    pub fn new(recipients: Box<[Recipient]>) -> Self {
        Self(Arc::new(Listed { recipients, digest: OnceLock::new() }))
    }

    /// By what it is known where it comes again.
    pub(super) fn digest(&self) -> &AudienceDigest {
        self.0.digest.get_or_init(|| digest(&self.0.recipients))
    }

    /// One by one.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        &self.0.recipients
    }

    /// Whether it is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.recipients.is_empty()
    }
}

impl Recipient {
    pub(super) fn bytes(&self) -> usize {
        self.issuer.as_str().len() + self.agent.as_str().len() + 32
    }

    /// Whether a part ends with it: one in eight does, so that where parts end depends on who is in them and not on how many
    /// come before (content-defined chunking).
    const fn ends_part(&self) -> bool {
        // 2^64 divided by the golden ratio spreads ids that follow each other (Knuth, TAOCP 3, 6.4).
        self.subscription.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61 == 0
    }
}

/// How many recipients one part has at most.
const PART_MAX: usize = 64;
/// How many other entries one may refer to, ten bytes each.
pub(super) const REFERENCES_MAX: usize = 2_048;

/// An audience in parts that stay the same where it changes elsewhere.
pub(super) fn parts(recipients: &[Recipient]) -> impl Iterator<Item = &[Recipient]> {
    recipients.split_inclusive(Recipient::ends_part).flat_map(|part| part.chunks(PART_MAX))
}

pub(super) fn digest(recipients: &[Recipient]) -> AudienceDigest {
    let mut digest = Sha256::new();
    recipients.iter().for_each(|one| digest.update(one.subscription.0.to_be_bytes()));
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn recipients(ids: impl Iterator<Item = u64>) -> Vec<Recipient> {
        let (issuer, agent) = (Issuer::parse("https://issuer.example"), AgentId::parse("agent"));
        let (issuer, agent) = (issuer.expect("an issuer"), agent.expect("an agent"));
        ids.map(|id| Recipient { subscription: SubscriptionId(id), issuer: issuer.clone(), agent: agent.clone() })
            .collect()
    }

    #[test]
    fn one_who_comes_or_goes_changes_one_part_or_two() {
        let ids = |leaves: Option<u64>| (0..5_000u64).map(move |id| id * 7).filter(move |id| Some(*id) != leaves);
        let before = recipients(ids(None));
        let known: HashSet<&[Recipient]> = parts(&before).collect();
        assert!((400..1_000).contains(&known.len()), "{}", known.len());
        for leaves in (0..5_000u64).step_by(97) {
            let after = recipients(ids(Some(leaves * 7)));
            assert_eq!(parts(&after).flatten().count(), 4_999);
            let new: usize = parts(&after).filter(|part| !known.contains(part)).map(<[Recipient]>::len).sum();
            assert!(new <= 2 * PART_MAX, "{new}");
        }
    }
}
