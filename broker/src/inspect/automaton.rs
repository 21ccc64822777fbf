//! Many expressions as one deterministic automaton, tried wherever one of them may begin.
//!
//! The expressions match only texts of at least four bytes and of bounded length, so the work per byte is bounded.

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
        let openings = Openings::new(&states, start);
        Ok(Self { states, start, openings })
    }

    /// The memory that it takes, in bytes.
    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.states.memory_usage()
    }

    /// Reports every match in `bytes`: which expression, where it begins, how long it is.
    pub(super) fn search(&self, bytes: &[u8], mut found: impl FnMut(usize, usize, usize)) {
        let mut key = 0;
        for (seen, byte) in bytes.iter().enumerate() {
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

/// Which four bytes may begin a match: a filter that most places of a text fail. Bytes are taken by six of their bits,
/// which tell letters and digits apart; four times six bits are hashed.
#[derive(Debug)]
struct Openings(Vec<u64>);

impl Openings {
    /// How many bytes are looked at: no match is shorter.
    const BYTES: usize = 4;
    const KEY_MASK: u32 = (1 << (6 * Self::BYTES)) - 1;
    const HASH_BITS: u32 = 18;

    fn new(states: &sparse::DFA<Vec<u8>>, start: StateID) -> Self {
        let mut openings = Self(vec![0; (1 << Self::HASH_BITS) / 64]);
        openings.add_from(states, start, 0, Self::BYTES);
        openings
    }

    fn add_from(&mut self, states: &sparse::DFA<Vec<u8>>, from: StateID, key: u32, bytes_left: usize) {
        if bytes_left == 0 {
            return self.add(key);
        }
        for byte in 0..=u8::MAX {
            let to = states.next_state(from, byte);
            if !states.is_dead_state(to) {
                self.add_from(states, to, Self::key_with(key, byte), bytes_left - 1);
            }
        }
    }

    fn add(&mut self, key: u32) {
        let (word, bit) = Self::place(key);
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= bit;
        }
    }

    #[inline(always)]
    fn may_be(&self, key: u32) -> bool {
        let (word, bit) = Self::place(key);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    #[inline(always)]
    fn key_with(key: u32, byte: u8) -> u32 {
        (key << 6 | u32::from(byte & 0x1f | byte >> 1 & 0x20)) & Self::KEY_MASK
    }

    /// Multiplicative hashing (Knuth, volume 3, section 6.4).
    #[inline(always)]
    fn place(key: u32) -> (usize, u64) {
        let hash = key.wrapping_mul(0x9e37_79b1) >> (32 - Self::HASH_BITS);
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
        assert_eq!(found(&["abcd", "abc[de]f?", "bcdf"], "xabcdf"), [(0, 1, 4), (1, 1, 4), (1, 1, 5), (2, 2, 4)]);
        assert_eq!(found(&["abcd"], "abc"), []);
        assert_eq!(found(&["нет"], "да, нет"), [(0, 6, 6)]);
    }

    #[test]
    fn no_expressions_match_nothing() {
        assert_eq!(found(&[], "abc"), []);
    }
}
