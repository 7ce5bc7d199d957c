//! The pause before a lost connection is tried again: pure.

use rtdb_consensus::Position;
use std::time::Duration;

/// It doubles from the first to the second.
const MIN: Duration = Duration::from_millis(20);
pub(super) const MAX: Duration = Duration::from_secs(2);

/// How long is waited before the next attempt.
#[derive(Debug)]
pub(super) struct BackOff {
    pause: Duration,
    /// The last call that was not answered.
    unanswered: Position,
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            pause: MIN,
            unanswered: Position::default(),
        }
    }
}

impl BackOff {
    /// Something went on, or is begun anew.
    pub(super) fn restart(&mut self) {
        self.pause = MIN;
    }

    /// 1.2.0 has not answered a call, as it does: what is tried next begins behind it, also where no outcome is new because
    /// all is applied again.
    pub(super) fn unanswered(&mut self, position: Position) {
        if std::mem::replace(&mut self.unanswered, position) != position {
            self.restart();
        }
    }

    /// The pause.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Another attempt begins.
    pub(super) fn grow(&mut self) {
        self.pause = (self.pause * 2).min(MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_are_not_answered_do_not_add_up() {
        let mut back_off = BackOff::default();
        for position in 1..100 {
            back_off.unanswered(Position(position));
            assert_eq!(back_off.pause(), MIN);
            back_off.grow();
        }
        for _ in 0..10 {
            back_off.unanswered(Position(99));
            back_off.grow();
        }
        assert_eq!(back_off.pause(), MAX, "it is the same one again and again");
        back_off.restart();
        assert_eq!(back_off.pause(), MIN);
    }
}
