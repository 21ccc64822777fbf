//! Which proofs were accepted, for as long as they could be presented again.
//!
//! Memory is bounded, and where it is full no proof is accepted: one that is not remembered could be replayed. So that
//! nobody can lock others out, each agent may fill only its share, and the second half of the memory is for agents
//! that hold few. To use that up takes thousands of agents with tokens of trusted issuers.
//!
//! Out of scope: proofs accepted by another process, before a restart. Those made no later than the log's last entry are
//! refused as too old, whatever the clock says at the start, so that only a proof of a client whose clock is ahead by more
//! than the restart took could come twice.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
};

use super::error::ProofError;
use crate::model::{AgentId, Issuer, UnixSeconds};

/// How many proofs are remembered.
#[derive(Debug, Clone, Copy)]
pub struct ProofLimits {
    /// In all.
    pub total_max: usize,
    /// Of one agent.
    pub per_agent_max: usize,
}

/// An agent that holds no more than this is served from the second half of the memory too.
const FEW: usize = 64;

/// Whose proof.
pub(super) type Holder = (Issuer, AgentId);

/// SHA-256 over the key's thumbprint and the proof's `jti`.
pub(super) type ProofId = [u8; 32];

/// When a proof is presented: by the clock, and what of that is confirmed ([`Clock::confirmed`](crate::model::Clock)). A proof
/// is forgotten by the latter only: a clock that is ahead for a moment neither lets a proof come twice nor locks anybody out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time {
    pub(super) now: UnixSeconds,
    pub(super) confirmed: UnixSeconds,
}

/// The memory.
pub(super) struct Memory {
    limits: ProofLimits,
    seen: HashSet<ProofId>,
    by_end: BinaryHeap<Reverse<(UnixSeconds, ProofId, Holder)>>,
    held: HashMap<Holder, usize>,
    /// Proofs that end then or before are not accepted, whatever the clock says later.
    closed_until: UnixSeconds,
}

impl Memory {
    /// Remembers nothing yet; a proof that ended at `closed_until` or before may have been accepted by another memory.
    pub(super) fn new(limits: ProofLimits, closed_until: UnixSeconds) -> Self {
        Self { limits, seen: HashSet::new(), by_end: BinaryHeap::new(), held: HashMap::new(), closed_until }
    }

    /// Proofs that ended at `until` or before may have been accepted before the start, and no others.
    pub(super) const fn close(&mut self, until: UnixSeconds) {
        self.closed_until = until;
    }

    /// Takes a proof that is good up to and including `end`, once.
    pub(super) fn remember(
        &mut self,
        proof: ProofId,
        holder: Holder,
        end: UnixSeconds,
        time: Time,
    ) -> Result<(), ProofError> {
        self.forget_ended(time.confirmed);
        if end < time.now || end <= self.closed_until {
            return Err(ProofError::Old);
        }
        if self.seen.contains(&proof) {
            return Err(ProofError::Replayed);
        }
        if !self.has_room_for(&holder) {
            return Err(ProofError::TooMany);
        }
        self.seen.insert(proof);
        *self.held.entry(holder.clone()).or_default() += 1;
        self.by_end.push(Reverse((end, proof, holder)));
        Ok(())
    }

    fn has_room_for(&self, holder: &Holder) -> bool {
        let held = self.held.get(holder).copied().unwrap_or_default();
        let is_half_full = self.seen.len() >= self.limits.total_max / 2;
        let share = if is_half_full { self.limits.per_agent_max.min(FEW) } else { self.limits.per_agent_max };
        self.seen.len() < self.limits.total_max && held < share
    }

    fn forget_ended(&mut self, confirmed: UnixSeconds) {
        self.closed_until = self.closed_until.max(UnixSeconds(confirmed.0.saturating_sub(1)));
        while let Some((proof, holder)) = self.next_ended() {
            self.seen.remove(&proof);
            if let Some(held) = self.held.get_mut(&holder) {
                *held = held.saturating_sub(1);
                if *held == 0 {
                    self.held.remove(&holder);
                }
            }
        }
    }

