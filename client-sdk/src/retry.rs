//! When to try again, and when to give up.

use std::{future::Future, time::Duration};

use tokio::time::Instant;
use tonic::Status;

use crate::{Error, Token, TokenError, session::Session, status::Verdict};

/// Longer than anything runs; sums with it do not overflow.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackoffBounds {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

/// A call that failed, and the token that it was made with.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) status: Status,
    pub(crate) token: Token,
}

/// The attempts at one thing: doubling, jittered pauses, and a total that begins anew with each progress.
#[derive(Debug)]
pub(crate) struct Attempts {
    bounds: BackoffBounds,
    pause: Duration,
    total: Duration,
    deadline: Instant,
    token_replaced: bool,
    /// Whether what runs waits for a token that the broker takes.
    outlasts_tokens: bool,
    /// Until when it does so, once it has to.
    late_token_until: Option<Instant>,
    last_error: Option<Error>,
}

impl Attempts {
    pub(crate) fn new(bounds: BackoffBounds, total: Duration) -> Self {
        let total = total.min(DURATION_MAX);
        let deadline = Instant::now() + total;
        Self {
            bounds,
            pause: bounds.min,
            total,
            deadline,
            token_replaced: false,
            outlasts_tokens: false,
            late_token_until: None,
            last_error: None,
        }
    }

    /// For what has begun, and is to outlast a token that comes late, as long as [`Limits::late_token_for`] says.
    ///
    /// [`Limits::late_token_for`]: crate::session::Limits::late_token_for
    pub(crate) fn outlasting_tokens(self) -> Self {
        Self { outlasts_tokens: true, ..self }
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Something came through: the patience is whole again.
    pub(crate) fn progressed(&mut self) {
        *self = Self { outlasts_tokens: self.outlasts_tokens, ..Self::new(self.bounds, self.total) };
    }

    /// The total begins anew, the pauses go on growing.
    pub(crate) fn restart_clock(&mut self) {
        self.deadline = Instant::now() + self.total;
    }

    /// Waits until the next attempt.
    ///
    /// # Errors
    /// The error to give up with, where there is to be no other attempt.
    pub(crate) async fn after(&mut self, session: &Session, failed: &Failed) -> Result<(), Error> {
        self.after_verdict(session, Verdict::of(&failed.status), &failed.token).await
    }

    /// As [`Attempts::after`], with the verdict at hand.
    pub(crate) async fn after_verdict(
        &mut self,
        session: &Session,
        verdict: Verdict,
        token: &Token,
    ) -> Result<(), Error> {
        match verdict {
            Verdict::Final(error) => Err(error),
            Verdict::Token => self.with_another_token(session, token).await,
            Verdict::Again(error) => self.pause(error).await,
        }
    }

    /// The result of `attempt`, if it is there before the deadline.
    pub(crate) async fn in_time<T>(&self, attempt: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.deadline, attempt).await.ok()
    }

    /// What to say where the deadline passed in the middle of an attempt: why the one before failed, if there was one.
    pub(crate) fn timed_out(&self) -> Error {
        let no_answer = || Error::ConnectionLost { fault: "no answer came in time".to_owned() };
        self.last_error.clone().unwrap_or_else(no_answer)
    }

    /// A source of tokens that does not answer is waited for like a broker that does not.
    async fn with_another_token(&mut self, session: &Session, refused: &Token) -> Result<(), Error> {
        let tokens = &session.tokens;
        if tokens.standing().refused(refused) {
            tokens.hurry();
            return Ok(());
        }
        if self.token_replaced {
            return self.late_token(session).await;
        }
        match self.in_time(tokens.instead_of(refused)).await {
            Some(Ok(Some(_))) => {
                self.token_replaced = true;
                Ok(())
            }
            Some(Ok(None)) => self.late_token(session).await,
            Some(Err(fault)) => self.pause(Error::Token(fault)).await,
            None => Err(TokenError::Unavailable("no answer in time".to_owned()).into()),
        }
    }

    /// Waits for a token that the broker takes, where there may be one.
    async fn late_token(&mut self, session: &Session) -> Result<(), Error> {
        if !self.outlasts_tokens || !session.tokens.may_change() {
            return Err(Error::Unauthenticated);
        }
        let until = *self.late_token_until.get_or_insert_with(|| Instant::now() + session.limits.late_token_for);
        if until <= Instant::now() {
            return Err(Error::Unauthenticated);
        }
        self.token_replaced = false;
        self.pause(Error::Unauthenticated).await
    }

    /// Waits a little longer than the last time, and no less than the broker asked for, or gives up with `error` where
    /// there is no time left.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<(), Error> {
        let asked_for = error.retry_after().unwrap_or_default().min(DURATION_MAX);
        let until = Instant::now() + jittered(self.pause).max(asked_for);
        if until >= self.deadline {
            return Err(error);
        }
        tracing::debug!(%error, pause = ?self.pause, "trying again");
        self.pause = self.pause.saturating_mul(2).min(self.bounds.max);
        self.last_error = Some(error);
        tokio::time::sleep_until(until).await;
        Ok(())
    }
}

/// Half of it at least, all of it at most, so that many clients do not come back at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: BackoffBounds = BackoffBounds { min: Duration::from_millis(100), max: Duration::from_secs(5) };

    #[tokio::test(start_paused = true)]
    async fn pauses_double_within_their_bounds_until_the_total_is_used_up() {
        let mut attempts = Attempts::new(BOUNDS, Duration::from_secs(30));
        let begin = Instant::now();
        let mut pauses = Vec::new();
        loop {
            let before = Instant::now();
            if attempts.pause(Error::Closed).await.is_err() {
                break;
            }
            pauses.push(before.elapsed());
        }
        for (index, pause) in pauses.iter().enumerate() {
            let whole = BOUNDS.max.min(BOUNDS.min * 2_u32.pow(u32::try_from(index).expect("few")));
            let slack = Duration::from_millis(2); // the timer's granularity
            assert!(*pause + slack >= whole / 2 && *pause <= whole + slack, "{index}: {pause:?}");
        }
        assert!(pauses.len() >= 8, "{pauses:?}");
        assert!(begin.elapsed() <= Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_comes_back_before_the_broker_asked_for() {
        let wire = veribus_proto::v1::Refusal { retry_after_ms: 3_000, ..veribus_proto::v1::Refusal::default() };
        let refused = Error::Refused(Box::new(wire.into()));
        let (mut attempts, begin) = (Attempts::new(BOUNDS, Duration::from_secs(5)), Instant::now());
        assert!(attempts.pause(refused.clone()).await.is_ok());
        assert!(begin.elapsed() >= Duration::from_secs(3));
        assert!(attempts.pause(refused).await.is_err(), "past the deadline");
    }

    #[tokio::test(start_paused = true)]
    async fn progress_makes_the_patience_whole_again() {
        let mut attempts = Attempts::new(BOUNDS, Duration::from_secs(1));
        while attempts.pause(Error::Closed).await.is_ok() {}
        attempts.progressed();
        assert!(attempts.pause(Error::Closed).await.is_ok());
    }
}
