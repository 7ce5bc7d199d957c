//! Calls that the server has passed over.

use super::super::window::{Failure, Kind, Open};
use super::{Core, UNCOUNTED, Violation};
use rtdb_consensus::Reply;
use rtdb_determinism::SKIPPED;
use rtdb_protocol::reply::Outcome;

/// Whether a reducer of the module's was passed over.
pub(super) fn is_skipped(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed { message, .. } if message == SKIPPED)
}

impl Core {
    /// The server passed a call over, because of what it has applied: the call, or one behind it. Its record says which, so
    /// that is to be read, as after a lost connection.
    pub(super) fn skipped(&mut self, mut open: Open) -> Result<(), Violation> {
        let (position, index) = (open.position, open.position.0);
        if matches!(open.kind, Kind::Write(None | Some(Reply::Rows { .. }))) {
            // What was found out about the rows may have been so only afterwards.
            open.kind = Kind::Answered(Err(Failure::Unknown(UNCOUNTED)));
        }
        if self.skipped.replace(position) != Some(position) {
            self.window.unpop(open);
            return Err(Violation::Skipped { index });
        }
        // The record did not have it: it is the module that says so, or the record was read too early.
        let result = match open.kind {
            Kind::Disconnect => Ok(Reply::Done),
            Kind::Scheduled => {
                self.answer_first();
                return Ok(());
            }
            _ => Err(Failure::Unknown(
                "SpacetimeDB says that the call was applied before",
            )),
        };
        self.tell(open, result);
        self.answer_first();
        Ok(())
    }
}
