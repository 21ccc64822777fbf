//! The wire API of Veribus and the formats that both sides compute.
//!
//! - [`v1`]: the generated messages, clients and servers of package `veribus.v1`.
//! - [`chain`]: the audit log's leaf hash and hash chain, and their verification.
//! - [`entries`]: the length-prefixed form in which entries are stored and exported.
//! - [`codec`]: how requests are decoded, in bounded memory.
//! - [`content`]: the salted digest of what a message or a value says.
//!
//! Pure: no I/O, no async.

pub mod chain;
pub mod codec;
pub mod content;
pub mod entries;

/// The generated API, package `veribus.v1`.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated; the documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("veribus.v1");

    /// Shows that there is a token, and not the token.
    impl std::fmt::Debug for Credentials {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Credentials(..)")
        }
    }
}

/// The serialized `FileDescriptorSet` of the API, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/veribus_descriptor.bin"));
