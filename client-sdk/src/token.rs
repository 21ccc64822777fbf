//! The bearer token: where it comes from, and when it is read again.
//!
//! A token file may be replaced while the client runs. It is looked at when a token is needed, at most every
//! [`LOOK_EVERY`], and read again whenever the broker does not accept the token at hand. What a token says is for the
//! broker to check.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};

use crate::Error;

/// How often a token file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A bearer token, ready to be sent. Its `Debug` says nothing about it.
#[derive(Clone)]
pub(crate) struct Token(Arc<MetadataValue<Ascii>>);

impl Token {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("it is empty");
        }
        let mut value =
            MetadataValue::try_from(format!("Bearer {text}")).map_err(|_| "it holds characters that no token has")?;
        value.set_sensitive(true);
        Ok(Self(Arc::new(value)))
    }

    /// The value of the `authorization` metadata, marked sensitive.
    pub(crate) fn header(&self) -> MetadataValue<Ascii> {
        self.0.as_ref().clone()
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where tokens come from.
#[derive(Debug)]
pub(crate) enum TokenSource {
    Fixed(Token),
    File(TokenFile),
}

impl TokenSource {
    pub(crate) fn fixed(token: &str) -> Result<Self, Error> {
        let token = Token::parse(token).map_err(|fault| Error::Configuration(format!("no token: {fault}")))?;
        Ok(Self::Fixed(token))
    }

    pub(crate) fn file(path: PathBuf) -> Result<Self, Error> {
        TokenFile::open(path).map(Self::File)
    }

    /// The token to use now.
    pub(crate) fn current(&self) -> Token {
        match self {
            Self::Fixed(token) => token.clone(),
            Self::File(file) => file.current(),
        }
    }

    /// Another token than the one that the broker did not accept, if there is one by now.
    pub(crate) fn instead_of(&self, refused: &Token) -> Option<Token> {
        match self {
            Self::Fixed(_) => None,
            Self::File(file) => Some(file.read_again()).filter(|token| !token.is(refused)),
        }
    }
}

/// A file that holds a token and may change.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    state: Mutex<Known>,
}

/// What is known of the file. Without `mark` it is read at the next look.
#[derive(Debug)]
struct Known {
    token: Token,
    mark: Option<Mark>,
    looked_at: Instant,
}

/// By this a change shows without reading the file.
type Mark = (SystemTime, u64);

impl TokenFile {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let mark = mark(&path).ok();
        let token = read(&path).map_err(|fault| Error::TokenFile { path: path.clone(), fault })?;
        Ok(Self { path, state: Mutex::new(Known { token, mark, looked_at: Instant::now() }) })
    }

    fn current(&self) -> Token {
        let mut known = self.lock();
        if known.looked_at.elapsed() >= LOOK_EVERY {
            known.looked_at = Instant::now();
            if known.mark.is_none() || mark(&self.path).ok() != known.mark {
                self.refresh(&mut known);
            }
        }
        known.token.clone()
    }

    fn read_again(&self) -> Token {
        let mut known = self.lock();
        self.refresh(&mut known);
        known.token.clone()
    }

    /// A file that cannot be read just now may be in the middle of its replacement: the old token stays.
    fn refresh(&self, known: &mut Known) {
        let mark = mark(&self.path).ok();
        match read(&self.path) {
            Ok(token) => {
                if !token.is(&known.token) {
                    known.token = token;
                }
                known.mark = mark;
            }
            Err(fault) => {
                known.mark = None;
                tracing::warn!(path = %self.path.display(), fault, "the token file cannot be read; keeping the old token");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mark(path: &Path) -> io::Result<Mark> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

fn read(path: &Path) -> Result<Token, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    Token::parse(&text).map_err(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");
        file
    }

    fn sent(token: &Token) -> String {
        token.header().to_str().expect("ascii").to_owned()
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let token = Token::parse("secret").expect("a token");
        assert!(!format!("{token:?} {:?}", token.header()).contains("secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_noticed_after_a_while_and_not_looked_at_before() {
        let file = written("one");
        let source = TokenSource::file(file.path().to_owned()).expect("a token");
        fs::write(file.path(), "two, longer\n").expect("written");
        assert_eq!(sent(&source.current()), "Bearer one");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(sent(&source.current()), "Bearer two, longer");
    }

    #[test]
    fn after_a_refusal_the_file_is_read_at_once_and_the_same_token_is_no_other() {
        let file = written("one");
        let source = TokenSource::file(file.path().to_owned()).expect("a token");
        let refused = source.current();
        assert!(source.instead_of(&refused).is_none());
        fs::write(file.path(), "two").expect("written");
        assert_eq!(source.instead_of(&refused).map(|token| sent(&token)), Some("Bearer two".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreadable_file_keeps_the_old_token_and_is_tried_again() {
        let file = written("one");
        let source = TokenSource::file(file.path().to_owned()).expect("a token");
        fs::write(file.path(), "").expect("emptied");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(sent(&source.current()), "Bearer one");
        fs::write(file.path(), "two").expect("written");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(sent(&source.current()), "Bearer two");
    }

    #[test]
    fn a_file_without_a_token_is_an_error_that_names_it() {
        let file = written(" \n");
        let error = TokenSource::file(file.path().to_owned()).expect_err("no token");
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
    }
}
