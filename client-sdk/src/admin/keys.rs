//! The keys that shared state is encrypted with: facts about them, and changes. Needs the permission `admin.keys`.

use veribus_proto::v1::{KeyEpoch, ListKeysRequest, RewrapKeysRequest, RotateKeysRequest, ShredKeyRequest};

use super::Admin;
use crate::{Error, present::Method};

/// The keys of the scopes, and the root key that wraps them. Facts only: no key leaves the broker.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Keys {
    /// The root key, by its id.
    pub root_key_id: String,
    /// In the order of scopes and epochs.
    pub keys: Vec<KeyEpoch>,
}

/// Keys that were rotated.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RotatedKeys {
    /// The new ones.
    pub keys: Vec<KeyEpoch>,
    /// Where that is recorded: the first of the entries.
    pub audit_index: u64,
}

/// Keys that went under a new root key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RewrappedKeys {
    /// The new root key, by its id.
    pub root_key_id: String,
    /// How many it wraps.
    pub keys_rewrapped: u32,
    /// Where that is recorded.
    pub audit_index: u64,
}

/// A key that was destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShreddedKey {
    /// The root key that wraps the others now, by its id.
    pub root_key_id: String,
    /// Where that is recorded.
    pub audit_index: u64,
}

impl Admin {
    /// The keys: of this scope, where it is given.
    ///
    /// # Errors
    /// As [`Admin::revoke`].
    pub async fn keys(&self, scope: Option<&str>) -> Result<Keys, Error> {
        let (mut keys, mut page_token) = (Vec::new(), String::new());
        loop {
            let scope = scope.unwrap_or_default().to_owned();
            let request = ListKeysRequest { scope, page_size: 0, page_token };
            let call = self
                .call(Method::LIST_KEYS, request, |mut admin, request| async move { admin.list_keys(request).await });
            let page = call.await?;
            keys.extend(page.keys);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(Keys { root_key_id: page.root_key_id, keys });
            }
        }
    }

    /// A new key for what is written from now on: of this scope, or of all. What was written before stays readable.
    ///
    /// # Errors
    /// As [`Admin::revoke`].
    pub async fn rotate_keys(&self, scope: Option<&str>) -> Result<RotatedKeys, Error> {
        let request = RotateKeysRequest { scope: scope.unwrap_or_default().to_owned() };
        let call = self
            .call(Method::ROTATE_KEYS, request, |mut admin, request| async move { admin.rotate_keys(request).await });
        let answer = call.await?;
        Ok(RotatedKeys { keys: answer.keys, audit_index: answer.audit_index })
    }

    /// Puts all keys under a new root key, and destroys the old one.
    ///
    /// # Errors
    /// As [`Admin::revoke`].
    pub async fn rewrap_keys(&self) -> Result<RewrappedKeys, Error> {
        let call = self.call(Method::REWRAP_KEYS, RewrapKeysRequest {}, |mut admin, request| async move {
            admin.rewrap_keys(request).await
        });
        let answer = call.await?;
        Ok(RewrappedKeys {
            root_key_id: answer.root_key_id,
            keys_rewrapped: answer.keys_rewrapped,
            audit_index: answer.audit_index,
        })
    }

    /// Destroys the key of one epoch: what it encrypts can be read by nobody any more. There is no way back.
    ///
    /// # Errors
    /// As [`Admin::revoke`].
    pub async fn shred_key(&self, scope: impl Into<String>, epoch: u32) -> Result<ShreddedKey, Error> {
        let request = ShredKeyRequest { scope: scope.into(), epoch };
        let call =
            self.call(Method::SHRED_KEY, request, |mut admin, request| async move { admin.shred_key(request).await });
        let answer = call.await?;
        Ok(ShreddedKey { root_key_id: answer.root_key_id, audit_index: answer.audit_index })
    }
}
