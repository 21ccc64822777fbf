//! Data files of a policy, read as OPA reads them, or not at all.
//!
//! YAML has many spellings for one value, and its readers differ: `0200000` is a number, a text or an octal number,
//! `yes` a text or a boolean. A value that was deserialised does not tell how it was written, so files are read by their
//! events, and each scalar must be one of the few forms that all readers take alike. A file lies under the path of its
//! directory, as under `opa`: `blocklists/data.json` is `data.blocklists`.

use std::collections::BTreeMap;

use regorus::Value;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::language::{Diagnostic, Rule, number};

/// How deep arrays and mappings may stand in each other.
const DEPTH_MAX: usize = 64;

/// A document from one or more files.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Document {
    Object(BTreeMap<String, Document>),
    Value(Value),
}

impl Document {
    pub(super) const fn empty() -> Self {
        Self::Object(BTreeMap::new())
    }

    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Object(members) => Value::from(
                members
                    .into_iter()
                    .map(|(name, member)| (Value::from(name), member.into_value()))
                    .collect::<BTreeMap<_, _>>(),
            ),
            Self::Value(value) => value,
        }
    }

    /// Adds what another file says. What both say must be an object in both.
    ///
    /// # Errors
    /// The path that both give a value to.
    pub(super) fn merge(&mut self, other: Self) -> Result<(), String> {
        let (Self::Object(members), Self::Object(others)) = (self, other) else { return Err(String::new()) };
        for (name, other) in others {
            match members.get_mut(&name) {
                None => {
                    members.insert(name, other);
                }
                Some(member) => member.merge(other).map_err(|below| join(&name, &below))?,
            }
        }
        Ok(())
    }

    /// Whether something stands at this path, or in the way to it.
    pub(super) fn meets(&self, path: &[String]) -> bool {
        match (self, path.split_first()) {
            (_, None) | (Self::Value(_), _) => true,
            (Self::Object(members), Some((name, rest))) => members.get(name).is_some_and(|member| member.meets(rest)),
        }
    }

    fn below(self, path: &str) -> Self {
        path.rsplit('/')
            .filter(|name| !matches!(*name, "" | "."))
            .fold(self, |document, name| Self::Object([(name.to_owned(), document)].into()))
    }
}

fn join(name: &str, below: &str) -> String {
    if below.is_empty() { name.to_owned() } else { format!("{name}.{below}") }
}

/// Reads a file, and puts it below the path of its directory.
///
/// # Errors
/// One finding, the first.
pub(super) fn read(file: &str, text: &str) -> Result<Document, Diagnostic> {
    let reader = Reader { file, characters: text.chars().collect() };
    let document = reader.read(text)?;
    let Document::Object(_) = document else {
        return Err(reader.at(1, 1, Rule::DataShape, "a document that is no mapping"));
    };
    if file.ends_with(".json") {
        reader.compare_with_json(text, &document)?;
    }
    Ok(document.below(file.rsplit_once('/').map_or("", |(directory, _)| directory)))
}

struct Reader<'a> {
    file: &'a str,
    /// By which the events say where they are.
    characters: Vec<char>,
}

/// A collection that is not closed yet.
enum Open {
    Array { items: Vec<Value>, is_flow: bool },
    Object { members: BTreeMap<String, Document>, key: Option<String>, is_flow: bool },
}

impl Open {
    const fn is_flow(&self) -> bool {
        match self {
            Self::Array { is_flow, .. } | Self::Object { is_flow, .. } => *is_flow,
        }
    }
}

