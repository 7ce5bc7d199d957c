//! How far something has come, for whoever watches.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// How often it is told.
const PERIOD: Duration = Duration::from_millis(250);

/// A line on a terminal; nothing elsewhere.
pub(super) struct Progress {
    what: String,
    begun: Instant,
    told: Option<Instant>,
    is_watched: bool,
}

impl Progress {
    pub(super) fn new(what: String) -> Self {
        Self {
            what,
            begun: Instant::now(),
            told: None,
            is_watched: stderr().is_terminal(),
        }
    }

    /// So many bytes have come, of nobody knows how many; and of so many rows.
    pub(super) fn came(&mut self, bytes: u64, rows: u64) {
        self.tell(|| format!("{} MiB have come ({rows} rows are to)", mib(bytes)));
    }

    /// So many bytes, of so many.
    pub(super) fn of(&mut self, bytes: u64, all: u64) {
        let elapsed = self.begun.elapsed();
        self.tell(|| {
            let left = elapsed.as_secs_f64() * (all.saturating_sub(bytes) as f64 / bytes.max(1) as f64);
            format!("{} of {} MiB, {left:.0} s left", mib(bytes), mib(all))
        });
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if !self.is_watched || self.told.is_some_and(|told| told.elapsed() < PERIOD) {
            return;
        }
        self.told = Some(Instant::now());
        let mut err = stderr();
        let _ = write!(err, "\r\x1b[K{}{}", self.what, line());
        let _ = err.flush();
    }

    /// Nothing is told any more.
    pub(super) fn done(&self) {
        if self.told.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// Bytes in MiB, for people.
pub(super) fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
