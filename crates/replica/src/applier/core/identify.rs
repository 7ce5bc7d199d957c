//! What a caller's token says: it goes before the command at the same position, and nobody waits for it.

use super::super::calls::Calls;
use super::super::window::Kind;
use super::{Core, Violation};
use rtdb_consensus::ResolvedCommand;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{CLAIMS_BYTES_MAX, IDENTIFY};
use rtdb_protocol::reply::Outcome;

impl Core {
    /// Has the module keep what the caller's token says. What is longer than it takes was never said.
    pub(super) fn identify(
        &mut self,
        command: &ResolvedCommand,
        header: CallHeader,
        claims: &str,
        calls: &mut Calls,
    ) {
        if !claims.is_empty() && claims.len() <= CLAIMS_BYTES_MAX {
            let own = [&(claims.len() as u32).to_le_bytes(), claims.as_bytes()].concat();
            self.send(command, Kind::Identify, IDENTIFY, header, &own, 0, calls);
        }
    }
}

/// What came of keeping the caller's claims.
pub(super) fn identified(outcome: Outcome) -> Result<(), Violation> {
    match outcome {
        Outcome::Ok { .. } => Ok(()),
        Outcome::OutOfEnergy => Err(Violation::Hidden {
            reducer: IDENTIFY,
            message: "it ran out of energy".to_owned(),
        }),
        Outcome::Failed { message, .. } | Outcome::Internal(message) | Outcome::Rejected(message) => {
            let reducer = IDENTIFY;
            Err(Violation::Hidden { reducer, message })
        }
    }
}
