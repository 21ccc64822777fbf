use super::*;

fn rule(file: &str, text: &str) -> Option<&'static str> {
    read(file, text).err().map(|finding| finding.rule)
}

#[test]
fn spellings_that_readers_take_unlike_are_refused() {
    for spelling in [
        "65_536",
        "0200000",
        "0100",
        "08",
        "0o17",
        "0x1F",
        "1e3",
        "+1",
        ".5",
        "1.",
        "1.50",
        "-0",
        "12:30:45",
        "190:20:30",
        "2026-11-30",
        "yes",
        "No",
        "on",
        "OFF",
        "y",
        "N",
        "True",
        "FALSE",
        "Null",
        "~",
        "",
        ".inf",
        ".NaN",
        "18446744073709551616",
        "0.1000000000000000055",
        "10.0.0.1",
        "1.2.3",
        "<<",
        "=",
    ] {
        assert_eq!(rule("data.yaml", &format!("a: {spelling}\n")), Some("data-scalar"), "{spelling}");
    }
    for (text, expected) in [
        ("a: &x 1\n", "data-shape"),
        ("a: &x {b: 1}\nc: *x\n", "data-shape"),
        ("a: !!str 1\n", "data-shape"),
        ("a: |\n  text\n", "data-shape"),
        ("a: \"one\n  two\"\n", "data-shape"),
        ("a: 1\n---\nb: 2\n", "data-shape"),
        ("%YAML 1.1\n---\na: 1\n", "data-shape"),
        ("- a\n", "data-shape"),
        ("", "data-shape"),
        ("a: \u{2028}\n", "data-shape"),
        ("1: a\n", "data-key"),
        ("true: a\n", "data-key"),
        ("a: 1\na: 2\n", "data-key"),
        ("a: {b:1}\n", "data-scalar"),
        ("a: \"\\/\"\n", "data-scalar"),
        ("-\ta\n", "data-shape"),
        ("a: \u{ffff}\n", "data-shape"),
        ("a: {b\n : 1}\n", "data-key"),
        ("? a\n: 1\n", "data-key"),
        ("a: \"\\x41\"\n", "data-scalar"),
        ("a: one\n  two\n", "data-scalar"),
    ] {
        assert_eq!(rule("data.yaml", text), Some(expected), "{text:?}");
    }
}

#[test]
fn json_is_read_as_json() {
    for (text, expected) in [
        ("{\"a\": 1e3}", "data-scalar"),
        ("{\"a\": 1.0}", "data-scalar"),
        ("{\"a\": 1, \"a\": 2}", "data-key"),
        ("{a: 1}", "data-shape"),
        ("{\"a\": 'b'}", "data-shape"),
        ("{\"a\": \"\\ud83d\\ude00\"}", "data-shape"),
        ("[1]", "data-shape"),
    ] {
        assert_eq!(rule("data.json", text), Some(expected), "{text:?}");
    }
    let text = "{\n\t\"a\": [1, -2.5, null, true, \"x\\n\\u00e4\"], \"b\": {}}";
    assert!(read("data.json", text).is_ok(), "{:?}", read("data.json", text));
}

#[test]
fn a_file_lies_under_the_path_of_its_directory() {
    let document = read("a/b/data.json", "{\"c\": 1}").expect("read");
    assert_eq!(document.into_value().to_string(), r#"{"a":{"b":{"c":1}}}"#);
}

#[test]
fn two_files_may_not_say_the_same() {
    let one = read("data.yaml", "a: {b: 1}\nc: {d: 1}\n").expect("read");
    let merge = |text| one.clone().merge(read("data.yaml", text).expect("read"));
    assert_eq!(merge("a: {x: 1}\n"), Ok(()));
    assert_eq!(merge("a: {b: 1}\n"), Err("a.b".to_owned()));
    assert_eq!(merge("a: 1\n"), Err("a".to_owned()));
}

#[test]
fn a_finding_names_its_place() {
    let finding = read("data.yaml", "a: 1\nb:\n  c: 0100\n").expect_err("refused");
    assert_eq!((finding.line, finding.column), (3, 6));
}
