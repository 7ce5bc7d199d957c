//! After a lost connection: what became of the commands that were open, by the database's own record.

use super::{Core, written};
use crate::DatabaseState;
use crate::applier::window::{Answer, Failure, Kind};
use rtdb_consensus::{Position, Reply};
use rtdb_determinism::Successes;

/// What the caller of a call hears that has run, is not part of the database, and was not answered.
const NOT_ANSWERED: &str = "the call failed, and SpacetimeDB gave no reason: it may have run out of energy";

impl Core {
    /// The connection is lost: what was open waits for [`Core::recovered`].
    pub(in crate::applier) fn lost(&mut self) {
        while let Some(open) = self.window.pop() {
            self.refreshes.are_due(open.position);
            self.unsettled.push(open);
        }
    }

    /// Where the publication stands whose outcome is not known, since the connection was lost.
    pub(in crate::applier) fn unsettled_publication(&self) -> Option<Position> {
        let open = self.unsettled.first()?;
        matches!(open.kind, Kind::Publish { .. } | Kind::Load).then_some(open.position)
    }

    /// The database's own record after a lost connection: everything up to `state.index` was applied or has failed.
    /// Everything after the position that this gives is read from the log again. `None`: there is no database, and all is
    /// read again.
    pub(in crate::applier) fn recovered(&mut self, state: Option<&DatabaseState>) -> Position {
        let unsettled = std::mem::take(&mut self.unsettled);
        let ran = std::mem::take(&mut self.ran);
        let after = state.map_or_else(Successes::default, |state| state.successes);
        let before = std::mem::replace(&mut self.successes, after);
        let cleans_up = std::mem::take(&mut self.cleans_up);
        let Some(state) = state else {
            // All of it is to become part of the database once more.
            self.succeeded = Position::default();
            self.refreshes.begin_behind(Position::default());
            return Position::default();
        };
        let index = Position(state.index);
        // What has run and is not part of the database has failed, unless the server has lost transactions since.
        let done = if index >= self.succeeded {
            index.max(ran)
        } else {
            index
        };
        self.refreshes.begin_behind(done);
        let recorded = unsettled.iter().take_while(|open| open.position <= index);
        let recorded = recorded.enumerate().filter(|(place, open)| match open.kind {
            Kind::Call
            | Kind::Connect
            | Kind::Disconnect
            | Kind::Write(_)
            | Kind::Scheduled
            | Kind::Unscheduled => true,
            // Of a disconnect and its cleanup just one succeeds.
            Kind::Cleanup => *place == 0 && cleans_up,
            Kind::Identify
            | Kind::Publish { .. }
            | Kind::Load
            | Kind::Answered(_)
            | Kind::Fence
            | Kind::Refresh => false,
        });
        let recorded: Vec<u64> = recorded.map(|(_, open)| open.position.0).collect();
        let mut failures = before.failures(&recorded, after);
        if rtdb_runtime::planted("lost answers are good ones") {
            failures = Some(Vec::new());
        }
        self.succeeded = self.succeeded.max(index);
        if rtdb_runtime::planted("calls are sent again wherever the server is")
            && let Some(first) = unsettled.first()
        {
            return Position(first.position.0.saturating_sub(1));
        }
        for mut open in unsettled {
            if open.position > done {
                break;
            }
            let result = match std::mem::replace(&mut open.kind, Kind::Cleanup) {
                Kind::Cleanup | Kind::Identify | Kind::Scheduled | Kind::Fence | Kind::Refresh => continue,
                Kind::Call | Kind::Connect | Kind::Write(_) if open.position > index => {
                    Err(Failure::ended(NOT_ANSWERED.to_owned()))
                }
                Kind::Answered(result) => result,
                Kind::Disconnect | Kind::Unscheduled => Ok(Reply::Done),
                Kind::Publish { created } if state.module == open.position.0 => {
                    Ok(Reply::Published { created })
                }
                // The last of them: the others leave no record.
                Kind::Load => Ok(Reply::Published { created: true }),
                Kind::Publish { .. } => Err(Failure::Unknown("SpacetimeDB runs another module by now")),
                kind @ (Kind::Call | Kind::Connect | Kind::Write(_)) => match &failures {
                    Some(failures) => settled(&kind, !failures.contains(&open.position.0)),
                    None => Err(Failure::Unknown(
                        "the connection to SpacetimeDB was lost, and too many calls failed to say which",
                    )),
                },
            };
            self.tell(open, result);
        }
        done
    }
}

/// The outcome of a call of which just this is known.
fn settled(kind: &Kind, succeeded: bool) -> Answer {
    match kind {
        Kind::Call if succeeded => Ok(Reply::Call {
            return_value: bytes::Bytes::new(),
            execution_us: 0,
            energy: 0,
        }),
        Kind::Write(reply) if succeeded => written(reply.as_ref()),
        _ if succeeded => Ok(Reply::Done),
        // Why is not known: the module may have failed, or this server alone.
        _ => Err(Failure::Reducer {
            trapped: false,
            doubtful: true,
            message: "the call failed; the reason was lost with the connection to SpacetimeDB".to_owned(),
            execution_us: 0,
            energy: 0,
        }),
    }
}
