use proptest::prelude::*;

use super::*;
use crate::{
    model::Revision,
    seal::{Context, OpenError, ScopeKey, open, root::LocalRootKey, seal},
};

const NOW: UnixMicros = UnixMicros(1_700_000_000_000_000);
const LATER: UnixMicros = UnixMicros(1_700_000_001_000_000);

/// What a store does with records.
#[derive(Default, Clone)]
struct Store(BTreeMap<Bytes, Bytes>);

impl Store {
    fn commit(&mut self, change: &KeyChange) {
        for record in change.records() {
            match record.value.clone() {
                Some(value) => self.0.insert(record.key.clone(), value),
                None => self.0.remove(&record.key),
            };
        }
    }

    fn records(&self) -> Vec<(Bytes, Bytes)> {
        self.0.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn load(&self, root: &Arc<dyn RootKey>) -> Result<KeyRing, KeyRingError> {
        KeyRing::load(self.records(), root.clone())
    }
}

fn root() -> Arc<dyn RootKey> {
    Arc::new(LocalRootKey::generate().expect("a root key"))
}

fn scope(name: &str) -> Scope {
    Scope::parse(name).expect("a scope")
}

fn commit(ring: &KeyRing, store: &mut Store, change: KeyChange) {
    store.commit(&change);
    ring.apply(change);
}

fn begin(ring: &KeyRing, store: &mut Store, name: &str) -> (Epoch, Arc<ScopeKey>) {
    let change = ring.begin_epoch(&scope(name), None, NOW).expect("an epoch");
    let made = change.key().expect("a key");
    commit(ring, store, change);
    made
}

/// A ring with these scopes, each at the epoch that says how often it comes.
fn ring_of(names: &[&str], root: &Arc<dyn RootKey>) -> (KeyRing, Store) {
    let mut store = Store::default();
    let ring = store.load(root).expect("an empty ring");
    for name in names {
        begin(&ring, &mut store, name);
    }
    (ring, store)
}

fn bytes_of(ring: &KeyRing, name: &str, epoch: u32) -> Result<[u8; 32], NoKey> {
    ring.key(&scope(name), Epoch(epoch)).map(|key| *key.bytes())
}

fn bytes_of_all(ring: &KeyRing) -> Vec<(Scope, Epoch, Result<[u8; 32], NoKey>)> {
    let facts = ring.list(None, None, usize::MAX);
    let with_bytes = |fact: KeyFact| {
        let bytes = bytes_of(ring, fact.scope.as_str(), fact.epoch.0);
        (fact.scope, fact.epoch, bytes)
    };
    facts.into_iter().map(with_bytes).collect()
}

fn context(epoch: Epoch) -> Context<'static> {
    Context {
        scope: "tickets",
        epoch,
        resource: "tickets/1",
        previous_revision: Revision(0),
        issuer: "issuer",
        subject: "agent",
        token_id: "token",
        confirmation: "",
        token_sha256: &[0; 32],
    }
}

#[test]
fn a_scope_has_no_key_until_an_epoch_is_begun_and_applied() {
    let (ring, mut store) = ring_of(&[], &root());
    let tickets = scope("tickets");
    assert!(ring.current(&tickets).is_none());
    let change = ring.begin_epoch(&tickets, None, NOW).expect("an epoch");
    assert!(ring.current(&tickets).is_none(), "not in effect before it is durable");
    let (epoch, key) = change.key().expect("a key");
    commit(&ring, &mut store, change);
    let (current, held) = ring.current(&tickets).expect("a key");
    assert_eq!((epoch, current, ring.scopes()), (Epoch::FIRST, Epoch::FIRST, 1));
    assert_eq!(held.bytes(), key.bytes());
    assert_eq!(ring.key(&tickets, Epoch(2)).err(), Some(NoKey::Unknown));
    assert_eq!(ring.key(&scope("other"), Epoch(1)).err(), Some(NoKey::Unknown));
}

#[test]
fn a_rotation_makes_a_new_key_and_old_epochs_stay_readable() {
    let (ring, mut store) = ring_of(&["tickets"], &root());
    let first = bytes_of(&ring, "tickets", 1);
    let (epoch, second) = begin(&ring, &mut store, "tickets");
    assert_eq!(epoch, Epoch(2));
    assert_eq!(ring.current(&scope("tickets")).map(|(epoch, _)| epoch), Some(Epoch(2)));
    assert_eq!(bytes_of(&ring, "tickets", 1), first);
    assert_ne!(first, Ok(*second.bytes()));
}

