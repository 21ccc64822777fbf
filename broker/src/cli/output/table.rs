//! Tables for people.

use std::{fmt::Display, io};

use anstream::{AutoStream, ColorChoice};
use comfy_table::{Color, ContentArrangement};

use super::escape::escaped;

/// Fits the terminal, and holds nothing that steers but for the colours of its [`Cell`]s.
#[derive(Debug)]
pub(in crate::cli) struct Table(comfy_table::Table);

/// One text in a table.
#[derive(Debug)]
pub(in crate::cli) struct Cell(comfy_table::Cell);

/// An empty table.
pub(in crate::cli) fn new_table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if AutoStream::choice(&io::stdout()) == ColorChoice::Never {
        table.force_no_tty();
    }
    table.set_header(header.into_iter().collect::<Vec<_>>());
    Table(table)
}

impl Table {
    pub(in crate::cli) fn add_row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.0.add_row(cells.into_iter().map(|cell| cell.into().0).collect::<Vec<_>>());
    }

    pub(in crate::cli) fn row_count(&self) -> usize {
        self.0.row_count()
    }

    pub(in crate::cli) fn text(&self) -> String {
        self.0.trim_fmt()
    }
}

impl Cell {
    pub(in crate::cli) fn new(text: impl Display) -> Self {
        Self(comfy_table::Cell::new(escaped(&text.to_string())))
    }

    pub(in crate::cli) fn fg(self, color: Color) -> Self {
        Self(self.0.fg(color))
    }
}

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::escape::steers;

    #[test]
    fn a_table_steers_nothing() {
        let all: String = ('\0'..='\u{ffff}').chain('\u{e0000}'..='\u{e0fff}').collect();
        let mut table = new_table(["A", "B"]);
        table.add_row([&all, "b"]);
        table.add_row([Cell::new("a\nb"), Cell::new("\u{202e}")]);
        let text = table.text();
        assert!(text.chars().all(|c| c == '\n' || !steers(c)));
        assert!(text.contains("a b") && text.contains("\\u{202e}"), "one line to a row");
    }
}
