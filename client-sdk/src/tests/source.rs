//! A source of tokens that does what a test tells it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{Token, TokenError, TokenFuture, TokenProvider};

/// Gives the token that it was last set to, or fails; noticed within a few milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Source {
    answer: Arc<Mutex<Result<Token, TokenError>>>,
    asked: Arc<AtomicUsize>,
}

impl Source {
    pub(super) fn of(token: &str) -> Self {
        Self { answer: Arc::new(Mutex::new(Ok(Token::new(token).unwrap()))), asked: Arc::default() }
    }

    pub(super) fn set(&self, token: &str) {
        *self.answer.lock().unwrap() = Ok(Token::new(token).unwrap());
    }

    pub(super) fn fail(&self) {
        *self.answer.lock().unwrap() = Err(TokenError::Unavailable("down".to_owned()));
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl TokenProvider for Source {
    fn token(&self) -> TokenFuture<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer.lock().unwrap().clone();
        Box::pin(std::future::ready(answer))
    }

    fn poll_interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(2))
    }
}
