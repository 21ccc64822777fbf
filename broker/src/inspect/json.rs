//! The strings of a JSON text, unescaped one by one.
//!
//! In scope: whether the text is JSON (RFC 8259, at most 128 levels, which is `serde_json`'s bound), its string values
//! and its member names in order, apart and together, whether a name is given twice. Out of scope: numbers, and what the strings say.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::work::looked_at;

/// The strings of a JSON text, a line each.
#[derive(Debug, Default)]
pub(super) struct Strings {
    /// The values.
    pub(super) values: String,
    /// The member names.
    pub(super) names: String,
    /// Where the strings end, in the order of the document.
    ends: Vec<End>,
    /// Hashes of the member names of the objects that are open.
    open_names: Vec<u64>,
    /// Whether an object has two members of one name, of which each receiver reads the one or the other.
    pub(super) has_duplicates: bool,
}

/// Where a string ends in the names or in the values.
#[derive(Debug, Clone, Copy)]
enum End {
    Name(usize),
    Value(usize),
}

impl Strings {
    /// Forgets everything, keeping the memory.
    pub(super) fn clear(&mut self) {
        self.values.clear();
        self.names.clear();
        self.ends.clear();
        self.open_names.clear();
        self.has_duplicates = false;
    }

    /// Adds the strings of `data`; `false` if it is not JSON.
    pub(super) fn read(&mut self, data: &[u8]) -> bool {
        let mut json = serde_json::Deserializer::from_slice(data);
        Collect::value(self).deserialize(&mut json).and_then(|()| json.end()).is_ok()
    }

    /// Adds one value.
    pub(super) fn add_value(&mut self, text: &str) {
        self.values.push_str(text);
        self.ends.push(End::Value(self.values.len()));
        self.values.push('\n');
    }

    /// Adds one member name.
    pub(super) fn add_name(&mut self, text: &str) {
        self.names.push_str(text);
        self.ends.push(End::Name(self.names.len()));
        self.names.push('\n');
    }

    /// Names and values in the order of the document.
    pub(super) fn in_order(&self) -> impl ExactSizeIterator<Item = &str> {
        let (mut name, mut value) = (0, 0);
        self.ends.iter().map(move |end| {
            let (text, begin, end) = match *end {
                End::Name(end) => (&self.names, &mut name, end),
                End::Value(end) => (&self.values, &mut value, end),
            };
            text.get(std::mem::replace(begin, end + 1)..end).unwrap_or_default()
        })
    }

    /// The memory that it keeps, in bytes.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.values.capacity()
            + self.names.capacity()
            + self.ends.capacity() * size_of::<End>()
            + self.open_names.capacity() * size_of::<u64>()
    }

    fn add_member(&mut self, name: &str) {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        self.open_names.push(hasher.finish());
        self.add_name(name);
    }

    /// Closes the object whose first member is the one at this place among the open ones.
    fn close(&mut self, first: usize) {
        looked_at(self.open_names.len() - first);
        let names = self.open_names.get_mut(first..).unwrap_or_default();
        names.sort_unstable();
        self.has_duplicates |= names.windows(2).any(|two| matches!(two, [one, other] if one == other));
        self.open_names.truncate(first);
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
        looked_at(text.len());
        if self.is_name {
            self.strings.add_member(text)
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
        let first = self.strings.open_names.len();
        while members.next_key_seed(Collect::name(self.strings))?.is_some() {
            members.next_value_seed(Collect::value(self.strings))?;
        }
        self.strings.close(first);
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
    fn names_and_values_are_given_in_the_order_of_the_document() {
        let mut strings = Strings::default();
        assert!(strings.read(br#"{"a":"1","b":["2","",{"c":3}],"d":"4"}"#));
        assert_eq!(strings.in_order().collect::<Vec<_>>(), ["a", "1", "b", "2", "", "c", "d", "4"]);
    }

    #[test]
    fn a_name_given_twice_in_one_object_is_told() {
        for (text, expected) in [
            (r#"{"a":1,"a":2}"#, true),
            (r#"{"a":1,"\u0061":2}"#, true),
            (r#"[{"b":{"x":1,"a":1,"y":{},"a":2}}]"#, true),
            (r#"{"a":1,"b":{"a":2,"c":{"a":3}},"c":[{"a":1},{"a":1}]}"#, false),
        ] {
            let mut strings = Strings::default();
            assert!(strings.read(text.as_bytes()));
            assert_eq!(strings.has_duplicates, expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_told_apart() {
        for text in ["", "{", "{} x", "[1,]", "{\"a\":}", "\"\\ud800\"", "nul"] {
            assert_eq!(strings(text), None, "{text}");
        }
        assert_eq!(strings(&"[".repeat(100_000)), None);
    }
}
