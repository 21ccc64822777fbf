//! Publishing many messages, pipelined over one stream.
//!
//! Out of scope: what the broker does with a message.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;
use tonic::{Code, Status};
use veribus_proto::v1::{self, PublishResult, PublishStreamRequest, PublishStreamResponse, publish_result::Outcome};

use crate::{
    Credentials, Error, Message, Receipt,
    error::Refusal,
    message::Outgoing,
    pipeline::{AnswerFault, Kind, Pipeline},
    present::{Method, Presenter},
    session::Session,
};

/// Publishes messages without waiting for each one's receipt.
///
/// Messages sent one after another are recorded in that order. Where the stream breaks, everything without an answer
/// is sent again, in order and with the same ids, so that the broker records it once. Each message resolves exactly
/// once. A fresh token is sent in the stream, which goes on. Dropping the publisher gives up what is under way; [`Publisher::close`] waits for it.
pub struct Publisher {
    session: Arc<Session>,
    pipeline: Pipeline<Publishing>,
}

impl Publisher {
    pub(crate) fn start(session: Arc<Session>) -> Self {
        Self { pipeline: Pipeline::start(Arc::clone(&session)), session }
    }

    /// Sends a message as soon as there is room among those under way. The returned [`Pending`] resolves to its
    /// receipt; it may be dropped, the message is published all the same.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Closed`]: it was not sent.
    pub async fn send(&self, message: Message) -> Result<Pending, Error> {
        let Outgoing { wire, speaker } = self.session.within_size(message)?;
        let message_id = wire.id.clone();
        let outcome = self.pipeline.send(wire, speaker).await?;
        Ok(Pending { message_id, outcome })
    }

    /// Sends many messages, in order, at a lower cost for each. Waits for room as often as it takes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]: none was sent. [`Error::Closed`]: those for which there was no room were not sent, and
    /// nobody can say what became of the others.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Result<Vec<Pending>, Error> {
        let outgoing = |message| {
            let Outgoing { wire, speaker } = self.session.within_size(message)?;
            Ok((wire.id.clone(), (wire, speaker)))
        };
        let (ids, items): (Vec<_>, Vec<_>) = messages.into_iter().map(outgoing).collect::<Result<_, Error>>()?;
        let outcomes = self.pipeline.send_batch(items).await?;
        Ok(ids.into_iter().zip(outcomes).map(|(message_id, outcome)| Pending { message_id, outcome }).collect())
    }

    /// Takes no more messages and waits until each one that was sent is resolved.
    pub async fn close(self) {
        self.pipeline.close().await;
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

/// The receipt to come of a message that was sent.
///
/// It resolves to [`Error::Refused`] where the broker said no, to [`Error::OutcomeUnknown`] where no answer came, and
/// to another error where the message never left.
#[derive(Debug)]
#[must_use = "it says whether the message was recorded"]
pub struct Pending {
    message_id: String,
    outcome: oneshot::Receiver<Result<Receipt, Error>>,
}

impl Pending {
    /// Which message.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.message_id
    }
}

impl Future for Pending {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.outcome).poll(cx));
        // Without an outcome the driver itself is gone, with its runtime.
        Poll::Ready(
            outcome
                .unwrap_or_else(|_| Err(Error::outcome_unknown(std::mem::take(&mut self.message_id), Error::Closed))),
        )
    }
}

/// Messages out, receipts back. The broker knows a message by its id.
struct Publishing;

impl Kind for Publishing {
    const METHOD: Method = Method::PUBLISH_STREAM;
    const REQUEST_ITEMS_MAX: usize = 64;
    const IS_RECOGNISED: bool = true;
    type Item = v1::Message;
    /// Whose message it is, if each sending needs a proof of that.
    type Aside = Option<Credentials>;
    type Outcome = Receipt;
    type Request = PublishStreamRequest;
    type Response = PublishStreamResponse;
    type Result = PublishResult;

    fn request(messages: Vec<v1::Message>, refresh: Option<v1::Credentials>) -> PublishStreamRequest {
        PublishStreamRequest { messages, refresh }
    }

    fn items(request: &PublishStreamRequest) -> &[v1::Message] {
        &request.messages
    }

    fn items_mut(request: &mut PublishStreamRequest) -> &mut [v1::Message] {
        &mut request.messages
    }

    fn parts(response: PublishStreamResponse) -> (Option<v1::Refreshed>, Vec<PublishResult>) {
        (response.refreshed, response.results)
    }

    fn outcome(message: &v1::Message, result: PublishResult) -> Result<Result<Receipt, Error>, AnswerFault> {
        let no_outcome = || AnswerFault::Protocol(Error::Protocol("a result without an outcome"));
        match result.outcome.ok_or_else(no_outcome)? {
            Outcome::Receipt(receipt) => Ok(Ok(Receipt::check(receipt, &message.id).map_err(AnswerFault::Protocol)?)),
            Outcome::Refusal(refusal) => Ok(Err(final_refusal(refusal)?)),
        }
    }

    fn unknown(message: &v1::Message, cause: Error) -> Error {
        Error::outcome_unknown(message.id.clone(), cause)
    }

    fn is_about_the_token(message: &v1::Message, result: &PublishResult) -> bool {
        let is_unauthenticated = |refusal: &v1::Refusal| Code::from_i32(refusal.code) == Code::Unauthenticated;
        let is_refused = matches!(&result.outcome, Some(Outcome::Refusal(refusal)) if is_unauthenticated(refusal));
        is_refused && message.credentials.is_none()
    }

    fn needs_proof(speaker: &Option<Credentials>) -> bool {
        speaker.is_some()
    }

    fn prove(message: &mut v1::Message, speaker: &Option<Credentials>, presenter: &Presenter) -> Result<(), Status> {
        if let Some(speaker) = speaker {
            message.credentials = Some(presenter.on_behalf_of(speaker, Method::PUBLISH_STREAM)?);
        }
        Ok(())
    }
}

/// A refusal that leaves open what will become of the message is no outcome: the message is sent again.
fn final_refusal(wire: v1::Refusal) -> Result<Error, AnswerFault> {
    let refusal = Box::new(Refusal::from(wire));
    if refusal.code == Code::Unavailable {
        return Err(AnswerFault::Again(refusal));
    }
    Ok(Error::Refused(refusal))
}
