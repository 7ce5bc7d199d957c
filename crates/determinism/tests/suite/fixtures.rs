//! The prebuilt modules in `modules/`.

use std::path::PathBuf;

use rtdb_determinism::{Module, Prepared, ReducerKind, prepare};
use sha2::{Digest, Sha256};

/// The names of the demo module: of SpacetimeDB 1.x and 2.x.
pub(crate) const NAMES: [&str; 2] = ["counter-1x", "counter-2x"];

/// Those whose calls tell what an instance remembers.
pub(crate) const STATEFUL: [&str; 2] = ["stateful-1x", "stateful-2x"];

/// Those that schedule calls.
pub(crate) const TIMERS: [&str; 2] = ["timers-1x", "timers-2x"];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../modules")
        .join(name)
}

pub(crate) fn wasm(name: &str) -> Vec<u8> {
    std::fs::read(folder(name).join(format!("{name}.wasm"))).expect("the fixture is there")
}

pub(crate) fn prepared(name: &str) -> Prepared {
    prepare(&wasm(name)).expect("the fixture can be prepared")
}

/// `cargo xtask modules` records what each fixture was built from: `<sha256>  <path>` for every file.
#[test]
fn the_fixtures_are_built_from_their_sources() {
    for name in NAMES.into_iter().chain(STATEFUL).chain(TIMERS).chain([
        "walks-1x",
        "walks-2x",
        "views-2x",
        "procedures-2x",
        "handlers-2x",
    ]) {
        let recorded =
            std::fs::read_to_string(folder(name).join(".source-hash")).expect("the record is there");
        let mut paths = Vec::new();
        for line in recorded.lines() {
            let (hash, path) = line.split_once("  ").expect("a hash and a path");
            let file = std::fs::read(folder(name).join(path)).expect("the file is there");
            assert_eq!(
                hash,
                format!("{:x}", Sha256::digest(file)),
                "modules/{name}/{path}: run `cargo xtask modules`"
            );
            paths.push(path.to_owned());
        }
        assert!(paths.contains(&"src/lib.rs".to_owned()) && paths.contains(&format!("{name}.wasm")));
    }
}

#[test]
fn a_definition_of_either_version_tells_the_same() {
    let modules =
        NAMES.map(|name| Module::from_def(&prepared(name).original_def).expect("the definition is readable"));
    for module in &modules {
        assert_eq!(module.init().map(|it| it.name.as_str()), Some("init"));
        assert_eq!(
            module.client_connected().map(|it| it.name.as_str()),
            Some("connected")
        );
        assert_eq!(
            module.client_disconnected().map(|it| it.name.as_str()),
            Some("disconnected")
        );
        let add = module.reducer("add").expect("the reducer exists");
        assert_eq!(
            (add.kind, add.private, add.params.elements.len()),
            (ReducerKind::Normal, false, 2)
        );
        assert!(
            module
                .reducers()
                .iter()
                .all(|it| it.private == (it.kind != ReducerKind::Normal))
        );
        let note = module
            .tables()
            .iter()
            .find(|table| table.name == "note")
            .expect("the table exists");
        assert_eq!((note.public, note.auto_inc.as_slice()), (true, &[3, 5][..]));
        assert!(
            module
                .tables()
                .iter()
                .any(|table| table.name == "secret" && !table.public)
        );
    }
}

#[test]
fn tables_without_a_unique_index_are_known() {
    for name in ["walks-1x", "walks-2x"] {
        let module = Module::from_def(&prepared(name).original_def).expect("the definition is readable");
        let tables = module.tables().iter().filter(|table| !table.ordered);
        let mut names: Vec<_> = tables.map(|table| table.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["loose", "pair"]);
    }
}
