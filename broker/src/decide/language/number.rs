//! Numbers that `regorus` (64-bit integers and doubles) and OPA (decimals of any size) compare alike.
//!
//! Decimals of at most 15 digits become doubles without two of them meeting, and keep their order (IEEE 754, `DBL_DIG`);
//! below 2^53 a double and an integer compare exactly.

use std::collections::BTreeMap;

use regorus::Value;
use serde_json::Number;

/// The least integer that is above every double we take, 2^53.
const DOUBLE_MAX: f64 = 9_007_199_254_740_992.0;
/// Far from where doubles lose digits.
const DOUBLE_MIN: f64 = 1e-300;
const DIGITS_MAX: usize = 15;

/// The value of a number as JSON spells it, if both engines take it for the same.
pub(in crate::decide) fn parse(text: &str) -> Option<Value> {
    if !text.contains(['.', 'e', 'E']) {
        return text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from)).ok();
    }
    let mantissa = text.split(['e', 'E']).next()?;
    if significant_digits(mantissa) > DIGITS_MAX {
        return None;
    }
    let is_zero = significant_digits(mantissa) == 0;
    double(text.parse().ok()?).filter(|value| is_zero || *value != Value::from(0))
}

/// The value of a number whose spelling is gone, if both engines take it for the same.
pub(in crate::decide) fn convert(number: &Number) -> Option<Value> {
    if let Some(integer) = number.as_i64() {
        return Some(Value::from(integer));
    }
    if let Some(integer) = number.as_u64() {
        return Some(Value::from(integer));
    }
    // The shortest text that gives this double: with 15 digits or fewer, it can be what was written.
    let value = number.as_f64()?;
    (significant_digits(format!("{value:e}").split('e').next()?) <= DIGITS_MAX).then(|| double(value))?
}

/// A whole document; `None` if it has a number that is not taken for the same.
pub(in crate::decide) fn value(json: &serde_json::Value) -> Option<Value> {
    Some(match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => convert(number)?,
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::from(items.iter().map(value).collect::<Option<Vec<_>>>()?),
        serde_json::Value::Object(members) => Value::from(
            members
                .iter()
                .map(|(name, member)| Some((Value::from(name.as_str()), value(member)?)))
                .collect::<Option<BTreeMap<_, _>>>()?,
        ),
    })
}

/// Whether a literal of a policy is spelled as both engines read it alike: without exponent, sign or useless zeros.
pub(in crate::decide) fn is_plain_literal(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = are_digits(whole) && (whole == "0" || !whole.starts_with('0'));
    let is_fraction = fraction.is_none_or(|fraction| are_digits(fraction) && !fraction.ends_with('0'));
    is_whole && is_fraction && parse(text).is_some()
}

fn double(value: f64) -> Option<Value> {
    let size = value.abs();
    if size >= DOUBLE_MAX || (size > 0.0 && size < DOUBLE_MIN) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
    Some(if value.fract() == 0.0 { Value::from(value as i64) } else { Value::from(value) })
}

fn significant_digits(mantissa: &str) -> usize {
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').len()
}

/// Whether both engines read every number in a valid JSON text alike.
pub(in crate::decide) fn all_are_plain(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'-' | b'0'..=b'9')) {
        let from = rest.get(at..).unwrap_or_default();
        let length = if from.first() == Some(&b'"') { text_length(from) } else { number_length(from) };
        let (token, after) = from.split_at(length.min(from.len()));
        let is_plain =
            token.first() == Some(&b'"') || std::str::from_utf8(token).is_ok_and(|text| parse(text).is_some());
        if !is_plain {
            return false;
        }
        rest = after;
    }
    true
}

fn text_length(from: &[u8]) -> usize {
    let mut is_escaped = false;
    let end = from.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(from.len(), |end| end + 2)
}

fn number_length(from: &[u8]) -> usize {
    from.iter().position(|byte| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')).unwrap_or(from.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_doubles_would_blur_are_refused() {
        for text in [
            "18446744073709551616",
            "-9223372036854775809",
            "0.1000000000000000055",
            "9007199254740993.0",
            "1e16",
            "1e-301",
            "1e-400",
            "123456789012345.6",
        ] {
            assert_eq!(parse(text), None, "{text}");
            assert!(!all_are_plain(format!(r#"{{"a":["1",{text}]}}"#).as_bytes()), "{text}");
        }
    }

    #[test]
    fn the_others_have_one_form() {
        for (text, value) in [
            ("0", Value::from(0)),
            ("-0", Value::from(0)),
            ("-0.0", Value::from(0)),
            ("1.0", Value::from(1)),
            ("1e3", Value::from(1000)),
            ("1.50", Value::from(1.5)),
            ("0.1", Value::from(0.1)),
            ("18446744073709551615", Value::from(u64::MAX)),
            ("-9223372036854775808", Value::from(i64::MIN)),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        assert!(all_are_plain(br#"{"a\"1e99":"\\","b":[1,2.5,-3e2],"1e99":"9e99"}"#));
    }
}
