//! The text of the file, read with all its faults at once: what is wrong is left out, and the rest is read on.

use std::ops::Range as Span;

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{Config, ranges::RANGES};

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
        let mut removed: Vec<_> = faults.iter().filter_map(|(place, _)| remove(table.get_mut(), place)).collect();
        let config = loop {
            let error = match Config::deserialize(Deserializer::from(table.clone())) {
                Ok(config) => break Some(config),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_default();
            let is_told = removed.iter().any(|key| error.message() == format!("missing field `{key}`"));
            if !is_told {
                faults.push((span.clone(), fault(self.text, error.span(), error.message())));
            }
            match remove(table.get_mut(), &span) {
                Some(key) if !error.message().starts_with("missing field") => removed.push(key),
                _ => break None,
            }
        };
        faults.sort_by_key(|(span, _)| span.start);
        (config, faults.into_iter().map(|(_, fault)| fault).collect())
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
