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
mod bounds;
mod claims;
mod def;
mod emit;
mod error;
mod handlers;
pub mod header;
mod hidden;
#[cfg(test)]
mod javascript;
mod meter;
mod migration;
mod module;
mod numbers;
mod order;
mod plan;
mod procedures;
mod reset;
mod rows;
mod sandbox;
mod schema;
mod section;
mod shape;
mod shim;
mod state_row;
mod successes;
mod timers;
mod views;

pub use claims::{CLAIMS_BYTES_MAX, Claims};
pub use error::PrepareError;
pub use handlers::{ANSWER_BYTES_MAX, ANSWER_HEAD_BYTES_MAX, Answer, Handler, handle_args};
pub use migration::original_plan;
pub use module::{Module, Procedure, Reducer, ReducerKind, Schedule, ScheduleKind, Table, View};
pub use numbers::{Numbers, numbers};
pub use procedures::{
    OUTBOX, Transaction, TransactionVerdict, is_nodes_own, replay_args, runs_procedures, settle_args,
};
pub use rows::{RowChanges, encode_changes, takes_rows};
pub use schema::original_schema;
pub use shape::scalar_bytes;
pub use state_row::StateRow;
pub use successes::Successes;
pub use timers::{Firing, When, calls_at_once, encode_timer};
pub use views::{REFRESH_ALL, REFRESH_BRIEFLY, refreshes_briefly, view_key, view_pause};

/// The largest module that is prepared, in bytes.
pub const MODULE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What one call may use at most, in units of about a WebAssembly instruction each: some ten seconds of ordinary code. It
/// comes before the limit of SpacetimeDB 2.8 itself, which counts in much the same way, up to 120,000,000,000.
pub const CALL_UNITS_MAX: u64 = 100_000_000_000;

/// What the names of hidden tables, reducers and parameters begin with.
pub const HIDDEN_PREFIX: &str = "rtdb_";
/// The hidden reducer that only records its position. Own arguments: `published: bool`, true to also record the
/// position as that of the running module's publication.
pub const MARK: &str = "rtdb_mark";
/// The hidden reducer that deletes the receipt and the claims of `header.session`. No own arguments.
pub const DISCONNECT: &str = "rtdb_disconnect";
/// The hidden reducer that inserts rows as they are. Own arguments: `table: String, rows: Vec<Vec<u8>>`, each row in
/// BSATN. It does not look at its position, writes no receipt, and runs only while `rtdb_state` has no row: a load ends
/// with the row of that table.
pub const LOAD: &str = "rtdb_load";
/// The hidden table whose only row says what has been applied: a [`StateRow`].
pub const STATE_TABLE: &str = "rtdb_state";
/// The hidden table of the sessions' receipts: `session: u64, index: u64`.
pub const SESSION_TABLE: &str = "rtdb_session";
/// The hidden table of the numbers that come next in the generated columns for which [`STATE_TABLE`] has no room.
pub const SEQUENCE_TABLE: &str = "rtdb_sequence";
/// The hidden table of what the sessions' tokens say: `session: u64, index: u64, claims: String`.
pub const CLAIMS_TABLE: &str = "rtdb_claims";

/// The hidden reducer that evaluates views, in modules of definition version 10. Own arguments: `key: u64`, which is
/// [`REFRESH_ALL`], [`REFRESH_BRIEFLY`], or a [`view_key`] for one of them. It has no place in the log: it records no position, changes no
/// digest, and what it does is a node's own.
pub const REFRESH: &str = "rtdb_refresh";

/// The hidden reducer that keeps what the token of `header.session` says, or, if that is 0, what that of the call says
/// which follows at the same position. Own arguments: `claims: String`, at most [`CLAIMS_BYTES_MAX`]. It does not record
/// its position: it goes before a call at the same one, and may be made again as long as that has not succeeded.
pub const IDENTIFY: &str = "rtdb_identify";

/// The hidden reducer that calls a scheduled reducer with a row that is due. Own arguments: `schedule: u32, id: u64`, the
/// place in [`Module::schedules`] and the row's primary key, and when it is due, as [`encode_timer`] writes them. The reducer
/// gets the row as it is by now; without one nothing is called, and the position recorded. It fails with [`NOT_DUE`] if the
/// row is due at another time.
pub const SCHEDULED: &str = "rtdb_scheduled";

