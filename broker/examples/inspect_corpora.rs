//! How the built-in rules do on the injection corpora, and how long inspection takes.
//!
//! `cargo run --release -p veribus-broker --example inspect_corpora [-- --missed SOURCE | --wrong SOURCE]`
//! reads `$VERIBUS_CORPORA/injection/*.jsonl.gz`.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    hint::black_box,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use flate2::read::GzDecoder;
use serde::Deserialize;
use veribus_broker::{
    inspect::Inspector,
    model::{ContentType, Finding, Message, MessageId, MessageType, Severity, Topic},
};

#[derive(Deserialize)]
struct Row {
    text: String,
    label: String,
    kind: String,
}

#[derive(Default)]
struct Tally {
    texts: usize,
    high: usize,
    any: usize,
}

fn main() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let started = Instant::now();
    let inspector = Inspector::new(None)?;
    writeln!(out, "rules ready in {:?}", started.elapsed())?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Ok(folder) = env::var("VERIBUS_CORPORA") {
        match arguments.as_slice() {
            [mode, source] => list(&mut out, &inspector, Path::new(&folder), mode == "--wrong", source)?,
            _ => tallies(&mut out, &inspector, Path::new(&folder))?,
        }
    }
    timings(&mut out, &inspector)
}

fn rows(file: &Path) -> anyhow::Result<Vec<Row>> {
    let lines = BufReader::new(GzDecoder::new(File::open(file)?)).lines();
    lines.map(|line| serde_json::from_str(&line?).with_context(|| file.display().to_string())).collect()
}

fn tallies(out: &mut impl Write, inspector: &Inspector, folder: &Path) -> anyhow::Result<()> {
    writeln!(out, "{:<24}{:>8}{:>9}{:>9}   (share with a finding: high, any)", "source", "texts", "high %", "any %")?;
    let mut files: Vec<_> = fs::read_dir(folder.join("injection"))?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        let name = file.file_name().to_string_lossy().replace(".jsonl.gz", "");
        let mut by_label: BTreeMap<String, Tally> = BTreeMap::new();
        for row in rows(&file.path())? {
            let found = inspector.findings(&message("text/plain", row.text)?);
            add(by_label.entry(row.label).or_default(), &found);
            if name == "evasion_dev" || name == "promptshield_fixtures" && env::var("DETAIL").is_ok() {
                add(by_label.entry(row.kind).or_default(), &found);
            }
        }
        for (label, tally) in by_label {
            let share = |count: usize| 100.0 * count as f64 / tally.texts as f64;
            let title = format!("{name} {label}").replace("evasion_dev evasion/", "  ");
            writeln!(out, "{title:<34}{:>6}{:>9.1}{:>9.1}", tally.texts, share(tally.high), share(tally.any))?;
        }
    }
    Ok(())
}

fn add(tally: &mut Tally, findings: &[Finding]) {
    tally.texts += 1;
    tally.high += usize::from(findings.iter().any(|finding| finding.severity == Severity::High));
    tally.any += usize::from(!findings.is_empty());
}

/// Attacks without, or harmless texts with, a finding of high severity.
fn list(out: &mut impl Write, inspector: &Inspector, folder: &Path, wrong: bool, source: &str) -> anyhow::Result<()> {
    for row in rows(&folder.join(format!("injection/{source}.jsonl.gz")))? {
        let found = inspector.findings(&message("text/plain", row.text.clone())?);
        let high: Vec<String> = found
            .iter()
            .filter(|f| f.severity == Severity::High)
            .map(|f| format!("{} {}", f.rule, f.location))
            .collect();
        if if wrong { row.label == "benign" && !high.is_empty() } else { row.label == "attack" && high.is_empty() } {
            writeln!(out, "{} {high:?} {:?}", row.kind, row.text.chars().take(600).collect::<String>())?;
        }
    }
    Ok(())
}

fn timings(out: &mut impl Write, inspector: &Inspector) -> anyhow::Result<()> {
    for size_bytes in [512, 1024, 64 * 1024] {
        for (name, content_type, text) in [
            ("JSON", "application/json", json(size_bytes)),
            ("prose", "text/plain", prose(size_bytes)),
            ("prose with accents", "text/plain", prose(size_bytes).replace('u', "ü")),
            ("base64", "text/plain", "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACN".repeat(size_bytes / 40)),
        ] {
            let message = message(content_type, text)?;
            let median = median(|| drop(black_box(inspector.findings(black_box(&message)))));
            writeln!(out, "{size_bytes:>6} B of {name}: {median:?}, {} findings", inspector.findings(&message).len())?;
        }
    }
    Ok(())
}

fn median(mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..2001)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn prose(size_bytes: usize) -> String {
    let text = "Quarterly figures are attached. Revenue rose by four percent, mostly in the northern region, while \
                costs were flat. Please review the table on page three and send your comments by Friday. ";
    text.repeat(size_bytes / text.len() + 1).chars().take(size_bytes).collect()
}

fn json(size_bytes: usize) -> String {
    let item = r#"{"id":"8f14e45f-ceea-467f-a8f4-1c7d2e1b9a10","account":"DE89 3704 0044 0532 0130 00","amount":1250.75,"currency":"EUR","note":"Invoice 2024-117, second reminder"}"#;
    let items = vec![item; size_bytes / item.len()].join(",");
    let head = r#"{"task":"reconcile","comment":"#;
    let filler = prose(size_bytes.saturating_sub(items.len() + head.len() + 14));
    format!("{head}\"{filler}\",\"items\":[{items}]}}")
}

fn message(content_type: &str, text: String) -> anyhow::Result<Message> {
    Ok(Message {
        id: MessageId::parse("0190a5d0-7a3c-7b1e-9c55-4f0f5f6a7b8c")?,
        topic: Topic::parse("finance.reports")?,
        kind: MessageType::parse("finance.report".to_owned())?,
        subject: String::new(),
        time: None,
        content_type: ContentType::parse(content_type.to_owned())?,
        data: Bytes::from(text),
        destination: None,
        reply_to: None,
        correlation_id: String::new(),
        attributes: BTreeMap::new(),
    })
}