#[test]
fn an_epoch_that_is_begun_but_not_applied_is_counted_by_who_began_it() {
    let (ring, _) = ring_of(&["tickets"], &root());
    let tickets = scope("tickets");
    let begun = ring.begin_epoch(&tickets, None, NOW).expect("an epoch");
    let (epoch, _) = begun.key().expect("a key");
    let next = ring.begin_epoch(&tickets, Some(epoch), NOW).expect("an epoch");
    assert_eq!(next.key().map(|(epoch, _)| epoch), Some(Epoch(3)));
    assert_eq!(ring.begin_epoch(&tickets, Some(Epoch(u32::MAX)), NOW).err(), Some(KeyRingError::EpochsExhausted));
}

#[test]
fn what_was_committed_is_loaded_again() {
    let root = root();
    let (ring, mut store) = ring_of(&["tickets", "tickets", "finance.reports", "t"], &root);
    let (ring, root) = {
        let next = self::root();
        commit(&ring, &mut store, ring.shred(&scope("t"), Epoch(1), next.clone(), LATER).expect("a change"));
        (ring, next)
    };
    let loaded = store.load(&root).expect("a ring");
    assert_eq!(bytes_of_all(&loaded), bytes_of_all(&ring));
    assert_eq!(loaded.list(None, None, 9), ring.list(None, None, 9));
    assert_eq!(bytes_of(&loaded, "t", 1), Err(NoKey::Shredded));
    assert_eq!(KeyRing::roots_in_use(&store.records()), Ok(BTreeSet::from([root.id().clone()])));
}

#[test]
fn nothing_is_loaded_with_another_root_key() {
    let (_, store) = ring_of(&["tickets"], &root());
    assert!(matches!(store.load(&root()), Err(KeyRingError::OtherRoot { .. })));
}

/// The records do not only name their root key: they are wrapped by it.
#[test]
fn a_record_that_names_another_root_key_than_wrapped_it_is_not_loaded() {
    let (_, store) = ring_of(&["tickets"], &root());
    let other = root();
    let (key, value) = store.records().remove(0);
    let mut stored = StoredKey::parse(&key, &value).expect("a record");
    stored.root = other.id().clone();
    let record = stored.to_record();
    let loaded = KeyRing::load(vec![(record.key, record.value.expect("a value"))], other);
    assert!(matches!(loaded, Err(KeyRingError::NotUnwrapped { .. })));
}

#[test]
fn wrapped_keys_that_change_places_are_not_loaded() {
    let root = root();
    let (_, store) = ring_of(&["tickets", "tickets", "finance"], &root);
    let records = store.records();
    for one in 0..records.len() {
        for two in (0..records.len()).filter(|two| *two != one) {
            let mut swapped = records.clone();
            swapped[one].1 = records[two].1.clone();
            let loaded = KeyRing::load(swapped, root.clone());
            assert!(matches!(loaded, Err(KeyRingError::NotUnwrapped { .. })), "{two} in the place of {one}");
        }
    }
}

#[test]
fn a_record_that_is_cut_off_or_has_a_bit_flipped_never_gives_another_key() {
    let root = root();
    let (ring, store) = ring_of(&["tickets"], &root);
    let (key, value) = store.records().remove(0);
    let right = bytes_of(&ring, "tickets", 1);
    for len in 0..value.len() {
        assert!(KeyRing::load(vec![(key.clone(), value.slice(..len))], root.clone()).is_err(), "cut to {len}");
    }
    for bit in 0..value.len() * 8 {
        let mut flipped = value.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // When it was made is all that may be read wrongly.
        if let Ok(loaded) = KeyRing::load(vec![(key.clone(), flipped.into())], root.clone()) {
            assert_eq!(bytes_of(&loaded, "tickets", 1), right, "bit {bit}");
        }
    }
    for bit in 0..key.len() * 8 {
        let mut flipped = key.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(KeyRing::load(vec![(flipped.into(), value.clone())], root.clone()).is_err(), "key bit {bit}");
    }
}

#[test]
fn a_rewrap_keeps_every_key_and_the_old_root_key_opens_none_of_the_records() {
    let (old, next) = (root(), root());
    let (ring, mut store) = ring_of(&["tickets", "tickets", "finance"], &old);
    let before = bytes_of_all(&ring);
    commit(&ring, &mut store, ring.rewrap(next.clone()).expect("a change"));
    assert_eq!(ring.root_id(), *next.id());
    assert_eq!(bytes_of_all(&ring), before);
    assert_eq!(bytes_of_all(&store.load(&next).expect("a ring")), before);
    assert!(store.load(&old).is_err());
    begin(&ring, &mut store, "tickets");
    assert!(store.load(&next).is_ok(), "new keys go under the new root key");
}

