//! What is printed: results on standard output, everything else on standard error. Colour on a terminal only.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use anstream::{AutoStream, ColorChoice};
use comfy_table::{ContentArrangement, Table};
use owo_colors::OwoColorize as _;
use serde::Serialize;

use super::logging;

/// Prints one result line at once.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints one JSON document on one line.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

/// Prints a table.
pub(super) fn table(table: &Table) -> io::Result<()> {
    line(table.trim_fmt())
}

/// An empty table that fits the terminal.
pub(super) fn new_table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if AutoStream::choice(&io::stdout()) == ColorChoice::Never {
        table.force_no_tty();
    }
    table.set_header(header.into_iter().collect::<Vec<_>>());
    table
}

/// Tells the user something that is no result.
pub(super) fn note(text: impl Display) {
    let Some(queue) = logging::queue() else {
        // There is nobody left to tell that standard error is closed.
        let _ = writeln!(anstream::stderr().lock(), "{text}");
        return;
    };
    let mut line = AutoStream::new(Vec::new(), AutoStream::choice(&io::stderr()));
    if writeln!(line, "{text}").is_ok() {
        queue.push(&line.into_inner());
    }
}

/// Tells the user what went wrong.
pub(super) fn complain(reason: &str) {
    note(format_args!("{} {reason}", "veribus:".red().bold()));
}

/// Text that others wrote, made fit for a terminal: on one line, and without anything that would steer it.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        assert_eq!(visible("a\x1b[2Jb\u{9b}c\nd\u{202e}é"), "a\u{fffd}[2Jb\u{fffd}c d\u{fffd}é");
    }
}
