//! Between the wire's words and ours. What does not parse is not guessed at.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use prost_types::Timestamp;
use uuid::Uuid;
use veribus_proto::v1;

use crate::{
    authenticate::Identity,
    model::{
        ATTRIBUTES_MAX, ContentType, Destination, Message, MessageId, MessageType, TEXT_BYTES_MAX, Topic, UnixMicros,
    },
    publish::Posted,
    record::{Malformed, Recorded, timestamp},
};

/// Reads a message of `sender`, or of the caller if there is none, or says what is wrong with it.
pub(super) fn message(
    caller: &Arc<Identity>,
    peer: SocketAddr,
    sender: Option<Arc<Identity>>,
    wire: Option<v1::Message>,
) -> Posted {
    let (message_id, size_bytes) = wire.as_ref().map_or_else(Default::default, |wire| (cut(&wire.id), wire.data.len()));
    let message = wire.ok_or_else(|| "there is no message".to_owned()).and_then(parse).map_err(|fault| {
        let via = sender.is_some().then(|| Arc::clone(caller));
        let sender = Arc::clone(sender.as_ref().unwrap_or(caller));
        Malformed { sender, via, peer, message_id, fault, size_bytes }
    });
    Posted { sender, message }
}

fn parse(wire: v1::Message) -> Result<Message, String> {
    Ok(Message {
        id: message_id(&wire.id)?,
        topic: Topic::parse(&wire.topic).map_err(text)?,
        kind: MessageType::parse(wire.r#type).map_err(text)?,
        subject: bounded("subject", wire.subject)?,
        time: wire.time.map(|time| micros(&time).ok_or("the time is out of range")).transpose()?,
        content_type: ContentType::parse(wire.datacontenttype).map_err(text)?,
        data: wire.data,
        destination: optional(&wire.destination, Destination::parse).map_err(text)?,
        reply_to: optional(&wire.reply_to, Topic::parse).map_err(text)?,
        correlation_id: bounded("correlation id", wire.correlation_id)?,
        attributes: attributes(wire.attributes)?,
    })
}

fn message_id(text: &str) -> Result<MessageId, String> {
    let id = if text.is_empty() { MessageId::parse(&Uuid::now_v7().to_string()) } else { MessageId::parse(text) };
    id.map_err(|error| error.to_string())
}

fn optional<T, E>(text: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<Option<T>, E> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn attributes(wire: std::collections::HashMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    if wire.len() > ATTRIBUTES_MAX {
        return Err(format!("more than {ATTRIBUTES_MAX} attributes"));
    }
    wire.into_iter().map(|(key, value)| Ok((bounded("attribute", key)?, bounded("attribute", value)?))).collect()
}

fn bounded(what: &str, text: String) -> Result<String, String> {
    if text.len() > TEXT_BYTES_MAX {
        Err(format!("the {what} is longer than {TEXT_BYTES_MAX} bytes"))
    } else {
        Ok(text)
    }
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

/// An id that is no id is still repeated to its sender and in the log, as far as it can do no harm there.
pub(super) fn cut(id: &str) -> String {
    id.chars().filter(char::is_ascii_graphic).take(MessageId::LEN_BYTES_MAX).collect()
}

/// A timestamp in microseconds; `None` out of range.
pub(super) fn micros(time: &Timestamp) -> Option<UnixMicros> {
    let micros = time.seconds.checked_mul(1_000_000)?.checked_add(i64::from(time.nanos) / 1_000)?;
    Some(UnixMicros(micros))
}

/// A delivery: the message as sent, with what its receiver needs to hold the broker to its word.
pub(super) fn delivery(recorded: &Recorded) -> v1::Delivery {
    let (permitted, decision_id) = (recorded.permitted(), recorded.decision_id());
    let (message, sender) = (permitted.message(), permitted.sender());
    v1::Delivery {
        message: Some(v1::Message {
            id: message.id.as_str().to_owned(),
            topic: message.topic.as_str().to_owned(),
            r#type: message.kind.as_str().to_owned(),
            subject: message.subject.clone(),
            time: message.time.map(timestamp),
            datacontenttype: message.content_type.as_str().to_owned(),
            data: message.data.clone(),
            destination: message.destination.as_ref().map(|to| to.text().into_owned()).unwrap_or_default(),
            reply_to: message.reply_to.as_ref().map(ToString::to_string).unwrap_or_default(),
            correlation_id: message.correlation_id.clone(),
            attributes: message.attributes.clone().into_iter().collect(),
            credentials: None,
        }),
        sender: Some(v1::VerifiedSender {
            issuer: sender.issuer().as_str().to_owned(),
            agent: sender.agent().as_str().to_owned(),
            roles: sender.roles().to_vec(),
            token_id: sender.token_id().as_str().to_owned(),
            token_expires_at: sender.expires_at().0,
        }),
        decision_id: decision_id.to_string(),
        audit_index: decision_id.audit_index(),
        content_salt: recorded.salt().to_vec(),
    }
}
