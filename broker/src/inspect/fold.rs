//! Any text to the ASCII that a reader takes it for: compatibility forms, look-alikes, accents, invisible characters.
//!
//! In scope: one character at a time (NFKD, UTS #39 confusables, a short table where those are silent). Out of scope:
//! what the text says, and scripts that have no ASCII counterpart: they become spaces, and are matched by
//! [`super::native`].

use std::{collections::BTreeMap, ops::Range, sync::LazyLock};

use unicode_normalization::char::{decompose_compatible, is_combining_mark};
use unicode_security::skeleton;

use super::work::looked_at;

/// The code points with a table entry. Above there are ideographs, which read as nothing in ASCII, and
const TABLE_CHARS: u32 = 0x2_0000;
/// tag characters and variation selectors, which have theirs after the others.
const TABLE_TAGS: Range<u32> = 0xe_0000..0xe_1000;
/// Table entry of a character that a reader does not see.
const INVISIBLE: u8 = 0;
/// Table entry of a character that reads as several ASCII characters.
const SEVERAL: u8 = 0xff;

static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

/// What every character reads as, so that none costs more than a look-up.
struct Table {
    entries: Vec<u8>,
    several: BTreeMap<char, Box<str>>,
}

impl Table {
    fn new() -> Self {
        let mut table = Self { entries: Vec::new(), several: BTreeMap::new() };
        for code in (0..TABLE_CHARS).chain(TABLE_TAGS) {
            let entry = table.entry(code);
            table.entries.push(entry);
        }
        table
    }

    fn place(c: char) -> Option<usize> {
        let at = match u32::from(c) {
            code if code < TABLE_CHARS => code,
            code if TABLE_TAGS.contains(&code) => TABLE_CHARS + (code - TABLE_TAGS.start),
            _ => return None,
        };
        usize::try_from(at).ok()
    }

    fn entry(&mut self, code: u32) -> u8 {
        let Some(c) = char::from_u32(code) else { return b' ' };
        if is_ideograph_or_syllable(code) {
            return b' ';
        }
        let mut text = String::new();
        expand(c, &mut text);
        match text.as_bytes() {
            [] => INVISIBLE,
            [one] => *one,
            _ => {
                self.several.insert(c, text.into_boxed_str());
                SEVERAL
            }
        }
    }
}

/// Works out the table, so that the first message does not pay for it.
pub(super) fn prepare() {
    LazyLock::force(&TABLE);
}

/// Appends `text` as ASCII. Two invisible characters in a row read as a space, a lone one as nothing.
pub(super) fn fold_into(text: &str, out: &mut String) {
    out.reserve(text.len());
    let mut invisible_before = false;
    for c in text.chars() {
        looked_at(c.len_utf8());
        let invisible = if c.is_ascii() {
            out.push(c);
            false
        } else {
            !fold_char(c, out)
        };
        if invisible && invisible_before {
            out.push(' ');
        }
        invisible_before = invisible;
    }
}

/// Appends what one non-ASCII character reads as; `false` if that is nothing.
fn fold_char(c: char, out: &mut String) -> bool {
    let table = &*TABLE;
    match Table::place(c).and_then(|at| table.entries.get(at)).copied().unwrap_or(b' ') {
        INVISIBLE => return false,
        SEVERAL => out.push_str(table.several.get(&c).map_or(" ", |text| text)),
        ascii => out.push(char::from(ascii)),
    }
    true
}

/// The large blocks that read as nothing in ASCII, left out to fill the table quickly.
const fn is_ideograph_or_syllable(code: u32) -> bool {
    matches!(code, 0x3400..=0x9fff | 0xac00..=0xd7a3 | 0x1_2000..=0x1_b2ff)
}

/// Appends the ASCII that `c` reads as: nothing where it is invisible, a space where it reads as something else.
fn expand(c: char, out: &mut String) {
    if let Some(plain) = by_table(c) {
        out.push(plain);
        return;
    }
    if matches!(c, 'ß' | 'ẞ') {
        out.push_str("ss");
        return;
    }
    decompose_compatible(c, |part| {
        if part.is_ascii() {
            out.push(part);
        } else if !is_combining_mark(part) {
            look_alike(part, out);
        }
    });
}

/// Appends the ASCII prototype of `c` (UTS #39, section 4), or that of its lower case, or a space.
fn look_alike(c: char, out: &mut String) {
    if let Some(plain) = by_table(c) {
        out.push(plain);
        return;
    }
    let lower = c.to_lowercase().next().unwrap_or(c);
    // UTS #39 takes capital `I`, small `l` and digit one for the same: a capital is asked for in lower case first.
    let candidates = if lower == c { [c, c] } else { [lower, c] };
    let found = candidates.into_iter().find_map(ascii_prototype);
    out.push_str(found.as_deref().unwrap_or(" "));
}

