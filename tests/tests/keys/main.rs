//! Keys of shared state on a running broker: who may see and change them, and what that does to what they encrypt.

mod load;
mod root;
mod shred;

use anyhow::{Context as _, Result};
use tonic::{Code, Status};
use veribus_broker::config::HistoryConfig;
use veribus_proto::v1::{
    AuditEntry, EntryKind, KeyEpoch, ListKeysRequest, RewrapKeysRequest, RewrapKeysResponse, RotateKeysRequest,
    RotateKeysResponse, ShredKeyRequest, ShredKeyResponse,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    raw::{Raw, reason},
    state::{get, put},
};

/// Reading, writing, and everything about keys.
const GRANTS: [&str; 3] = ["state.read:>", "state.write:>", "admin.keys"];

fn setup() -> Setup {
    let deep = HistoryConfig { scopes: "deep".to_owned(), versions: 3 };
    Setup::default().open_policy().configure(|config| config.state.histories.push(deep))
}

/// Somebody with these permissions who may see everything in clear.
async fn agent(broker: &TestBroker, permissions: &[&str]) -> Result<Raw> {
    let claims = permissions.iter().fold(broker.claims("agent"), |claims, one| claims.permission(*one));
    broker.raw(&broker.sign(&claims.decrypt(">"))?).await
}

async fn write(raw: &Raw, key: &str, value: &str) -> Result<u64> {
    Ok(raw.state().put(put(key, value)).await?.into_inner().revision)
}

async fn read(raw: &Raw, key: &str) -> Result<String, Status> {
    let response = raw.state().get(get(key)).await?.into_inner();
    Ok(String::from_utf8_lossy(&response.value.unwrap_or_default().value).into_owned())
}

async fn keys(raw: &Raw, scope: &str) -> Result<Vec<KeyEpoch>, Status> {
    let request = ListKeysRequest { scope: scope.to_owned(), ..ListKeysRequest::default() };
    Ok(raw.admin().list_keys(request).await?.into_inner().keys)
}

async fn root_key_id(raw: &Raw) -> Result<String, Status> {
    Ok(raw.admin().list_keys(ListKeysRequest::default()).await?.into_inner().root_key_id)
}

async fn rotate(raw: &Raw, scope: &str) -> Result<RotateKeysResponse, Status> {
    let request = RotateKeysRequest { scope: scope.to_owned() };
    raw.admin().rotate_keys(request).await.map(tonic::Response::into_inner)
}

async fn rewrap(raw: &Raw) -> Result<RewrapKeysResponse, Status> {
    raw.admin().rewrap_keys(RewrapKeysRequest {}).await.map(tonic::Response::into_inner)
}

async fn shred(raw: &Raw, scope: &str, epoch: u32) -> Result<ShredKeyResponse, Status> {
    let request = ShredKeyRequest { scope: scope.to_owned(), epoch };
    raw.admin().shred_key(request).await.map(tonic::Response::into_inner)
}

fn code_and_reason<T>(result: Result<T, Status>) -> (Code, String) {
    result.map_or_else(|status| (status.code(), reason(&status)), |_| (Code::Ok, String::new()))
}

