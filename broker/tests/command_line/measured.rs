//! `veribus demo` and `veribus bench`, each of which starts a broker of its own.

use std::{process::Output, time::Instant};

use super::{code, json, json_lines, veribus};

fn run(args: &[&str]) -> Output {
    let output = veribus().args(args).output().expect("the binary runs");
    assert_eq!(code(&output), 0, "{output:?}");
    output
}

#[test]
fn the_demo_ends_as_expected_for_people_and_for_programs() {
    const SECONDS_MAX: u64 = 120;
    let began = Instant::now();
    let steps = json_lines(&run(&["demo", "--json"]));
    let (summary, steps) = steps.split_last().expect("a summary");
    assert!(steps.len() > 10 && steps.iter().all(|step| step["as_expected"] == true), "{steps:?}");
    for seen in ["delivered", "denied", "quarantined", "written", "read", "refused", "found"] {
        assert!(steps.iter().any(|step| step["seen"] == seen), "`{seen}`: {steps:?}");
    }
    let count = steps.len();
    assert_eq!((&summary["steps"], &summary["as_expected"]), (&count.into(), &count.into()));
    assert_eq!(summary["chain_ok"], true);
    let table = run(&["demo"]).stdout;
    let table = String::from_utf8(table).expect("text");
    assert!(
        table.contains(&format!("{count} of {count} steps as expected")) && table.contains("chain whole"),
        "{table}"
    );
    assert!(began.elapsed().as_secs() < SECONDS_MAX, "{:?}", began.elapsed());
}

#[test]
fn publishing_is_measured() {
    let args = ["bench", "publish", "--messages", "150", "--publishers", "2", "--subscribers", "2", "--batch", "8"];
    let report = json(&run(&[&args[..], &["--json"]].concat()));
    assert_eq!((&report["acked"], &report["delivered"], &report["failed"]), (&150.into(), &300.into(), &0.into()));
    for figure in ["acked_per_s", "delivered_per_s", "seconds"] {
        assert!(report[figure].as_f64().is_some_and(|figure| figure > 0.0), "{report}");
    }
    for latency in ["publish_to_ack", "publish_to_delivery"] {
        let at = ["p50_us", "p99_us", "p99_9_us"].map(|quantile| report[latency][quantile].as_f64().expect("a number"));
        assert!(at[0] > 0.0 && at.is_sorted(), "{report}");
    }
    assert_eq!(report["machine"]["build"], if cfg!(debug_assertions) { "debug" } else { "release" });
    assert!(!run(&args).stdout.is_empty());
}

#[test]
fn state_is_measured() {
    let args = ["bench", "state", "--operations", "90", "--keys", "7", "--sessions", "2", "--size", "100"];
    let report = json(&run(&[&args[..], &["--json"]].concat()));
    for kind in ["puts", "gets"] {
        assert_eq!((&report[kind]["done"], &report[kind]["failed"]), (&90.into(), &0.into()), "{report}");
        assert!(report[kind]["per_s"].as_f64().is_some_and(|figure| figure > 0.0), "{report}");
    }
    assert!(!run(&args).stdout.is_empty());
}
