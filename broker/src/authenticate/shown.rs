//! Text from outside, as it may stand in an error or a log.

/// In printable ASCII, the rest escaped, and cut where it would be longer than `bytes_max`.
pub(super) fn shown(text: &str, bytes_max: usize) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        shown.extend(character.escape_default());
        if shown.len() > bytes_max {
            shown.truncate(bytes_max.saturating_sub(3));
            shown.push_str("...");
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_one_short_line_of_ascii() {
        assert_eq!(shown("RS512", 32), "RS512");
        assert_eq!(shown("a\n\u{1b}[2J\u{202e}", 32), r"a\n\u{1b}[2J\u{202e}");
        assert_eq!(shown(&"x".repeat(32), 32), "x".repeat(32));
        assert_eq!(shown(&"x".repeat(100_000), 32), format!("{}...", "x".repeat(29)));
        assert_eq!(shown(&"\u{202e}".repeat(9), 32).len(), 32);
    }
}
