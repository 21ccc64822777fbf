use std::{cell::RefCell, collections::BTreeSet, fs, path::Path};

use serde::{
    Deserialize as _, Deserializer,
    de::{
        DeserializeSeed, IntoDeserializer as _, MapAccess, SeqAccess, Visitor,
        value::{Error, StrDeserializer},
    },
    forward_to_deserialize_any,
};
use toml::{Table, Value};
use veribus_client::{Client, Error as ClientError, Message};

use super::*;
use crate::{
    config::{Config, ConfigError},
    dev::{DEFAULT_AGENT, DevDirectory, DevOptions, client_url},
    server::{StartOptions, start},
};

/// Where a number stands: what follows it in the text replaces it, since a TOML value holds only what is in range of `i64`.
const PLACE: &str = "@number@";

/// Names the fields that a type reads, and those of the types in it, and takes down where it asks for a number.
#[derive(Clone)]
struct Fields<'a> {
    path: String,
    numbers: &'a RefCell<BTreeSet<String>>,
}

impl Fields<'_> {
    fn below(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { path, numbers: self.numbers }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.numbers.borrow_mut().insert(self.path);
        visitor.visit_u64(1)
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.number(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(if self.path.ends_with("listen") { "127.0.0.1:0" } else { "https://a.example" })
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_f32 deserialize_f64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(true)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Once(Some(self)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let first: StrDeserializer<'_, Error> = variants[0].into_deserializer();
        visitor.visit_enum(first)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Members { of: self, fields: fields.iter(), next: "" })
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct map identifier
        ignored_any
    }
}

struct Once<'a>(Option<Fields<'a>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|fields| seed.deserialize(fields)).transpose()
    }
}

struct Members<'a> {
    of: Fields<'a>,
    fields: std::slice::Iter<'static, &'static str>,
    next: &'static str,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.fields.next() else { return Ok(None) };
        self.next = name;
        let name: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.of.below(self.next))
    }
}

#[test]
fn every_number_that_can_be_set_has_its_range() {
    let numbers = RefCell::default();
    Config::deserialize(Fields { path: String::new(), numbers: &numbers }).expect("all fields");
    let ranges: BTreeSet<_> = RANGES.iter().map(|range| range.key.to_owned()).collect();
    assert_eq!(numbers.into_inner(), ranges);
    assert_eq!(RANGES.len(), ranges.len(), "each once");
}

fn dev() -> (tempfile::TempDir, DevDirectory) {
    let outer = tempfile::tempdir().expect("a directory");
    let directory = DevDirectory::create_or_reuse(outer.path(), DevOptions::default()).expect("made");
    (outer, directory)
}

/// The configuration with these settings, each a number as it is to stand there.
fn with(directory: &DevDirectory, settings: &[(&str, String)]) -> Result<Config, ConfigError> {
    let path = directory.config_path();
    let mut table: Table = fs::read_to_string(&path).expect("read").parse().expect("TOML");
    for (place, (key, _)) in settings.iter().enumerate() {
        set(&mut table, key, Value::String(format!("{PLACE}{place}{PLACE}")));
    }
    let mut text = table.to_string();
    for (place, (_, number)) in settings.iter().enumerate() {
        text = text.replace(&format!("\"{PLACE}{place}{PLACE}\""), number);
    }
    Config::parse(&text, Path::new("veribus.toml"), directory.root())
}

fn set(table: &mut Table, key: &str, value: Value) {
    if key == "state.histories.versions" {
        let history = Table::from_iter([("scopes".to_owned(), Value::from("a.>")), ("versions".to_owned(), value)]);
        return set(table, "state.histories", Value::Array(vec![Value::Table(history)]));
    }
    let (section, name) = key.split_once('.').expect("a section");
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    section.as_table_mut().expect("a table").insert(name.to_owned(), value);
}

/// Those that others must not be below, as large as they can be.
const ABOVE: [&str; 4] = [
    "limits.frame_bytes_max",
    "limits.receive_bytes_max",
    "limits.connection_window_bytes",
    "delivery.queues_bytes_max",
];
/// Those that others must not be above, as small as they can be.
const BELOW: [&str; 4] =
    ["limits.message_bytes_max", "limits.frame_bytes_max", "limits.stream_window_bytes", "delivery.queue_bytes_max"];

fn range(key: &str) -> &RangeInclusive<u64> {
    &RANGES.iter().find(|range| range.key == key).expect("a range").values
}

/// `key` at `number`, and the others so that it fits.
fn fitting(key: &'static str, number: String, others: [&'static str; 4]) -> Vec<(&'static str, String)> {
    let bound = |key| if others == ABOVE { *range(key).end() } else { *range(key).start() };
    let others = others.into_iter().filter(|other| *other != key).map(|other| (other, bound(other).to_string()));
    others.chain([(key, number)]).collect()
}

#[test]
fn a_number_is_taken_up_to_the_ends_of_its_range_and_refused_beyond() {
    let (_outer, directory) = dev();
    for Range { key, values } in RANGES {
        let (least, most) = (*values.start(), *values.end());
        for (number, others) in [(least, BELOW), (most, ABOVE)] {
            let read = with(&directory, &fitting(key, number.to_string(), others));
            assert!(read.is_ok(), "{key} = {number}: {read:?}");
        }
        let below = i128::from(least) - 1;
        for number in [below, i128::from(most) + 1, i64::MIN.into(), i64::MAX.into(), u64::MAX.into(), i128::MAX] {
            let faults = with(&directory, &[(key, number.to_string())]).expect_err(key).lines();
            let words = format!("`{key}` must be from {least} to {most}: is {number}");
            assert!(
                matches!(&faults[..], [one] if one.contains(": line ") && one.contains(&words)),
                "{key} = {number}: {faults:?}"
            );
        }
    }
}

/// What is so small that a slow machine cannot keep it, or the tokens of the directory do not, or a fixed policy does not;
/// what is so large that nothing may be published.
const APART: [&str; 9] = [
    "limits.tls_handshake_ms_max",
    "limits.first_authenticated_call_ms_max",
    "limits.keepalive_interval_ms",
    "limits.keepalive_timeout_ms",
    "limits.connection_age_ms_max",
    "limits.frame_ms_max",
    "identity.token_lifetime_s_max",
    "policy.evaluation_steps_max",
    "record.free_disk_bytes_min",
];

async fn publishes(bound: fn(&RangeInclusive<u64>) -> u64) {
    let (_outer, directory) = dev();
    let rows = RANGES.iter().filter(|range| !APART.contains(&range.key));
    let mut settings: Vec<_> = rows.map(|range| (range.key, bound(&range.values).to_string())).collect();
    settings.push(("record.free_disk_bytes_min", "0".to_owned()));
    let config = with(&directory, &settings).expect("they go together");
    let server = start(config, StartOptions::default()).await.expect("starts");
    let builder = Client::builder(client_url(server.address())).ca_file(directory.ca_path());
    let client = builder.token_file(directory.token_path(DEFAULT_AGENT)).connect().await.expect("connects");
    let answer = client.publish(Message::text("finance.a", "finance.report", "")).await;
    assert!(matches!(&answer, Ok(_) | Err(ClientError::Refused(_))), "{answer:?}");
    drop(client);
    server.drain().await.expect("drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_answers_with_the_smallest_numbers() {
    publishes(|values| *values.start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_answers_with_the_largest_numbers() {
    publishes(|values| *values.end()).await;
}
