//! Revocations: in force from their entry on, whatever fails after that.

use std::sync::Arc;

use veribus_proto::v1::EntryKind;

use super::{Bench, Delivered, Failure, NOW, index, kinds, record};
use crate::{
    authenticate::{Identity, Revocation, RevocationTarget, Revoked, TokenError},
    decide::{Access, Verdict},
    fixtures::peer,
    model::{AgentId, Issuer, Outcome, RefusalReason, UnixSeconds},
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
async fn a_restart_keeps_what_is_revoked_and_forgets_what_is_over_or_lifted() {
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
    bench.world.clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(bench.standing("for-a-minute"), Ok(()));
    recorder.report(Draft::stopped()).await.expect("recorded");
    assert_eq!(bench.store.kept.records.lock().len(), 1, "the store holds what is in force and nothing else");
    assert_eq!(bench.world.verifier.revocations().len(), 1);
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
    assert_eq!((bench.standing("sender"), bench.store.kept.records.lock().len()), (Err(TokenError::Revoked), 1));
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
