//! Module in, prepared module out.
//!
//! A SpacetimeDB module reads the clock, the host's random seed and the host's sequences, so the same calls sent to
//! two servers leave different rows. [`prepare`] takes a module's WASM and returns an equivalent one whose every
//! input comes from the call itself: each reducer gets a leading [`header`] of 72 bytes, the module's definition
//! loses what would make the host act by itself, and a shim around the module's host calls keeps the last applied
//! position, a digest, receipts and generated ids in hidden tables, in the same transaction as the call's own rows.
//!
//! This crate is pure: it knows nothing of the log, of the network or of time. What it may rely on is SpacetimeDB's
//! module interface (`spacetime_10.x`) and its `RawModuleDef` types, versions 9 and 10.

mod abi;
mod def;
mod emit;
mod error;
pub mod header;
mod hidden;
mod module;
mod order;
mod plan;
mod reset;
mod sandbox;
mod schema;
mod shape;
mod shim;
mod successes;

pub use error::PrepareError;
pub use module::{Module, Reducer, ReducerKind, Schedule, Table};
pub use schema::original_schema;
pub use successes::Successes;

/// The largest module that is prepared, in bytes.
pub const MODULE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the names of hidden tables, reducers and parameters begin with.
pub const HIDDEN_PREFIX: &str = "rtdb_";
/// The hidden reducer that only records its position. Own arguments: `published: bool`, true to also record the
/// position as that of the running module's publication.
pub const MARK: &str = "rtdb_mark";
/// The hidden reducer that deletes the receipt of `header.session`. No own arguments.
pub const DISCONNECT: &str = "rtdb_disconnect";
/// The hidden reducer that inserts rows as they are. Own arguments: `table: String, rows: Vec<Vec<u8>>`, each row in
/// BSATN. It does not look at its position, writes no receipt, and runs only while `rtdb_state` has no row: a load ends
/// with the row of that table.
pub const LOAD: &str = "rtdb_load";

/// A module that may be published to every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The prepared module.
    pub wasm: Vec<u8>,
    /// The original module's `RawModuleDef` in BSATN, as its `__describe_module__` wrote it.
    pub original_def: Vec<u8>,
}

/// How a module is prepared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Gives all NaNs the same bits, whatever the processor: for replicas on processors of different kinds. It makes
    /// arithmetic on floats slower.
    pub canonical_nan: bool,
}

/// Prepares a module, or says why it can't be. Takes up to a few seconds of CPU: the module runs in an interpreter.
pub fn prepare(wasm: &[u8]) -> Result<Prepared, PrepareError> {
    prepare_with(wasm, &Options::default())
}

/// [`prepare`] with options.
pub fn prepare_with(wasm: &[u8], options: &Options) -> Result<Prepared, PrepareError> {
    if wasm.len() > MODULE_BYTES_MAX {
        return Err(PrepareError::TooLarge {
            bytes: wasm.len(),
            max: MODULE_BYTES_MAX,
        });
    }
    if !wasm.starts_with(b"\0asm") {
        let text = std::str::from_utf8(wasm).is_ok_and(|text| !text.trim().is_empty());
        return Err(if text {
            PrepareError::JavaScript
        } else {
            PrepareError::NotWasm("it has no WASM header".into())
        });
    }
    let target = shim::Target::parse(wasm, options)?;
    let original_def = sandbox::describe(wasm)?;
    let plan = def::rewrite(&original_def)?;
    let wasm = target.shim(&plan)?;
    sandbox::trial(&wasm, &plan)?;
    Ok(Prepared { wasm, original_def })
}
