//! Changes of keys: each in a commit of its own, and the end of the process where nobody knows which root key counts.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use veribus_proto::v1::{AuditEntry, EntryKind};

use super::{Bench, Failure, Running, WriterEnd};
use crate::{
    authenticate::Identity,
    decide::{Access, Decision, Verdict},
    fixtures::{decider, inspector, peer},
    inspect::Submitted,
    model::{ContentType, Epoch, RefusalReason, Scope, StateKey, Write},
    record::{Draft, KeyOrder, KeyReceipt, PendingState, RecordError, Recorder, StateOrder, StateOutcome},
    seal::{RootKey, RootKeySource, RootKeys},
};

const ALLOWED: &str = "package veribus\nimport rego.v1\nallow if true\n";

/// A root key that nothing is under yet.
fn next_root() -> Arc<dyn RootKey> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("root.key");
    RootKeys::create(&file).expect("a root key");
    RootKeys::new(RootKeySource::File(file)).settle(&BTreeSet::new()).expect("read")
}

fn scope(name: &str) -> Scope {
    Scope::parse(name).expect("a scope")
}

impl Bench {
    fn operator(&self) -> Arc<Identity> {
        self.world.identity(&self.world.claims("operator"))
    }

    async fn put(&self, recorder: &Recorder, key: &str) -> PendingState {
        let sender = self.world.identity(&self.world.claims("writer").permission("state.write:>"));
        let write = Write {
            key: StateKey::parse(key).expect("a key"),
            content_type: ContentType::parse("text/plain".to_owned()).expect("a type"),
            value: "value".into(),
            expected: None,
            ttl_s: None,
        };
        let decider = decider(&[("test.rego", ALLOWED)], self.world.clock.clone()).expect("a policy");
        let order = StateOrder::put(decider.decide_write(inspector().inspect(Submitted::new(sender, peer(), write))));
        recorder.state(vec![order]).await.expect("queued")
    }

    async fn must_put(&self, recorder: &Recorder, key: &str) {
        assert_put(self.put(recorder, key).await).await;
    }

    fn change(
        &self,
        recorder: &Recorder,
        order: KeyOrder,
    ) -> impl Future<Output = Result<KeyReceipt, RecordError>> + Send + 'static {
        let (operator, recorder) = (self.operator(), recorder.clone());
        let verdict = Verdict { decision: Decision::Allow, rules: [].into(), reason: None, policy_sha256: [0; 32] };
        let draft = Draft::access(Access::Keys("change", None), &verdict, &operator, peer());
        async move { recorder.change_keys(draft, order, operator).await }
    }

    fn key_entries(&self) -> Vec<(String, String, u32)> {
        let facts = |entry: AuditEntry| {
            let keys = entry.keys.clone().unwrap_or_default();
            (entry.kind() == EntryKind::Keys).then_some((entry.detail, keys.scope, keys.epoch))
        };
        self.store.entries().into_iter().filter_map(facts).collect()
    }
}

async fn assert_put(pending: PendingState) {
    let outcomes = pending.outcomes().await.expect("recorded");
    assert!(matches!(outcomes[..], [StateOutcome::Put { .. }]), "{outcomes:?}");
}

fn entry(detail: &str, scope: &str, epoch: u32) -> (String, String, u32) {
    (detail.to_owned(), scope.to_owned(), epoch)
}

async fn waiting(recorder: &Recorder, count: usize) {
    while recorder.queued() < count {
        tokio::task::yield_now().await;
    }
}

async fn end(running: Running) -> Result<(), WriterEnd> {
    tokio::task::spawn_blocking(|| running.join().expect("no panic")).await.expect("waited")
}

#[tokio::test]
async fn a_new_root_key_and_the_first_key_of_a_scope_are_never_in_one_commit() {
    let bench = Bench::new();
    let (writer, recorder, _reader) = bench.open().expect("opened");
    let before = bench.put(&recorder, "a/1").await;
    let rewrapped = tokio::spawn(bench.change(&recorder, KeyOrder::Rewrap(next_root())));
    waiting(&recorder, 2).await;
    let after = bench.put(&recorder, "b/1").await;
    recorder.finish(Draft::stopped()).await.expect("queued");
    let delivered = bench.delivered.clone();
    std::thread::spawn(move || writer.run(delivered)).join().expect("no panic").expect("ended in good order");
    assert_put(before).await;
    assert_put(after).await;
    let receipt = rewrapped.await.expect("no panic").expect("recorded");
    assert_eq!((receipt.access.refused, receipt.rewrapped), (None, 1));
    assert_eq!(bench.store.appends.load(Ordering::SeqCst), 4, "one each, and the last entry");
    let done = [entry("created", "a", 1), entry("rewrapped", "", 0), entry("created", "b", 1)];
    assert_eq!(bench.key_entries(), done);
}

