//! Revocations: in force from their entry on, whatever fails after that.

use std::{sync::Arc, time::Duration};

use veribus_proto::v1::{AuditEntry, EntryKind};

use super::{Bench, Delivered, Failure, NOW, index, kinds, record};
use crate::{
    authenticate::{Identity, Revocation, RevocationTarget, Revoked, TokenError},
    decide::{Access, Verdict},
    fixtures::peer,
    model::{AgentId, Issuer, Outcome, RefusalReason, UnixMicros, UnixSeconds},
    record::{AccessReceipt, Draft, RecordError, Recorder},
};

fn revocation(agent: &str, expires_at: Option<UnixSeconds>) -> Revocation {
    Revocation {
        issuer: Issuer::parse("https://issuer.example").expect("an issuer"),
        target: RevocationTarget::Agent(AgentId::parse(agent).expect("an agent")),
        expires_at,
        reason: String::new(),
    }
}

fn draft(bench: &Bench, revocation: &Revocation) -> (Draft, Arc<Identity>) {
    let operator = bench.world.identity(&bench.world.claims("operator"));
    let verdict =
        Verdict { decision: crate::decide::Decision::Allow, rules: [].into(), reason: None, policy_sha256: [0; 32] };
    (Draft::access(Access::Revoke(revocation), &verdict, &operator, peer()), operator)
}

async fn revoke(bench: &Bench, recorder: &Recorder, revocation: Revocation) -> Result<AccessReceipt, RecordError> {
    let (draft, operator) = draft(bench, &revocation);
    recorder.revoke(draft, revocation, operator).await
}

impl Bench {
    fn in_force(&self, receipt: &AccessReceipt) -> Arc<Revoked> {
        let (id, now) = (receipt.decision_id.to_string(), self.world.clock.now().seconds());
        self.world.verifier.revocations().find(&id, now).expect("in force")
    }

    fn standing(&self, agent: &str) -> Result<(), TokenError> {
        let token = self.world.issuer.issue(&self.world.claims(agent)).expect("signed");
        self.world.authenticate(&token).map(drop)
    }
}

#[tokio::test]
async fn nothing_is_accepted_above_a_revocation_also_within_one_commit() {
    let bench = Bench::new();
    let (writer, recorder, _reader) = bench.open().expect("opened");
    let before = recorder.messages(vec![bench.routed("before", true)]).await.expect("queued");
    let revoking = tokio::spawn({
        let (recorder, revocation) = (recorder.clone(), revocation("sender", None));
        let (draft, operator) = draft(&bench, &revocation);
        async move { recorder.revoke(draft, revocation, operator).await }
    });
    while recorder.queued() < 2 {
        tokio::task::yield_now().await;
    }
    // Decided, routed and queued while the sender was still in good standing.
    let after = recorder.messages(vec![bench.routed("after", true)]).await.expect("queued");
    recorder.finish(Draft::stopped()).await.expect("queued");
    let delivered = bench.delivered.clone();
    std::thread::spawn(move || writer.run(delivered)).join().expect("no panic").expect("ended in good order");
    assert_eq!(bench.store.appends.load(std::sync::atomic::Ordering::SeqCst), 2, "one commit, and the last entry");

    let revoked = revoking.await.expect("no panic").expect("recorded").decision_id.audit_index();
    let before = before.outcomes().await.expect("recorded").remove(0);
    let after = after.outcomes().await.expect("recorded").remove(0);
    assert!(matches!(before, Outcome::Accepted(_)) && index(&before) < revoked);
    assert!(index(&after) > revoked);
    assert!(matches!(after, Outcome::Refused(refused) if refused.reason == RefusalReason::TokenRevoked));
    let Delivered(delivered) = &bench.delivered;
    assert_eq!(*delivered.lock(), [index(&before)]);
}

