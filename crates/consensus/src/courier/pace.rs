//! When proposals are sent again: pure.

use crate::config::Timing;
use crate::proposer::Seen;
use rtdb_runtime::Instant;
use std::time::Duration;

/// The longest wait before refused proposals are sent again. The first one is [`Timing::retry_ms`].
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The longest patience with a leader, beside the time that bytes take. The first one is [`Timing::progress_ms`].
const PATIENCE_MAX: Duration = Duration::from_secs(16);

/// The slowest rate, in bytes a second, at which proposals may go to the leader and come back in the log: on a slower
/// link a large one is sent again while it is still on its way.
const SLOWEST_BYTES_PER_S: u64 = 256 << 10;

/// A wait that doubles each time.
#[derive(Debug)]
struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max: max.max(first),
            next: first,
        }
    }

    fn take(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait
    }

    fn reset(&mut self) {
        self.next = self.first;
    }
}

/// How long to wait for a leader that takes nothing, and how long for one that takes proposals of which nothing is
/// seen again. Both grow until the log has more of them, or another node leads.
#[derive(Debug)]
pub(super) struct Pace {
    retry: Backoff,
    patience: Backoff,
    /// The last number that the log was seen to have.
    resolved: u64,
    /// Since when something is waited for, and nothing has come. `None` while there is nothing to wait for.
    since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            retry: Backoff::new(timing.retry(), RETRY_MAX),
            patience: Backoff::new(timing.progress(), PATIENCE_MAX),
            resolved: 0,
            since: None,
        }
    }

    /// Everything that the log does not have is sent from now on, to another leader or to the same again.
    pub(super) fn begin(&mut self, is_another: bool) {
        self.since = None;
        if is_another {
            self.reset();
        }
    }

    /// Looks at how the proposals do. Gives back when it is time to send them again; `None` while nothing is waited
    /// for.
    pub(super) fn look(&mut self, seen: &Seen, now: Instant) -> Option<Instant> {
        if seen.resolved != self.resolved {
            self.resolved = seen.resolved;
            self.since = None;
            self.reset();
        }
        if !seen.is_waiting {
            self.since = None;
            return None;
        }
        if rtdb_runtime::planted("patience never ends") {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let transfer = Duration::from_millis(seen.bytes_under_way as u64 * 1_000 / SLOWEST_BYTES_PER_S);
        Some(since + self.patience.next + transfer)
    }

    /// The connection has taken nothing for so long, which is not the leader's fault.
    pub(super) fn pause(&mut self, blocked: Duration) {
        self.since = self.since.map(|since| since + blocked);
    }

    /// The leader refuses: how long to wait before everything is sent again.
    pub(super) fn refused(&mut self) -> Duration {
        self.retry.take()
    }

    /// The patience has ended: the next one is longer.
    pub(super) fn stalled(&mut self) {
        self.patience.take();
    }

    fn reset(&mut self) {
        self.retry.reset();
        self.patience.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> (Pace, Instant) {
        (Pace::new(&Timing::default()), Instant::now())
    }

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn waiting(resolved: u64) -> Seen {
        Seen {
            resolved,
            is_waiting: true,
            bytes_under_way: 0,
        }
    }

    fn idle(resolved: u64) -> Seen {
        Seen {
            is_waiting: false,
            ..waiting(resolved)
        }
    }

    #[test]
    fn the_clock_starts_when_something_is_waited_for() {
        let (mut pace, now) = pace();
        assert_eq!(pace.look(&waiting(0), now), Some(now + ms(2_000)));
        assert_eq!(
            pace.look(&waiting(0), now + ms(500)),
            Some(now + ms(2_000)),
            "it goes on"
        );
        assert_eq!(
            pace.look(&waiting(1), now + ms(700)),
            Some(now + ms(2_700)),
            "progress starts it anew"
        );
        assert_eq!(pace.look(&idle(2), now + ms(800)), None);
        let later = now + ms(60_000);
        assert_eq!(pace.look(&waiting(2), later), Some(later + ms(2_000)));
        pace.begin(false);
        assert_eq!(
            pace.look(&waiting(2), later + ms(100)),
            Some(later + ms(2_100)),
            "so does a new stream"
        );
        pace.pause(ms(300));
        assert_eq!(
            pace.look(&waiting(2), later + ms(500)),
            Some(later + ms(2_400)),
            "it stands while nothing can be sent"
        );
    }

    #[test]
    fn refusals_are_answered_more_and_more_slowly() {
        let (mut pace, now) = pace();
        let waits: Vec<_> = (0..7).map(|_| pace.refused().as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1_000, 1_000]);
        pace.begin(false);
        pace.look(&waiting(0), now);
        assert_eq!(pace.refused(), ms(1_000), "the same leader, and no progress");
        pace.begin(true);
        assert_eq!(pace.refused(), ms(50), "another leader");
        assert_eq!(pace.refused(), ms(100));
        pace.look(&waiting(1), now);
        assert_eq!(pace.refused(), ms(50), "progress");
    }

    #[test]
    fn patience_grows_with_what_is_under_way_and_each_time_that_it_ends() {
        let (mut pace, now) = pace();
        let large = Seen {
            bytes_under_way: 30 << 20,
            ..waiting(0)
        };
        assert_eq!(pace.look(&large, now), Some(now + ms(2_000 + 120_000)));
        let patience = |pace: &mut Pace| {
            pace.stalled();
            pace.begin(false);
            pace.look(&waiting(0), now).unwrap() - now
        };
        let patiences: Vec<_> = (0..5).map(|_| patience(&mut pace).as_secs()).collect();
        assert_eq!(patiences, [4, 8, 16, 16, 16]);
        assert_eq!(
            pace.look(&waiting(1), now),
            Some(now + ms(2_000)),
            "progress ends that"
        );
    }

    #[test]
    fn no_setting_makes_a_wait_shorter_than_it_says() {
        let timing = Timing {
            retry_ms: 5_000,
            progress_ms: 60_000,
            ..Timing::default()
        };
        let mut pace = Pace::new(&timing);
        assert_eq!((pace.refused(), pace.refused()), (ms(5_000), ms(5_000)));
        let now = Instant::now();
        pace.stalled();
        assert_eq!(pace.look(&waiting(0), now), Some(now + ms(60_000)));
    }
}
