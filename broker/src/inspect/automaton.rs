//! Many expressions as one deterministic automaton, which is asked whether one of them begins at a given place.
//!
//! The expressions match only texts of bounded length, so each question takes bounded time.

use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
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
    states: dense::DFA<Vec<u32>>,
    start: StateID,
    /// For each byte the set of bytes that may follow it at the beginning of a match, as bits.
    openings: Vec<[u64; 4]>,
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
        let states = dense::Builder::new()
            .configure(config)
            .syntax(syntax::Config::new().unicode(true).utf8(false))
            .thompson(thompson::Config::new().nfa_size_limit(Some(AUTOMATON_BYTES_MAX)))
            .build_many(expressions)
            .map_err(|_| NoAutomaton)?;
        let start = states.universal_start_state(Anchored::Yes).ok_or(NoAutomaton)?;
        let openings = openings(&states, start);
        Ok(Self { states, start, openings })
    }

    /// The memory that it takes, in bytes.
    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.states.memory_usage()
    }

    /// Whether a match may begin with these two bytes.
    #[inline(always)]
    pub(super) fn may_open(&self, first: u8, second: u8) -> bool {
        let word = self.openings.get(usize::from(first)).and_then(|set| set.get(usize::from(second >> 6)));
        word.is_some_and(|bits| bits >> (second & 63) & 1 != 0)
    }

    /// Reports every expression that matches a beginning of `bytes`, and how long that is.
    pub(super) fn walk(&self, bytes: impl Iterator<Item = u8>, mut found: impl FnMut(usize, usize)) {
        let mut state = self.start;
        let mut length = 0;
        for byte in bytes {
            state = self.states.next_state(state, byte);
            // A match shows one byte late.
            if self.states.is_special_state(state) {
                if !self.states.is_match_state(state) {
                    return;
                }
                self.report(state, length, &mut found);
            }
            length += 1;
        }
        let state = self.states.next_eoi_state(state);
        if self.states.is_match_state(state) {
            self.report(state, length, &mut found);
        }
    }

    fn report(&self, state: StateID, length: usize, found: &mut impl FnMut(usize, usize)) {
        for index in 0..self.states.match_len(state) {
            found(self.states.match_pattern(state, index).as_usize(), length);
        }
    }
}

fn openings(states: &dense::DFA<Vec<u32>>, start: StateID) -> Vec<[u64; 4]> {
    let after =
        |from: StateID, byte: u8| Some(states.next_state(from, byte)).filter(|state| !states.is_dead_state(*state));
    let followers = |first: u8| {
        let mut set = [0; 4];
        if let Some(state) = after(start, first) {
            for second in (0..=u8::MAX).filter(|second| after(state, *second).is_some()) {
                if let Some(bits) = set.get_mut(usize::from(second >> 6)) {
                    *bits |= 1 << (second & 63);
                }
            }
        }
        set
    };
    (0..=u8::MAX).map(followers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(expressions: &[&str], text: &str) -> Vec<(usize, usize)> {
        let expressions: Vec<String> = expressions.iter().map(|text| (*text).to_owned()).collect();
        let mut found = Vec::new();
        Automaton::new(&expressions).expect("small").walk(text.bytes(), |index, length| found.push((index, length)));
        found
    }

    #[test]
    fn every_match_at_the_beginning_is_reported_with_its_length() {
        assert_eq!(found(&["ab", "a[bc]d?", "b"], "abd"), [(0, 2), (1, 2), (1, 3)]);
        assert_eq!(found(&["ab"], "xab"), []);
        assert_eq!(found(&["ab"], "a"), []);
    }

    #[test]
    fn openings_are_the_first_two_bytes_of_a_match() {
        let automaton = Automaton::new(&["ab".to_owned(), "не".to_owned()]).expect("small");
        assert!(automaton.may_open(b'a', b'b'));
        assert!(!automaton.may_open(b'b', b'a'));
        assert!(automaton.may_open(0xd0, 0xbd));
    }

    #[test]
    fn no_expressions_match_nothing() {
        assert_eq!(found(&[], "abc"), []);
    }
}