#[tokio::test]
async fn a_message_needs_the_good_standing_of_its_sender_and_of_who_brings_it() {
    for revoked in ["sender", "gateway"] {
        let bench = Bench::new();
        let (recorder, _reader, _running) = bench.start().expect("started");
        let identity = |agent| bench.world.identity(&bench.world.claims(agent).permission("publish:>"));
        let routed = |id| bench.routed_through(Some(identity("gateway")), identity("sender"), id, true, "{}");
        let (before, after) = (routed("before"), routed("after"));
        assert!(matches!(record(&recorder, before).await, Ok(Outcome::Accepted(_))));
        revoke(&bench, &recorder, revocation(revoked, None)).await.expect("recorded");
        let Ok(Outcome::Refused(refused)) = record(&recorder, after).await else { panic!("accepted: {revoked}") };
        assert_eq!(refused.reason, RefusalReason::TokenRevoked);
        let entry = bench.store.entries().pop().expect("an entry");
        let agent = |actor: Option<veribus_proto::v1::Actor>| actor.map(|actor| actor.agent);
        assert_eq!((agent(entry.actor).as_deref(), agent(entry.via).as_deref()), (Some("sender"), Some("gateway")));
    }
}

#[tokio::test]
async fn a_request_of_a_revoked_asker_is_denied_at_its_record() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    let asker = bench.world.identity(&bench.world.claims("sender"));
    let (permitted, _) = draft(&bench, &revocation("anybody", None));
    revoke(&bench, &recorder, revocation("sender", None)).await.expect("recorded");
    let receipt = recorder.access(permitted, asker).await.expect("recorded");
    assert_eq!(receipt.refused, Some(RefusalReason::TokenRevoked));
    let entry = bench.store.entries().pop().expect("an entry");
    assert_eq!(entry.decision.expect("decided").rules, ["native/token-revoked"]);
}

#[tokio::test]
async fn a_restart_keeps_what_is_revoked_and_forgets_what_is_lifted() {
    let bench = Bench::new();
    let (recorder, _reader, running) = bench.start().expect("started");
    revoke(&bench, &recorder, revocation("for-good", None)).await.expect("recorded");
    let lifted = revoke(&bench, &recorder, revocation("lifted", None)).await.expect("recorded");
    let end = UnixSeconds(NOW.0 + 60);
    revoke(&bench, &recorder, revocation("for-a-minute", Some(end))).await.expect("recorded");
    let (draft, operator) = draft(&bench, &revocation("x", None));
    recorder.reinstate(draft, bench.in_force(&lifted), operator).await.expect("recorded");
    assert_eq!(bench.standing("lifted"), Ok(()));
    drop(recorder);
    running.join().expect("no panic").expect("ended in order");

    let bench = bench.restarted();
    let (recorder, _reader, _running) = bench.start().expect("started again");
    let standings = ["for-good", "lifted", "for-a-minute"].map(|agent| bench.standing(agent));
    assert_eq!(standings, [Err(TokenError::Revoked), Ok(()), Err(TokenError::Revoked)]);
    bench.world.clock.advance(Duration::from_secs(60));
    assert_eq!(bench.standing("for-a-minute"), Ok(()));
    recorder.report(Draft::stopped()).await.expect("recorded");
    assert_eq!(kept_revocations(&bench), 2, "that it is over is not forgotten yet");
}

fn kept_revocations(bench: &Bench) -> usize {
    bench.store.kept.records.lock().keys().filter(|key| key.starts_with(b"revocation/")).count()
}

async fn tick(recorder: &Recorder) {
    recorder.tick().await.expect("queued");
    recorder.caught_up().await.expect("done");
    // What a tick leaves to be noted comes with the next commit.
    recorder.caught_up().await.expect("done");
}

fn ended(bench: &Bench) -> Vec<AuditEntry> {
    bench.store.entries().into_iter().filter(|entry| entry.kind() == EntryKind::RevocationEnded).collect()
}

const HOUR: Duration = Duration::from_secs(3_600);

