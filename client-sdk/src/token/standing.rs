//! What the broker has said of this client's tokens: which one it took last, and which fresh one it did not take. A broker that does
//! not know the key of a fresh token yet takes the one before until that runs out.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Token, keeper::Held};

/// The shortest and the longest pause before a token is offered again that the broker did not take.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    taken: Option<Held>,
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Refused {
    token: Token,
    again_at: Instant,
    pause: Duration,
}

impl Standing {
    /// The broker took this token.
    pub(crate) fn took(&self, token: &Token) {
        let mut said = self.said();
        said.refused.take_if(|refused| refused.token.is(token));
        if !said.taken.as_ref().is_some_and(|taken| taken.token().is(token)) {
            said.taken = Some(Held::from_now(token.clone()));
        }
    }

    /// The broker did not take this token. Whether there is one that it took before, and that has not run out.
    pub(crate) fn refused(&self, token: &Token) -> bool {
        let mut said = self.said();
        said.taken.take_if(|taken| taken.token().is(token));
        let is_again = said.refused.as_ref().filter(|refused| refused.token.is(token));
        let pause = is_again.map_or(PAUSE_MIN, |refused| refused.pause.saturating_mul(2).min(PAUSE_MAX));
        said.refused = Some(Refused { token: token.clone(), again_at: Instant::now() + pause, pause });
        let goes_on = said.taken.as_ref().is_some_and(Held::is_good);
        if goes_on {
            tracing::warn!(?pause, "the broker did not take a fresh token; going on with the one before");
        }
        goes_on
    }

    /// Until when a token is not to be offered again; `None` where it may be now.
    pub(crate) fn rests_until(&self, token: &Token) -> Option<Instant> {
        let said = self.said();
        let refused = said.refused.as_ref().filter(|refused| refused.token.is(token));
        refused.map(|refused| refused.again_at).filter(|at| *at > Instant::now())
    }

    /// What to use while this token rests: the one that the broker took before, if that has not run out.
    pub(super) fn instead_of(&self, resting: &Token) -> Option<Token> {
        self.rests_until(resting)?;
        self.said().taken.as_ref().filter(|taken| taken.is_good()).map(|taken| taken.token().clone())
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn token(name: &str, life: Duration) -> Token {
        Token::new(name).expect("a token").expiring_at(SystemTime::now() + life)
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_not_taken_rests_longer_each_time_and_the_one_before_is_used_meanwhile() {
        let standing = Standing::default();
        let (old, new) = (token("old", Duration::from_secs(3_600)), token("new", Duration::from_secs(7_200)));
        standing.took(&old);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert!(standing.refused(&new));
            assert!(standing.instead_of(&new).is_some_and(|token| token.is(&old)));
            let begin = Instant::now();
            tokio::time::sleep_until(standing.rests_until(&new).expect("rests")).await;
            pauses.push(begin.elapsed().as_secs());
            assert!(standing.instead_of(&new).is_none(), "it is tried again");
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        standing.took(&new);
        assert!(standing.rests_until(&new).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_run_out_or_was_refused_itself_is_no_way_out() {
        let standing = Standing::default();
        let (old, new) = (token("old", Duration::from_secs(10)), token("new", Duration::from_secs(7_200)));
        standing.took(&old);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(!standing.refused(&new) && standing.instead_of(&new).is_none());
        let other = token("other", Duration::from_secs(3_600));
        standing.took(&other);
        assert!(standing.refused(&new));
        assert!(!standing.refused(&other), "revoked, perhaps");
        assert!(standing.instead_of(&new).is_none());
    }
}
