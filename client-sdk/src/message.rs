//! A message on its way out.

use std::{fmt, time::SystemTime};

use bytes::Bytes;
use uuid::Uuid;
use veribus_proto::v1;

use crate::Credentials;

/// A message to publish. Its id is a fresh UUIDv7 unless set.
///
/// ```
/// # use veribus_client::Message;
/// let message = Message::json("finance.transfers", "finance.transaction", r#"{"amount": 12}"#)
///     .to("role:compliance")
///     .correlation_id("case-7");
/// ```
#[derive(Clone, PartialEq)]
#[must_use]
pub struct Message {
    wire: v1::Message,
    speaker: Option<Credentials>,
}

/// A message as it goes out, but for the proof of its speaker: that is made anew each time it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) wire: v1::Message,
    pub(crate) speaker: Option<Credentials>,
}

impl Message {
    /// A message of any content; its content type is `application/octet-stream` unless set.
    pub fn new(topic: impl Into<String>, kind: impl Into<String>, data: impl Into<Bytes>) -> Self {
        let wire = v1::Message {
            id: fresh_id(),
            topic: topic.into(),
            r#type: kind.into(),
            data: data.into(),
            ..v1::Message::default()
        };
        Self { wire, speaker: None }
    }

    /// A message of JSON text. Whether it is JSON is for the broker to say.
    pub fn json(topic: impl Into<String>, kind: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(topic, kind, text.into()).content_type("application/json")
    }

    /// A message of plain text.
    pub fn text(topic: impl Into<String>, kind: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(topic, kind, text.into()).content_type("text/plain; charset=utf-8")
    }

    /// The media type of the data.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.wire.datacontenttype = content_type.into();
        self
    }

    /// For whom alone it is meant: an agent's id or `role:NAME`.
    pub fn to(mut self, destination: impl Into<String>) -> Self {
        self.wire.destination = destination.into();
        self
    }

    /// An id of your own, unique among your messages: a second publish with it returns the first receipt. Empty
    /// changes nothing.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        let id = id.into();
        if !id.is_empty() {
            self.wire.id = id;
        }
        self
    }

    /// What the message is about, free text.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.wire.subject = subject.into();
        self
    }

    /// The topic on which an answer is expected.
    pub fn reply_to(mut self, topic: impl Into<String>) -> Self {
        self.wire.reply_to = topic.into();
        self
    }

    /// Ties an answer to its question.
    pub fn correlation_id(mut self, correlation_id: impl Into<String>) -> Self {
        self.wire.correlation_id = correlation_id.into();
        self
    }

    /// Adds a further text, or replaces the one of that name.
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.wire.attributes.insert(key.into(), value.into());
        self
    }

    /// When the event happened, by your clock.
    pub fn time(mut self, time: SystemTime) -> Self {
        self.wire.time = Some(time.into());
        self
    }

    /// For gateways: whose message it is, where that is not the client itself. The broker holds it to what that agent may
    /// do; it needs a token of that agent.
    ///
    /// ```
    /// # use veribus_client::{Message, Token, TokenError};
    /// # let token_of_the_agent = "e30.e30.e30";
    /// let message = Message::text("tickets.open", "ticket", "printer on fire").on_behalf_of(Token::new(token_of_the_agent)?);
    /// # Ok::<_, TokenError>(())
    /// ```
    pub fn on_behalf_of(mut self, credentials: impl Into<Credentials>) -> Self {
        self.speaker = Some(credentials.into());
        self
    }

    /// The message's id.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.wire.id
    }

    pub(crate) fn into_outgoing(self) -> Outgoing {
        let Self { mut wire, speaker } = self;
        let bearer = |speaker: &Credentials| v1::Credentials {
            token: speaker.token().jwt().to_owned(),
            dpop_proof: String::new(),
        };
        wire.credentials = speaker.as_ref().map(bearer);
        Outgoing { wire, speaker: speaker.filter(|speaker| speaker.key().is_some()) }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Message").field(&self.wire).field(&self.speaker).finish()
    }
}

/// A UUIDv7 from the thread's own generator: `Uuid::now_v7` takes a lock and a system call.
fn fresh_id() -> String {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    let id: Uuid = uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
    id.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Token;

    #[test]
    fn a_message_does_not_show_whose_token_it_carries() {
        let message = Message::new("a", "b", "c").on_behalf_of(Token::new("secret").expect("a token"));
        assert!(!format!("{message:?}").contains("secret"));
    }

    #[test]
    fn a_message_gets_a_fresh_uuid_of_version_7() {
        let (first, second) = (Message::new("a", "b", "c"), Message::new("a", "b", "c"));
        assert_ne!(first.message_id(), second.message_id());
        let id = Uuid::parse_str(first.message_id()).expect("a uuid");
        assert_eq!(id.get_version_num(), 7);
    }

    #[test]
    fn everything_that_is_set_is_on_the_wire() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let wire = Message::json("a.b", "kind", "{}")
            .id("id")
            .to("role:x")
            .subject("subject")
            .reply_to("a.c")
            .correlation_id("case")
            .attribute("key", "value")
            .time(time)
            .on_behalf_of(Token::new("token").expect("a token"))
            .into_outgoing()
            .wire;
        let expected = v1::Message {
            id: "id".to_owned(),
            topic: "a.b".to_owned(),
            r#type: "kind".to_owned(),
            subject: "subject".to_owned(),
            time: Some(time.into()),
            datacontenttype: "application/json".to_owned(),
            data: Bytes::from_static(b"{}"),
            destination: "role:x".to_owned(),
            reply_to: "a.c".to_owned(),
            correlation_id: "case".to_owned(),
            attributes: [("key".to_owned(), "value".to_owned())].into(),
            credentials: Some(v1::Credentials { token: "token".to_owned(), dpop_proof: String::new() }),
        };
        assert_eq!(wire, expected);
    }

    #[test]
    fn an_empty_id_keeps_the_fresh_one() {
        assert!(!Message::new("a", "b", "c").id("").message_id().is_empty());
    }
}
