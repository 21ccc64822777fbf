//! What each module of a crate names, read from its source.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use syn::{
    Attribute, ImplItem, Item, ItemMod, Macro, UseTree,
    visit::{self, Visit},
};
use walkdir::WalkDir;

/// One thing that a module names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mention {
    /// The module that names it, from the root of its crate.
    pub(crate) module: Vec<String>,
    /// What it names: from the root of the crate where `is_inside`, else beginning with another crate or a local name.
    pub(crate) path: Vec<String>,
    /// Whether it is something of the same crate.
    pub(crate) is_inside: bool,
}

/// A source file and where it stands.
pub(crate) struct SourceFile {
    /// The module that it is.
    pub(crate) module: Vec<String>,
    /// Parsed.
    pub(crate) syntax: syn::File,
}

/// Every file of a crate, without those that are compiled for tests only.
pub(crate) fn read(src: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(src).sort_by_file_name() {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let module = module_path(path.strip_prefix(src)?);
        if module.iter().any(|name| name == "tests" || name == "fixtures") {
            continue;
        }
        let text = fs::read_to_string(path)?;
        let syntax = syn::parse_file(&text).with_context(|| path.display().to_string())?;
        files.push(SourceFile { module, syntax });
    }
    Ok(files)
}

/// `decide/input.rs` is `decide::input`, `decide/mod.rs` is `decide`, `lib.rs` is the root.
fn module_path(file: &Path) -> Vec<String> {
    let mut module: Vec<_> = file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

/// Everything that a file names.
pub(crate) fn mentions(file: &SourceFile) -> BTreeSet<Mention> {
    let mut reader = Reader { module: file.module.clone(), found: BTreeSet::new() };
    reader.visit_file(&file.syntax);
    reader.found
}

struct Reader {
    module: Vec<String>,
    found: BTreeSet<Mention>,
}

impl Reader {
    fn name(&mut self, path: &[String]) {
        let mut absolute = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return self.found_at(path.to_vec(), false),
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => drop(absolute.pop()),
                name => absolute.push(name.to_owned()),
            }
        }
        self.found_at(absolute, true);
    }

    fn found_at(&mut self, path: Vec<String>, is_inside: bool) {
        self.found.insert(Mention { module: self.module.clone(), path, is_inside });
    }

    fn name_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.name_tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) => self.name(&with(name.ident.to_string())),
            UseTree::Rename(rename) => self.name(&with(rename.ident.to_string())),
            UseTree::Glob(_) => self.name(&with("*".to_owned())),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.name_tree(before, item)),
        }
    }
}

/// Whether something is compiled for tests only.
fn is_test_only(attributes: &[Attribute]) -> bool {
    let is_cfg_test = |attribute: &Attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    };
    attributes.iter().any(is_cfg_test)
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test_only(attributes(item)) {
            return;
        }
        if let Item::Use(item) = item {
            self.name_tree(&[], &item.tree);
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let is_left_out = match item {
            ImplItem::Fn(item) => is_test_only(&item.attrs),
            ImplItem::Const(item) => is_test_only(&item.attrs),
            _ => false,
        };
        if !is_left_out {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.name(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    /// What stands in a macro's input is no path to `syn`.
    fn visit_macro(&mut self, item: &'ast Macro) {
        self.visit_path(&item.path);
        let text = item.tokens.to_string();
        for after in text.split("crate ::").skip(1) {
            let parts = after.split("::").map(str::trim).map(|part| {
                part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
            });
            let path: Vec<_> =
                ["crate".to_owned()].into_iter().chain(parts.take_while(|part| !part.is_empty())).collect();
            self.name(&path);
        }
    }
}
