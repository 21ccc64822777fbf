//! Messages to send, and a policy to send them under.

use veribus_client::Message;
use veribus_proto::v1;

/// Leaves everything to permissions, but denies the type `forbidden`, and holds the type `suspect` and whatever
/// inspection found.
pub const OPEN_POLICY: &str = r#"package veribus

import rego.v1

allow if true

deny contains {"rule": "forbidden-type"} if input.message.type == "forbidden"

quarantine contains {"rule": "suspect-type"} if input.message.type == "suspect"

quarantine contains {"rule": "found"} if count(input.findings) > 0
"#;

/// Rules of inspection that find one phrase.
pub const SMALL_RULES: &str = r#"[[rule]]
id = "override"
kind = "injection"
severity = "high"
phrases = ["ignore all previous instructions"]
"#;

/// What the example finance agent may send to compliance under the default policy.
pub fn transaction(id: &str) -> Message {
    Message::json("finance.transactions", "finance.transaction", r#"{"amount": 12}"#).to("role:compliance").id(id)
}

/// A message of plain text in the form of the wire.
#[must_use]
pub fn wire(id: &str, topic: &str, data: &str) -> v1::Message {
    v1::Message {
        id: id.to_owned(),
        topic: topic.to_owned(),
        r#type: "test".to_owned(),
        datacontenttype: "text/plain".to_owned(),
        data: data.to_owned().into(),
        ..v1::Message::default()
    }
}
