//! When rows with an interval were due last, as the log has it: the next leader goes on from there. It is known as far as this
//! node has read the log since it was started.

use rtdb_consensus::command::Timer;
use std::collections::{BTreeMap, BTreeSet};

/// Rows that are remembered of a database. Beyond, those are forgotten that were due the longest time ago, most of which are
/// gone: they begin anew with the next leader.
const TICKS_MAX: usize = 100_000;

/// Of one database, while one module runs.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// The position of the module's publication.
    module: u64,
    /// By the schedule's place and the row's key, in microseconds since the Unix epoch.
    due_us: BTreeMap<(u32, u64), i64>,
    /// The same by when they were due.
    oldest: BTreeSet<(i64, (u32, u64))>,
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
        if let Some(before_us) = self.due_us.insert(row, timer.interval_due_us) {
            self.oldest.remove(&(before_us, row));
        }
        self.oldest.insert((timer.interval_due_us, row));
        if self.due_us.len() > TICKS_MAX
            && let Some((_, row)) = self.oldest.pop_first()
        {
            self.due_us.remove(&row);
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
        let rows = 2 * TICKS_MAX as u64;
        for row in 0..rows {
            ticks.note(&timer(2, row, 50 + row as i64));
            ticks.note(&timer(2, 0, 60 + row as i64));
        }
        let kept = ticks.of(2);
        assert_eq!((kept.len(), ticks.oldest.len()), (TICKS_MAX, TICKS_MAX));
        assert!(kept.contains_key(&(0, 0)), "it was due a moment ago");
        assert!(!kept.contains_key(&(0, 8)) && kept.contains_key(&(0, rows - 1)));
    }
}
