//! The built-in rules on the public corpora: known phrases under every disguise, and ordinary traffic.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use serde::Deserialize;

use super::*;
use crate::model::{ContentType, MessageId, MessageType, Topic};

#[derive(Deserialize)]
struct Row {
    text: String,
    label: String,
}

/// The folder, or `None` where it may be missing and is.
fn corpora() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora");
    let folder = env::var_os("VERIBUS_CORPORA").map_or(beside, PathBuf::from).join("injection");
    if folder.is_dir() {
        return Some(folder);
    }
    assert_ne!(env::var("VERIBUS_CORPORA_REQUIRED").as_deref(), Ok("1"), "no corpora at {}", folder.display());
    writeln!(std::io::stderr(), "skipped: no corpora at {}", folder.display()).expect("stderr");
    None
}

fn message(text: String) -> Message {
    Message {
        id: MessageId::parse("m1").expect("an id"),
        topic: Topic::parse("a.b").expect("a topic"),
        kind: MessageType::parse(String::new()).expect("a type"),
        subject: String::new(),
        time: None,
        content_type: ContentType::parse("text/plain".to_owned()).expect("a content type"),
        data: text.into(),
        destination: None,
        reply_to: None,
        correlation_id: String::new(),
        attributes: BTreeMap::new(),
    }
}

/// The share of texts with a label that has a finding of high severity.
fn share_stopped(inspector: &Inspector, folder: &Path, source: &str, label: &str) -> f64 {
    let file = File::open(folder.join(format!("{source}.jsonl.gz"))).expect("a corpus");
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    let rows = lines.map(|line| serde_json::from_str::<Row>(&line.expect("a line")).expect("a row"));
    let (mut texts, mut stopped) = (0.0, 0.0);
    for row in rows.filter(|row| row.label == label) {
        let findings = inspector.findings(&message(row.text));
        texts += 1.0;
        stopped += if findings.iter().any(|finding| finding.severity == Severity::High) { 1.0 } else { 0.0 };
    }
    stopped / texts
}

#[test]
fn known_phrases_are_stopped_under_every_disguise_and_ordinary_traffic_is_not() {
    let Some(folder) = corpora() else { return };
    let inspector = Inspector::new(None).expect("rules");
    for (source, floor) in [("evasion_dev", 0.98), ("giskard", 0.8), ("promptshield_fixtures", 0.4)] {
        let share = share_stopped(&inspector, &folder, source, "attack");
        assert!(share >= floor, "{source}: only {share:.3} stopped");
    }
    for source in ["benign_encoded", "owasp_docs", "whowhen"] {
        let share = share_stopped(&inspector, &folder, source, "benign");
        assert!(share <= 0.005, "{source}: {share:.4} stopped in error");
    }
}
