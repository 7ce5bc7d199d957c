//! The module interface, as SpacetimeDB 1.2.0 to 2.8.3 define it (`crates/bindings-sys`).

/// The most WASM tables a module may have.
pub(crate) const TABLES_MAX: usize = 64;

/// The memories of a prepared module: its own, the one that it is put back from, the one that rows are sorted in, and, if it
/// has procedures or HTTP handlers, the one that what they write is noted in, and the one that requests and answers stand in.
pub(crate) const PREPARED_MEMORIES: usize = 5;

pub(crate) const CALL_REDUCER: &str = "__call_reducer__";
pub(crate) const CALL_PROCEDURE: &str = "__call_procedure__";
/// What the host would call of HTTP handlers. A prepared module calls it itself.
pub(crate) const CALL_HANDLER: &str = "__call_http_handler__";
/// What evaluates a view: one that knows its sender, and one that does not.
pub(crate) const CALL_VIEWS: [&str; 2] = ["__call_view__", "__call_view_anon__"];
pub(crate) const DESCRIBE_MODULE: &str = "__describe_module__";
pub(crate) const MEMORY: &str = "memory";

/// The module that the functions since 1.0 are imported from.
pub(crate) const BASE: &str = "spacetime_10.0";

/// The module that the functions of procedures are imported from.
pub(crate) const PROCEDURES: &str = "spacetime_10.3";

/// The module that point scans are imported from: of SpacetimeDB 2.x, as hash indexes are.
pub(crate) const POINT_SCANS: &str = "spacetime_10.4";

/// The modules whose functions we know.
pub(crate) const IMPORT_MODULES: [&str; 6] = [
    "spacetime_10.0",
    "spacetime_10.1",
    "spacetime_10.2",
    "spacetime_10.3",
    "spacetime_10.4",
    "spacetime_10.5",
];

/// `row_iter_bsatn_advance`, `bytes_source_read`: done, and the handle is closed.
pub(crate) const EXHAUSTED: i32 = -1;
/// `table_id_from_name`, `index_id_from_name`.
pub(crate) const NO_SUCH_TABLE: i32 = 4;
pub(crate) const NO_SUCH_INDEX: i32 = 5;
/// `row_iter_bsatn_advance`: there is no such iterator.
pub(crate) const NO_SUCH_ITERATOR: i32 = 6;
/// `console_timer_end`.
pub(crate) const NO_SUCH_TIMER: i32 = 7;
/// `bytes_source_read`, `bytes_source_remaining_length`: there is no such source.
pub(crate) const NO_SUCH_BYTES: i32 = 8;
/// `row_iter_bsatn_advance`: there are more rows, but the next one doesn't fit.
pub(crate) const BUFFER_TOO_SMALL: i32 = 11;
/// `datastore_insert_bsatn`, `datastore_update_bsatn`: another row has one of the row's unique keys.
pub(crate) const UNIQUE_ALREADY_EXISTS: i32 = 12;
/// `datastore_update_bsatn`: there is no row with that key.
pub(crate) const NO_SUCH_ROW: i32 = 15;
/// `procedure_commit_mut_tx`: the transaction can't be committed. Bindings run it once more, whatever the error.
pub(crate) const NOT_COMMITTED: i32 = 20;

/// `__call_reducer__`: the reducer has failed, and its error's sink says why.
pub(crate) const FAILED: i32 = 1;
/// Has a reducer called right after, by its name. C# modules import it whether they use it or not.
pub(crate) const SCHEDULE_IMMEDIATE: &str = "volatile_nonatomic_schedule_immediate";

/// Host functions whose result or effect is the same on every replica, given the same rows and calls.
pub(crate) const HARMLESS: [&str; 3] = ["bytes_sink_write", "console_log", "identity"];

/// What begins a procedure's transaction.
pub(crate) const START_TX: &str = "procedure_start_mut_tx";
/// What only procedures may use. During start-up the server lets any code use them, and tells it the time.
pub(crate) const OF_PROCEDURES: [&str; 5] = [
    START_TX,
    "procedure_commit_mut_tx",
    "procedure_abort_mut_tx",
    "procedure_sleep_until",
    "procedure_http_request",
];
