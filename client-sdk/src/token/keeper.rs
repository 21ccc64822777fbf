//! One good token for all calls and streams of a client.
//!
//! A task asks the provider: before the token runs out, and when somebody says that the broker refused it. It asks
//! once at a time, so that however many wait, the source is asked once. After a failure it pauses ever longer; the old
//! token stays until there is another. The task ends with the client.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{Standing, Token, TokenError, TokenProvider};

/// How much of a token's life may pass before the next one is asked for; where in between is left to chance, so that
/// many clients do not ask at once.
const LIFE_BEFORE_NEXT: std::ops::RangeInclusive<f64> = 0.75..=0.85;
/// A source that costs something is not asked twice within this, whatever the broker says.
const ASK_EVERY_MIN: Duration = Duration::from_secs(1);
/// The shortest and the longest pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a provider may take.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call waits for another token before it tries with one that seems to have run out.
const USABLE_WITHIN: Duration = Duration::from_secs(5);
/// How many may wait for the task to notice them; others wait for that.
const ASKS_QUEUED_MAX: usize = 64;
/// Longer than any client runs; instants with it do not overflow.
const FAR_AWAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Somebody who wants another token, and hears when the provider has answered.
type Ask = oneshot::Sender<Result<(), TokenError>>;

/// The token of a client, kept good.
#[derive(Debug)]
pub(crate) struct Tokens {
    held: watch::Receiver<Held>,
    asks: mpsc::Sender<Ask>,
    standing: Standing,
    /// Whether there may ever be another token.
    may_change: bool,
}

/// The token at hand.
#[derive(Debug, Clone)]
pub(super) struct Held {
    token: Token,
    runs_out_at: Option<Instant>,
}

pub(super) type Changes = watch::Receiver<Held>;

impl Held {
    pub(super) const fn token(&self) -> &Token {
        &self.token
    }

    /// By the clock that does not jump: what the wall clock says is read once.
    pub(super) fn from_now(token: Token) -> Self {
        let left = |at: SystemTime| at.duration_since(SystemTime::now()).unwrap_or_default().min(FAR_AWAY);
        let runs_out_at = token.expires_at().map(|at| Instant::now() + left(at));
        Self { token, runs_out_at }
    }

    /// Whether it has not run out, as far as is known.
    pub(super) fn is_good(&self) -> bool {
        self.left() != Some(Duration::ZERO)
    }