fn set_ahead(bench: &Bench, by: Duration) {
    let now = bench.world.clock.now();
    bench.world.clock.set(UnixMicros(now.0 + i64::try_from(by.as_micros()).expect("small")));
}

#[tokio::test]
async fn a_clock_that_is_ahead_for_a_moment_ends_no_revocation_also_across_a_restart() {
    let mut bench = Bench::new();
    let end = UnixSeconds(NOW.0 + 3_600);
    let (recorder, _reader, mut running) = bench.start().expect("started");
    revoke(&bench, &recorder, revocation("sender", Some(end))).await.expect("recorded");
    let mut recorder = recorder;
    for restarted in [false, true] {
        let right = bench.world.clock.now();
        set_ahead(&bench, 49 * HOUR);
        bench.world.clock.advance(Duration::from_secs(2));
        tick(&recorder).await;
        recorder.report(Draft::stopped()).await.expect("recorded");
        if restarted {
            // It comes up while the clock is wrong.
            drop(recorder);
            running.join().expect("no panic").expect("ended in order");
            bench = bench.restarted();
            let started = bench.start().expect("started again");
            (recorder, running) = (started.0, started.2);
            tick(&recorder).await;
        }
        bench.world.clock.set(UnixMicros(right.0 + 2_000_000));
        tick(&recorder).await;
        assert_eq!(bench.standing("sender"), Err(TokenError::Revoked), "restarted: {restarted}");
        assert!(ended(&bench).is_empty());
    }
    drop(recorder);
    running.join().expect("no panic").expect("ended in order");
    let bench = bench.restarted();
    let _started = bench.start().expect("started again");
    assert_eq!(bench.standing("sender"), Err(TokenError::Revoked));
    assert!(!bench.store.kept.records.lock().keys().any(|key| key.starts_with(b"running/over/")));
}

#[tokio::test]
async fn a_revocation_is_forgotten_after_a_day_on_the_clock_and_a_day_of_running_with_an_entry() {
    let bench = Bench::new();
    let (recorder, _reader, running) = bench.start().expect("started");
    revoke(&bench, &recorder, revocation("sender", Some(UnixSeconds(NOW.0 + 60)))).await.expect("recorded");
    bench.world.clock.advance(Duration::from_secs(60));
    tick(&recorder).await;
    bench.world.clock.advance(12 * HOUR);
    tick(&recorder).await;
    drop(recorder);
    running.join().expect("no panic").expect("ended in order");

    let bench = bench.restarted();
    let (recorder, _reader, _running) = bench.start().expect("started again");
    // A clock alone, however far it goes, is not enough.
    set_ahead(&bench, 30 * HOUR);
    bench.world.clock.advance(11 * HOUR);
    tick(&recorder).await;
    assert_eq!((ended(&bench).len(), kept_revocations(&bench)), (0, 1));
    bench.world.clock.advance(HOUR + Duration::from_secs(120));
    tick(&recorder).await;
    let entries = ended(&bench);
    let named = entries[0].revocation.as_ref().expect("named");
    assert_eq!((entries.len(), named.id.as_str(), kept_revocations(&bench)), (1, "test-0", 0));
    assert_eq!(bench.world.verifier.revocations().len(), 0);
    assert!(!bench.store.kept.records.lock().keys().any(|key| key.starts_with(b"running/over/")));
}

#[tokio::test]
async fn what_is_over_takes_no_place_from_what_is_in_force() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    for (agent, after) in [("a", 120), ("b", 60), ("c", 9_000)] {
        revoke(&bench, &recorder, revocation(agent, Some(UnixSeconds(NOW.0 + after)))).await.expect("recorded");
    }
    let full = revoke(&bench, &recorder, revocation("d", None)).await.expect("recorded");
    assert_eq!(full.refused, Some(RefusalReason::RevocationLimit));
    bench.world.clock.advance(Duration::from_secs(120));
    for (agent, expected) in [("d", None), ("e", None), ("f", Some(RefusalReason::RevocationLimit))] {
        let receipt = revoke(&bench, &recorder, revocation(agent, None)).await.expect("recorded");
        assert_eq!(receipt.refused, expected, "{agent}");
    }
    let gone: Vec<_> = ended(&bench).into_iter().map(|entry| entry.resource).collect();
    assert_eq!(gone, ["agent b of https://issuer.example", "agent a of https://issuer.example"], "longest over first");
    assert_eq!(["c", "d", "e"].map(|agent| bench.standing(agent)), [const { Err(TokenError::Revoked) }; 3]);
}

