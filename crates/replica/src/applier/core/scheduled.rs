//! Rows that are due, and calls that modules ask for at once: the call of their reducer, in the database's own name, and what follows it.

use super::super::calls::Calls;
use super::super::window::{Failure, Kind};
use super::Core;
use crate::ActiveDatabase;
use rtdb_consensus::command::{IMMEDIATE_SCHEDULE, Timer, TimerAt};
use rtdb_consensus::{Refusal, ResolvedCommand};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{Firing, SCHEDULED, UNSCHEDULED, When, encode_timer};

const _: () = assert!(IMMEDIATE_SCHEDULE == rtdb_determinism::IMMEDIATE_SCHEDULE);

impl Core {
    pub(super) fn timer(
        &mut self,
        command: &ResolvedCommand,
        timer: &Timer,
        active: &ActiveDatabase,
        calls: &mut Calls,
    ) {
        let is_known = match timer.schedule {
            IMMEDIATE_SCHEDULE => active.calls_at_once,
            schedule => (schedule as usize) < active.module.schedules().len(),
        };
        let never = active.firing == Firing::Never;
        if timer.module != active.position.0 || !is_known || never {
            return self.answer(command, Err(Failure::Refused(Refusal::OtherModule)));
        }
        let header = CallHeader {
            sender: active.identity,
            timestamp_us: command.timestamp_us,
            index: command.position.0,
            ..CallHeader::default()
        };
        let known = timer.at.map(|at| match at {
            TimerAt::IntervalUs(interval_us) => When::Interval(interval_us),
            TimerAt::TimeUs(at_us) => When::Time(at_us),
        });
        let own = encode_timer(active.firing, timer.schedule, timer.row, known);
        let (kind, reducer) = match timer.over {
            false => (Kind::Scheduled, SCHEDULED),
            true => (Kind::Unscheduled, UNSCHEDULED),
        };
        self.send(command, kind, reducer, header, &own, 0, calls);
    }
}