fn ascii_prototype(c: char) -> Option<String> {
    let mut bytes = [0; 4];
    let prototype: String = skeleton(c.encode_utf8(&mut bytes)).filter(|part| !is_combining_mark(*part)).collect();
    prototype.is_ascii().then_some(prototype)
}

/// What Unicode's own tables do not say: tag characters, letters on badges, small capitals, turned letters.
fn by_table(c: char) -> Option<char> {
    let code = u32::from(c);
    let badge = |first: u32| char::from_u32(u32::from('a') + (code - first) % 26);
    match code {
        0xe_0020..=0xe_007e => char::from_u32(code - 0xe_0000),
        0x1_f150..=0x1_f169 => badge(0x1_f150),
        0x1_f170..=0x1_f189 => badge(0x1_f170),
        0x1_f1e6..=0x1_f1ff => badge(0x1_f1e6),
        _ => LETTERS.iter().find(|(_, unusual)| unusual.contains(c)).map(|(plain, _)| *plain),
    }
}

const LETTERS: &[(char, &str)] = &[
    ('a', "ᴀɐ"),
    ('b', "ʙв"),
    ('c', "ᴄɔ"),
    ('d', "ᴅ"),
    ('e', "ᴇǝɘ"),
    ('f', "ꜰɟ"),
    ('g', "ɢƃ"),
    ('h', "ʜɥн"),
    ('i', "ɪᴉ"),
    ('j', "ᴊɾ"),
    ('k', "ᴋʞк"),
    ('l', "ʟꞁ"),
    ('m', "ᴍɯм"),
    ('n', "ɴ"),
    ('o', "ᴏ"),
    ('p', "ᴘ"),
    ('r', "ʀɹᴚг"),
    ('s', "ꜱ"),
    ('t', "ᴛʇт"),
    ('u', "ᴜ"),
    ('v', "ᴠʌ"),
    ('w', "ᴡʍ"),
    ('y', "ʏʎ"),
    ('z', "ᴢ"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> String {
        let mut out = String::new();
        fold_into(text, &mut out);
        out
    }

    #[test]
    fn compatibility_forms_read_as_ascii() {
        assert_eq!(folded("Ｉｇｎｏｒｅ ａｌｌ．"), "Ignore all.");
        assert_eq!(folded("𝐈𝐠𝐧𝐨𝐫𝐞 𝓪𝓵𝓵"), "Ignore all");
        assert_eq!(folded("ⓘⓖⓝⓞⓡⓔ ﬁle"), "ignore file");
    }

    #[test]
    fn look_alikes_of_other_scripts_read_as_ascii() {
        assert_eq!(folded("Ignоrе аll рrеvіоuѕ"), "Ignore all previous");
        assert_eq!(folded("Іgnоrе"), "ignore");
        assert_eq!(folded("ιgnοrе"), "ignore");
    }

    #[test]
    fn accents_are_dropped() {
        assert_eq!(folded("weiß łódź đ ı ø æ"), "weiss lodz d i o ae");
        assert_eq!(folded("ïgnörê i\u{301}g\u{327}nore"), "ignore ignore");
    }

    #[test]
    fn a_lone_invisible_character_is_nothing_and_a_row_of_them_a_space() {
        assert_eq!(folded("ig\u{200b}no\u{ad}re"), "ignore");
        assert_eq!(folded("cats\u{2060}\u{2060}you"), "cats you");
        assert_eq!(folded("i\u{202e}g\u{fe0f}n"), "ign");
    }

    #[test]
    fn tag_characters_and_badges_read_as_letters() {
        assert_eq!(folded("\u{e0069}\u{e0067}\u{e006e}"), "ign");
        assert_eq!(folded("🅸🅶🅽 🇮🇬🇳"), "ign ign");
        assert_eq!(folded("ɪɢɴᴏʀᴇ"), "ignore");
    }

    #[test]
    fn the_table_says_what_working_it_out_says() {
        let codes = (0x80..TABLE_CHARS).step_by(7).chain((TABLE_CHARS..TABLE_TAGS.start).step_by(97));
        for c in
            codes.chain(0x2_f7f0..0x2_fa20).chain(TABLE_TAGS).chain([0xf_0000, 0x10_ffff]).filter_map(char::from_u32)
        {
            if is_ideograph_or_syllable(u32::from(c)) {
                continue;
            }
            let mut text = String::new();
            expand(c, &mut text);
            assert_eq!(folded(&c.to_string()), text, "{c:?}");
        }
    }

    #[test]
    fn scripts_without_counterpart_are_spaces() {
        assert_eq!(folded("前x指"), " x ");
    }
}