#[tokio::test]
async fn a_clock_that_was_just_set_makes_no_room_for_a_revocation() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    let end = UnixSeconds(NOW.0 + 3_600);
    for agent in ["a", "b", "c"] {
        revoke(&bench, &recorder, revocation(agent, Some(end))).await.expect("recorded");
    }
    let (asked, operator) = draft(&bench, &revocation("d", None));
    set_ahead(&bench, Duration::from_secs(3_600) - Duration::from_secs(1));
    bench.world.clock.advance(Duration::from_secs(1));
    let receipt = recorder.report(asked.clone()).await.expect("recorded");
    assert_eq!(receipt.refused, None);
    drop(operator);
    let long = bench.world.claims("operator");
    let mut long = long;
    long.exp += 7_200;
    let operator = bench.world.identity(&long);
    let receipt = recorder.revoke(asked.clone(), revocation("d", None), operator).await.expect("recorded");
    assert_eq!(receipt.refused, Some(RefusalReason::RevocationLimit), "over by a clock that was just set");
    bench.world.clock.advance(crate::model::Clock::CONFIRMED_AFTER);
    tick(&recorder).await;
    let operator = bench.world.identity(&long);
    let receipt = recorder.revoke(asked, revocation("d", None), operator).await.expect("recorded");
    assert_eq!(receipt.refused, None, "and it goes on saying so");
}

#[tokio::test]
async fn a_clock_that_is_set_has_an_entry_and_what_it_says_stands_beside_the_order() {
    let bench = Bench::new();
    let (recorder, _reader, running) = bench.start().expect("started");
    set_ahead(&bench, 25 * HOUR);
    tick(&recorder).await;
    recorder.report(Draft::stopped()).await.expect("recorded");
    bench.world.clock.set(UnixMicros(NOW.0 * 1_000_000));
    tick(&recorder).await;
    record(&recorder, bench.routed("right", true)).await.expect("recorded");
    let entries = bench.store.entries();
    let steps: Vec<_> = entries.iter().filter(|entry| entry.kind() == EntryKind::ClockStepped).collect();
    let details: Vec<_> = steps.iter().map(|entry| entry.detail.as_str()).collect();
    assert_eq!(details, ["the clock went forward by 90000.000 s", "the clock went back by 90000.000 s"]);
    let last = entries.last().expect("one");
    let ahead = (NOW.0 + 90_000) * 1_000_000;
    assert_eq!((last.time_unix_us, last.clock_unix_us), (ahead, Some(NOW.0 * 1_000_000)));
    drop(recorder);
    running.join().expect("no panic").expect("ended in order");

    let bench = bench.restarted();
    let (recorder, _reader, _running) = bench.start().expect("started again");
    tick(&recorder).await;
    let last = bench.store.entries().pop().expect("one");
    assert_eq!(last.detail, "the clock went back by 90000.000 s", "a start finds it behind the log");
}

#[tokio::test]
async fn a_failed_write_leaves_the_revocation_in_force_and_it_is_recorded_again() {
    for failure in [Failure::NotPersisted, Failure::PersistedButReportedFailed] {
        let bench = Bench::new();
        let (recorder, _reader, running) = bench.start().expect("started");
        record(&recorder, bench.routed("before", true)).await.expect("recorded");
        bench.store.failures.lock().push(failure);
        assert!(revoke(&bench, &recorder, revocation("sender", None)).await.is_err());
        assert_eq!(bench.standing("sender"), Err(TokenError::Revoked), "although nobody knows whether it is recorded");
        recorder.report(Draft::stopped()).await.expect("recorded");
        assert!(kinds(&bench).contains(&EntryKind::Revoked));
        drop(recorder);
        running.join().expect("no panic").expect("ended in order");
        let bench = bench.restarted();
        let _started = bench.start().expect("started again");
        assert_eq!((bench.standing("sender"), bench.store.kept.records.lock().len()), (Err(TokenError::Revoked), 1));
    }
}

