//! Differences that were found before, each as a minimal policy: none of them may load and answer unlike OPA.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use veribus_broker::decide::{Bundle, BundleError};

use super::{
    Counts, STEPS_MAX, Verdict, compare,
    oracle::{Case, Oracle},
    say,
};

fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora");
    let folder = env::var_os("VERIBUS_CORPORA").map_or(beside, PathBuf::from).join("rego-differences");
    if folder.is_dir() {
        return Some(folder);
    }
    assert_ne!(env::var("VERIBUS_CORPORA_REQUIRED").as_deref(), Ok("1"), "no cases at {}", folder.display());
    say(format_args!("skipped: no cases at {}", folder.display()));
    None
}

/// By name.
fn cases(folder: &Path) -> BTreeMap<String, Case> {
    let mut cases = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".rego")) else { continue };
        let file = |ending: &str| fs::read_to_string(folder.join(format!("{name}.{ending}"))).ok();
        let mut policy = file("rego").expect("a policy");
        // The broker asks for `allow` whatever the policy is about.
        if !policy.contains("allow") {
            policy.push_str("\ndefault allow := false\n");
        }
        let data = ["data.json", "data.yaml"].into_iter().filter_map(|kind| Some((kind.to_owned(), file(kind)?)));
        let files = std::iter::once(("policy.rego".to_owned(), policy)).chain(data).collect();
        let queries = ["data.veribus.allow", "data.veribus.deny"].map(str::to_owned).into();
        cases.insert(name.to_owned(), Case { files, queries, inputs: vec![file("json").expect("an input")] });
    }
    cases
}

#[test]
fn no_known_difference_loads_and_differs() {
    let (Some(folder), Some(mut oracle)) = (folder(), Oracle::start()) else { return };
    let cases = cases(&folder);
    assert!(cases.len() >= 28, "{} cases", cases.len());
    let mut counts = Counts::default();
    for (name, mut case) in cases {
        case.queries.retain(|query| case.files["policy.rego"].contains(query.trim_start_matches("data.veribus.")));
        let answer = oracle.ask(&case);
        assert_eq!(compare(&case, &answer, &mut counts), Vec::<String>::new(), "{name}");
    }
    say(format_args!("known differences: {counts}"));
    assert_eq!(counts.of(Verdict::LoadsOnlyHere), 0);
}

#[test]
fn each_that_does_not_load_says_where_and_what_to_write() {
    let Some(folder) = folder() else { return };
    for (name, case) in cases(&folder) {
        if let Err(BundleError::Refused(findings)) = Bundle::compile(&case.files, STEPS_MAX) {
            for finding in findings {
                assert!(finding.message.len() > 10 && finding.rewrite.len() > 10, "{name}: {finding}");
                assert!(finding.line > 0 || finding.rule == "data-conflict", "{name}: {finding}");
            }
        }
    }
}
