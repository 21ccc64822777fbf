//! The sealing format as others see it: the published vectors, and an implementation in another language.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use veribus_broker::{
    model::{Epoch, Revision},
    seal::{Context, OVERHEAD_BYTES, ScopeKey, open, seal},
};
use veribus_tests::python::{Python, run};

const KEY: [u8; 32] = [3; 32];
const TOKEN: [u8; 32] = [5; 32];

fn context() -> Context<'static> {
    Context {
        scope: "tickets",
        epoch: Epoch(2),
        resource: "tickets/größe",
        previous_revision: Revision(1 << 40),
        issuer: "https://issuer.example",
        subject: "support-agent",
        token_id: "token",
        confirmation: "jkt:abc",
        token_sha256: &TOKEN,
    }
}

fn case(name: &str, context: &Context<'_>, sealed: &[u8]) -> Value {
    json!({
        "name": name,
        "scope_key": HEXLOWER.encode(&KEY),
        "context": {
            "scope": context.scope,
            "epoch": context.epoch.0,
            "resource": context.resource,
            "previous_revision": context.previous_revision.0,
            "issuer": context.issuer,
            "subject": context.subject,
            "token_id": context.token_id,
            "confirmation": context.confirmation,
            "token_sha256": HEXLOWER.encode(context.token_sha256),
        },
        "sealed": HEXLOWER.encode(sealed),
    })
}

async fn python() -> Result<Option<Python>> {
    Python::find(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-sealing")).await
}

/// What the script says of these cases: the plaintext of each, or nothing.
async fn opened(python: &Python, cases: &[Value]) -> Result<Vec<Option<Vec<u8>>>> {
    let input = serde_json::to_vec(&json!({ "vectors": cases }))?;
    let said = run(python.script("open_sealed.py").arg("-"), &input).await?;
    said.lines().map(plaintext).collect()
}

fn plaintext(line: &str) -> Result<Option<Vec<u8>>> {
    let said: Value = serde_json::from_str(line)?;
    let text = said.get("plaintext").context("an answer")?.as_str();
    Ok(text.map(|text| HEXLOWER.decode(text.as_bytes())).transpose()?)
}

fn vectors_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/docs/sealing-vectors.json")
}

#[tokio::test]
async fn the_published_vectors_open_in_another_language() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let file: Value = serde_json::from_slice(&std::fs::read(vectors_file())?)?;
    let vectors = file["vectors"].as_array().context("a list")?;
    // The script compares what it derives with what the vectors say, too.
    let said = run(python.script("open_sealed.py").arg(vectors_file()), &[]).await?;
    let opened = said.lines().map(plaintext).collect::<Result<Vec<_>>>()?;
    assert_eq!(opened.len(), vectors.len());
    assert!(opened.iter().all(Option::is_some), "{said}");

    let mut wrong = file.clone();
    wrong["vectors"][0]["derived_key"] = json!("00");
    let refused = run(python.script("open_sealed.py").arg("-"), &serde_json::to_vec(&wrong)?).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("another derived_key")));
    Ok(())
}

#[tokio::test]
async fn what_the_broker_seals_opens_in_another_language_given_the_key_and_in_its_place_only() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let key = ScopeKey::from_bytes(&KEY);
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    for len in [0, 1, 16, 512, 65_536] {
        let plaintext = vec![0x5A; len];
        cases.push(case("sealed", &context(), &seal(&key, &context(), &plaintext)?));
        expected.push(Some(plaintext));
    }
    let sealed = seal(&key, &context(), b"value")?;
    let elsewhere = Context { previous_revision: Revision(0), ..context() };
    cases.push(case("elsewhere", &elsewhere, &sealed));
    cases.push(case("cut off", &context(), &sealed[..sealed.len() - 1]));
    cases.push(case("nothing", &context(), &[]));
    expected.extend([None, None, None]);
    assert_eq!(opened(&python, &cases).await?, expected);
    Ok(())
}

/// By the public API alone: a thousand values, each read in the place of each of its neighbours, and damaged.
#[test]
fn of_many_values_each_opens_in_its_own_place_and_nowhere_else() -> Result<()> {
    let (key, names) = (ScopeKey::generate()?, (0..1_000).map(|index| format!("tickets/{index}")).collect::<Vec<_>>());
    let place = |index: usize| Context { resource: &names[index % names.len()], ..context() };
    let mut sealed = Vec::new();
    for (index, name) in names.iter().enumerate() {
        sealed.push(seal(&key, &place(index), name.as_bytes())?);
        assert_eq!(sealed[index].len(), name.len() + OVERHEAD_BYTES);
    }
    for (index, text) in sealed.iter().enumerate() {
        assert_eq!(open(&key, &place(index), text)?, names[index].as_bytes());
        assert!(!text.windows(8).any(|window| window == b"tickets/"), "nothing in clear");
        for neighbour in 1..20 {
            assert!(open(&key, &place(index + neighbour), text).is_err());
        }
        let mut damaged = text.clone();
        let bit = index * 7 % (damaged.len() * 8);
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&key, &place(index), &damaged).is_err());
    }
    Ok(())
}