#[tokio::test]
async fn of_two_that_a_failed_write_left_behind_only_the_one_that_is_over_ends() {
    let bench = Bench::new();
    let (writer, recorder, _reader) = bench.open().expect("opened");
    bench.store.failures.lock().push(Failure::NotPersisted);
    let over = Some(UnixSeconds(NOW.0 - 1));
    let mut revoking = Vec::new();
    for (queued, revocation) in (1..).zip([revocation("sender", None), revocation("another", over)]) {
        let (draft, operator) = draft(&bench, &revocation);
        let recorder_too = recorder.clone();
        revoking.push(tokio::spawn(async move { recorder_too.revoke(draft, revocation, operator).await }));
        while recorder.queued() < queued {
            tokio::task::yield_now().await;
        }
    }
    recorder.finish(Draft::stopped()).await.expect("queued");
    let delivered = bench.delivered.clone();
    std::thread::spawn(move || writer.run(delivered)).join().expect("no panic").expect("ended in good order");
    for one in revoking {
        assert!(one.await.expect("no panic").is_err(), "one commit, which failed");
    }
    // The second one's index was given to the first one when both were recorded again.
    assert_eq!(bench.standing("sender"), Err(TokenError::Revoked));
    assert_eq!(bench.standing("another"), Ok(()));
    let bench = bench.restarted();
    let _started = bench.start().expect("started again");
    assert_eq!(["sender", "another"].map(|agent| bench.standing(agent)), [Err(TokenError::Revoked), Ok(())]);
    assert_eq!(kept_revocations(&bench), 2, "one of them over");
}

#[tokio::test]
async fn a_reinstatement_that_failed_lifts_nothing() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    let revoked = revoke(&bench, &recorder, revocation("sender", None)).await.expect("recorded");
    bench.store.failures.lock().push(Failure::NotPersisted);
    let (draft, operator) = draft(&bench, &revocation("x", None));
    assert!(recorder.reinstate(draft, bench.in_force(&revoked), operator).await.is_err());
    assert_eq!(bench.standing("sender"), Err(TokenError::Revoked));
}

#[tokio::test]
async fn more_revocations_than_are_kept_are_refused_and_that_is_recorded() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    for agent in ["a", "b", "c"] {
        assert_eq!(revoke(&bench, &recorder, revocation(agent, None)).await.expect("recorded").refused, None);
    }
    let refused = revoke(&bench, &recorder, revocation("sender", None)).await.expect("recorded");
    assert_eq!((refused.refused, bench.standing("sender")), (Some(RefusalReason::RevocationLimit), Ok(())));
    assert_eq!(bench.store.entries()[3].decision.as_ref().expect("decided").reason, "REVOCATION_LIMIT");
}

#[tokio::test]
async fn only_the_very_revocation_that_was_meant_is_lifted() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    let revoked = revoke(&bench, &recorder, revocation("sender", None)).await.expect("recorded");
    let meant = bench.in_force(&revoked);
    // Another one under the same index, as after a failed write.
    bench.world.verifier.revocations().change(vec![Revoked::clone(&meant)], &[]);
    let (draft, operator) = draft(&bench, &revocation("x", None));
    let receipt = recorder.reinstate(draft, meant, operator).await.expect("recorded");
    assert_eq!(receipt.refused, Some(RefusalReason::NoSuchRevocation));
    assert_eq!(bench.standing("sender"), Err(TokenError::Revoked));
}
