//! The client: one connection, shared by everything that is made from it.

use std::{fmt, sync::Arc};

use prost::Message as _;
use tonic::Status;
use veribus_proto::v1::{self, PublishRequest};

use crate::{
    Admin, Audit, ClientBuilder, Error, Message, Publisher, Receipt, State, Subscription, Token, message::Outgoing,
    present::Method, retry::Failed, session::Session, status::may_have_happened,
};

/// A connection to the broker. Cheap to clone; it connects again by itself.
#[derive(Clone)]
pub struct Client {
    session: Arc<Session>,
}

impl Client {
    /// A client for the broker at `https://host:port`.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url)
    }

    /// Connects as the environment says: `VERIBUS_URL`, `VERIBUS_CA` (a PEM file) and `VERIBUS_TOKEN_FILE`; where they are
    /// set, also `VERIBUS_CLIENT_CERT` with `VERIBUS_CLIENT_KEY`, and `VERIBUS_DPOP_KEY` (PEM files).
    ///
    /// # Errors
    /// [`Error::Configuration`] where a variable is missing, else those of [`ClientBuilder::connect`].
    pub async fn from_env() -> Result<Self, Error> {
        ClientBuilder::from_env()?.connect().await
    }

    pub(crate) const fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// Publishes one message and waits for its receipt. For many messages [`Client::publisher`] is much faster.
    ///
    /// Where the connection breaks, the message is sent again with the same id, which the broker records once.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unauthenticated`]: it was not published. [`Error::OutcomeUnknown`]: no answer
    /// came in time. [`Error::Unreachable`] or [`Error::Tls`]: it was never sent.
    pub async fn publish(&self, message: Message) -> Result<Receipt, Error> {
        let message = self.session.within_size(message)?;
        let mut attempts = self.session.publish_attempts();
        let mut maybe_recorded = false;
        loop {
            let token = self.session.tokens.usable().await;
            let Some(answer) = attempts.in_time(publish_once(&self.session, &token, &message)).await else {
                return Err(Error::outcome_unknown(message.wire.id, attempts.timed_out()));
            };
            let failed = match answer {
                Ok(receipt) => {
                    self.session.tokens.standing().took(&token);
                    return checked(receipt, message.wire);
                }
                Err(status) => Failed { status, token },
            };
            maybe_recorded |= may_have_happened(&failed.status);
            if let Err(error) = attempts.after(&self.session, &failed).await {
                return Err(final_error(error, maybe_recorded, message.wire));
            }
        }
    }

    /// A pipelined publisher: many messages under way at once, receipts in the order of sending.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::start(Arc::clone(&self.session))
    }

    /// Subscribes to topic patterns (`*` stands for one level, a last `>` for one or more). When this returns, the
    /// subscription stands: every message accepted from now on that matches is delivered.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unauthenticated`], or what kept the connection from coming back in time.
    pub async fn subscribe<P>(&self, patterns: P) -> Result<Subscription, Error>
    where
        P: IntoIterator,
        P::Item: Into<String>,
    {
        let patterns = patterns.into_iter().map(Into::into).collect();
        Subscription::open(Arc::clone(&self.session), patterns).await
    }

    /// The audit log, for those who hold `audit.read`.
    #[must_use]
    pub fn audit(&self) -> Audit {
        Audit::new(Arc::clone(&self.session))
    }

    /// The state that agents share.
    #[must_use]
    pub fn state(&self) -> State {
        State::new(Arc::clone(&self.session))
    }

    /// The operators' side, for those who hold `admin.revoke`, `admin.sessions` or `admin.keys`.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.session))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Session {
    /// The message as it goes out, unless it is too large to be decoded.
    pub(crate) fn within_size(&self, message: Message) -> Result<Outgoing, Error> {
        let message = message.into_outgoing();
        let (bytes, bytes_max) = (message.wire.encoded_len(), self.limits.message_bytes_max);
        if bytes > bytes_max {
            return Err(Error::TooLarge { bytes, bytes_max });
        }
        Ok(message)
    }
}

async fn publish_once(session: &Session, token: &Token, message: &Outgoing) -> Result<Option<v1::Receipt>, Status> {
    let mut wire = message.wire.clone();
    if let Some(speaker) = &message.speaker {
        wire.credentials = Some(session.presenter.on_behalf_of(speaker, Method::PUBLISH)?);
    }
    let request = session.presenter.request(token, Method::PUBLISH, PublishRequest { message: Some(wire) })?;
    Ok(session.broker().publish(request).await?.into_inner().receipt)
}

fn checked(receipt: Option<v1::Receipt>, message: v1::Message) -> Result<Receipt, Error> {
    receipt
        .ok_or(Error::Protocol("an answer to a publish holds no receipt"))
        .and_then(|receipt| Receipt::check(receipt, &message.id))
        .map_err(|fault| Error::outcome_unknown(message.id, fault))
}

/// A recorded decision on the message says it all; any other end leaves open what became of an earlier attempt.
fn final_error(error: Error, maybe_recorded: bool, message: v1::Message) -> Error {
    let is_decision = matches!(&error, Error::Refused(refusal) if refusal.decision_id.is_some());
    if maybe_recorded && !is_decision { Error::outcome_unknown(message.id, error) } else { error }
}
