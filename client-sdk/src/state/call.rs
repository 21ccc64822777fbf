//! One unary call, made again for as long as that is safe.

use std::future::Future;

use tonic::{Request, Response, Status, transport::Channel};
use veribus_proto::v1::state_service_client::StateServiceClient;

use crate::{
    Error,
    present::Method,
    retry::Failed,
    session::Session,
    status::{Verdict, may_have_happened},
};

use super::outcome;

pub(super) type Service = StateServiceClient<Channel>;

/// What a call does to the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It only reads.
    None,
    /// It would change something each time that it is made.
    EachTime,
    /// It changes something at most once, since revisions never come back.
    Once,
}

impl Effect {
    /// Of a write or a deletion that expects this revision. What expects no value is not safe: somebody may have deleted
    /// what the first attempt wrote.
    pub(super) const fn of_change(expected_revision: Option<u64>) -> Self {
        match expected_revision {
            None | Some(0) => Self::EachTime,
            Some(_) => Self::Once,
        }
    }

    /// The end of a call of which an earlier attempt may have done its work.
    fn unknown(self, key: &str, error: Error) -> Error {
        if self == Self::None { error } else { Error::change_unknown(key, error) }
    }
}

/// Calls, and again as long as that cannot change anything twice.
pub(super) async fn call<Q: Clone, A, F>(
    session: &Session,
    method: Method,
    effect: Effect,
    key: &str,
    request: Q,
    once: impl Fn(Service, Request<Q>) -> F,
) -> Result<A, Error>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut attempts = session.publish_attempts();
    let mut maybe_done = false;
    loop {
        let token = session.tokens.usable().await;
        let call = async {
            let request = session.presenter.request(&token, method, request.clone())?;
            once(session.state(), request).await
        };
        let status = match attempts.in_time(call).await {
            Some(Ok(answer)) => {
                session.tokens.standing().took(&token);
                return Ok(answer.into_inner());
            }
            Some(Err(status)) => status,
            None => return Err(effect.unknown(key, attempts.timed_out())),
        };
        let conflict = outcome::conflict_of(key, &status);
        maybe_done |= conflict.is_none() && may_have_happened(&status);
        let error = match conflict {
            Some(error) => Err(error),
            None if maybe_done && effect == Effect::EachTime => Err(Verdict::of(&status).to_error()),
            None => attempts.after(session, &Failed { status, token }).await,
        };
        if let Err(error) = error {
            let error = outcome::about(key, error);
            return Err(if maybe_done { effect.unknown(key, error) } else { error });
        }
    }
}