#[test]
fn records_copied_before_a_shred_open_nothing_of_the_epoch_with_the_new_root_key_while_all_else_opens() {
    let (old, next) = (root(), root());
    let (ring, mut store) = ring_of(&["tickets", "tickets", "finance"], &old);
    let before = bytes_of_all(&ring);
    let tickets = scope("tickets");
    let key = ring.key(&tickets, Epoch(1)).expect("a key");
    let sealed = seal(&key, &context(Epoch(1)), b"secret").expect("sealed");
    let copy = store.clone();
    commit(&ring, &mut store, ring.shred(&tickets, Epoch(1), next.clone(), LATER).expect("a change"));

    assert!(copy.load(&next).is_err(), "the copy as a whole");
    for (key, value) in copy.records() {
        assert!(KeyRing::load(vec![(key, value)], next.clone()).is_err(), "the copy, record by record");
    }
    // Old records under the new root key's name, and the old one beside new ones.
    for (key, value) in copy.records() {
        let mut stored = StoredKey::parse(&key, &value).expect("a record");
        stored.root = next.id().clone();
        let record = stored.to_record();
        assert!(KeyRing::load(vec![(record.key, record.value.expect("a value"))], next.clone()).is_err());
        let mut mixed = store.clone();
        mixed.0.insert(key, value);
        assert!(mixed.load(&next).is_err());
    }
    for ring in [ring, store.load(&next).expect("a ring")] {
        for (scope, epoch, key) in &before {
            let expected = if (scope, *epoch) == (&tickets, Epoch(1)) { Err(NoKey::Shredded) } else { *key };
            assert_eq!(ring.key(scope, *epoch).map(|key| *key.bytes()), expected, "{scope} {epoch}");
        }
        let other = ring.key(&tickets, Epoch(2)).expect("a key");
        assert_eq!(open(&other, &context(Epoch(1)), &sealed), Err(OpenError));
    }
}

#[test]
fn a_shredded_epoch_stays_shredded_and_its_number_is_not_given_again() {
    let (ring, mut store) = ring_of(&["tickets"], &root());
    let tickets = scope("tickets");
    commit(&ring, &mut store, ring.shred(&tickets, Epoch(1), root(), LATER).expect("a change"));
    assert!(ring.current(&tickets).is_none());
    let again = ring.shred(&tickets, Epoch(1), root(), LATER);
    assert_eq!(again.err(), Some(KeyRingError::NoKey(NoKey::Shredded)));
    let unknown = ring.shred(&tickets, Epoch(2), root(), LATER);
    assert_eq!(unknown.err(), Some(KeyRingError::NoKey(NoKey::Unknown)));
    let (epoch, _) = begin(&ring, &mut store, "tickets");
    assert_eq!(epoch, Epoch(2));
    let next = root();
    commit(&ring, &mut store, ring.rewrap(next.clone()).expect("a change"));
    let loaded = store.load(&next).expect("a ring");
    assert_eq!(bytes_of(&loaded, "tickets", 1), Err(NoKey::Shredded));
}

#[test]
fn no_older_epoch_becomes_current_again_when_the_latest_is_shredded() {
    let (ring, mut store) = ring_of(&["tickets", "tickets"], &root());
    let tickets = scope("tickets");
    commit(&ring, &mut store, ring.shred(&tickets, Epoch(2), root(), LATER).expect("a change"));
    assert!(ring.current(&tickets).is_none());
    assert!(ring.list(None, None, 9).iter().all(|fact| !fact.current));
    assert!(ring.key(&tickets, Epoch(1)).is_ok(), "and it stays readable");
}

/// Or the store would not say which root key it is under, once a scope has nothing but tombstones.
#[test]
fn tombstones_name_the_root_key_that_is_in_use() {
    let (ring, mut store) = ring_of(&["tickets"], &root());
    let next = root();
    commit(&ring, &mut store, ring.shred(&scope("tickets"), Epoch(1), next.clone(), LATER).expect("a change"));
    assert_eq!(KeyRing::roots_in_use(&store.records()), Ok(BTreeSet::from([next.id().clone()])));
    let last = root();
    commit(&ring, &mut store, ring.rewrap(last.clone()).expect("a change"));
    assert_eq!(KeyRing::roots_in_use(&store.records()), Ok(BTreeSet::from([last.id().clone()])));
}

