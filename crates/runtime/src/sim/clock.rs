//! A node's clock, which is not quite right.

use crate::time::START_NS;

/// The time of day at which every simulation begins, in microseconds since the Unix epoch.
const WALL_START_US: u64 = 1_700_000_000_000_000;

/// A node's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// How much faster than true time it runs, in millionths.
    ppm: i64,
    /// Since when, in true time, and what it showed then: it never goes back.
    since: u64,
    shown: u64,
    /// How far ahead its time of day is, in microseconds.
    ahead_us: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            ppm: 0,
            since: START_NS,
            shown: START_NS,
            ahead_us: 0,
        }
    }
}

impl Clock {
    pub(super) fn set(&mut self, now: u64, ppm: i64, ahead_us: i64) {
        self.drift(now, ppm);
        self.ahead_us = ahead_us;
    }

    pub(super) fn drift(&mut self, now: u64, ppm: i64) {
        (self.shown, self.since, self.ppm) = (self.monotonic(now), now, ppm);
    }

    pub(super) fn shift(&mut self, by_us: i64) {
        self.ahead_us = self.ahead_us.saturating_add(by_us);
    }

    /// What it shows at a moment of true time.
    pub(super) fn monotonic(&self, now: u64) -> u64 {
        let passed = i128::from(now.saturating_sub(self.since));
        let shown = i128::from(self.shown) + passed + passed * i128::from(self.ppm) / 1_000_000;
        shown.clamp(0, i128::from(u64::MAX)) as u64
    }

    /// The moment of true time at which it shows that much.
    pub(super) fn true_ns(&self, shown: u64) -> u64 {
        let passed = i128::from(shown.saturating_sub(self.shown));
        let rate = i128::from(1_000_000 + self.ppm).max(1);
        let passed = (passed * 1_000_000 + rate - 1) / rate;
        (i128::from(self.since) + passed).clamp(0, i128::from(u64::MAX)) as u64
    }

    pub(super) fn wall_us(&self, now: u64) -> u64 {
        let passed_us = self.monotonic(now).saturating_sub(START_NS) / 1_000;
        (WALL_START_US + passed_us).saturating_add_signed(self.ahead_us)
    }
}
