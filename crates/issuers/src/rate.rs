//! So many in so long.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Lets no more than `max` pass within `window`.
#[derive(Debug)]
pub(crate) struct Rate {
    max: usize,
    window: Duration,
    passed: VecDeque<Instant>,
}

impl Rate {
    pub(crate) fn new(max: usize, window: Duration) -> Self {
        Self {
            max,
            window,
            passed: VecDeque::with_capacity(max),
        }
    }

    /// Whether another one may pass now.
    pub(crate) fn pass(&mut self) -> bool {
        let now = Instant::now();
        while self
            .passed
            .front()
            .is_some_and(|first| now.duration_since(*first) >= self.window)
        {
            self.passed.pop_front();
        }
        if self.passed.len() >= self.max {
            return false;
        }
        self.passed.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_pass_in_so_long() {
        let mut rate = Rate::new(2, Duration::from_secs(60));
        assert_eq!([rate.pass(), rate.pass(), rate.pass()], [true, true, false]);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!rate.pass());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([rate.pass(), rate.pass(), rate.pass()], [true, true, false]);
    }
}
