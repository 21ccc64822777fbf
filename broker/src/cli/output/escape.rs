//! Which characters steer what shows them, and how they are written instead.

/// Whether a character has no shape of its own but changes how others are shown, or hides: controls (C0, DEL, C1), the
/// separators of lines and paragraphs, and what Unicode 17 calls format characters (`Cf`: directions, joiners, tags, …), with
/// the unassigned places among them and all of plane 14, which has nothing else.
pub(super) fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{effff}')
}

/// Text fit for one line of a terminal: white space of ASCII as a space, what [steers] as `\u{202e}`.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => escaped.push(' '),
            c if steers(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        assert_eq!(escaped("a\x1b[2Jb\u{9b}c\nd\u{202e}é"), "a\\u{1b}[2Jb\\u{9b}c d\\u{202e}é");
        assert_eq!(escaped("naïve 日本語 👍 العربية"), "naïve 日本語 👍 العربية");
    }

    #[test]
    fn every_character_that_steers_is_escaped_and_no_other() {
        let known = ['\0', '\x1b', '\x7f', '\u{80}', '\u{85}', '\u{9f}', '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}'];
        let known = known.into_iter().chain('\u{2029}'..='\u{202e}').chain('\u{2066}'..='\u{2069}');
        assert!(known.chain(['\u{200b}', '\u{feff}', '\u{e0041}']).all(steers));
        for c in '\0'..=char::MAX {
            let shown = escaped(&c.to_string());
            assert!(!shown.contains(steers), "{c:?}");
            assert_eq!(shown.contains(c), !steers(c), "{c:?}");
        }
    }
}
