//! `tests/javascript`: a module in TypeScript with the shim around it, in Node, on a host that is made up.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{RawConstraintDataV9, RawIndexAlgorithm};
use spacetimedb_lib::db::raw_def::v10::{RawModuleDefV10, RawModuleDefV10Section as Section, RawTableDefV10};
use spacetimedb_primitives::ColList;

use super::{list, prepare, shape, text};
use crate::def;
use crate::shape::Shape;
use crate::successes::Successes;

#[test]
fn a_typescript_module_in_node_does_the_same_on_every_host() {
    for tool in ["node", "npm"] {
        if Command::new(tool).arg("--version").output().is_err() {
            assert!(std::env::var("CI").is_err(), "{tool} is not there");
            eprintln!("skipped: {tool} is not there");
            return;
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/javascript");
    // In a folder of its own: the repository stays as it is.
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(source).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    let at = |name: &str| folder.path().join(name);
    succeeds(
        folder.path(),
        "npm",
        &["ci", "--no-audit", "--no-fund", "--ignore-scripts"],
    );
    succeeds(folder.path(), "node", &["build.mjs"]);
    in_node(folder.path(), "describe.mjs");

    let original = std::fs::read(at("module.def")).unwrap();
    let plan = def::rewrite(&original, false).unwrap();
    let bundle = std::fs::read_to_string(at("bundle.cjs")).unwrap();
    std::fs::write(at("prepared.mjs"), prepare(&bundle, &plan)).unwrap();
    let schemas = format!(
        "export const original = {};\nexport const prepared = {};\n",
        schema(&original),
        schema(&plan.def)
    );
    std::fs::write(at("schemas.mjs"), schemas).unwrap();
    in_node(folder.path(), "check.mjs");

    let told = std::fs::read(at("told.json")).unwrap();
    check_state(&serde_json::from_slice(&told).unwrap());
}

/// The row of `rtdb_state` says of the calls, and of what they have written, what that of a WASM module would.
fn check_state(told: &Value) {
    let row = unhex(told["state"].as_str().unwrap());
    let number = |at: usize| u64::from_le_bytes(row[at..at + 8].try_into().unwrap());
    let wide = |at: usize| u128::from_le_bytes(row[at..at + 16].try_into().unwrap());
    let indexes = told["indexes"].as_array().unwrap();
    let mut successes = Successes::default();
    for index in indexes {
        successes.add(index.as_u64().unwrap());
    }
    assert_eq!(number(1), indexes.last().unwrap().as_u64().unwrap());
    assert_eq!(Successes::from_columns([wide(25), wide(41)]), successes);

    let mut digest = 0_u64;
    let mut fold = |word: u64| {
        digest = (digest ^ word)
            .rotate_left(29)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    for write in told["writes"].as_array().unwrap() {
        fold(write[0].as_u64().unwrap() << 32 | write[1].as_u64().unwrap());
        for bytes in write[2].as_array().unwrap() {
            let bytes = unhex(bytes.as_str().unwrap());
            fold(bytes.len() as u64);
            let (words, rest) = bytes.as_chunks();
            words.iter().for_each(|word| fold(u64::from_le_bytes(*word)));
            fold(rest.iter().fold(0, |tail, byte| tail << 8 | u64::from(*byte)));
        }
    }
    assert_eq!(number(9), digest);
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect()
}

/// A definition as the made-up host takes it.
fn schema(def: &[u8]) -> String {
    let RawModuleDef::V10(def) = def::decode(def).unwrap() else {
        panic!("a module of 2.x has a definition of version 10");
    };
    let reducers = def.sections.iter().find_map(|section| match section {
        Section::Reducers(reducers) => Some(reducers),
        _ => None,
    });
    let reducers = reducers.unwrap().iter();
    let reducers = Value::from_iter(reducers.map(|reducer| reducer.source_name.to_string()));
    let tables: Vec<_> = def.tables().into_iter().flatten().collect();
    format!(
        "{{reducers:{reducers},tables:{}}}",
        list(&tables, |it| table(&def, it))
    )
}

fn table(def: &RawModuleDefV10, table: &RawTableDefV10) -> String {
    let types = def.typespace().unwrap();
    let row = types.get(table.product_type_ref).unwrap().as_product().unwrap();
    let columns = list(&row.elements, |column| {
        shape(&Shape::of(&column.algebraic_type, types).unwrap())
    });
    let numbers = |columns: &ColList| Value::from_iter(columns.iter().map(|column| column.0));
    let indexes = table.indexes.iter().map(|index| {
        let (columns, hash) = match &index.algorithm {
            RawIndexAlgorithm::BTree { columns } => (numbers(columns), false),
            RawIndexAlgorithm::Hash { columns } => (numbers(columns), true),
            other => panic!("no index of a check is {other:?}"),
        };
        json!({ "name": index.source_name.as_deref(), "columns": columns, "hash": hash })
    });
    let unique = table.constraints.iter().map(|constraint| match &constraint.data {
        RawConstraintDataV9::Unique(data) => numbers(&data.columns),
        other => panic!("no constraint of a check is {other:?}"),
    });
    let sequences = table.sequences.iter().map(|sequence| sequence.column.0);
    format!(
        "{{name:{},columns:{columns},indexes:{},unique:{},sequences:{}}}",
        text(&table.source_name),
        Value::from_iter(indexes),
        Value::from_iter(unique),
        Value::from_iter(sequences)
    )
}

fn in_node(folder: &Path, script: &str) {
    succeeds(
        folder,
        "node",
        &["--experimental-vm-modules", "--no-warnings", script],
    );
}

fn succeeds(folder: &Path, program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
