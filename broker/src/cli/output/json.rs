//! JSON of equal meaning that is fit for a terminal: what steers stands as `\uXXXX` in it.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::escape::steers;

/// Writes one document without white space.
pub(super) fn write(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Escaping)).map_err(io::Error::from)
}

/// The same as text, to be printed in a line.
pub(in crate::cli) fn json_text(value: &serde_json::Value) -> String {
    let mut text = Vec::new();
    // A value is always JSON, and memory takes what is written.
    let _ = write(&mut text, value);
    String::from_utf8(text).unwrap_or_default()
}

/// As `CompactFormatter`, which escapes C0 alone.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for piece in fragment.split_inclusive(steers) {
            let plain = piece.strip_suffix(steers).unwrap_or(piece);
            out.write_all(plain.as_bytes())?;
            // At most one character is left, of one or two units.
            let escaped = piece.strip_prefix(plain).unwrap_or_default();
            escaped.encode_utf16().try_for_each(|unit| write!(out, "\\u{unit:04x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn json_holds_nothing_that_steers_and_means_the_same() {
        let all: String = ('\0'..=char::MAX).collect();
        let scattered: String = all.chars().filter(|c| steers(*c)).flat_map(|c| [c, 'a', c, c]).collect();
        for text in [&*all, &*scattered, "", "plain \"quoted\" \\u202e"] {
            let value = json!({ text: [text, { "a": text }] });
            let printed = json_text(&value);
            assert!(!printed.contains(steers));
            assert_eq!(serde_json::from_str::<Value>(&printed).expect("JSON"), value);
        }
    }

    #[test]
    fn what_does_not_steer_stands_as_it_is() {
        assert_eq!(
            json_text(&json!({"a": ["é\u{85}\u{e0041}\n", 1, null]})),
            r#"{"a":["é\u0085\udb40\udc41\n",1,null]}"#
        );
    }
}
