//! One line of text for people.

use std::fmt::Display;

use owo_colors::{OwoColorize as _, Style};

use super::escape::escaped;

/// Holds nothing that steers, but for the colours that [`Line::styled`] gives.
#[derive(Debug, Default)]
pub(in crate::cli) struct Line(String);

impl Line {
    pub(in crate::cli) const fn new() -> Self {
        Self(String::new())
    }

    /// Goes on with a text.
    pub(in crate::cli) fn text(mut self, text: impl Display) -> Self {
        self.0.push_str(&escaped(&text.to_string()));
        self
    }

    /// Goes on with a text in colour.
    pub(in crate::cli) fn styled(mut self, text: impl Display, style: Style) -> Self {
        self.0.push_str(&escaped(&text.to_string()).style(style).to_string());
        self
    }

    pub(in crate::cli) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Display> From<T> for Line {
    fn from(text: T) -> Self {
        Self::new().text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::escape::steers;

    #[test]
    fn a_line_has_no_colour_but_ours() {
        let all: String = ('\0'..=char::MAX).collect();
        assert!(!Line::from(&all).as_str().contains(steers));
        let line = Line::new().styled("\x1b[8ma\u{85}", Style::new().green()).text("\x1b[8m");
        assert_eq!(line.as_str(), "\x1b[32m\\u{1b}[8ma\\u{85}\x1b[0m\\u{1b}[8m");
    }
}
