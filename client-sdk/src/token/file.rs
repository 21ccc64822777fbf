//! A token in a file that may be replaced while the client runs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use zeroize::Zeroizing;

use super::{Token, TokenError, TokenFuture, TokenProvider};
use crate::Error;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The largest file that is read: many times what a broker takes for a token.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Within so long of its last change a file may change once more without showing it.
const MARK_GRAIN: Duration = Duration::from_secs(2);

/// A file that holds a token, and is read again when it changes.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    known: Mutex<Option<(Mark, Token)>>,
}

/// By this a change shows without reading the file.
type Mark = (SystemTime, u64);

impl TokenFile {
    /// Of the file at `path`.
    ///
    /// # Errors
    /// [`Error::TokenFile`] where it cannot be read, or holds no token.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let file = Self { path: path.into(), known: Mutex::new(None) };
        match file.read() {
            Ok(_) => Ok(file),
            Err(fault) => Err(Error::TokenFile { path: file.path, fault }),
        }
    }

    fn read(&self) -> Result<Token, String> {
        let mark = mark(&self.path).map_err(|error| error.to_string())?;
        let mut known = self.lock();
        if let Some((_, token)) = known.as_ref().filter(|(at, _)| *at == mark && is_settled(mark)) {
            return Ok(token.clone());
        }
        let token = read(&self.path, mark)?;
        *known = Some((mark, token.clone()));
        Ok(token)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Mark, Token)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenProvider for TokenFile {
    /// A file that cannot be read just now may be in the middle of its replacement.
    fn token(&self) -> TokenFuture<'_> {
        let token = self.read().map_err(|fault| TokenError::Unavailable(format!("`{}`: {fault}", self.path.display())));
        Box::pin(std::future::ready(token))
    }

    fn poll_interval(&self) -> Option<Duration> {
        Some(LOOK_EVERY)
    }
}

fn mark(path: &Path) -> io::Result<Mark> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

/// Clocks of file systems are coarse: what was written just now is read again.
fn is_settled((modified, _): Mark) -> bool {
    modified.elapsed().is_ok_and(|age| age > MARK_GRAIN)
}

fn read(path: &Path, (_, len_bytes): Mark) -> Result<Token, String> {
    if len_bytes > FILE_BYTES_MAX {
        return Err("it is too large to hold a token".to_owned());
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| error.to_string())?);
    Token::new(text.as_str()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");
        file
    }

    async fn read_now(source: &TokenFile) -> Result<String, TokenError> {
        source.token().await.map(|token| token.jwt().to_owned())
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again_even_if_its_length_is_the_same() {
        let file = written("one");
        let source = TokenFile::open(file.path()).expect("a token");
        assert_eq!(read_now(&source).await.as_deref(), Ok("one"));
        fs::write(file.path(), "two\n").expect("written");
        assert_eq!(read_now(&source).await.as_deref(), Ok("two"));
        fs::write(file.path(), "six\n").expect("written");
        assert_eq!(read_now(&source).await.as_deref(), Ok("six"));
    }

    #[tokio::test]
    async fn a_file_that_has_not_changed_for_a_while_is_not_read_again() {
        let file = written("one");
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        let set_time = |file: &tempfile::NamedTempFile| file.as_file().set_modified(long_ago).expect("set");
        set_time(&file);
        let source = TokenFile::open(file.path()).expect("a token");
        fs::write(file.path(), "two").expect("written");
        set_time(&file);
        assert_eq!(read_now(&source).await.as_deref(), Ok("one"));
    }

    #[tokio::test]
    async fn a_file_in_the_middle_of_its_replacement_is_unavailable_and_then_read() {
        let file = written("one");
        let source = TokenFile::open(file.path()).expect("a token");
        fs::write(file.path(), "").expect("emptied");
        assert!(matches!(read_now(&source).await, Err(TokenError::Unavailable(_))));
        fs::write(file.path(), "two").expect("written");
        assert_eq!(read_now(&source).await.as_deref(), Ok("two"));
    }

    #[test]
    fn a_file_without_a_token_is_an_error_that_names_it() {
        let too_large = "a".repeat(usize::try_from(FILE_BYTES_MAX).expect("small") + 1);
        for text in [" \n", too_large.as_str()] {
            let file = written(text);
            let error = TokenFile::open(file.path()).expect_err("no token");
            assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
        }
    }
}