    fn left(&self) -> Option<Duration> {
        self.runs_out_at.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

impl Tokens {
    /// Gets the first token, and keeps it good from then on.
    pub(crate) async fn start(provider: Arc<dyn TokenProvider>) -> Result<Self, TokenError> {
        let (first, may_change) = (ask(provider.as_ref()).await?, !provider.is_fixed());
        let (holder, held) = watch::channel(Held::from_now(first));
        let (asks, asked) = mpsc::channel(ASKS_QUEUED_MAX);
        tokio::spawn(Keeper::new(provider, holder, asked).run());
        Ok(Self { held, asks, standing: Standing::default(), may_change })
    }

    /// The token at hand.
    pub(crate) fn current(&self) -> Token {
        self.held.borrow().token.clone()
    }

    /// The token to begin a call with: not one that has run out, if there is another. Whether it has is not for this
    /// side's clock to say, so that it is used if there is none.
    pub(crate) async fn usable(&self) -> Token {
        let held = self.held.borrow().clone();
        if let Some(before) = self.standing.instead_of(&held.token) {
            return before;
        }
        if held.is_good() {
            return held.token;
        }
        match timeout(USABLE_WITHIN, self.instead_of(&held.token)).await {
            Ok(Ok(Some(other))) => other,
            Ok(Ok(None) | Err(_)) | Err(_) => held.token,
        }
    }

    /// Another token than the one that the broker did not accept, if there is one by now.
    pub(crate) async fn instead_of(&self, refused: &Token) -> Result<Option<Token>, TokenError> {
        let other = || Some(self.current()).filter(|token| !token.is(refused));
        if let Some(token) = other() {
            return Ok(Some(token));
        }
        let gone = || TokenError::Unavailable("the task that asks for tokens is gone".to_owned());
        let (ask, answer) = oneshot::channel();
        self.asks.send(ask).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        Ok(other())
    }

    /// What the broker has said of the tokens.
    pub(crate) const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether there may ever be another token.
    pub(crate) const fn may_change(&self) -> bool {
        self.may_change
    }

    /// Asks for another token without waiting for it.
    pub(crate) fn hurry(&self) {
        // A full queue means that it is being asked for already.
        let _ = self.asks.try_send(oneshot::channel().0);
    }

    /// Says when there is another token.
    pub(super) fn changes(&self) -> Changes {
        self.held.clone()
    }
}

struct Keeper {
    provider: Arc<dyn TokenProvider>,
    holder: watch::Sender<Held>,
    asks: mpsc::Receiver<Ask>,
    waiting: Vec<Ask>,
    /// When to ask unasked.
    due: Instant,
    /// Before this, a costly source is not asked again.
    rests_until: Instant,
    pause: Duration,
    last_fault: Option<TokenError>,
}

/// Nobody is there any more.
struct Abandoned;

impl Keeper {
    fn new(provider: Arc<dyn TokenProvider>, holder: watch::Sender<Held>, asks: mpsc::Receiver<Ask>) -> Self {
        let now = Instant::now();
        let (due, rests_until) = (now, now + ASK_EVERY_MIN);
        let mut keeper =
            Self { provider, holder, asks, waiting: Vec::new(), due, rests_until, pause: PAUSE_MIN, last_fault: None };
        keeper.due = keeper.next_due(true);
        keeper
    }

    async fn run(mut self) {
        while self.round().await.is_ok() {}
    }

    /// Waits until there is reason to ask, asks, and tells those who wait.
    async fn round(&mut self) -> Result<(), Abandoned> {
        self.wait().await?;
        let outcome = if self.may_ask() { self.fetch().await? } else { self.last_fault.clone().map_or(Ok(()), Err) };
        for ask in self.waiting.drain(..) {
            let _ = ask.send(outcome.clone()); // Whoever left does not care.
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), Abandoned> {
        tokio::select! {
            () = sleep_until(self.due) => Ok(()),
            ask = self.asks.recv() => self.note(ask),
        }
    }

    fn note(&mut self, ask: Option<Ask>) -> Result<(), Abandoned> {
        self.waiting.push(ask.ok_or(Abandoned)?);
        while let Ok(ask) = self.asks.try_recv() {
            self.waiting.push(ask);
        }
        Ok(())
    }

    fn may_ask(&self) -> bool {
        let now = Instant::now();
        self.due <= now || self.provider.poll_interval().is_some() || self.rests_until <= now
    }

    /// Asks the provider; who comes meanwhile is told the same.
    async fn fetch(&mut self) -> Result<Result<(), TokenError>, Abandoned> {
        let provider = Arc::clone(&self.provider);
        let mut fetching = pin!(ask(provider.as_ref()));
        let fetched = loop {
            tokio::select! {
                fetched = &mut fetching => break fetched,
                ask = self.asks.recv() => self.note(ask)?,
            }
        };
        Ok(fetched.map(|token| self.take(token)).map_err(|fault| self.failed(fault)))
    }

    fn take(&mut self, token: Token) {
        let is_new = !self.holder.borrow().token.is(&token);
        if is_new {
            self.holder.send_replace(Held::from_now(token));
        }
        (self.pause, self.last_fault) = (PAUSE_MIN, None);
        self.rests_until = Instant::now() + ASK_EVERY_MIN;
        self.due = self.next_due(is_new);
    }

    fn failed(&mut self, fault: TokenError) -> TokenError {
        let pause = self.pause.mul_f64(rand::random_range(0.5..=1.0));
        tracing::warn!(%fault, ?pause, "no new token; keeping the old one");
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
        let until = Instant::now() + pause;
        (self.due, self.rests_until) = (until, until);
        self.last_fault = Some(fault.clone());
        fault
    }

    /// A source that gave the same token again is asked again after half of what is left.
    fn next_due(&self, is_new: bool) -> Instant {
        let part = if is_new { rand::random_range(LIFE_BEFORE_NEXT) } else { 0.5 };
        let left = match self.holder.borrow().left() {
            Some(Duration::ZERO) => PAUSE_MAX,
            Some(left) => left.mul_f64(part).max(ASK_EVERY_MIN),
            None => FAR_AWAY,
        };
        Instant::now() + left.min(self.provider.poll_interval().unwrap_or(FAR_AWAY))
    }
}

async fn ask(provider: &dyn TokenProvider) -> Result<Token, TokenError> {
    let silent = || TokenError::Unavailable(format!("no answer within {} s", PROVIDER_TIMEOUT.as_secs()));
    timeout(PROVIDER_TIMEOUT, provider.token()).await.unwrap_or_else(|_| Err(silent()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, Weak};

    use futures_util::future::join_all;

    use super::*;
    use crate::TokenFuture;

    const LIFE: Duration = Duration::from_secs(100);

    /// Numbers its tokens; notes when it was asked.
    #[derive(Debug, Default)]
    struct Source {
        asked_at: Mutex<Vec<Instant>>,
        is_down: Mutex<bool>,
        takes: Duration,
    }

    impl Source {
        fn asked(&self) -> usize {
            self.asked_at.lock().unwrap().len()
        }
    }

    impl TokenProvider for Source {
        fn token(&self) -> crate::TokenFuture<'_> {
            Box::pin(async {
                self.asked_at.lock().unwrap().push(Instant::now());
                tokio::time::sleep(self.takes).await;
                if *self.is_down.lock().unwrap() {
                    return Err(TokenError::Unavailable("down".to_owned()));
                }
                Ok(Token::new(format!("t{}", self.asked()))?.expiring_at(SystemTime::now() + LIFE))
            })
        }
    }

    async fn start(source: Source) -> (Arc<Source>, Tokens) {
        let source = Arc::new(source);
        let tokens = Tokens::start(Arc::clone(&source) as Arc<dyn TokenProvider>).await.expect("a token");
        (source, tokens)
    }

    async fn sleep(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_token_is_asked_for_when_some_80_percent_of_its_life_have_passed() {
        let (source, tokens) = start(Source::default()).await;
        sleep(74).await;
        assert_eq!((source.asked(), tokens.current().jwt()), (1, "t1"));
        sleep(12).await;
        assert_eq!((source.asked(), tokens.current().jwt()), (2, "t2"));
        sleep(50).await;
        assert_eq!(source.asked(), 2);
        sleep(50).await;
        assert_eq!((source.asked(), tokens.current().jwt()), (3, "t3"));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_began_together_do_not_ask_together() {
        let mut asked = Vec::new();
        for _ in 0..20 {
            let (source, _tokens) = start(Source::default()).await;
            sleep(90).await;
            let at = source.asked_at.lock().unwrap();
            asked.push(at[1].duration_since(at[0]).as_millis());
        }
        asked.sort_unstable();
        asked.dedup();
        assert!(asked.len() > 15, "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_fails_is_asked_ever_less_often_and_the_old_token_stays() {
        let (source, tokens) = start(Source::default()).await;
        *source.is_down.lock().unwrap() = true;
        sleep(600).await;
        assert_eq!(tokens.current().jwt(), "t1");
        let asked = source.asked_at.lock().unwrap().clone();
        let pauses: Vec<_> = asked[1..].windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
        for (number, pause) in pauses.iter().enumerate() {
            let whole = PAUSE_MAX.min(PAUSE_MIN * 2_u32.pow(u32::try_from(number).unwrap()));
            let slack = Duration::from_millis(2); // the timer's granularity
            assert!(*pause + slack >= whole / 2 && *pause <= whole + slack, "{number}: {pause:?}");
        }
        assert!(pauses.len() > 8, "{pauses:?}");
        *source.is_down.lock().unwrap() = false;
        sleep(61).await;
        assert_ne!(tokens.current().jwt(), "t1");
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_wait_the_source_is_asked_once() {
        let (source, tokens) = start(Source { takes: Duration::from_secs(3), ..Source::default() }).await;
        sleep(10).await;
        let refused = tokens.current();
        let waiting = (0..200).map(|number| {
            let (tokens, refused) = (&tokens, &refused);
            async move {
                tokio::time::sleep(Duration::from_millis(number * 10)).await;
                tokens.instead_of(refused).await
            }
        });
        for other in join_all(waiting).await {
            assert_eq!(other.expect("an answer").expect("another").jwt(), "t2");
        }
        assert_eq!(source.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_refuses_every_token_does_not_make_the_client_flood_the_source() {
        let (source, tokens) = start(Source::default()).await;
        for _ in 0..1000 {
            tokens.hurry();
            let _ = tokens.instead_of(&tokens.current()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(source.asked() <= 11, "{} times within 10 s", source.asked());
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_source_rests_those_who_ask_hear_what_was_wrong() {
        let (source, tokens) = start(Source::default()).await;
        *source.is_down.lock().unwrap() = true;
        sleep(10).await;
        let refused = tokens.current();
        for _ in 0..5 {
            assert_eq!(tokens.instead_of(&refused).await.err(), Some(TokenError::Unavailable("down".to_owned())));
        }
        assert_eq!(source.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_has_run_out_is_not_used_if_there_is_another() {
        let (source, tokens) = start(Source::default()).await;
        *source.is_down.lock().unwrap() = true;
        sleep(300).await;
        assert_eq!(tokens.usable().await.jwt(), "t1", "the broker may see it otherwise");
        *source.is_down.lock().unwrap() = false;
        sleep(61).await;
        assert_ne!(tokens.usable().await.jwt(), "t1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_hangs_is_given_up_and_asked_again() {
        #[derive(Debug)]
        struct Hangs(Source);
        impl TokenProvider for Hangs {
            fn token(&self) -> TokenFuture<'_> {
                if self.0.asked() == 0 { self.0.token() } else { Box::pin(std::future::pending()) }
            }
        }
        let tokens = Tokens::start(Arc::new(Hangs(Source::default()))).await.expect("a token");
        sleep(10).await;
        let error = tokens.instead_of(&tokens.current()).await.expect_err("no answer");
        assert_eq!(error, TokenError::Unavailable("no answer within 30 s".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_client() {
        let (source, tokens) = start(Source::default()).await;
        let held: Weak<Source> = Arc::downgrade(&source);
        drop(source);
        sleep(1).await;
        assert!(held.upgrade().is_some());
        drop(tokens);
        sleep(1).await;
        assert!(held.upgrade().is_none());
    }
}
