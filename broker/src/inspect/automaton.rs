//! Many expressions as one deterministic automaton, tried wherever one of them may begin.
//!
//! The expressions match only texts of at least eight bytes and of bounded length, so the work per byte is bounded.

use std::collections::BTreeSet;

use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense, sparse},
    nfa::thompson,
    util::{primitives::StateID, syntax},
};

/// The memory that an automaton may take, in bytes.
const AUTOMATON_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The automaton would be too large.
#[derive(Debug)]
pub(super) struct NoAutomaton;

/// The expressions, compiled.
#[derive(Debug)]
pub(super) struct Automaton {
    states: sparse::DFA<Vec<u8>>,
    start: StateID,
    openings: Openings,
}

impl Automaton {
    /// Compiles the expressions, in the syntax of the crate `regex`.
    pub(super) fn new(expressions: &[String]) -> Result<Self, NoAutomaton> {
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .accelerate(false)
            .dfa_size_limit(Some(AUTOMATON_BYTES_MAX))
            .determinize_size_limit(Some(2 * AUTOMATON_BYTES_MAX));
        let dense = dense::Builder::new()
            .configure(config)
            .syntax(syntax::Config::new().unicode(true).utf8(false))
            .thompson(thompson::Config::new().nfa_size_limit(Some(AUTOMATON_BYTES_MAX)))
            .build_many(expressions)
            .map_err(|_| NoAutomaton)?;
        // Most states have one or two ways on: a sparse table is a tenth of the size.
        let states = dense.to_sparse().map_err(|_| NoAutomaton)?;
        let start = states.universal_start_state(Anchored::Yes).ok_or(NoAutomaton)?;
        let openings = Openings::new(&states, start, expressions);
        Ok(Self { states, start, openings })
    }

    /// The memory that it takes, in bytes.
    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.states.memory_usage()
    }

    /// Reports every match in `bytes`: which expression, where it begins, how long it is.
    pub(super) fn search(&self, bytes: &[u8], found: impl FnMut(usize, usize, usize)) {
        self.search_before(bytes.len(), bytes, found);
    }

    /// The same for the matches that begin before `end`.
    pub(super) fn search_before(&self, end: usize, bytes: &[u8], mut found: impl FnMut(usize, usize, usize)) {
        let mut key = 0;
        for (seen, byte) in bytes.iter().enumerate().take(end.saturating_add(Openings::BYTES - 1)) {
            key = Openings::key_with(key, *byte);
            if seen + 1 >= Openings::BYTES && self.openings.may_be(key) {
                let begin = seen + 1 - Openings::BYTES;
                let rest = bytes.get(begin..).unwrap_or_default();
                self.walk(rest, |expression, length| found(expression, begin, length));
            }
        }
    }

    /// Reports every expression that matches a beginning of `bytes`, and how long that is.
    fn walk(&self, bytes: &[u8], mut found: impl FnMut(usize, usize)) {
        let mut state = self.start;
        for (length, byte) in bytes.iter().enumerate() {
            state = self.states.next_state(state, *byte);
            // A match shows one byte late.
            if self.states.is_special_state(state) {
                if !self.states.is_match_state(state) {
                    return;
                }
                self.report(state, length, &mut found);
            }
        }
        let state = self.states.next_eoi_state(state);
        if self.states.is_match_state(state) {
            self.report(state, bytes.len(), &mut found);
        }
    }

    fn report(&self, state: StateID, length: usize, found: &mut impl FnMut(usize, usize)) {
        for index in 0..self.states.match_len(state) {
            found(self.states.match_pattern(state, index).as_usize(), length);
        }
    }
}

/// Which eight bytes may begin a match: a filter that nearly all places of a text fail. The first four and the next
/// four are looked up apart. Bytes are taken by six of their bits, which tell letters and digits apart.
#[derive(Debug)]
struct Openings {
    first: Grams,
    second: Grams,
}