/// The hidden reducer that follows it, at the next position, whatever came of it: deletes the row if it is for one time, and
/// was due. The same arguments.
pub const UNSCHEDULED: &str = "rtdb_unscheduled";

/// The hidden table of the calls that the module has asked for by `volatile_nonatomic_schedule_immediate`: `id: u64, at:
/// ScheduleAt`, and what else [`SCHEDULED`] needs to make them. Its rows are due at once.
pub const IMMEDIATE: &str = "rtdb_immediate";

/// Its place among the schedules, as [`SCHEDULED`] and [`UNSCHEDULED`] are told.
pub const IMMEDIATE_SCHEDULE: u32 = u32::MAX;

/// The most calls that may wait in it. Whoever watches the table holds all of it.
pub const IMMEDIATE_ROWS_MAX: u32 = 8_192;

/// The most bytes of arguments that each of them may have.
pub const IMMEDIATE_ARGS_BYTES_MAX: u32 = 16 << 10;

/// The hidden reducer that deletes and inserts rows of the module's tables. Own arguments: `changes: Vec<u8>`, as
/// [`encode_changes`] writes them. Generated columns get their numbers as in the module's own inserts. Modules say in a
/// section of their own that they have it: [`takes_rows`].
pub const APPLY: &str = "rtdb_apply";

/// The hidden reducer that does what a procedure's transaction has done, in modules of definition version 10. Own arguments:
/// `base: u64, operations: Vec<u8>`, see [`replay_args`]. Modules say in a section of their own whether they have procedures:
/// [`runs_procedures`].
pub const REPLAY: &str = "rtdb_replay";

/// The error of [`REPLAY`] where calls have come between what the procedure has read and its place in the log.
pub const CONFLICT: &str = "rtdb_conflict";

/// The hidden reducer that tells a procedure what has become of its transaction, in modules of definition version 10. Own
/// arguments: see [`settle_args`]. It has no place in the log, and what it does is a node's own.
pub const SETTLE: &str = "rtdb_settle";

/// The hidden procedure that runs a scheduled procedure with a row that is due, in modules with procedures or HTTP handlers. The
/// same own arguments as [`SCHEDULED`]. Its first transaction takes the row, which is deleted if it is for one time; then the
/// procedure runs. If there is no such row, or it is due at another time, nothing is done.
pub const TICK: &str = "rtdb_tick";

/// The hidden procedure that runs an HTTP handler, in modules with procedures or HTTP handlers. Own arguments: see
/// [`handle_args`]; what it returns: [`Answer`].
pub const HANDLE: &str = "rtdb_handle";

/// The error of [`APPLY`] where a row that is to be inserted has a unique value that another row has.
pub const TAKEN: &str = "rtdb_taken";

/// The error of [`SCHEDULED`] where the row is due at another time, or calls a procedure.
pub const NOT_DUE: &str = "rtdb_not_due";

/// The error of a reducer of the module's own, of [`SCHEDULED`], [`APPLY`] or [`REPLAY`], that did nothing, because its position is
/// not above the last one applied: it, or a call behind it, is applied already. The other hidden reducers succeed in that
/// case.
pub const SKIPPED: &str = "rtdb_skipped";

/// A module that may be published to every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The prepared module.
    pub wasm: Vec<u8>,
    /// The original module's `RawModuleDef` in BSATN, as its `__describe_module__` wrote it.
    pub original_def: Vec<u8>,
}

/// How a module is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Gives all NaNs the same bits, whatever the processor: for replicas on processors of different kinds. It makes
    /// arithmetic on floats slower.
    pub canonical_nan: bool,
    /// Gives the database the table [`IMMEDIATE`]: whoever publishes without it later, as an older version of this program, would
    /// have the server remove it, which 1.2 refuses, and 2.8 takes for breaking clients. Without it
    /// `volatile_nonatomic_schedule_immediate` traps.
    pub calls_at_once: bool,
    /// What one call may use at most, in units of about a WebAssembly instruction each; a view may use a tenth of it.
    pub call_units_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            canonical_nan: false,
            calls_at_once: false,
            call_units_max: CALL_UNITS_MAX,
        }
    }
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
    bounds::check(wasm)?;
    let target = shim::Target::parse(wasm, options)?;
    let original_def = sandbox::describe(wasm)?;
    let plan = def::rewrite(&original_def, options.calls_at_once)?;
    let wasm = target.shim(&plan)?;
    sandbox::trial(&wasm, &plan)?;
    Ok(Prepared { wasm, original_def })
}