#[test]
fn a_change_of_the_root_key_waits_for_new_keys_and_new_keys_for_it() {
    let (ring, _) = ring_of(&["tickets"], &root());
    let (tickets, finance) = (scope("tickets"), scope("finance"));
    let begun = ring.begin_epoch(&tickets, None, NOW).expect("an epoch");
    assert!(ring.begin_epoch(&finance, None, NOW).is_ok(), "new keys do not wait for each other");
    assert_eq!(ring.rewrap(root()).err(), Some(KeyRingError::ChangePending));
    assert_eq!(ring.shred(&tickets, Epoch(1), root(), NOW).err(), Some(KeyRingError::ChangePending));
    ring.apply(begun);

    let rewrap = ring.rewrap(root()).expect("a change");
    assert_eq!(ring.begin_epoch(&finance, None, NOW).err(), Some(KeyRingError::ChangePending));
    assert_eq!(ring.rewrap(root()).err(), Some(KeyRingError::ChangePending));
    drop(rewrap);
    assert!(ring.begin_epoch(&finance, None, NOW).is_ok(), "a change that is dropped has changed nothing");
}

#[test]
fn keys_do_not_go_under_the_root_key_that_they_are_under() {
    let root = root();
    let (ring, _) = ring_of(&["tickets"], &root);
    assert_eq!(ring.rewrap(root.clone()).err(), Some(KeyRingError::SameRoot));
    assert_eq!(ring.shred(&scope("tickets"), Epoch(1), root, NOW).err(), Some(KeyRingError::SameRoot));
}

#[test]
fn keys_are_listed_in_order_and_in_pages() {
    let (ring, mut store) = ring_of(&["b", "a", "a", "c", "a"], &root());
    commit(&ring, &mut store, ring.shred(&scope("a"), Epoch(2), root(), LATER).expect("a change"));
    let all = ring.list(None, None, 9);
    let told: Vec<_> =
        all.iter().map(|fact| (fact.scope.as_str(), fact.epoch.0, fact.current, fact.shredded_at)).collect();
    let expected = [
        ("a", 1, false, None),
        ("a", 2, false, Some(LATER)),
        ("a", 3, true, None),
        ("b", 1, true, None),
        ("c", 1, true, None),
    ];
    assert_eq!(told, expected);
    assert!(all.iter().all(|fact| fact.created_at == NOW));
    assert_eq!(ring.list(Some(&scope("a")), None, 9), all[..3]);
    assert_eq!(ring.list(Some(&scope("b")), None, 9), all[3..4]);
    assert_eq!(ring.list(None, None, 2), all[..2]);
    for (index, fact) in all.iter().enumerate() {
        assert_eq!(ring.list(None, Some((&fact.scope, fact.epoch)), 9), all[index + 1..]);
    }
    let within = ring.list(Some(&scope("a")), Some((&scope("a"), Epoch(1))), 9);
    assert_eq!(within, all[1..3]);
    assert!(ring.list(Some(&scope("a")), Some((&scope("b"), Epoch(1))), 9).is_empty());
}

#[test]
fn a_record_is_small_and_holds_no_key_in_clear() {
    let root = root();
    let mut store = Store::default();
    let ring = store.load(&root).expect("a ring");
    let (_, key) = begin(&ring, &mut store, &"s".repeat(Scope::LEN_BYTES_MAX));
    let (name, value) = store.records().remove(0);
    assert!(name.starts_with(KEY_PREFIX));
    assert!(name.len() < crate::engine::KEY_BYTES_MAX && value.len() < 256, "{} and {}", name.len(), value.len());
    assert!(!value.windows(8).any(|window| key.bytes().windows(8).any(|secret| secret == window)));
    assert_eq!(format!("{key:?}"), "ScopeKey(..)");
}

proptest! {
    #[test]
    fn records_that_nobody_wrote_are_refused_and_never_a_panic(key: Vec<u8>, value: Vec<u8>, is_ours: bool) {
        let key = if is_ours { [KEY_PREFIX, b"tickets\0\0\0\0\x01"].concat() } else { key };
        let loaded = KeyRing::load(vec![(key.into(), value.into())], root());
        prop_assert!(loaded.is_err());
    }

    /// Whatever is done in whatever order, the store gives the ring that is in memory.
    #[test]
    fn a_ring_and_its_records_never_part(steps in proptest::collection::vec((0_u8..4, 0_usize..3, 1_u32..5), 0..24)) {
        let mut current = root();
        let (ring, mut store) = ring_of(&[], &current);
        for (step, name, epoch) in steps {
            let (name, next) = (scope(["a", "a.b", "b"][name]), root());
            let change = match step {
                0 | 1 => ring.begin_epoch(&name, None, NOW),
                2 => ring.rewrap(next.clone()),
                _ => ring.shred(&name, Epoch(epoch), next.clone(), LATER),
            };
            let Ok(change) = change else { continue };
            commit(&ring, &mut store, change);
            if step > 1 {
                current = next;
            }
            let loaded = store.load(&current).expect("a ring");
            prop_assert_eq!(bytes_of_all(&loaded), bytes_of_all(&ring));
            prop_assert_eq!(loaded.list(None, None, 99), ring.list(None, None, 99));
        }
    }
}
