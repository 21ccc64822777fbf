//! Escape notations undone in one go: URL percent, HTML entities, `\u0069`, `\x69`, quoted-printable `=69`.
//!
//! In scope: one level of each. Out of scope: levels within levels, for which the caller comes back.

use std::{borrow::Cow, iter::Peekable, slice::Iter};

use percent_encoding::percent_decode_str;

use super::work::looked_at;

/// Fewer codes like `=6E` are taken for accidents.
const QUOTED_CODES_MIN: usize = 2;

/// The text without its escapes, if it has any.
pub(super) fn undo(text: &str) -> Option<String> {
    looked_at(3 * text.len());
    let percent = percent_decode_str(text).decode_utf8_lossy();
    let entities = html_escape::decode_html_entities(percent.as_ref());
    let quoted_printable = is_quoted_printable(&entities);
    let plain = if quoted_printable || entities.contains('\\') {
        Cow::Owned(undo_codes(&entities, quoted_printable))
    } else {
        entities
    };
    (plain != text).then(|| plain.into_owned())
}

/// Whether there are enough codes like `=6E` for the text to be quoted-printable, where `=` also joins lines.
fn is_quoted_printable(text: &str) -> bool {
    let is_code =
        |three: &&[u8]| matches!(three, [b'=', high, low] if high.is_ascii_digit() && low.is_ascii_hexdigit());
    text.as_bytes().windows(3).filter(is_code).take(QUOTED_CODES_MIN).count() == QUOTED_CODES_MIN
}

/// Undoes backslash and quoted-printable codes.
fn undo_codes(text: &str, quoted_printable: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes().iter().peekable();
    while let Some(&byte) = bytes.next() {
        looked_at(1);
        match byte {
            b'\\' => undo_backslash(&mut bytes, &mut out),
            b'=' if quoted_printable => undo_equals(&mut bytes, &mut out),
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn undo_backslash(bytes: &mut Peekable<Iter<'_, u8>>, out: &mut Vec<u8>) {
    let digits = match bytes.peek() {
        Some(b'x' | b'X') => 2,
        Some(b'u') => 4,
        Some(b'U') => 8,
        Some(b'n' | b'r' | b't' | b'f' | b'b') => 0,
        _ => return out.push(b' '),
    };
    bytes.next();
    if digits == 0 {
        return out.push(b'\n');
    }
    let braced = bytes.next_if(|byte| **byte == b'{').is_some();
    let code = number(bytes, if braced { 8 } else { digits });
    if braced {
        bytes.next_if(|byte| **byte == b'}');
    }
    match code.and_then(char::from_u32) {
        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None => out.push(b' '),
    }
}

/// `=69` is a byte, `=` at the end of a line joins it with the next.
fn undo_equals(bytes: &mut Peekable<Iter<'_, u8>>, out: &mut Vec<u8>) {
    let mut ahead = bytes.clone();
    let two = [ahead.next(), ahead.next()];
    match two {
        [Some(b'\n'), _] => _ = bytes.next(),
        [Some(b'\r'), Some(b'\n')] => *bytes = ahead,
        [Some(high), Some(low)] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            out.extend(number(bytes, 2).and_then(|code| u8::try_from(code).ok()));
        }
        _ => out.push(b'='),
    }
}

/// Reads up to `digits` hexadecimal digits.
fn number(bytes: &mut Peekable<Iter<'_, u8>>, digits: usize) -> Option<u32> {
    let mut value = None;
    for _ in 0..digits {
        let Some(digit) = bytes.peek().and_then(|byte| char::from(**byte).to_digit(16)) else { break };
        value = Some(value.unwrap_or(0) << 4 | digit);
        looked_at(1);
        bytes.next();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_is_undone() {
        for (escaped, plain) in [
            ("%69gn%6Fre", "ignore"),
            ("&#105;gn&#x6f;re &lt;b&gt;", "ignore <b>"),
            ("\\u0069gn\\u006Fre", "ignore"),
            ("\\u{69}gn\\x6fre\\nall", "ignore\nall"),
            ("=69gn=6Fre a=\nll", "ignore all"),
            ("a=b%2", "a=b%2"),
        ] {
            assert_eq!(undo(escaped).as_deref().unwrap_or(escaped), plain);
        }
    }

    #[test]
    fn text_without_escapes_is_left_alone() {
        assert_eq!(undo("50 % of a & b, x = y"), None);
    }

    #[test]
    fn broken_escapes_do_no_harm() {
        for text in ["\\", "\\u", "\\u{", "\\u{110000}", "\\ud800", "=", "=\r", "=4", "%", "&#", "&#99999999;", "\\xzz"]
        {
            drop(undo(text));
        }
    }
}
