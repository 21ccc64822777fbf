//! Two ways to take in the policy's input: as a value to evaluate on, and as a key to remember the verdict under.
//!
//! Both see the same calls, so two inputs with one key are one value.

use std::collections::BTreeMap;

use regorus::Value;
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::{language::number, reads::Reads};

/// Takes in the members of the input object, one by one.
pub(super) trait Sink {
    fn text(&mut self, name: &str, value: &str);
    fn number(&mut self, name: &str, value: i64);
    fn flag(&mut self, name: &str, value: bool);
    fn texts<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a str>);
    fn json(&mut self, name: &str, value: &Json);
    /// The input holds something that cannot be read alike by all: no value can be made of it.
    fn spoil(&mut self);
    fn open(&mut self, name: &str);
    fn close(&mut self);
}

/// Hands on to a sink only the members that are read.
pub(super) struct Projected<'a, S> {
    pub(super) reads: &'a Reads,
    pub(super) sink: &'a mut S,
}

impl<S: Sink> Projected<'_, S> {
    pub(super) fn reads(&self, name: &str) -> bool {
        self.reads.member(name).is_some()
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        if self.reads(name) {
            self.sink.text(name, value);
        }
    }

    pub(super) fn number(&mut self, name: &str, value: impl TryInto<i64>) {
        if self.reads(name) {
            self.sink.number(name, value.try_into().unwrap_or(i64::MAX));
        }
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        if self.reads(name) {
            self.sink.flag(name, value);
        }
    }

    pub(super) fn texts<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a str>) {
        if self.reads(name) {
            self.sink.texts(name, values);
        }
    }

    pub(super) fn json(&mut self, name: &str, value: impl FnOnce() -> Option<Json>) {
        if self.reads(name)
            && let Some(value) = value()
        {
            self.sink.json(name, &value);
        }
    }

    /// A member whose text may be JSON, and is left out if it is not.
    pub(super) fn json_text(&mut self, name: &str, text: &[u8]) {
        self.json(name, || serde_json::from_slice(text).ok());
        if self.reads(name) && !number::all_are_plain(text) && serde_json::from_slice::<IgnoredAny>(text).is_ok() {
            self.sink.spoil();
        }
    }

    pub(super) fn object(&mut self, name: &str, members: impl FnOnce(&mut Projected<'_, S>)) {
        if let Some(reads) = self.reads.member(name) {
            self.sink.open(name);
            members(&mut Projected { reads, sink: self.sink });
            self.sink.close();
        }
    }
}

/// Builds the value that the policy is evaluated on.
#[derive(Default)]
pub(super) struct ValueSink {
    members: BTreeMap<Value, Value>,
    outer: Vec<(String, BTreeMap<Value, Value>)>,
    is_spoiled: bool,
}

impl ValueSink {
    /// The value; `None` if it holds a number that not all engines take for the same.
    pub(super) fn finish(self) -> Option<Value> {
        (!self.is_spoiled).then(|| Value::from(self.members))
    }

    fn put(&mut self, name: &str, value: Value) {
        self.members.insert(Value::from(name), value);
    }
}

impl Sink for ValueSink {
    fn text(&mut self, name: &str, value: &str) {
        self.put(name, Value::from(value));
    }

    fn number(&mut self, name: &str, value: i64) {
        self.put(name, Value::from(value));
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.put(name, Value::from(value));
    }

    fn texts<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a str>) {
        self.put(name, Value::from(values.map(Value::from).collect::<Vec<_>>()));
    }

    fn json(&mut self, name: &str, value: &Json) {
        match number::value(value) {
            Some(value) => self.put(name, value),
            None => self.spoil(),
        }
    }

    fn spoil(&mut self) {
        self.is_spoiled = true;
    }

    fn open(&mut self, name: &str) {
        self.outer.push((name.to_owned(), std::mem::take(&mut self.members)));
    }

    fn close(&mut self) {
        if let Some((name, outer)) = self.outer.pop() {
            let inner = std::mem::replace(&mut self.members, outer);
            self.put(&name, Value::from(inner));
        }
    }
}

/// Writes each member unambiguously: a mark for its kind, and every text behind its length.
pub(super) struct KeySink(Vec<u8>);

/// What most keys take, so that they are not moved while they grow.
const KEY_BYTES: usize = 1024;

impl Default for KeySink {
    fn default() -> Self {
        Self(Vec::with_capacity(KEY_BYTES))
    }
}

impl KeySink {
    pub(super) fn finish(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }

    fn put(&mut self, kind: u8, name: &str, value: &[u8]) {
        self.0.push(kind);
        self.bytes(name.as_bytes());
        self.bytes(value);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&bytes.len().to_le_bytes());
        self.0.extend_from_slice(bytes);
    }
}

impl Sink for KeySink {
    fn text(&mut self, name: &str, value: &str) {
        self.put(b't', name, value.as_bytes());
    }

    fn number(&mut self, name: &str, value: i64) {
        self.put(b'n', name, &value.to_le_bytes());
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.put(b'f', name, &[u8::from(value)]);
    }

    fn texts<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a str>) {
        self.put(b'l', name, &[]);
        for value in values {
            self.0.push(b'+');
            self.bytes(value.as_bytes());
        }
        self.0.push(b'.');
    }

    fn json(&mut self, name: &str, value: &Json) {
        self.put(b'j', name, value.to_string().as_bytes());
    }

    fn spoil(&mut self) {
        self.put(b'!', "", &[]);
    }

    fn open(&mut self, name: &str) {
        self.put(b'(', name, &[]);
    }

    fn close(&mut self) {
        self.0.push(b')');
    }
}
