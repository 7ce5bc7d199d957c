//! Whether a prepared module can call what is scheduled. The module says so itself, in a section of its own: one that was
//! prepared by an earlier version of this program can't.

use crate::section;

/// The section's name. It is empty.
pub(crate) const SECTION: &str = "rtdb_timers";

/// Whether a prepared module has the reducers [`SCHEDULED`](crate::SCHEDULED) and [`UNSCHEDULED`](crate::UNSCHEDULED).
pub fn fires_timers(wasm: &[u8]) -> bool {
    section::of(wasm, SECTION).is_some()
}
