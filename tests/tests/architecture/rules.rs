//! Imports between the top modules of a crate.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{SourceFile, mentions};

/// One module imports another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    /// Which one.
    pub(crate) from: String,
    /// What.
    pub(crate) to: String,
}

impl Edge {
    /// `from` imports `to`.
    pub(crate) fn new(from: &str, to: &str) -> Self {
        Self { from: from.to_owned(), to: to.to_owned() }
    }
}

/// All imports between top modules.
pub(crate) fn edges(files: &[SourceFile]) -> BTreeSet<Edge> {
    let modules: BTreeSet<_> = files.iter().filter_map(|file| file.module.first()).collect();
    let mut found = BTreeSet::new();
    for mention in files.iter().flat_map(mentions) {
        let (Some(from), Some(to)) = (mention.module.first(), mention.path.first()) else { continue };
        // The binary names the library from outside.
        let to = if to == "veribus_broker" { mention.path.get(1).unwrap_or(to) } else { to };
        if (mention.is_inside || from == "main") && modules.contains(to) && from != to {
            found.insert(Edge::new(from, to));
        }
    }
    found
}

/// A circle of imports, if there is one.
pub(crate) fn cycle(edges: &BTreeSet<Edge>) -> Option<Vec<String>> {
    let mut imports: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for edge in edges {
        imports.entry(&edge.from).or_default().push(&edge.to);
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|&start| walk(start, &imports, &mut done, &mut Vec::new()))
}

fn walk<'a>(
    module: &'a str,
    imports: &BTreeMap<&'a str, Vec<&'a str>>,
    done: &mut BTreeSet<&'a str>,
    way: &mut Vec<&'a str>,
) -> Option<Vec<String>> {
    if let Some(start) = way.iter().position(|&step| step == module) {
        return Some(way.iter().skip(start).map(|&step| step.to_owned()).collect());
    }
    if done.contains(module) {
        return None;
    }
    way.push(module);
    let found = imports.get(module).into_iter().flatten().find_map(|&next| walk(next, imports, done, way));
    way.pop();
    done.insert(module);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up(files: &[(&str, &str)]) -> Vec<SourceFile> {
        let file = |(module, text): &(&str, &str)| SourceFile {
            module: module.split("::").map(str::to_owned).collect(),
            syntax: syn::parse_file(text).expect("Rust"),
        };
        files.iter().map(file).collect()
    }

    fn found(files: &[(&str, &str)]) -> Vec<(String, String)> {
        edges(&made_up(files)).into_iter().map(|edge| (edge.from, edge.to)).collect()
    }

    #[test]
    fn every_way_to_name_a_module_is_seen() {
        for text in [
            "use crate::b::Thing;",
            "use crate::{b::{self, Thing}, c};",
            "pub use crate::b as renamed;",
            "fn f() { crate::b::call() }",
            "fn f(x: &crate::b::Thing<u8>) {}",
            "fn f() -> Vec<crate::b::Thing> { loop {} }",
            "mod inner { use super::super::super::b; }",
            "fn f() { some_macro!(x => crate::b::call(1)); }",
            "impl crate::b::Trait for u8 {}",
            "#[derive(Debug)] struct S { field: crate::b::Thing }",
        ] {
            let found = found(&[("a::deep", text), ("b", ""), ("c", "")]);
            assert!(found.contains(&("a".to_owned(), "b".to_owned())), "{text}: {found:?}");
        }
    }

    #[test]
    fn what_is_only_for_tests_or_only_sounds_alike_is_no_import() {
        for text in [
            "#[cfg(test)] mod tests { use crate::b::Thing; }",
            "#[cfg(test)] use crate::b::Thing;",
            "struct S; impl S { #[cfg(test)] fn f() { crate::b::call() } }",
            "fn f(b: u8) -> u8 { b }",
            "use other::b::Thing;",
            "use self::b::Thing;",
            "/// See [`crate::b`].\nstruct S;",
        ] {
            assert_eq!(found(&[("a::deep", text), ("b", "")]), [], "{text}");
        }
    }

    #[test]
    fn a_circle_is_found_however_long_it_is() {
        let circle = [("a", "use crate::b;"), ("b", "use crate::c::d;"), ("c::d", "use super::super::a::x;")];
        let found = cycle(&edges(&made_up(&circle))).expect("a circle");
        assert_eq!(found, ["a", "b", "c"]);
        let line = [("a", "use crate::{b, c};"), ("b", "use crate::c;"), ("c", "")];
        assert_eq!(cycle(&edges(&made_up(&line))), None);
    }
}
