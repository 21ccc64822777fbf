//! Compiles `veribus/v1/*.proto` with protox, so that no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 5] = [
    "veribus/v1/message.proto",
    "veribus/v1/broker.proto",
    "veribus/v1/audit.proto",
    "veribus/v1/admin.proto",
    "veribus/v1/state.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=veribus");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("veribus_descriptor.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".veribus.v1.Message.data")
        .bytes(".veribus.v1.StoredEntry.entry")
        .bytes(".veribus.v1.PutRequest.value")
        .bytes(".veribus.v1.StateValue.value")
        .bytes(".veribus.v1.BackupChunk.entries")
        .bytes(".veribus.v1.BackupRecord.key")
        .bytes(".veribus.v1.BackupRecord.value")
        // Tokens are secret: what shows them is written by hand.
        .skip_debug(["veribus.v1.Credentials"])
        .codec_path("crate::codec::BoundedCodec")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
