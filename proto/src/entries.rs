//! Entries one after another, each behind its length as two big-endian bytes: the form of
//! [C2SP `tlog-tiles`](https://c2sp.org/tlog-tiles) entry bundles, of the chunks in the store, and of an export.

use thiserror::Error;

/// The longest entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = u16::MAX as usize;

/// Why bytes are not a sequence of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntriesError {
    /// An entry is longer than [`ENTRY_BYTES_MAX`].
    #[error("an entry of {0} bytes is longer than the format can hold")]
    TooLong(usize),
    /// The bytes end within a length or an entry.
    #[error("cut off {0} bytes from the end of the last whole entry")]
    CutOff(usize),
}

/// Appends one entry to `out`.
///
/// # Errors
/// [`EntriesError::TooLong`]; `out` is unchanged.
pub fn push(out: &mut Vec<u8>, entry: &[u8]) -> Result<(), EntriesError> {
    let length = u16::try_from(entry.len()).map_err(|_| EntriesError::TooLong(entry.len()))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(entry);
    Ok(())
}

/// The entries in `bytes`, in order. After an error there are no more.
pub fn iter(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], EntriesError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = rest
            .split_first_chunk::<2>()
            .and_then(|(length, after)| after.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        let Some((entry, after)) = split else {
            let cut = rest.len();
            rest = &[];
            return Some(Err(EntriesError::CutOff(cut)));
        };
        rest = after;
        Some(Ok(entry))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_comes_back_in_order() {
        let mut bytes = Vec::new();
        for entry in [&b"one"[..], b"", &[7; ENTRY_BYTES_MAX]] {
            push(&mut bytes, entry).expect("fits");
        }
        let back: Vec<_> = iter(&bytes).map(|entry| entry.expect("whole").len()).collect();
        assert_eq!(back, [3, 0, ENTRY_BYTES_MAX]);
    }

    #[test]
    fn an_entry_that_is_too_long_changes_nothing() {
        let mut bytes = vec![1];
        assert_eq!(push(&mut bytes, &[0; ENTRY_BYTES_MAX + 1]), Err(EntriesError::TooLong(65_536)));
        assert_eq!(bytes, [1]);
    }

    #[test]
    fn bytes_cut_off_anywhere_are_an_error_and_the_end() {
        let mut bytes = Vec::new();
        push(&mut bytes, b"entry").expect("fits");
        for length in 1..bytes.len() {
            let read: Vec<_> = iter(&bytes[..length]).collect();
            assert_eq!(read, [Err(EntriesError::CutOff(length))]);
        }
    }
}
