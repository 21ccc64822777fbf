//! The strings of a JSON text, unescaped one by one.
//!
//! In scope: whether the text is JSON (RFC 8259, at most 128 levels, which is `serde_json`'s bound), its string values
//! in order, its member names in order. Out of scope: numbers, and what the strings say.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The strings of a JSON text, a line each.
#[derive(Debug, Default)]
pub(super) struct Strings {
    /// The values.
    pub(super) values: String,
    /// The member names.
    pub(super) names: String,
}

impl Strings {
    /// Forgets everything, keeping the memory.
    pub(super) fn clear(&mut self) {
        self.values.clear();
        self.names.clear();
    }

    /// Adds the strings of `data`; `false` if it is not JSON.
    pub(super) fn read(&mut self, data: &[u8]) -> bool {
        let mut json = serde_json::Deserializer::from_slice(data);
        Collect::value(self).deserialize(&mut json).and_then(|()| json.end()).is_ok()
    }

    /// Adds one value.
    pub(super) fn add_value(&mut self, text: &str) {
        self.values.push_str(text);
        self.values.push('\n');
    }

    /// Adds one member name.
    pub(super) fn add_name(&mut self, text: &str) {
        self.names.push_str(text);
        self.names.push('\n');
    }
}

/// Whether the data begins as a JSON text that holds strings does.
pub(super) fn may_be_json(data: &[u8]) -> bool {
    matches!(data.trim_ascii_start().first(), Some(b'{' | b'[' | b'"'))
}

struct Collect<'s> {
    strings: &'s mut Strings,
    is_name: bool,
}

impl<'s> Collect<'s> {
    const fn value(strings: &'s mut Strings) -> Self {
        Self { strings, is_name: false }
    }

    const fn name(strings: &'s mut Strings) -> Self {
        Self { strings, is_name: true }
    }
}

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if self.is_name {
            self.strings.add_name(text)
        } else {
            self.strings.add_value(text)
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Collect::value(self.strings))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while members.next_key_seed(Collect::name(self.strings))?.is_some() {
            members.next_value_seed(Collect::value(self.strings))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(data: &str) -> Option<(String, String)> {
        let mut strings = Strings::default();
        strings.read(data.as_bytes()).then_some((strings.values, strings.names))
    }

    #[test]
    fn values_and_names_are_unescaped_in_order() {
        let found = strings(r#"{"a":"ig\u006eore","b":[1,-2.5,true,null,"all"],"c\n":{"d":"rules"}}"#);
        assert_eq!(found, Some(("ignore\nall\nrules\n".to_owned(), "a\nb\nc\n\nd\n".to_owned())));
    }

    #[test]
    fn what_is_not_json_is_told_apart() {
        for text in ["", "{", "{} x", "[1,]", "{\"a\":}", "\"\\ud800\"", "nul"] {
            assert_eq!(strings(text), None, "{text}");
        }
        assert_eq!(strings(&"[".repeat(100_000)), None);
    }
}
