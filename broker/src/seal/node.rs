//! The key of one broker node: by it the node recognises what it has recorded, while nobody who reads the log can guess.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{
    envelope::{self, KEY_BYTES, SealError},
    key::ScopeKey,
};

/// Length of a [`Fingerprint`].
pub const FINGERPRINT_BYTES: usize = 16;

/// The first half of an HMAC-SHA-256 (RFC 2104, section 5: truncated output).
pub type Fingerprint = [u8; FINGERPRINT_BYTES];

/// HMAC-SHA-256 under keys derived from the node's own, one for each use.
#[derive(Clone)]
pub struct NodeKey {
    messages: Hmac<Sha256>,
    subjects: Hmac<Sha256>,
    correlation_ids: Hmac<Sha256>,
}

impl NodeKey {
    pub(super) fn new(key: &ScopeKey) -> Result<Self, SealError> {
        let derive = |label: &'static [u8]| {
            let mut derived = Zeroizing::new([0; KEY_BYTES]);
            envelope::expand(&Hkdf::<Sha256>::new(None, key.bytes()), &[label], &mut derived)?;
            Hmac::new_from_slice(derived.as_slice()).map_err(|_| SealError::TooLong)
        };
        Ok(Self {
            messages: derive(b"veribus/1/node/message")?,
            subjects: derive(b"veribus/1/node/subject")?,
            correlation_ids: derive(b"veribus/1/node/correlation-id")?,
        })
    }

    /// Of a message: who sent it, under which id, and its content hash. Equal ones are the same message.
    #[must_use]
    pub fn message(&self, [issuer, agent, id]: [&str; 3], content: &[u8; 32]) -> Fingerprint {
        let mut mac = self.messages.clone();
        for text in [issuer, agent, id] {
            mac.update(&(text.len() as u64).to_be_bytes());
            mac.update(text.as_bytes());
        }
        mac.update(content);
        half(mac)
    }

    /// Of a subject.
    #[must_use]
    pub fn subject(&self, text: &str) -> Fingerprint {
        half(self.subjects.clone().chain_update(text))
    }

    /// Of a correlation id.
    #[must_use]
    pub fn correlation_id(&self, text: &str) -> Fingerprint {
        half(self.correlation_ids.clone().chain_update(text))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

fn half(mac: Hmac<Sha256>) -> Fingerprint {
    mac.finalize().into_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeKey {
        NodeKey::new(&ScopeKey::from_bytes(&[byte; KEY_BYTES])).expect("a key")
    }

    #[test]
    fn no_two_senders_ids_contents_uses_or_nodes_share_a_fingerprint() {
        let key = node(1);
        let message = |parts| key.message(parts, &[3; 32]);
        let all = [
            message(["iss", "a", "1"]),
            message(["iss", "a1", ""]),
            message(["issa", "", "1"]),
            message(["iss", "", "a1"]),
            key.message(["iss", "a", "1"], &[4; 32]),
            node(2).message(["iss", "a", "1"], &[3; 32]),
            key.subject("7"),
            key.correlation_id("7"),
            node(2).subject("7"),
        ];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_eq!((message(["iss", "a", "1"]), key.subject("7")), (all[0], all[6]), "and it is the same each time");
    }

    #[test]
    fn it_does_not_show_itself() {
        assert_eq!(format!("{:?}", node(7)), "NodeKey(..)");
    }
}
