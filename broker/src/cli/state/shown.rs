//! Values and what is known of them, for people and for programs.

use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use serde_json::{Map, Value, json};
use veribus_client::{StateMetadata, StateValue};

use crate::cli::instant;

pub(super) const COLUMNS: [&str; 7] = ["KEY", "REVISION", "BYTES", "TYPE", "WRITER", "WRITTEN", "ENDS"];

/// One row of a listing.
pub(super) fn row(metadata: &StateMetadata) -> [String; 7] {
    [
        metadata.key.clone(),
        metadata.revision.to_string(),
        metadata.size_bytes.to_string(),
        metadata.content_type.clone(),
        metadata.writer.agent.clone(),
        time(metadata.written_at),
        metadata.expires_at.map_or_else(|| "-".to_owned(), time),
    ]
}

/// A value in a line: as text if it is, else how long it is.
pub(super) fn text(value: &StateValue) -> String {
    value.text().map_or_else(|_| format!("({} bytes)", value.value.len()), str::to_owned)
}

pub(super) fn value_json(value: &StateValue) -> Value {
    let mut object = metadata_object(&value.metadata);
    match value.text() {
        Ok(text) => object.insert("value".to_owned(), json!(text)),
        Err(_) => object.insert("value_base64".to_owned(), json!(BASE64.encode(&value.value))),
    };
    object.insert("audit_index".to_owned(), json!(value.audit_index));
    Value::Object(object)
}

pub(super) fn listed_json(metadata: &StateMetadata) -> Value {
    let mut object = metadata_object(metadata);
    object.insert("earlier_revisions".to_owned(), json!(metadata.earlier_revisions));
    Value::Object(object)
}

fn metadata_object(metadata: &StateMetadata) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("key", json!(metadata.key));
    put("revision", json!(metadata.revision));
    put("content_type", json!(metadata.content_type));
    put("size_bytes", json!(metadata.size_bytes));
    put("written_at", json!(time(metadata.written_at)));
    put("expires_at", json!(metadata.expires_at.map(time)));
    put("writer", json!({"issuer": metadata.writer.issuer, "agent": metadata.writer.agent}));
    object
}

fn time(time: SystemTime) -> String {
    let micros = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    };
    instant::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_before_and_after_1970_are_told() {
        assert_eq!(time(UNIX_EPOCH + Duration::from_micros(1)), "1970-01-01T00:00:00.000001Z");
        assert_eq!(time(UNIX_EPOCH - Duration::from_secs(1)), "1969-12-31T23:59:59.000000Z");
    }
}