    fn next_ended(&mut self) -> Option<(ProofId, Holder)> {
        let Reverse((end, ..)) = self.by_end.peek()?;
        if *end > self.closed_until {
            return None;
        }
        self.by_end.pop().map(|Reverse((_, proof, holder))| (proof, holder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = at(1_000);
    const END: UnixSeconds = UnixSeconds(1_060);

    const fn at(seconds: i64) -> Time {
        Time { now: UnixSeconds(seconds), confirmed: UnixSeconds(seconds) }
    }

    fn memory(total_max: usize, per_agent_max: usize) -> Memory {
        Memory::new(ProofLimits { total_max, per_agent_max }, UnixSeconds(1_059))
    }

    fn holder(agent: usize) -> Holder {
        let issuer = Issuer::parse("https://issuer.example").expect("an issuer");
        (issuer, AgentId::parse(&format!("agent-{agent}")).expect("an agent"))
    }

    fn proof(number: usize) -> ProofId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        id
    }

    #[test]
    fn a_proof_counts_once_for_as_long_as_it_is_good() {
        let mut memory = memory(10, 10);
        assert_eq!(memory.remember(proof(1), holder(1), END, NOW), Ok(()));
        for now in [NOW, at(END.0)] {
            assert_eq!(memory.remember(proof(1), holder(1), END, now), Err(ProofError::Replayed));
            assert_eq!(memory.remember(proof(1), holder(2), END, now), Err(ProofError::Replayed), "whoever sends it");
        }
        let after = at(END.0 + 1);
        assert_eq!(memory.remember(proof(1), holder(1), END, after), Err(ProofError::Old));
        assert_eq!(memory.remember(proof(1), holder(1), END, NOW), Err(ProofError::Old), "nor if the clock goes back");
        assert_eq!(
            (memory.seen.len(), memory.by_end.len(), memory.held.len()),
            (0, 0, 0),
            "nothing is kept for longer"
        );
    }

    #[test]
    fn a_proof_from_before_the_start_is_too_old() {
        assert_eq!(memory(10, 10).remember(proof(1), holder(1), UnixSeconds(1_059), NOW), Err(ProofError::Old));
    }

    #[test]
    fn a_clock_that_is_ahead_for_a_moment_locks_nobody_out_and_forgets_nothing() {
        let mut memory = memory(10, 10);
        assert_eq!(memory.remember(proof(1), holder(1), END, NOW), Ok(()));
        let ahead = Time { now: UnixSeconds(91_000), ..NOW };
        assert_eq!(memory.remember(proof(2), holder(1), END, ahead), Err(ProofError::Old));
        assert_eq!(memory.remember(proof(3), holder(1), UnixSeconds(91_060), ahead), Ok(()));
        assert_eq!(memory.remember(proof(1), holder(1), END, NOW), Err(ProofError::Replayed));
        assert_eq!(memory.remember(proof(2), holder(1), END, NOW), Ok(()));
    }

    #[test]
    fn an_agent_fills_its_share_only_and_gets_it_back() {
        let mut memory = memory(1_000, 3);
        for number in 0..3 {
            assert_eq!(memory.remember(proof(number), holder(1), END, NOW), Ok(()));
        }
        assert_eq!(memory.remember(proof(3), holder(1), END, NOW), Err(ProofError::TooMany));
        assert_eq!(memory.remember(proof(3), holder(2), END, NOW), Ok(()));
        let later = at(END.0 + 1);
        assert_eq!(memory.remember(proof(4), holder(1), UnixSeconds(END.0 + 60), later), Ok(()));
    }

    #[test]
    fn the_second_half_is_for_those_who_hold_few_and_what_is_full_takes_none() {
        let mut memory = memory(400, 200);
        for number in 0..200 {
            assert_eq!(memory.remember(proof(number), holder(1), END, NOW), Ok(()));
        }
        let mut number = 200;
        for agent in 2..6 {
            while number < 1_000 && memory.remember(proof(number), holder(agent), END, NOW).is_ok() {
                number += 1;
            }
        }
        assert_eq!(number, 400, "three with their 64 each, and eight more");
        assert_eq!(memory.held[&holder(2)], FEW);
        assert_eq!(memory.remember(proof(number), holder(7), END, NOW), Err(ProofError::TooMany));
        assert_eq!(memory.seen.len(), 400);
    }
}