#[tokio::test]
async fn a_rotation_of_all_scopes_has_an_entry_for_each_and_one_of_none_has_one() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    let none = bench.change(&recorder, KeyOrder::Rotate(None)).await.expect("recorded");
    assert_eq!((none.begun.len(), none.access.refused), (0, None));
    bench.must_put(&recorder, "a/1").await;
    bench.must_put(&recorder, "b/1").await;
    let all = bench.change(&recorder, KeyOrder::Rotate(None)).await.expect("recorded");
    let begun: Vec<_> = all.begun.iter().map(|key| (key.scope.as_str(), key.epoch, key.current)).collect();
    assert_eq!(begun, [("a", Epoch(2), true), ("b", Epoch(2), true)]);
    bench.change(&recorder, KeyOrder::Rotate(Some(scope("b")))).await.expect("recorded");
    let entries = bench.key_entries();
    assert_eq!(entries[0], entry("rotated", "", 0));
    assert_eq!(entries[3..], [entry("rotated", "a", 2), entry("rotated", "b", 2), entry("rotated", "b", 3)]);
}

#[tokio::test]
async fn what_is_not_there_is_neither_rotated_nor_shredded_nor_made() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    bench.must_put(&recorder, "a/1").await;
    for order in [
        KeyOrder::Rotate(Some(scope("b"))),
        KeyOrder::Shred(scope("b"), Epoch(1), next_root()),
        KeyOrder::Shred(scope("a"), Epoch(2), next_root()),
    ] {
        let refused = bench.change(&recorder, order).await.expect("recorded").access.refused;
        assert_eq!(refused, Some(RefusalReason::NoSuchKey));
    }
    let shred = || bench.change(&recorder, KeyOrder::Shred(scope("a"), Epoch(1), next_root()));
    assert_eq!(shred().await.expect("recorded").access.refused, None);
    assert_eq!(shred().await.expect("recorded").access.refused, Some(RefusalReason::NoSuchKey));
    // At the limit of scopes, one whose keys are all shredded is still no new one.
    bench.must_put(&recorder, "b/1").await;
    bench.must_put(&recorder, "a/1").await;
    assert_eq!(bench.key_entries().last(), Some(&entry("created", "a", 2)));
}

#[tokio::test]
async fn an_operator_whose_token_ran_out_on_the_way_changes_nothing() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    bench.must_put(&recorder, "a/1").await;
    let orders = [KeyOrder::Rotate(None), KeyOrder::Rewrap(next_root())];
    let changes = orders.map(|order| bench.change(&recorder, order));
    bench.world.clock.advance(crate::fixtures::LIFETIME);
    for change in changes {
        assert_eq!(change.await.expect("recorded").access.refused, Some(RefusalReason::TokenExpired));
    }
    let details: Vec<_> = bench.key_entries().into_iter().map(|(detail, ..)| detail).collect();
    assert_eq!(details, ["created", "change", "change"]);
}

#[tokio::test]
async fn where_nobody_knows_which_root_key_counts_the_writer_ends() {
    for failure in [Failure::NotPersisted, Failure::PersistedButReportedFailed] {
        let shred = KeyOrder::Shred(scope("a"), Epoch(1), next_root());
        for order in [KeyOrder::Rewrap(next_root()), shred] {
            let bench = Bench::new();
            let (recorder, _reader, running) = bench.start().expect("started");
            bench.must_put(&recorder, "a/1").await;
            bench.store.failures.lock().push(failure);
            let answer = bench.change(&recorder, order).await;
            assert_eq!(answer.err(), Some(RecordError::Failed));
            drop(recorder);
            assert!(matches!(end(running).await, Err(WriterEnd::RootKey(_))));
        }
    }
}

#[tokio::test]
async fn a_rotation_whose_write_failed_is_read_back_as_far_as_it_persisted() {
    for (failure, epoch) in [(Failure::NotPersisted, 2), (Failure::PersistedButReportedFailed, 3)] {
        let bench = Bench::new();
        let (recorder, _reader, _running) = bench.start().expect("started");
        bench.must_put(&recorder, "a/1").await;
        bench.store.failures.lock().push(failure);
        let rotate = || bench.change(&recorder, KeyOrder::Rotate(None));
        assert_eq!(rotate().await.err(), Some(RecordError::Failed));
        assert_eq!(rotate().await.expect("recorded").begun[0].epoch, Epoch(epoch));
        bench.must_put(&recorder, "a/1").await;
    }
}
