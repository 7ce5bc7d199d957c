//! `lib.rs` lists the modules in layers, each above those that it stands on. A module knows its own layer and those before it,
//! and nothing goes round in a circle. Tests may know everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The first names of what stands behind a `crate::`: of `{a::B, C}` those are `a` and `C`.
fn first_names(paths: &str) -> impl Iterator<Item = &str> {
    let is_other = |letter: char| !letter.is_alphanumeric() && letter != '_';
    let list = match paths.strip_prefix('{') {
        Some(list) => list.split('}').next(),
        None => paths.split(is_other).next(),
    };
    let list = list.unwrap_or_default();
    assert!(!list.contains('{'), "a list in a list is not read: {{{list}}}");
    let names = list
        .split(',')
        .filter_map(move |path| path.trim().split(is_other).next());
    names.filter(|name| !name.is_empty())
}

/// What stands at `path`, which is so many modules deep: without tests and comments, all paths written from `crate::` on.
fn code(path: &Path, depth: usize) -> String {
    if !path.exists() || path.file_stem().is_some_and(|stem| stem == "tests") {
        return String::new();
    }
    if path.is_dir() {
        let inside = fs::read_dir(path).unwrap().map(|inside| inside.unwrap().path());
        let code = inside.map(|path| code(&path, depth + usize::from(!path.ends_with("mod.rs"))));
        return code.collect();
    }
    let source = fs::read_to_string(path).unwrap();
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.flat_map(|line| [line, "\n"]).collect();
    code.replace(&"super::".repeat(depth), "crate::")
}

#[test]
fn each_module_knows_only_what_comes_before_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = fs::read_to_string(src.join("lib.rs")).unwrap();
    // The module that each of the crate's names is from, and its layer.
    let mut homes = BTreeMap::new();
    for (layer, lines) in lib.split("\n\n").enumerate() {
        let lines = lines.lines().map(|line| line.trim_start_matches("pub "));
        let modules = lines.filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
        homes.extend(modules.map(|module| (module, (layer, module))));
    }
    let modules: Vec<_> = homes.values().copied().collect();
    for (module, names) in lib.split("\npub use ").filter_map(|shown| shown.split_once("::")) {
        let home = homes.get(module).copied();
        homes.extend(first_names(names).filter_map(|name| Some((name, home?))));
    }
    let mut knows = BTreeMap::new();
    for (layer, module) in modules {
        let code = code(&src.join(module), 1) + &code(&src.join(module).with_extension("rs"), 1);
        let names = code.split("crate::").skip(1).flat_map(first_names);
        let known: BTreeSet<_> = names
            .map(|name| homes[name])
            .filter(|(_, other)| *other != module)
            .collect();
        for (other_layer, other) in &known {
            assert!(
                *other_layer <= layer,
                "{module} comes before {other}, and knows it"
            );
        }
        let known: BTreeSet<_> = known.into_iter().map(|(_, other)| other).collect();
        knows.insert(module, known);
    }
    // In a circle is who knows somebody in it, and is known there.
    for _ in 0..knows.len() {
        let left: BTreeSet<_> = knows.keys().copied().collect();
        let met: BTreeSet<_> = knows.values().flatten().copied().collect();
        knows.retain(|module, known| met.contains(module) && !known.is_disjoint(&left));
    }
    assert!(knows.is_empty(), "there is a circle: {:?}", knows.keys());
}