fn told(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

/// Scope, epoch, and whether it is current or shredded.
fn facts(keys: &[KeyEpoch]) -> Vec<(&str, u32, bool, bool)> {
    keys.iter().map(|key| (key.scope.as_str(), key.epoch, key.current, key.shredded_at.is_some())).collect()
}

fn said(entry: &AuditEntry) -> Result<(&str, &str, u32, &str)> {
    let keys = entry.keys.as_ref().context("facts about keys")?;
    Ok((entry.detail.as_str(), keys.scope.as_str(), keys.epoch, keys.root_key_id.as_str()))
}

#[tokio::test]
async fn what_was_written_before_a_change_of_keys_stays_readable_and_each_change_is_in_the_log() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "first").await?;
    write(&raw, "deep/a", "old").await?;
    let before = root_key_id(&raw).await?;
    let rotated = rotate(&raw, "notes").await?;
    assert_eq!(facts(&rotated.keys), [("notes", 2, true, false)]);
    let all = rotate(&raw, "").await?;
    assert_eq!(facts(&all.keys), [("deep", 2, true, false), ("notes", 3, true, false)]);
    let deep = write(&raw, "deep/a", "new").await?;
    let rewrapped = rewrap(&raw).await?;
    assert_eq!((rewrapped.keys_rewrapped, rewrapped.root_key_id == before), (5, false));
    let listed = keys(&raw, "").await?;
    let expected = [("deep", 1, false, false), ("deep", 2, true, false)];
    assert_eq!(facts(&listed)[..2], expected);
    assert_eq!(facts(&keys(&raw, "deep").await?), expected);
    assert_eq!(root_key_id(&raw).await?, rewrapped.root_key_id);
    assert_eq!((read(&raw, "notes/a").await?, read(&raw, "deep/a").await?), ("first".to_owned(), "new".to_owned()));

    let log = broker.log().await?;
    assert_eq!(log.at(deep)?.state.as_ref().context("state")?.epoch, 2, "what is new is under the new key");
    assert_eq!(said(log.at(rotated.audit_index)?)?, ("rotated", "notes", 2, before.as_str()));
    assert_eq!(said(log.at(all.audit_index)?)?, ("rotated", "deep", 2, before.as_str()));
    assert_eq!(said(log.at(all.audit_index + 1)?)?, ("rotated", "notes", 3, before.as_str()));
    let last = log.at(rewrapped.audit_index)?;
    assert_eq!(said(last)?, ("rewrapped", "", 0, rewrapped.root_key_id.as_str()));
    assert_eq!((last.kind(), last.actor.as_ref().context("an actor")?.agent.as_str()), (EntryKind::Keys, "agent"));
    assert_eq!(log.of_kind(EntryKind::Keys).filter(|entry| entry.detail == "list").count(), 4);
    Ok(())
}

#[tokio::test]
async fn keys_survive_a_restart_with_their_epochs() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "first").await?;
    write(&raw, "other/a", "second").await?;
    rotate(&raw, "").await?;
    rewrap(&raw).await?;
    shred(&raw, "other", 1).await?;
    let (listed, root) = (keys(&raw, "").await?, root_key_id(&raw).await?);
    drop(raw);
    let broker = broker.stop().await?.start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    assert_eq!((keys(&raw, "").await?, root_key_id(&raw).await?), (listed, root));
    assert_eq!(read(&raw, "notes/a").await?, "first");
    assert_eq!(code_and_reason(read(&raw, "other/a").await), told(Code::DataLoss, "SHREDDED"));
    Ok(())
}

#[tokio::test]
async fn without_the_permission_nothing_is_seen_or_changed_and_the_attempt_is_in_the_log() -> Result<()> {
    let broker = setup().start().await?;
    let owner = agent(&broker, &GRANTS).await?;
    write(&owner, "notes/a", "x").await?;
    let other = agent(&broker, &["admin.revoke", "admin.sessions", "admin.backup", "state.write:>"]).await?;
    let refused = told(Code::PermissionDenied, "MISSING_PERMISSION");
    assert_eq!(code_and_reason(keys(&other, "").await), refused);
    assert_eq!(code_and_reason(rotate(&other, "notes").await), refused);
    assert_eq!(code_and_reason(rewrap(&other).await), refused);
    // Nor is it told whether there is such a key.
    assert_eq!(code_and_reason(shred(&other, "notes", 1).await), refused);
    assert_eq!(code_and_reason(shred(&other, "never", 9).await), refused);
    assert_eq!(facts(&keys(&owner, "").await?), [("notes", 1, true, false)]);
    let log = broker.log().await?;
    let denied: Vec<_> =
        log.of_kind(EntryKind::Keys).filter(|entry| is_denied(entry)).map(said).collect::<Result<_>>()?;
    let asked =
        [("list", "", 0), ("rotate", "notes", 0), ("rewrap", "", 0), ("shred", "notes", 0), ("shred", "never", 0)];
    assert_eq!(denied, asked.map(|(what, scope, epoch)| (what, scope, epoch, "")));
    Ok(())
}

fn is_denied(entry: &AuditEntry) -> bool {
    entry.decision.as_ref().is_some_and(|decision| decision.decision() == veribus_proto::v1::Decision::Deny)
}

