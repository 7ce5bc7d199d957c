//! How far this node is behind: for how long a command waits here from being committed to being applied.

use parking_lot::Mutex;
use rtdb_consensus::LogIndex;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often a mark is set.
const PERIOD: Duration = Duration::from_millis(100);

/// Marks the log's end, and measures until what is before the mark is applied; then sets the next mark.
#[derive(Default)]
pub(crate) struct Lag(Mutex<Mark>);

#[derive(Default)]
struct Mark {
    /// When it was set; `None` if it has been reached.
    since: Option<Instant>,
    /// How long the last one took.
    last: Duration,
}

impl Lag {
    /// How far the node is behind. A command that waits now has waited for so long at least.
    pub(crate) fn now(&self) -> Duration {
        let mark = self.0.lock();
        mark.since
            .map_or(mark.last, |since| since.elapsed().max(mark.last))
    }

    /// Measures, until the log or the replica has ended.
    pub(crate) async fn run(
        &self,
        resolved: watch::Receiver<LogIndex>,
        mut applied: watch::Receiver<LogIndex>,
    ) {
        loop {
            let end = *resolved.borrow();
            let since = Instant::now();
            self.0.lock().since = Some(since);
            if applied.wait_for(|applied| *applied >= end).await.is_err() || resolved.has_changed().is_err() {
                return;
            }
            *self.0.lock() = Mark {
                since: None,
                last: since.elapsed(),
            };
            tokio::time::sleep(PERIOD).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_measured_and_forgotten_once_all_is_applied() {
        let (log, replica) = (watch::Sender::new(7), watch::Sender::new(7));
        let lag = Arc::new(Lag::default());
        let (measuring, ends) = (lag.clone(), (log.subscribe(), replica.subscribe()));
        tokio::spawn(async move { measuring.run(ends.0, ends.1).await });
        tokio::time::sleep(2 * PERIOD).await;
        assert_eq!(lag.now(), Duration::ZERO);

        log.send_replace(9);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(lag.now() > Duration::from_secs(4), "{:?}", lag.now());
        // The log goes on, and the replica stays behind.
        log.send_replace(20);
        replica.send_replace(9);
        tokio::time::sleep(2 * PERIOD).await;
        assert!(lag.now() > Duration::from_secs(4), "{:?}", lag.now());
        replica.send_replace(20);
        tokio::time::sleep(3 * PERIOD).await;
        assert_eq!(lag.now(), Duration::ZERO);
    }
}
