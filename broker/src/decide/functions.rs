//! Functions that a policy calls and the crate answers unlike OPA, or not at all.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::anyhow;
use regex::Regex;
use regorus::{Engine, Value};

use super::language;

/// How many patterns stay compiled, for each thread.
const PATTERNS_MAX: usize = 256;

/// They are looked up before the crate's own.
///
/// # Errors
/// One of them is there already.
pub(super) fn add(engine: &mut Engine) -> anyhow::Result<()> {
    engine.add_extension(language::ELEMENTS.to_owned(), 1, Box::new(elements))?;
    engine.add_extension("count".to_owned(), 1, Box::new(count))?;
    engine.add_extension("glob.match".to_owned(), 3, Box::new(glob_match))?;
    engine.add_extension("net.cidr_contains".to_owned(), 2, Box::new(cidr_contains))
}

/// What has no elements is iterated over as if it were empty.
fn elements(arguments: Vec<Value>) -> anyhow::Result<Value> {
    match arguments.into_iter().next() {
        Some(collection @ (Value::Array(_) | Value::Set(_) | Value::Object(_))) => Ok(collection),
        _ => Ok(Value::new_array()),
    }
}

/// Of a text the characters, which the crate counts in UTF-16 units.
fn count(arguments: Vec<Value>) -> anyhow::Result<Value> {
    match arguments.first() {
        Some(Value::String(text)) => Ok(Value::from(text.chars().count())),
        Some(Value::Array(items)) => Ok(Value::from(items.len())),
        Some(Value::Set(members)) => Ok(Value::from(members.len())),
        Some(Value::Object(members)) => Ok(Value::from(members.len())),
        _ => Err(anyhow!("`count` of something else than a collection or a text")),
    }
}

/// `*` is any text without `.`, `**` any text; the check has seen that the pattern has nothing else, and no other delimiter.
fn glob_match(arguments: Vec<Value>) -> anyhow::Result<Value> {
    let [Value::String(pattern), _, Value::String(text)] = arguments.as_slice() else {
        return Err(anyhow!("`glob.match` of something else than texts"));
    };
    let levels: Vec<String> = pattern
        .split('.')
        .map(|level| match level {
            "*" => "[^.]*".to_owned(),
            "**" => "(?s:.*)".to_owned(),
            plain => regex::escape(plain),
        })
        .collect();
    thread_local! {
        static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        if let Some(known) = compiled.get(pattern.as_ref()) {
            return Ok(Value::from(known.is_match(text)));
        }
        let new = Regex::new(&format!("^{}$", levels.join("\\.")))?;
        let is_match = new.is_match(text);
        // Patterns are literals of the policy; those of one that was replaced go.
        if compiled.len() >= PATTERNS_MAX {
            compiled.clear();
        }
        compiled.insert(pattern.to_string(), new);
        Ok(Value::from(is_match))
    })
}

/// Whether an IPv4 network has an address, or a whole network; an address of IPv6 that stands for one of IPv4 (RFC 4291,
/// section 2.5.5.2) is that.
fn cidr_contains(arguments: Vec<Value>) -> anyhow::Result<Value> {
    let [Value::String(network), Value::String(address)] = arguments.as_slice() else {
        return Err(anyhow!("`net.cidr_contains` of something else than texts"));
    };
    let (network, bits) = ipv4_network(network)?;
    let (inner, inner_bits) = match address.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => (u32::from(address), 32),
        Ok(IpAddr::V6(_)) => return Ok(Value::from(false)),
        Err(_) => ipv4_network(address)?,
    };
    Ok(Value::from(inner_bits >= bits && inner & mask(bits) == network))
}

/// The first address and the number of bits that all addresses share.
fn ipv4_network(text: &str) -> anyhow::Result<(u32, u32)> {
    let (address, bits) = text.split_once('/').ok_or_else(|| anyhow!("no address and no network: `{text}`"))?;
    let (address, bits) = (address.parse::<Ipv4Addr>()?, bits.parse::<u32>()?);
    anyhow::ensure!(bits <= 32, "no network: `{text}`");
    Ok((u32::from(address) & mask(bits), bits))
}

const fn mask(bits: u32) -> u32 {
    if bits == 0 { 0 } else { u32::MAX << (32 - bits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_network_or_not() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.1.2.3", Some(true)),
            ("10.1.2.3/8", "10.9.9.9", Some(true)),
            ("10.0.0.0/8", "::ffff:10.1.2.3", Some(true)),
            ("10.0.0.0/8", "10.0.0.0/9", Some(true)),
            ("10.0.0.0/8", "10.0.0.0/7", Some(false)),
            ("10.0.0.0/8", "11.0.0.1", Some(false)),
            ("10.0.0.0/8", "2001:db8::1", Some(false)),
            ("0.0.0.0/0", "255.255.255.255", Some(true)),
            ("255.255.255.255/32", "255.255.255.254", Some(false)),
            ("10.0.0.0/8", "x", None),
            ("10.0.0.0/8", "10.0.0.0/33", None),
        ] {
            let answer = cidr_contains(vec![Value::from(network), Value::from(address)]).ok();
            assert_eq!(answer, expected.map(Value::from), "{network} {address}");
        }
    }

    #[test]
    fn a_text_is_counted_in_characters() {
        assert_eq!(count(vec![Value::from("a😀ä")]).ok(), Some(Value::from(3)));
        assert!(count(vec![Value::from(3)]).is_err());
    }
}
