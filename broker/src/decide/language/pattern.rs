//! Literals whose insides the two engines read by grammars of their own: texts, regular expressions, globs, networks.

use std::net::Ipv4Addr;

use regorus::unstable::{Expr, Ref};

use super::{
    builtins::{Builtin, Terms},
    diagnostic::Rule,
    program::names,
};

type Problem = (Rule, String);

/// Whether the arguments of a call are ones that both engines read alike.
pub(super) fn check(builtin: &Builtin, arguments: &[Ref<Expr>]) -> Result<(), Problem> {
    match (builtin.terms, arguments) {
        (Terms::Pattern, [pattern, _]) => {
            let pattern = literal(pattern).ok_or((Rule::Pattern, "a pattern that is no literal".to_owned()))?;
            regular_expression(&pattern).map_err(|problem| (Rule::Pattern, problem))
        }
        (Terms::Glob, [pattern, delimiters, _]) => {
            let pattern = literal(pattern).ok_or((Rule::Glob, "a pattern that is no literal".to_owned()))?;
            glob(&pattern, delimiters).map_err(|problem| (Rule::Glob, problem))
        }
        (Terms::Cidr, [network, address]) => {
            let network = literal(network).filter(|network| is_network(network));
            let address = names(address).is_some_and(|path| path == ["input", "peer", "address"]);
            if network.is_some() && address {
                Ok(())
            } else {
                Err((Rule::Cidr, "a network that is no literal, or another address than the peer's".to_owned()))
            }
        }
        (Terms::TextKey, [_, key, _]) => match literal(key) {
            Some(_) => Ok(()),
            None => Err((Rule::Arguments, "`object.get` with a key that is no literal text".to_owned())),
        },
        (Terms::TextDelimiter, [_, delimiter]) => match literal(delimiter) {
            Some(text) if !text.is_empty() => Ok(()),
            _ => Err((Rule::Arguments, "`split` at something else than a literal text".to_owned())),
        },
        _ => Ok(()),
    }
}

fn literal(expression: &Expr) -> Option<String> {
    match expression {
        Expr::String { value, .. } | Expr::RawString { value, .. } => value.as_string().ok().map(ToString::to_string),
        _ => None,
    }
}

/// The text between the quotes of a literal, as it is written.
pub(super) fn text(written: &str) -> Result<(), String> {
    let mut characters = written.chars();
    while let Some(character) = characters.next() {
        if character == '\\' {
            let escaped = characters.next();
            if !matches!(escaped, Some('n' | 't' | 'r' | '"' | '\\')) {
                return Err(format!("the escape `\\{}` in a text", escaped.unwrap_or_default()));
            }
        } else if character.is_control() {
            return Err("a control character in a text".to_owned());
        }
    }
    Ok(())
}

/// Only what both grammars (RE2 and that of the crate `regex`) read alike, and that matches alike whatever the text.
fn regular_expression(pattern: &str) -> Result<(), String> {
    const PLAIN: &str = " _:/@,=~!%&;<>\"'#-";
    let mut characters = pattern.chars().peekable();
    let (mut can_repeat, mut is_group) = (false, false);
    let mut depth = 0_u32;
    while let Some(character) = characters.next() {
        can_repeat = match character {
            '^' | '$' | '|' => false,
            '(' => {
                depth += 1;
                if characters.peek() == Some(&'?') {
                    return Err("a group with `(?`".to_owned());
                }
                false
            }
            ')' => {
                depth = depth.checked_sub(1).ok_or("a `)` without `(`")?;
                true
            }
            '[' => {
                class(&mut characters)?;
                true
            }
            '\\' => match characters.next() {
                // `\<` and `\>` are boundaries of words in one of them.
                Some(escaped) if escaped.is_ascii_punctuation() && !matches!(escaped, '<' | '>') => true,
                escaped => return Err(format!("the escape `\\{}`", escaped.unwrap_or_default())),
            },
            '?' | '*' | '+' if can_repeat => false,
            // Of a group it would multiply: RE2 counts what nests together.
            '{' if can_repeat && !is_group => {
                repetition(&mut characters)?;
                false
            }
            '.' => true,
            plain if plain.is_ascii_alphanumeric() || PLAIN.contains(plain) => true,
            other => return Err(format!("`{other}` at this place of a pattern")),
        };
        is_group = character == ')';
    }
    if depth > 0 {
        return Err("a `(` without `)`".to_owned());
    }
    // What is left is for the compiler, which refuses what is too large.
    regex::Regex::new(pattern).map(drop).map_err(|_| "a pattern that does not compile".to_owned())
}

