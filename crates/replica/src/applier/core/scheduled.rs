//! Rows that are due: the call of their reducer, in the database's own name, and what follows it.

use super::super::calls::Calls;
use super::super::window::{Failure, Kind};
use super::Core;
use crate::ActiveDatabase;
use rtdb_consensus::command::Timer;
use rtdb_consensus::{Refusal, ResolvedCommand};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{SCHEDULED, UNSCHEDULED};

impl Core {
    pub(super) fn timer(
        &mut self,
        command: &ResolvedCommand,
        timer: &Timer,
        active: &ActiveDatabase,
        calls: &mut Calls,
    ) {
        let is_known = (timer.schedule as usize) < active.module.schedules().len();
        if timer.module != active.position.0 || !is_known || !active.fires_timers {
            return self.answer(command, Err(Failure::Refused(Refusal::OtherModule)));
        }
        let header = CallHeader {
            sender: active.identity,
            timestamp_us: command.timestamp_us,
            index: command.position.0,
            ..CallHeader::default()
        };
        let own = [&timer.schedule.to_le_bytes()[..], &timer.row.to_le_bytes()].concat();
        let (kind, reducer) = match timer.over {
            false => (Kind::Scheduled, SCHEDULED),
            true => (Kind::Unscheduled, UNSCHEDULED),
        };
        self.send(command, kind, reducer, header, &own, 0, calls);
    }
}
