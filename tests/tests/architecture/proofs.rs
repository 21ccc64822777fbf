//! Proof types can be made only where they are earned.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, ensure};
use syn::{Fields, ImplItem, Item, ItemImpl, ItemStruct, Type, Visibility};

use super::source::{self, SourceFile};

/// Each with the file that defines it.
const PROOFS: [(&str, &str); 7] = [
    ("Identity", "authenticate::identity"),
    ("Verified", "authenticate::identity"),
    ("Inspected", "inspect::inspected"),
    ("Permitted", "decide::permitted"),
    ("Held", "decide::permitted"),
    ("Denied", "decide::permitted"),
    ("Recorded", "record::recorded"),
];
/// Traits by which a value could be had without earning it.
const MAKERS: [&str; 6] = ["Default", "Deserialize", "DeserializeOwned", "From", "FromStr", "TryFrom"];

#[test]
fn proofs_have_no_public_field_and_no_maker_but_their_own() -> Result<()> {
    let files = source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker/src"))?;
    let mut defined = BTreeMap::new();
    for file in &files {
        for fault in faults(file, &mut defined) {
            ensure!(false, "{}: {fault}", file.module.join("::"));
        }
    }
    assert_eq!(defined, PROOFS.iter().map(|(name, file)| ((*name).to_owned(), (*file).to_owned())).collect());
    Ok(())
}

/// What is wrong with the proofs in a file; those that it defines go to `defined`.
fn faults(file: &SourceFile, defined: &mut BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    for item in &file.syntax.items {
        match item {
            Item::Struct(item) if is_proof(&item.ident.to_string()) => {
                defined.insert(item.ident.to_string(), file.module.join("::"));
                faults.extend(struct_faults(item));
            }
            Item::Impl(item) => faults.extend(impl_faults(item)),
            _ => {}
        }
    }
    faults
}

fn is_proof(name: &str) -> bool {
    PROOFS.iter().any(|(proof, _)| *proof == name)
}

fn struct_faults(item: &ItemStruct) -> Vec<String> {
    let mut faults = Vec::new();
    let fields = match &item.fields {
        Fields::Named(fields) => fields.named.iter().collect(),
        Fields::Unnamed(fields) => fields.unnamed.iter().collect(),
        Fields::Unit => Vec::new(),
    };
    if fields.is_empty() || fields.iter().any(|field| !matches!(field.vis, Visibility::Inherited)) {
        faults.push(format!("`{}` can be written down by others", item.ident));
    }
    for attribute in item.attrs.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        let syn::Meta::List(list) = &attribute.meta else { continue };
        let derived = list.tokens.to_string();
        if derived.split(|c: char| !c.is_alphanumeric()).any(|name| MAKERS.contains(&name)) {
            faults.push(format!("`{}` derives a maker: {derived}", item.ident));
        }
    }
    faults
}

fn impl_faults(item: &ItemImpl) -> Option<String> {
    let Type::Path(target) = &*item.self_ty else { return None };
    let name = target.path.segments.last()?.ident.to_string();
    if !is_proof(&name) {
        return None;
    }
    if let Some((path, _)) = &item.trait_ {
        let name_of_trait = path.segments.last()?.ident.to_string();
        return MAKERS.contains(&&*name_of_trait).then(|| format!("`{name}` can be had by `{name_of_trait}`"));
    }
    let is_public_maker = |item: &&ImplItem| match item {
        ImplItem::Fn(function) => function.sig.receiver().is_none() && matches!(function.vis, Visibility::Public(_)),
        _ => false,
    };
    item.items.iter().any(|item| is_public_maker(&item)).then(|| format!("`{name}` has a public maker"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_forge_a_proof_is_seen() {
        for text in [
            "pub struct Identity { pub agent: u8 }",
            "pub struct Identity { pub(crate) agent: u8 }",
            "pub struct Identity;",
            "#[derive(Debug, Default)] pub struct Identity { agent: u8 }",
            "#[derive(serde::Deserialize)] pub struct Identity { agent: u8 }",
            "impl From<u8> for Identity { fn from(agent: u8) -> Self { Self { agent } } }",
            "impl<'de> serde::Deserialize<'de> for super::Recorded { }",
            "impl Identity { pub fn new() -> Self { Self { agent: 1 } } }",
        ] {
            let file = SourceFile { module: Vec::new(), syntax: syn::parse_file(text).expect("Rust") };
            assert_eq!(faults(&file, &mut BTreeMap::new()).len(), 1, "{text}");
        }
        let sound = "#[derive(Debug)] pub struct Identity { agent: u8 }
            impl Identity { pub fn agent(&self) -> u8 { self.agent } pub(super) fn new() -> Self { Self { agent: 1 } } }";
        let file = SourceFile { module: Vec::new(), syntax: syn::parse_file(sound).expect("Rust") };
        assert_eq!(faults(&file, &mut BTreeMap::new()), [""; 0]);
    }
}
