//! What procedures do: their transactions come as what they have done, and the module does it again.

use super::super::calls::{self, Calls};
use super::super::window::{Failure, Kind};
use super::Core;
use crate::ActiveDatabase;
use rtdb_consensus::command::Transaction;
use rtdb_consensus::{Reply, ResolvedCommand};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{REPLAY, replay_args};

/// What is heard of a transaction of another module than the one that runs.
pub(in crate::applier) const OTHER_MODULE: &str = "the database's module was updated while the procedure ran";

impl Core {
    pub(super) fn transaction(
        &mut self,
        command: &ResolvedCommand,
        transaction: &Transaction,
        active: &ActiveDatabase,
        calls: &mut Calls,
    ) {
        if transaction.turn != 0 {
            // It was done where the turn is, or came too late for that.
            return self.answer(command, Ok(Reply::Done));
        }
        let refuse = |why: &str| Err(Failure::trapped(why.to_owned()));
        if active.program.data[..] != transaction.program[..] || !active.runs_procedures {
            return self.answer(command, refuse(OTHER_MODULE));
        }
        match replay(command, transaction) {
            Ok((header, own)) => self.send(
                command,
                Kind::Write(Some(Reply::Done)),
                REPLAY,
                header,
                &own,
                0,
                calls,
            ),
            Err(why) => self.answer(command, Err(why)),
        }
    }
}

/// What has the module do it, as the command at a position: a call's header and its own arguments.
pub(in crate::applier) fn replay(
    command: &ResolvedCommand,
    transaction: &Transaction,
) -> Result<(CallHeader, Vec<u8>), Failure> {
    let header = CallHeader {
        sender: transaction.sender.as_ref().try_into().unwrap_or_default(),
        timestamp_us: command.timestamp_us,
        index: command.position.0,
        session: transaction.session,
        ..CallHeader::default()
    };
    let own = replay_args(transaction.base, &transaction.operations);
    match calls::fits(REPLAY, &[&header.encode(), &own]) {
        true => Ok((header, own)),
        false => Err(Failure::trapped(
            "the transaction is larger than SpacetimeDB takes".to_owned(),
        )),
    }
}