impl Reader<'_> {
    fn read(&self, text: &str) -> Result<Document, Diagnostic> {
        self.check_characters(text)?;
        let mut open: Vec<Open> = Vec::new();
        let mut root = None;
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| self.not_yaml(&error))?;
            let complete = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self.finding(&span, Rule::DataShape, "a second document in one file"));
                    }
                    continue;
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
                Event::Alias(_) => return Err(self.finding(&span, Rule::DataShape, "an alias (`*name`)")),
                Event::SequenceStart(anchor, tag) => {
                    self.check_node(&span, anchor, tag.is_some())?;
                    let is_flow = self.character(&span) == Some('[');
                    open.push(Open::Array { items: Vec::new(), is_flow });
                    self.check_depth(&span, open.len())?;
                    continue;
                }
                Event::MappingStart(anchor, tag) => {
                    self.check_node(&span, anchor, tag.is_some())?;
                    let is_flow = self.character(&span) == Some('{');
                    open.push(Open::Object { members: BTreeMap::new(), key: None, is_flow });
                    self.check_depth(&span, open.len())?;
                    continue;
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.check_node(&span, anchor, tag.is_some())?;
                    let is_flow = open.last().is_some_and(Open::is_flow);
                    let value = self.scalar(&span, &text, style, is_flow)?;
                    if let Some(Open::Object { key: key @ None, members, .. }) = open.last_mut() {
                        *key = Some(self.key(&span, &value, members)?);
                        continue;
                    }
                    Document::Value(value)
                }
                Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                    Some(Open::Array { items, .. }) => Document::Value(Value::from(items)),
                    Some(Open::Object { members, .. }) => Document::Object(members),
                    None => continue,
                },
            };
            match open.last_mut() {
                None => root = Some(complete),
                Some(Open::Array { items, .. }) => items.push(complete.into_value()),
                Some(Open::Object { members, key, .. }) => {
                    let key = key.take();
                    let key = key.ok_or_else(|| self.finding(&span, Rule::DataKey, "a key that is no text"))?;
                    members.insert(key, complete);
                }
            }
        }
        root.ok_or_else(|| self.at(1, 1, Rule::DataShape, "an empty file"))
    }

    /// Line breaks and blanks that not all readers count alike.
    fn check_characters(&self, text: &str) -> Result<(), Diagnostic> {
        for (number, line) in (1..).zip(text.split('\n')) {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let odd = |character: &char| {
                character.is_control() && *character != '\t'
                    || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
            };
            if let Some((column, odd)) = (1..).zip(line.chars()).find(|(_, character)| odd(character)) {
                let message = format!("the character U+{:04X}", u32::from(odd));
                return Err(self.at(number, column, Rule::DataShape, &message));
            }
            if !self.file.ends_with(".json") && (line.starts_with('%') || line.contains('\t')) {
                return Err(self.at(number, 1, Rule::DataShape, "a directive, or a tab"));
            }
        }
        Ok(())
    }

    fn check_node(&self, span: &Span, anchor: usize, has_tag: bool) -> Result<(), Diagnostic> {
        match (anchor, has_tag) {
            (0, false) => Ok(()),
            (0, true) => Err(self.finding(span, Rule::DataShape, "a tag (`!name`)")),
            _ => Err(self.finding(span, Rule::DataShape, "an anchor (`&name`)")),
        }
    }

    fn check_depth(&self, span: &Span, depth: usize) -> Result<(), Diagnostic> {
        if depth <= DEPTH_MAX {
            Ok(())
        } else {
            Err(self.finding(span, Rule::DataShape, "collections that stand too deep in each other"))
        }
    }

    fn scalar(&self, span: &Span, text: &str, style: ScalarStyle, is_flow: bool) -> Result<Value, Diagnostic> {
        match style {
            ScalarStyle::Plain => self.plain(span, text, is_flow),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted if span.start.line() == span.end.line() => {
                if style == ScalarStyle::DoubleQuoted {
                    self.check_escapes(span)?;
                }
                Ok(Value::from(text))
            }
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                Err(self.finding(span, Rule::DataShape, "a text over several lines"))
            }
            ScalarStyle::Literal | ScalarStyle::Folded => Err(self.finding(span, Rule::DataShape, "a block text")),
        }
    }

    /// Only the escapes that all readers know.
    fn check_escapes(&self, span: &Span) -> Result<(), Diagnostic> {
        let written = self.characters.get(span.start.index()..span.end.index()).unwrap_or_default();
        let mut characters = written.iter();
        while let Some(character) = characters.next() {
            if *character == '\\' {
                let escaped = characters.next().copied().unwrap_or_default();
                if !matches!(escaped, '"' | '\\' | 'n' | 'r' | 't' | 'u') {
                    return Err(self.finding(span, Rule::DataScalar, &format!("the escape `\\{escaped}`")));
                }
            }
        }
        Ok(())
    }

    /// A scalar without quotes: a text that begins with a letter and is no word of any schema, or a plain number.
    fn plain(&self, span: &Span, text: &str, is_flow: bool) -> Result<Value, Diagnostic> {
        const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
        let refuse = |why: &str| Err(self.finding(span, Rule::DataScalar, &format!("`{text}`, {why}")));
        match text {
            "null" => return Ok(Value::Null),
            "true" => return Ok(Value::from(true)),
            "false" => return Ok(Value::from(false)),
            "" => return refuse("an empty place, which may be null or a mistake"),
            _ => {}
        }
        if WORDS.contains(&text.to_ascii_lowercase().as_str()) {
            return refuse("which is a boolean, null or a text, by the reader");
        }
        if number::is_plain_literal(text.strip_prefix('-').unwrap_or(text)) && text != "-0" {
            return number::parse(text).map_or_else(|| refuse("a number that is not exact"), Ok);
        }
        if !text.starts_with(|first: char| first.is_alphabetic() || matches!(first, '_' | '/')) {
            return refuse("which is a number, a date or a text, by the reader");
        }
        if span.start.line() != span.end.line() || is_flow && text.contains(':') {
            return refuse("over several lines, or with a `:` inside brackets");
        }
        Ok(Value::from(text))
    }

    fn key(&self, span: &Span, value: &Value, members: &BTreeMap<String, Document>) -> Result<String, Diagnostic> {
        let Ok(key) = value.as_string() else {
            return Err(self.finding(span, Rule::DataKey, &format!("the key `{value}`, which is no text")));
        };
        const CHARACTERS_MAX: usize = 256;
        let behind = self.characters.get(span.end.index()..).unwrap_or_default();
        if behind.iter().find(|character| **character != ' ') != Some(&':') || key.chars().count() > CHARACTERS_MAX {
            return Err(self.finding(
                span,
                Rule::DataKey,
                "a key that is too long, or without its `:` in the same line",
            ));
        }
        if members.contains_key(key.as_ref()) {
            return Err(self.finding(span, Rule::DataKey, &format!("the key `{key}` a second time")));
        }
        Ok(key.to_string())
    }

    /// A file that says it is JSON must be, and mean the same when it is read as that.
    fn compare_with_json(&self, text: &str, document: &Document) -> Result<(), Diagnostic> {
        let json: Value = serde_json::from_str(text).map_err(|error| {
            let place = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            self.at(place(error.line()), place(error.column()), Rule::DataShape, &format!("no JSON: {error}"))
        })?;
        if document.clone().into_value() == json {
            Ok(())
        } else {
            Err(self.at(0, 0, Rule::DataScalar, "a text or number that readers of JSON and YAML take unlike"))
        }
    }

    fn character(&self, span: &Span) -> Option<char> {
        self.characters.get(span.start.index()).copied()
    }

    fn not_yaml(&self, error: &ScanError) -> Diagnostic {
        let place = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let marker = error.marker();
        self.at(place(marker.line()), place(marker.col()).saturating_add(1), Rule::DataShape, error.info())
    }

    fn finding(&self, span: &Span, rule: Rule, message: &str) -> Diagnostic {
        let place = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.at(place(span.start.line()), place(span.start.col()).saturating_add(1), rule, message)
    }

    fn at(&self, line: u32, column: u32, rule: Rule, message: &str) -> Diagnostic {
        Diagnostic {
            file: self.file.to_owned(),
            line,
            column,
            rule: rule.name(),
            message: message.to_owned(),
            rewrite: rule.rewrite(),
        }
    }
}

#[cfg(test)]
mod tests;
