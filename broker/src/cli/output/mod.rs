//! What is printed: results on standard output, everything else on standard error. Colour on a terminal only.
//!
//! Much of it others wrote: agents choose names, keys, reasons and payloads. So there is no way to print here that does not
//! [escape](escape): a line takes colour only as [`Line::styled`], a table takes [`Cell`]s, JSON has a formatter. What a program
//! reads byte by byte (`state get` into a pipe, `audit export`) is written elsewhere, and says so.

mod escape;
mod json;
mod line;
mod table;

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use anstream::AutoStream;
use owo_colors::Style;
use serde::Serialize;

use super::logging;

pub(super) use json::json_text;
pub(super) use line::Line;
pub(super) use table::{Cell, Table, new_table};

/// Whether a text would do more to a terminal than to be shown.
pub(super) fn steers(text: &str) -> bool {
    text.chars().any(escape::steers)
}

/// Prints one result line at once.
pub(super) fn line(text: impl Into<Line>) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{}", text.into().as_str())?;
    out.flush()
}

/// Prints a text of our own that has several lines.
pub(super) fn lines(text: &str) -> io::Result<()> {
    text.split('\n').try_for_each(line)
}

/// Prints one JSON document on one line.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    json::write(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

/// Prints a table.
pub(super) fn table(table: &Table) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{}", table.text())?;
    out.flush()
}

/// Tells the user something that is no result.
pub(super) fn note(text: impl Into<Line>) {
    let text = text.into();
    let Some(queue) = logging::queue() else {
        // There is nobody left to tell that standard error is closed.
        let _ = writeln!(anstream::stderr().lock(), "{}", text.as_str());
        return;
    };
    let mut line = AutoStream::new(Vec::new(), AutoStream::choice(&io::stderr()));
    if writeln!(line, "{}", text.as_str()).is_ok() {
        queue.push(&line.into_inner());
    }
}

/// Tells the user what went wrong.
pub(super) fn complain(reason: impl Display) {
    note(Line::new().styled("veribus:", Style::new().red().bold()).text(format_args!(" {reason}")));
}
