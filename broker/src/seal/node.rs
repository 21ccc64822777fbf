//! The key of one broker node: by it the node recognises what it has recorded, while nobody who reads the log can guess.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::{TryRng as _, rngs::SysRng};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{
    envelope::{self, KEY_BYTES, OpenError, SALT_BYTES, SealError},
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
    pages: Zeroizing<[u8; KEY_BYTES]>,
}

impl NodeKey {
    pub(super) fn new(key: &ScopeKey) -> Result<Self, SealError> {
        let key_for = |label: &'static [u8]| {
            let mut derived = Zeroizing::new([0; KEY_BYTES]);
            envelope::expand(&Hkdf::<Sha256>::new(None, key.bytes()), &[label], &mut derived)?;
            Ok(derived)
        };
        let derive = |label: &'static [u8]| {
            let derived = key_for(label)?;
            Hmac::new_from_slice(derived.as_slice()).map_err(|_| SealError::TooLong)
        };
        Ok(Self {
            messages: derive(b"veribus/1/node/message")?,
            subjects: derive(b"veribus/1/node/subject")?,
            correlation_ids: derive(b"veribus/1/node/correlation-id")?,
            pages: key_for(b"veribus/1/node/page")?,
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

    /// A page token: where the next page begins, sealed for whom and what it was made. URL-safe text.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn close_page(&self, context: &[&str], place: &str) -> Result<String, SealError> {
        let mut salt = [0; SALT_BYTES];
        SysRng.try_fill_bytes(&mut salt).map_err(|_| SealError::Random)?;
        let sealed = envelope::close(&self.pages, &envelope::PAGE, &page_context(context)?, &salt, place.as_bytes())?;
        Ok(BASE64URL_NOPAD.encode(&sealed))
    }

    /// Opens a page token that was made for the same.
    ///
    /// # Errors
    /// [`OpenError`]: it is another's, or none.
    pub fn open_page(&self, context: &[&str], token: &str) -> Result<String, OpenError> {
        let sealed = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| OpenError)?;
        let context = page_context(context).map_err(|_| OpenError)?;
        let place = envelope::open(&self.pages, &envelope::PAGE, &context, &sealed)?;
        String::from_utf8(place).map_err(|_| OpenError)
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

fn page_context(parts: &[&str]) -> Result<Vec<u8>, SealError> {
    envelope::length_prefixed(&parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>())
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
    fn a_page_token_shows_nothing_and_is_good_for_what_it_was_made_for() {
        let key = node(1);
        let token = key.close_page(&["iss", "a", "p"], "p/hidden-salary").expect("closed");
        assert_eq!(key.open_page(&["iss", "a", "p"], &token), Ok("p/hidden-salary".to_owned()));
        assert_ne!(key.close_page(&["iss", "a", "p"], "p/hidden-salary"), Ok(token.clone()));
        for context in [["iss", "b", "p"], ["iss", "a", "q"], ["is", "sa", "p"]] {
            assert_eq!(key.open_page(&context, &token), Err(OpenError));
        }
        assert_eq!(node(2).open_page(&["iss", "a", "p"], &token), Err(OpenError));
        for token in ["", "p/hidden-salary", &token[..token.len() - 1], &format!("B{}", &token[1..])] {
            assert_eq!(key.open_page(&["iss", "a", "p"], token), Err(OpenError), "{token}");
        }
    }

    #[test]
    fn it_does_not_show_itself() {
        assert_eq!(format!("{:?}", node(7)), "NodeKey(..)");
    }
}
