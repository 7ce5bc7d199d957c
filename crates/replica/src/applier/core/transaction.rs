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
const OTHER_MODULE: &str = "the database's module was updated while the procedure ran";

impl Core {
    pub(super) fn transaction(
        &mut self,
        command: &ResolvedCommand,
        transaction: &Transaction,
        active: &ActiveDatabase,
        calls: &mut Calls,
    ) {
        let refuse = |why: &str| Err(Failure::trapped(why.to_owned()));
        if active.program.data[..] != transaction.program[..] || !active.runs_procedures {
            return self.answer(command, refuse(OTHER_MODULE));
        }
        let header = CallHeader {
            sender: transaction.sender.as_ref().try_into().unwrap_or_default(),
            timestamp_us: command.timestamp_us,
            index: command.position.0,
            session: transaction.session,
            ..CallHeader::default()
        };
        let own = replay_args(transaction.base, &transaction.operations);
        if !calls::fits(REPLAY, &[&header.encode(), &own]) {
            return self.answer(
                command,
                refuse("the transaction is larger than SpacetimeDB takes"),
            );
        }
        self.send(command, Kind::Write(Reply::Done), REPLAY, header, &own, 0, calls);
    }
}