fn class(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<(), String> {
    characters.next_if_eq(&'^');
    let mut last = None;
    let mut is_empty = true;
    while let Some(character) = characters.next() {
        match character {
            ']' if !is_empty => return Ok(()),
            '\\' => match characters.next() {
                Some(escaped) if escaped.is_ascii_punctuation() && !matches!(escaped, '<' | '>') => last = None,
                escaped => return Err(format!("the escape `\\{}` in a class", escaped.unwrap_or_default())),
            },
            '-' => {
                let (Some(low), Some(high)) = (last, characters.next()) else {
                    return Err("a `-` in a class that is no range: write `\\-`".to_owned());
                };
                let is_range = |kind: fn(&char) -> bool| kind(&low) && kind(&high) && low <= high;
                if ![char::is_ascii_lowercase, char::is_ascii_uppercase, char::is_ascii_digit].into_iter().any(is_range)
                {
                    return Err(format!("the range `{low}-{high}`"));
                }
                last = None;
            }
            plain if plain.is_ascii_alphanumeric() || matches!(plain, '_' | '.' | ':' | '/' | '@' | ' ') => {
                last = Some(plain)
            }
            other => return Err(format!("`{other}` in a class")),
        }
        is_empty = false;
    }
    Err("a `[` without `]`".to_owned())
}

/// `{2}`, `{2,}` or `{2,5}`; RE2 takes at most 1000, in nested ones together.
fn repetition(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<(), String> {
    const MAX: u32 = 100;
    let inside: String = std::iter::from_fn(|| characters.next_if(|character| *character != '}')).collect();
    characters.next().ok_or("a `{` without `}`")?;
    let (least, most) = inside.split_once(',').unwrap_or((&inside, &inside));
    let bound = |text: &str| {
        let is_plain = !text.starts_with('0') || text == "0";
        text.parse::<u32>()
            .ok()
            .filter(|bound| is_plain && *bound <= MAX && text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let (Some(least), true) = (bound(least), most.is_empty() || bound(most).is_some()) else {
        return Err(format!("the repetition `{{{inside}}}`, which takes numbers up to {MAX}"));
    };
    if bound(most).is_some_and(|most| most < least) { Err(format!("the repetition `{{{inside}}}`")) } else { Ok(()) }
}

/// Literal text, with `*` or `**` as whole levels.
fn glob(pattern: &str, delimiters: &Expr) -> Result<(), String> {
    let Expr::Array { items, .. } = delimiters else { return Err("delimiters that are no literal array".to_owned()) };
    let [delimiter] = items.as_slice() else { return Err("not exactly one delimiter".to_owned()) };
    let delimiter = literal(delimiter).filter(|text| text == ".");
    let delimiter = delimiter.ok_or("another delimiter than `.`")?;
    let is_plain = |level: &str| {
        !level.is_empty() && level.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:/@".contains(&byte))
    };
    match pattern.split(delimiter.as_str()).find(|level| !(matches!(*level, "*" | "**") || is_plain(level))) {
        Some(level) => Err(format!("the level `{level}` of a pattern")),
        None => Ok(()),
    }
}

fn is_network(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let is_canonical = |number: &str| number == "0" || !number.starts_with('0');
    address.parse::<Ipv4Addr>().is_ok() && is_canonical(bits) && bits.parse::<u8>().is_ok_and(|bits| bits <= 32)
}