impl Openings {
    /// How many bytes are looked at: no match is shorter.
    const BYTES: usize = 2 * Grams::BYTES;

    fn new(states: &sparse::DFA<Vec<u8>>, start: StateID, expressions: &[String]) -> Self {
        let written: BTreeSet<u8> = expressions.iter().flat_map(|text| text.bytes()).chain(b'0'..=b'9').collect();
        let (first, reached) = Grams::after(states, &BTreeSet::from([start]), &written);
        let (second, _) = Grams::after(states, &reached, &written);
        Self { first, second }
    }

    #[inline(always)]
    fn may_be(&self, key: u64) -> bool {
        self.first.holds(key >> Grams::KEY_BITS) && self.second.holds(key)
    }

    #[inline(always)]
    fn key_with(key: u64, byte: u8) -> u64 {
        key << 6 | u64::from(byte & 0x1f | byte >> 1 & 0x20)
    }
}

/// A set of four bytes each, which may say yes in error.
#[derive(Debug)]
struct Grams(Vec<u64>);

impl Grams {
    const BYTES: usize = 4;
    const KEY_BITS: usize = 6 * Self::BYTES;
    const HASH_BITS: u32 = 18;

    /// All that lead on from any of these states, and the states to which they lead.
    fn after(
        states: &sparse::DFA<Vec<u8>>,
        from: &BTreeSet<StateID>,
        written: &BTreeSet<u8>,
    ) -> (Self, BTreeSet<StateID>) {
        let mut paths: BTreeSet<(StateID, u64)> = from.iter().map(|state| (*state, 0)).collect();
        for _ in 0..Self::BYTES {
            let on = |(state, key): &(StateID, u64)| {
                let (state, key) = (*state, *key);
                written.iter().map(move |byte| (states.next_state(state, *byte), Openings::key_with(key, *byte)))
            };
            paths = paths.iter().flat_map(on).filter(|(state, _)| !states.is_dead_state(*state)).collect();
        }
        let mut grams = Self(vec![0; (1 << Self::HASH_BITS) / 64]);
        paths.iter().for_each(|(_, key)| grams.add(*key));
        (grams, paths.into_iter().map(|(state, _)| state).collect())
    }

    fn add(&mut self, key: u64) {
        let (word, bit) = Self::place(key);
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= bit;
        }
    }

    #[inline(always)]
    fn holds(&self, key: u64) -> bool {
        let (word, bit) = Self::place(key);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Multiplicative hashing (Knuth, volume 3, section 6.4) of the last four bytes.
    #[inline(always)]
    fn place(key: u64) -> (usize, u64) {
        let hash = ((key << (64 - Self::KEY_BITS)) >> (64 - Self::KEY_BITS)).wrapping_mul(0x9e37_79b1) as u32;
        let hash = hash >> (32 - Self::HASH_BITS);
        ((hash >> 6) as usize, 1 << (hash & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(expressions: &[&str], text: &str) -> Vec<(usize, usize, usize)> {
        let expressions: Vec<String> = expressions.iter().map(|text| (*text).to_owned()).collect();
        let mut found = Vec::new();
        let automaton = Automaton::new(&expressions).expect("small");
        automaton.search(text.as_bytes(), |expression, begin, length| found.push((expression, begin, length)));
        found
    }

    #[test]
    fn every_match_is_reported_with_its_place() {
        let expressions = ["abcdefgh", "abcdefg[hi]j?", "bcdefghj"];
        assert_eq!(found(&expressions, "xabcdefghj"), [(0, 1, 8), (1, 1, 8), (1, 1, 9), (2, 2, 8)]);
        assert_eq!(found(&expressions, "abcdefg"), []);
        assert_eq!(found(&["ответ[0-9]"], "да, ответ7"), [(0, 6, 11)]);
    }

    #[test]
    fn no_expressions_match_nothing() {
        assert_eq!(found(&[], "abc"), []);
    }
}
