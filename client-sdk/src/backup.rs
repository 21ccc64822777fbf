//! A copy of the broker's data, part by part.
//!
//! Out of scope: writing it down and verifying it, which `veribus backup` does.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, stream};
use tonic::{Status, Streaming};
use veribus_proto::v1::{BackupRequest, BackupResponse};

use crate::{Error, Token, present::Method, retry::Failed, session::Session, status::Verdict};

/// The parts of a backup, each to be applied to those before it. The last one carries `end`; a stream that breaks off before
/// that ends with an error, and is not taken up again: the copy must be begun anew.
pub struct Backup {
    parts: Pin<Box<dyn Stream<Item = Result<BackupResponse, Error>> + Send>>,
}

impl Backup {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        let parts = stream::unfold(Step::Begin(session), |step| async {
            match step.next().await {
                Ok((part, _)) if part.end.is_some() => Some((Ok(part), Step::Over)),
                Ok((part, parts)) => Some((Ok(part), Step::Running(parts))),
                Err(None) => None,
                Err(Some(error)) => Some((Err(error), Step::Over)),
            }
        });
        Self { parts: Box::pin(parts) }
    }
}

impl Stream for Backup {
    type Item = Result<BackupResponse, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.parts.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup").finish_non_exhaustive()
    }
}

enum Step {
    Begin(Arc<Session>),
    Running(Box<Streaming<BackupResponse>>),
    Over,
}

impl Step {
    /// The next part; an error is the end.
    async fn next(self) -> Result<(BackupResponse, Box<Streaming<BackupResponse>>), Option<Error>> {
        let mut parts = match self {
            Self::Begin(session) => Box::new(open(&session).await?),
            Self::Running(parts) => parts,
            Self::Over => return Err(None),
        };
        match parts.message().await {
            Ok(Some(part)) => Ok((part, parts)),
            Ok(None) => Err(Some(Error::Protocol("a backup broke off before its end"))),
            Err(status) => Err(Some(Verdict::of(&status).to_error())),
        }
    }
}

/// Calls until the broker begins.
async fn open(session: &Session) -> Result<Streaming<BackupResponse>, Error> {
    let mut attempts = session.publish_attempts();
    loop {
        let token = session.tokens.usable().await;
        match attempts.in_time(call_once(session, &token)).await {
            Some(Ok(parts)) => return Ok(parts),
            Some(Err(status)) => attempts.after(session, &Failed { status, token }).await?,
            None => return Err(attempts.timed_out()),
        }
    }
}

async fn call_once(session: &Session, token: &Token) -> Result<Streaming<BackupResponse>, Status> {
    let request = session.presenter.request(token, Method::BACKUP, BackupRequest {})?;
    Ok(session.admin().backup(request).await?.into_inner())
}
