//! Many expressions as one deterministic automaton, tried wherever one of them may begin.
//!
//! The expressions match only texts of at least eight bytes and of bounded length, so the work per byte is bounded.

use std::collections::BTreeSet;

use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, syntax},
};

use super::work::{HIT_STEPS, Work, looked_at};

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
        let states = dense::Builder::new()
            .configure(config)
            .syntax(syntax::Config::new().unicode(true).utf8(false))
            .thompson(thompson::Config::new().nfa_size_limit(Some(AUTOMATON_BYTES_MAX)))
            .build_many(expressions)
            .map_err(|_| NoAutomaton)?;
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
    pub(super) fn search(&self, bytes: &[u8], work: &mut Work, found: impl FnMut(usize, usize, usize)) {
        self.search_before(bytes.len(), bytes, work, found);
    }

    /// The same for the matches that begin before `end`.
    pub(super) fn search_before(
        &self,
        end: usize,
        bytes: &[u8],
        work: &mut Work,
        mut found: impl FnMut(usize, usize, usize),
    ) {
        if !work.spend(end) {
            return;
        }
        let mut begin = 0;
        while begin < end
            && let Some(rest) = bytes.get(begin..)
            && let Some(opening) = rest.first_chunk()
        {
            looked_at(1);
            begin += match self.openings.look(*opening) {
                Look::NoneHere(places) => places,
                Look::MayBe => {
                    let steps = self.walk(rest, |expression, length| found(expression, begin, length));
                    if !work.spend(steps) {
                        return;
                    }
                    1
                }
            };
        }
    }

    /// Reports every expression that matches a beginning of `bytes`, and how long that is. Returns its steps.
    fn walk(&self, bytes: &[u8], mut found: impl FnMut(usize, usize)) -> usize {
        let mut state = self.start;
        let mut reports = 0;
        for (length, byte) in bytes.iter().enumerate() {
            looked_at(1);
            state = self.states.next_state(state, *byte);
            // A match shows one byte late.
            if self.states.is_special_state(state) {
                if !self.states.is_match_state(state) {
                    return length + reports * HIT_STEPS;
                }
                reports += self.report(state, length, &mut found);
            }
        }
        let state = self.states.next_eoi_state(state);
        if self.states.is_match_state(state) {
            reports += self.report(state, bytes.len(), &mut found);
        }
        bytes.len() + reports * HIT_STEPS
    }

    /// Returns how many it reported.
    fn report(&self, state: StateID, length: usize, found: &mut impl FnMut(usize, usize)) -> usize {
        let reports = self.states.match_len(state);
        for index in 0..reports {
            found(self.states.match_pattern(state, index).as_usize(), length);
        }
        reports
    }
}

/// Which eight bytes may begin a match: a filter that nearly all places of a text fail. The first four and the last four
/// are looked up apart, the last four also for what they say about the next places.
#[derive(Debug)]
struct Openings {
    first: Grams,
    last: Grams,
    /// The four bytes at any place in an opening.
    any: Grams,
}

/// What a filter says of a place in a text.
enum Look {
    /// No match begins here, nor at the places after it: so many in all.
    NoneHere(usize),
    MayBe,
}

impl Openings {
    /// How many bytes are looked at: no match is shorter.
    const BYTES: usize = 2 * Grams::BYTES;
    /// At so many places in an opening there are four bytes.
    const PLACES: usize = Self::BYTES - Grams::BYTES + 1;

    fn new(states: &dense::DFA<Vec<u32>>, start: StateID, expressions: &[String]) -> Self {
        let written: BTreeSet<u8> = expressions.iter().flat_map(|text| text.bytes()).chain(b'0'..=b'9').collect();
        let mut reached = BTreeSet::from([start]);
        let at_places: [Grams; Self::PLACES] = std::array::from_fn(|_| {
            let grams = Grams::after(states, &reached, &written);
            reached =
                reached.iter().flat_map(|state| steps(states, *state, &written)).map(|(_, state)| state).collect();
            grams
        });
        let any = Grams::union(&at_places);
        let [first, .., last] = at_places;
        Self { first, last, any }
    }

    #[inline(always)]
    fn look(&self, [a, b, c, d, last @ ..]: [u8; Self::BYTES]) -> Look {
        // The same four bytes are in the opening of each match that begins at these places.
        if !self.any.holds(last) {
            return Look::NoneHere(Self::PLACES);
        }
        if self.first.holds([a, b, c, d]) && self.last.holds(last) { Look::MayBe } else { Look::NoneHere(1) }
    }
}

