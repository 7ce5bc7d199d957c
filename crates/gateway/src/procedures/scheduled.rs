//! Procedures that are scheduled. The node that leads runs them, in the database's own name: first the hidden procedure takes the
//! row, in a transaction that counts only in the leader's term; then the module's own runs with it, and nobody hears what it
//! returns.

use super::{Course, Decided, ProcedureCall};
use crate::node::Node;
use crate::upstream::UpstreamConfig;
use rtdb_consensus::Position;
use rtdb_consensus::command::{Timer, TimerAt};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{Firing, TICK, When, encode_timer};
use rtdb_protocol::server::ProcedureOutcome;
use spacetimedb_lib::Identity;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// What has become of a row that was due, by the time when its procedure has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheduled {
    /// The procedure has run, well or not, from this time on, in microseconds since the Unix epoch.
    Ran {
        /// By the log.
        at_us: i64,
    },
    /// There was no such row any more, or it was due at another time.
    NotThere,
    /// It did not run, and why.
    NotRun(String),
    /// Nobody knows whether the row was taken.
    Unknown,
}

/// The row that the first transaction takes.
pub(super) struct Claim {
    timer: Timer,
    /// Held until it is known what became of it.
    turn: Option<OwnedSemaphorePermit>,
    /// Whether that is being decided.
    is_proposed: bool,
    end: Option<Scheduled>,
}

impl Claim {
    /// Whether the row was due in the module that was published there: in another one its schedule may have another place.
    pub(super) fn is_of(&self, module: Position) -> bool {
        self.timer.module == module.0
    }

    /// What the next transaction takes, if it is not taken yet.
    pub(super) fn take(&mut self) -> Option<Timer> {
        self.is_proposed = self.turn.is_some();
        self.is_proposed.then(|| self.timer.clone())
    }

    pub(super) fn settled(&mut self, decided: &Decided) {
        if !std::mem::take(&mut self.is_proposed) {
            return;
        }
        self.end = Some(match decided {
            Decided::Committed(applied) => Scheduled::Ran {
                at_us: applied.timestamp_us,
            },
            Decided::Conflict => Scheduled::NotRun("calls came between, again and again".to_owned()),
            Decided::Lost(why) => Scheduled::NotRun(why.clone()),
            Decided::Unknown(_) => Scheduled::Unknown,
        });
        // After a conflict it is tried again, a few times.
        if !matches!(decided, Decided::Conflict) {
            self.turn = None;
        }
    }

    fn end(self) -> Option<Scheduled> {
        match self.is_proposed {
            true => Some(Scheduled::Unknown),
            false => self.end,
        }
    }
}

/// Runs a procedure with a row that is due, to its end. `turn` is dropped once it is known whether the row is taken.
pub(crate) async fn run(node: Arc<Node>, timer: Timer, turn: OwnedSemaphorePermit) -> Scheduled {
    let database = <[u8; 32]>::try_from(timer.database.as_ref()).map(Identity::from_byte_array);
    let record = database.ok().and_then(|it| node.catalog.by_identity(&it));
    let Some(record) = record else {
        return Scheduled::NotRun("there is no such database".to_owned());
    };
    let config = UpstreamConfig::of_owner(&node, &record);
    let known = timer.at.map(|at| match at {
        TimerAt::IntervalUs(interval_us) => When::Interval(interval_us),
        TimerAt::TimeUs(at_us) => When::Time(at_us),
    });
    let call = ProcedureCall {
        procedure: TICK.to_owned(),
        args: encode_timer(Firing::ByTime, timer.schedule, timer.row, known).into(),
        request_id: 0,
        header: CallHeader {
            sender: record.identity.to_byte_array(),
            ..CallHeader::default()
        },
        receipts: 0,
    };
    let mut course = Course::new(node, config, &call);
    course.claim = Some(Claim {
        timer,
        turn: Some(turn),
        is_proposed: false,
        end: None,
    });
    let result = course.run(call).await;
    let end = course.claim.and_then(Claim::end);
    match (end, result) {
        (Some(end), _) => end,
        (None, Ok(result)) if matches!(result.outcome, ProcedureOutcome::Returned(_)) => Scheduled::NotThere,
        (None, Ok(_)) => Scheduled::NotRun("the procedure has failed before it had begun".to_owned()),
        (None, Err(why)) => Scheduled::NotRun(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_consensus::{Applied, Reply};
    use tokio::sync::Semaphore;

    fn claim() -> (Claim, Arc<Semaphore>) {
        let turns = Arc::new(Semaphore::new(1));
        let claim = Claim {
            timer: Timer {
                row: 7,
                ..Timer::default()
            },
            turn: turns.clone().try_acquire_owned().ok(),
            is_proposed: false,
            end: None,
        };
        (claim, turns)
    }

    fn committed(timestamp_us: i64) -> Decided {
        Decided::Committed(Applied {
            position: Position(5),
            timestamp_us,
            reply: Reply::Done,
        })
    }

    #[test]
    fn a_row_is_claimed_until_that_is_decided() {
        let (mut claim, turns) = claim();
        for _ in 0..2 {
            assert_eq!(claim.take().unwrap().row, 7);
            claim.settled(&Decided::Conflict);
            assert_eq!(turns.available_permits(), 0);
        }
        assert!(claim.take().is_some());
        claim.settled(&committed(9));
        assert_eq!(turns.available_permits(), 1, "the next one may claim its row");
        // What follows is the procedure's own.
        assert_eq!(claim.take(), None);
        claim.settled(&Decided::Lost("late".to_owned()));
        assert_eq!(claim.end(), Some(Scheduled::Ran { at_us: 9 }));
    }

    #[test]
    fn what_became_of_it_is_known_or_said_not_to_be() {
        let (nothing, _) = claim();
        assert_eq!(nothing.end(), None);
        let ends = [
            (None, Scheduled::Unknown),
            (Some(Decided::Unknown(String::new())), Scheduled::Unknown),
            (
                Some(Decided::Lost("no".to_owned())),
                Scheduled::NotRun("no".to_owned()),
            ),
        ];
        for (decided, expected) in ends {
            let (mut claim, turns) = claim();
            claim.take();
            if let Some(decided) = decided {
                claim.settled(&decided);
            }
            assert_eq!(claim.end(), Some(expected));
            assert_eq!(turns.available_permits(), 1);
        }
        // After a conflict the next attempt is what counts.
        let (mut claim, _) = claim();
        claim.take();
        claim.settled(&Decided::Conflict);
        claim.take();
        assert_eq!(claim.end(), Some(Scheduled::Unknown));
    }
}
