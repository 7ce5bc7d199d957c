//! A procedure's turn: nothing else is done with the database until its transaction is there, or it is given back.
//!
//! What ends it stands further on in the log, and is the same for all replicas: the first transaction that names the turn.
//! That is done here, at the turn's position; so calls between come after it.

use super::core::transaction::{OTHER_MODULE, replay};
use super::pump::RESULT_POLL;
use super::reader::Reader;
use super::window::Failure;
use super::{Applier, Connection, Interrupt};
use rtdb_consensus::command::{Body, Transaction, Turn};
use rtdb_consensus::{Position, Reply, ResolvedCommand};
use rtdb_determinism::REPLAY;
use rtdb_runtime::Instant;
use std::time::Duration;

/// How long a database waits for a procedure. Then its replicas give the turn back, which the log decides.
pub const TURN_MAX: Duration = Duration::from_secs(2);

/// What is heard of a turn in which nothing was done.
const NOTHING_DONE: &str = "nothing was done in the procedure's turn";

impl Applier {
    /// Waits for the procedure, with nothing else under way.
    pub(super) async fn turn(
        &mut self,
        command: &ResolvedCommand,
        turn: &Turn,
        connection: Option<Connection>,
    ) -> Result<Option<Connection>, Interrupt> {
        let (active, mut connection) = match self.begin_write(command, connection) {
            Ok(begun) => begun,
            Err(connection) => return Ok(connection),
        };
        if active.program.data[..] != turn.program[..] || !active.runs_procedures {
            self.core.unwritten(Failure::trapped(OTHER_MODULE.to_owned()));
            return Ok(Some(connection));
        }
        let is_awaited = command.origin.node != self.shared.node
            || self.slot.procedures.has_turn(turn.run, command.position);
        // Whose procedure has ended waits for nothing.
        let max = if is_awaited { TURN_MAX } else { Duration::ZERO };
        let Some(transaction) = self.end_of_turn(command.position, max).await? else {
            self.core.unwritten(Failure::trapped(NOTHING_DONE.to_owned()));
            return Ok(Some(connection));
        };
        match replay(command, &transaction) {
            Ok((header, own)) => {
                let args = [header.encode().as_slice(), &own].concat();
                self.core.writes(command.position, Reply::Done);
                let result = connection.call(REPLAY, &args).await?;
                self.core.result(result)?;
            }
            Err(why) => self.core.unwritten(why),
        }
        Ok(Some(connection))
    }

    /// What ends the turn at a position; `None` if nothing is to be done.
    async fn end_of_turn(
        &mut self,
        turn: Position,
        mut max: Duration,
    ) -> Result<Option<Transaction>, Interrupt> {
        let mut ahead = Reader::new(self.shared.follow.clone(), self.database, turn);
        let (mut since, known) = (Instant::now(), ahead.end());
        loop {
            while let Some(command) = ahead.peek() {
                match &command.command.body {
                    Some(Body::Transaction(it)) if it.turn == turn.0 => {
                        return Ok(Some(it.clone()).filter(|it| !it.is_nothing()));
                    }
                    Some(Body::Delete(_)) => return Ok(None),
                    _ => ahead.advance(),
                }
            }
            // What has ended it long ago is found first.
            if ahead.passed() >= known && since.elapsed() >= max {
                (since, max) = (Instant::now(), TURN_MAX);
                self.give_back(turn);
            }
            match rtdb_runtime::timeout(RESULT_POLL, ahead.more()).await {
                Ok(more) => more?,
                Err(_) => self.report(),
            }
        }
    }

    fn give_back(&self, turn: Position) {
        if let Some(reports) = &self.shared.reports {
            tracing::warn!(database = self.hex(), %turn, "a procedure has not used its turn");
            let nothing = Transaction::nothing(self.database.to_vec().into(), turn.0);
            reports.report(Body::Transaction(nothing));
        }
    }
}