/// The ways on from a state: by which byte, and where to.
fn steps(states: &dense::DFA<Vec<u32>>, from: StateID, written: &BTreeSet<u8>) -> impl Iterator<Item = (u8, StateID)> {
    let step = move |byte: &u8| (*byte, states.next_state(from, *byte));
    written.iter().map(step).filter(|(_, state)| !states.is_dead_state(*state))
}

/// A set of four bytes each, which may say yes in error.
#[derive(Debug)]
struct Grams(Vec<u64>);

impl Grams {
    const BYTES: usize = 4;
    const HASH_BITS: u32 = 18;

    fn none() -> Self {
        Self(vec![0; (1 << Self::HASH_BITS) / 64])
    }

    /// All that lead on from any of these states.
    fn after(states: &dense::DFA<Vec<u32>>, from: &BTreeSet<StateID>, written: &BTreeSet<u8>) -> Self {
        let mut paths: BTreeSet<(StateID, u32)> = from.iter().map(|state| (*state, 0)).collect();
        for _ in 0..Self::BYTES {
            let on = |(state, gram): &(StateID, u32)| {
                let gram = *gram;
                steps(states, *state, written)
                    .map(move |(byte, state)| (state, gram >> 8 | u32::from_le_bytes([0, 0, 0, byte])))
            };
            paths = paths.iter().flat_map(on).collect();
        }
        let mut grams = Self::none();
        paths.iter().for_each(|(_, gram)| grams.add(gram.to_le_bytes()));
        grams
    }

    fn add(&mut self, gram: [u8; Self::BYTES]) {
        let (word, bit) = Self::place(gram);
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= bit;
        }
    }

    fn union(sets: &[Self]) -> Self {
        let mut all = Self::none();
        sets.iter().for_each(|set| all.0.iter_mut().zip(&set.0).for_each(|(bits, more)| *bits |= more));
        all
    }

    #[inline(always)]
    fn holds(&self, gram: [u8; Self::BYTES]) -> bool {
        let (word, bit) = Self::place(gram);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Multiplicative hashing (Knuth, volume 3, section 6.4).
    #[inline(always)]
    fn place(gram: [u8; Self::BYTES]) -> (usize, u64) {
        let hash = u32::from_le_bytes(gram).wrapping_mul(0x9e37_79b1) >> (32 - Self::HASH_BITS);
        ((hash >> 6) as usize, 1 << (hash & 63))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(expressions: &[&str], text: &str) -> Vec<(usize, usize, usize)> {
        let expressions: Vec<String> = expressions.iter().map(|text| (*text).to_owned()).collect();
        let mut found = Vec::new();
        let automaton = Automaton::new(&expressions).expect("small");
        automaton.search(text.as_bytes(), &mut Work::new(text.len()), |expression, begin, length| {
            found.push((expression, begin, length))
        });
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

    /// What is found by trying every place.
    fn found_everywhere(automaton: &Automaton, bytes: &[u8], end: usize) -> Vec<(usize, usize, usize)> {
        let mut found = Vec::new();
        for begin in 0..end.min(bytes.len()) {
            automaton.walk(&bytes[begin..], |expression, length| found.push((expression, begin, length)));
        }
        found
    }

    proptest! {
        #[test]
        fn the_filter_hides_no_match(
            expressions in prop::collection::vec("(a|b|[c4]){2,4}b?[a1]{3,5}(dd?|ж){3}", 1..4),
            pieces in prop::collection::vec(prop_oneof!["[abcd14]{0,6}", "\\PC{0,3}", (0..4usize).prop_map(|n| n.to_string())], 0..12),
            end in 0..200usize,
        ) {
            let automaton = Automaton::new(&expressions).expect("small");
            // A digit stands for one of the expressions, which are plain text here.
            let whole = |piece: &String| piece.parse().ok().and_then(|n: usize| expressions.get(n)).unwrap_or(piece).clone();
            let text: String = pieces.iter().map(whole).collect();
            let mut found = Vec::new();
            automaton.search_before(end, text.as_bytes(), &mut Work::new(text.len()), |expression, begin, length| found.push((expression, begin, length)));
            prop_assert_eq!(found, found_everywhere(&automaton, text.as_bytes(), end));
        }
    }
}
