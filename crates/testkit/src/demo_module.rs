//! The module that the demo, the benchmark and the fault tests call: `modules/counter-1x`, or `modules/counter-2x` on a
//! server of 2.x.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::client::Args;
use crate::{Api, server, sql};

/// Adds a row to [`TABLE`]; refuses an empty name.
pub const ADD: &str = "add";

/// One row for each successful call, `id` in the order of the calls.
pub const TABLE: &str = "counter";

/// The module's name, `counter-1x` or `counter-2x`: a developer's bindings are as old as the server.
pub fn name() -> Result<&'static str> {
    Ok(match server::major()? {
        ..2 => "counter-1x",
        _ => "counter-2x",
    })
}

/// The module that reads rows in every way, `walks-1x` or `walks-2x`.
pub fn walks() -> Result<Vec<u8>> {
    wasm_named(match server::major()? {
        ..2 => "walks-1x",
        _ => "walks-2x",
    })
}

/// The module that schedules calls, `timers-1x` or `timers-2x`.
pub fn timers() -> Result<Vec<u8>> {
    wasm_named(match server::major()? {
        ..2 => "timers-1x",
        _ => "timers-2x",
    })
}

/// The prebuilt module, as a developer would publish it.
pub fn wasm() -> Result<Vec<u8>> {
    wasm_named(name()?)
}

/// The same module as another build of it: with a section that says which.
pub fn another_build(wasm: &[u8], build: u8) -> Vec<u8> {
    const CUSTOM: u8 = 0;
    const NAME: &[u8] = b"build";
    let content = [&[NAME.len() as u8], NAME, &[build]].concat();
    [wasm, &[CUSTOM, content.len() as u8], &content].concat()
}

/// One of the prebuilt modules.
pub fn wasm_named(name: &str) -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../modules/{name}/{name}.wasm"));
    std::fs::read(&path).with_context(|| format!("{}: run `cargo xtask modules`", path.display()))
}

/// The arguments of [`ADD`].
pub fn add(name: &str, value: i64) -> Args {
    Args::new().str(name).i64(value)
}

/// What one call of [`ADD`] left behind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Added {
    /// Ascending in the order of the calls.
    pub id: u64,
    /// As called with.
    pub name: String,
    /// As called with.
    pub value: i64,
}

/// The name in the row that the module's own `init` leaves.
const INIT: &str = "init";

/// All rows that calls of [`ADD`] left, in the order of the calls.
pub async fn rows(api: &Api, database: &str) -> Result<Vec<Added>> {
    let rows = sql::select(api, database, &format!("SELECT id, name, value FROM {TABLE}")).await?;
    let (ids, names, values) = (rows.column("id")?, rows.column("name")?, rows.column("value")?);
    let mut added = Vec::with_capacity(rows.len());
    for ((id, name), value) in ids.into_iter().zip(names).zip(values) {
        let row = || Some((id.as_u64()?, name.as_str()?, value.as_i64()?));
        let (id, name, value) = row().with_context(|| format!("{:?}", [id, name, value] as [&Value; 3]))?;
        if name != INIT {
            added.push(Added {
                id,
                name: name.to_string(),
                value,
            });
        }
    }
    added.sort_unstable();
    Ok(added)
}