#[tokio::test]
async fn the_policy_says_which_operation_on_which_scope() -> Result<()> {
    let policy = r#"package veribus
import rego.v1
allow if input.action != "admin.keys"
allow if input.operation == "list"
allow if { input.operation == "rotate"; input.scope == "notes" }
"#;
    let broker = setup().policy(policy).start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "x").await?;
    write(&raw, "other/a", "x").await?;
    assert_eq!(rotate(&raw, "notes").await?.keys.len(), 1);
    let denied = told(Code::PermissionDenied, "POLICY_DENIED");
    assert_eq!(code_and_reason(rotate(&raw, "other").await), denied);
    assert_eq!(code_and_reason(rotate(&raw, "").await), denied);
    assert_eq!(code_and_reason(rewrap(&raw).await), denied);
    assert_eq!(code_and_reason(shred(&raw, "notes", 1).await), denied);
    let expected = [("notes", 1, false, false), ("notes", 2, true, false), ("other", 1, true, false)];
    assert_eq!(facts(&keys(&raw, "").await?), expected);
    assert!(!broker.directory().root().join("root.key.next").exists(), "nothing was even prepared");
    Ok(())
}

#[tokio::test]
async fn what_is_no_key_is_neither_made_nor_destroyed() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "x").await?;
    let before = root_key_id(&raw).await?;
    let missing = told(Code::NotFound, "NO_SUCH_KEY");
    assert_eq!(code_and_reason(rotate(&raw, "never").await), missing);
    for (scope, epoch) in [("never", 1), ("notes", 0), ("notes", 2), ("notes", u32::MAX)] {
        assert_eq!(code_and_reason(shred(&raw, scope, epoch).await), missing, "{scope} {epoch}");
    }
    let invalid = told(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(code_and_reason(rotate(&raw, "a..b").await), invalid);
    assert_eq!(code_and_reason(shred(&raw, "", 1).await), invalid);
    assert_eq!(code_and_reason(keys(&raw, "a/b").await), invalid);
    let request = ListKeysRequest { page_token: "notes".to_owned(), ..ListKeysRequest::default() };
    assert_eq!(code_and_reason(raw.admin().list_keys(request).await), invalid);
    assert_eq!(facts(&keys(&raw, "").await?), [("notes", 1, true, false)]);
    assert_eq!(root_key_id(&raw).await?, before);
    assert!(!broker.directory().root().join("root.key.next").exists());
    assert_eq!(keys(&raw, "never").await?, []);
    Ok(())
}

#[tokio::test]
async fn keys_are_listed_page_by_page() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    for scope in ["a", "a.b", "b"] {
        write(&raw, &format!("{scope}/x"), "x").await?;
    }
    rotate(&raw, "").await?;
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    for _ in 0..2 {
        let request = ListKeysRequest { page_size: 4, page_token, ..ListKeysRequest::default() };
        let page = raw.admin().list_keys(request).await?.into_inner();
        listed.extend(page.keys);
        page_token = page.next_page_token;
    }
    assert_eq!(page_token, "");
    assert_eq!((listed.len(), listed), (6, keys(&raw, "").await?));
    Ok(())
}

/// The SDK's calls, which are those of the command line.
#[tokio::test]
async fn the_client_sees_and_changes_keys() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "x").await?;
    let admin = broker.client(&broker.token("operator", &["admin.keys"])?).await?.admin();
    assert_eq!(facts(&admin.rotate_keys(None).await?.keys), [("notes", 2, true, false)]);
    let rewrapped = admin.rewrap_keys().await?;
    assert_eq!(rewrapped.keys_rewrapped, 2);
    let shredded = admin.shred_key("notes", 1).await?;
    assert!(shredded.audit_index > rewrapped.audit_index);
    let listed = admin.keys(Some("notes")).await?;
    assert_eq!(listed.root_key_id, shredded.root_key_id);
    assert_eq!(facts(&listed.keys), [("notes", 1, false, true), ("notes", 2, true, false)]);
    assert!(admin.rotate_keys(Some("never")).await.is_err_and(|error| error.to_string().contains("NO_SUCH_KEY")));
    Ok(())
}
