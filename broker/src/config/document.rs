//! The text of the file, read with all its faults at once: what is wrong is left out, and the rest is read on.

use std::ops::Range as Span;

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{Config, ranges::RANGES};

/// The settings that every configuration has, and one as it may be.
const REQUIRED: [(&str, &str); 8] = [
    ("node.name", r#"name = "broker_1""#),
    ("server.listen", r#"listen = "0.0.0.0:7443""#),
    ("server.certificate_file", r#"certificate_file = "server.pem""#),
    ("server.private_key_file", r#"private_key_file = "server.key""#),
    ("identity.issuers.issuer", r#"issuer = "https://login.example.com""#),
    ("identity.issuers.audience", r#"audience = "veribus""#),
    ("policy.directory", r#"directory = "policies""#),
    ("record.data_directory", r#"data_directory = "data""#),
];

/// A fault in the text.
pub(super) struct TextFault {
    /// Counted from 1.
    pub(super) line: Option<usize>,
    /// On one line.
    pub(super) detail: String,
}

/// A file that is TOML.
pub(super) struct Document<'a> {
    text: &'a str,
    table: Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    /// # Errors
    /// The first place that is not TOML.
    pub(super) fn parse(text: &'a str) -> Result<Self, TextFault> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Self { text, table }),
            Err(error) => Err(fault(text, error.span(), error.message())),
        }
    }

    /// The line of a setting that stands in the file once.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        match at(self.table.get_ref(), key).as_slice() {
            [one] => Some(line(self.text, &one.span())),
            _ => None,
        }
    }

    /// The settings, unless one that is needed is missing, and every fault. What is wrong counts as if it were not there.
    pub(super) fn config(&self) -> (Option<Config>, Vec<TextFault>) {
        let mut table = self.table.clone();
        let mut faults = self.out_of_range();
        let missing = self.missing();
        faults.extend(missing.iter().map(|(key, example)| self.is_missing(key, example)));
        let mut removed: Vec<_> = faults.iter().filter_map(|(place, _)| remove(table.get_mut(), place)).collect();
        let config = loop {
            let error = match Config::deserialize(Deserializer::from(table.clone())) {
                Ok(config) => break Some(config),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_default();
            let lacks = error.message().strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
            let is_told = lacks.is_some_and(|name| {
                removed.iter().any(|key| key == name)
                    || missing.iter().any(|(key, _)| key.split('.').any(|part| part == name))
            });
            if !is_told {
                faults.push((span.clone(), fault(self.text, error.span(), error.message())));
            }
            match remove(table.get_mut(), &span) {
                Some(key) if lacks.is_none() => removed.push(key),
                _ => break None,
            }
        };
        faults.sort_by_key(|(span, _)| span.start);
        (config, faults.into_iter().map(|(_, fault)| fault).collect())
    }

    /// The settings of [`REQUIRED`] that are nowhere.
    fn missing(&self) -> Vec<(&'static str, &'static str)> {
        REQUIRED.into_iter().filter(|(key, _)| at(self.table.get_ref(), key).is_empty()).collect()
    }

    /// Told at the table where it belongs, if that is there.
    fn is_missing(&self, key: &str, example: &str) -> (Span<usize>, TextFault) {
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        let place = at(self.table.get_ref(), section).first().map(|section| section.span());
        let header = if section == "identity.issuers" { format!("[[{section}]]") } else { format!("[{section}]") };
        let detail = format!("`{key}` is missing, for example `{example}` under `{header}`");
        (place.clone().unwrap_or_default(), fault(self.text, place, &detail))
    }

    /// The numbers that are not what [`RANGES`] has.
    fn out_of_range(&self) -> Vec<(Span<usize>, TextFault)> {
        let mut faults = Vec::new();
        for range in RANGES {
            for value in at(self.table.get_ref(), range.key) {
                let DeValue::Integer(number) = value.get_ref() else { continue };
                let is_inside = u64::from_str_radix(number.as_str(), number.radix())
                    .is_ok_and(|number| range.values.contains(&number));
                if !is_inside {
                    let (key, least, most) = (range.key, range.values.start(), range.values.end());
                    let detail = format!("`{key}` must be from {least} to {most}: is {number}");
                    faults.push((value.span(), fault(self.text, Some(value.span()), &detail)));
                }
            }
        }
        faults
    }
}

fn fault(text: &str, span: Option<Span<usize>>, detail: &str) -> TextFault {
    TextFault { line: span.map(|span| line(text, &span)), detail: detail.replace('\n', " ") }
}

fn line(text: &str, span: &Span<usize>) -> usize {
    text.get(..span.start).unwrap_or_default().matches('\n').count() + 1
}

/// The values at a path, of each element where an array stands on it.
fn at<'v, 'i>(table: &'v DeTable<'i>, path: &str) -> Vec<&'v Spanned<DeValue<'i>>> {
    let (name, below) = path.split_once('.').map_or((path, None), |(name, below)| (name, Some(below)));
    let found = table.iter().find(|(key, _)| *key.get_ref() == name).map(|(_, value)| value);
    match (found, below) {
        (None, _) => Vec::new(),
        (Some(value), None) => vec![value],
        (Some(value), Some(below)) => tables(value.get_ref()).into_iter().flat_map(|table| at(table, below)).collect(),
    }
}

fn tables<'v, 'i>(value: &'v DeValue<'i>) -> Vec<&'v DeTable<'i>> {
    match value {
        DeValue::Table(table) => vec![table],
        DeValue::Array(values) => values.iter().filter_map(|value| value.get_ref().as_table()).collect(),
        _ => Vec::new(),
    }
}

/// Takes out the setting whose name or value stands there, and says its name.
fn remove(table: &mut DeTable<'_>, place: &Span<usize>) -> Option<String> {
    let is_there = |key: &Span<usize>, value: &Span<usize>| key == place || value == place;
    let found = table.iter().find(|(key, value)| is_there(&key.span(), &value.span()));
    if let Some(key) = found.map(|(key, _)| key.clone()) {
        table.remove(&key);
        return Some(key.into_inner().into_owned());
    }
    table.iter_mut().find_map(|(_, value)| match value.get_mut() {
        DeValue::Table(table) => remove(table, place),
        DeValue::Array(values) => values.iter_mut().find_map(|value| match value.get_mut() {
            DeValue::Table(table) => remove(table, place),
            _ => None,
        }),
        _ => None,
    })
}
