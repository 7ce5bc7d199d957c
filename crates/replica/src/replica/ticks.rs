//! When rows with an interval were due last, as the log has it: the next leader goes on from there. It is known as far as this
//! node has read the log since it was started.

use rtdb_consensus::command::Timer;
use std::collections::BTreeMap;

/// Rows that are remembered of a database. What is beyond begins anew with the next leader.
const TICKS_MAX: usize = 100_000;

/// Of one database, while one module runs.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// The position of the module's publication.
    module: u64,
    /// By the schedule's place and the row's key, in microseconds since the Unix epoch.
    due_us: BTreeMap<(u32, u64), i64>,
}

impl Ticks {
    /// The log has this.
    pub(super) fn note(&mut self, timer: &Timer) {
        if timer.over || timer.interval_due_us == 0 {
            return;
        }
        if timer.module != self.module {
            *self = Self {
                module: timer.module,
                ..Self::default()
            };
        }
        let row = (timer.schedule, timer.row);
        if self.due_us.len() < TICKS_MAX || self.due_us.contains_key(&row) {
            self.due_us.insert(row, timer.interval_due_us);
        }
    }

    /// What is known of the rows of a module.
    pub(super) fn of(&self, module: u64) -> BTreeMap<(u32, u64), i64> {
        match module == self.module {
            true => self.due_us.clone(),
            false => BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tick_of_each_row_of_the_running_module_is_known() {
        let mut ticks = Ticks::default();
        let timer = |module, row, interval_due_us| Timer {
            module,
            row,
            interval_due_us,
            ..Timer::default()
        };
        for timer in [timer(1, 7, 10), timer(1, 8, 20), timer(1, 7, 30), timer(1, 9, 0)] {
            ticks.note(&timer);
        }
        assert_eq!(ticks.of(1), [((0, 7), 30), ((0, 8), 20)].into());
        assert_eq!(ticks.of(2), BTreeMap::new());
        ticks.note(&timer(2, 8, 40));
        assert_eq!(
            (ticks.of(1), ticks.of(2)),
            (BTreeMap::new(), [((0, 8), 40)].into())
        );
        for row in 0..2 * TICKS_MAX as u64 {
            ticks.note(&timer(2, row, 50));
        }
        assert_eq!(ticks.due_us.len(), TICKS_MAX);
    }
}
