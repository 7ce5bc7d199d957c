//! A condition that counts once it has lasted, so that what follows from it does not come and go: pure.

use rtdb_runtime::Instant;
use std::time::Duration;

/// A condition that is looked at again and again.
#[derive(Debug)]
pub(crate) struct Lasting {
    /// How long it must have been there until it counts.
    begins_after: Duration,
    /// How long it must have been away until it does not count any more.
    ends_after: Duration,
    counts: bool,
    /// Since when it has been otherwise than it counts.
    otherwise: Option<Instant>,
}

impl Lasting {
    pub(crate) fn new(begins_after: Duration, ends_after: Duration) -> Self {
        Self {
            begins_after,
            ends_after,
            counts: false,
            otherwise: None,
        }
    }

    /// Takes in whether it is there, and gives back whether it counts.
    pub(crate) fn look(&mut self, is_there: bool, now: Instant) -> bool {
        if is_there == self.counts {
            self.otherwise = None;
            return self.counts;
        }
        let since = *self.otherwise.get_or_insert(now);
        let patience = if self.counts {
            self.ends_after
        } else {
            self.begins_after
        };
        if now.duration_since(since) >= patience {
            self.counts = is_there;
            self.otherwise = None;
        }
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_does_not_count_and_what_lasts_does() {
        let begin = Instant::now();
        let mut it = Lasting::new(Duration::from_secs(3), Duration::from_secs(30));
        let mut look = |second, is_there| it.look(is_there, begin + Duration::from_secs(second));
        for second in 0..60 {
            assert!(!look(second, second % 3 != 0), "it was away in between");
        }
        assert!(!look(60, false) && !look(61, true) && !look(63, true) && look(64, true));
        for second in 65..210 {
            assert!(look(second, second % 30 == 0), "it was there in between");
        }
        assert!(look(210, true) && look(211, false) && look(240, false) && !look(241, false));
        assert!(!look(242, true) && !look(244, true) && look(245, true));
    }
}
