//! Which command stops the server: pure.
//!
//! Many commands are under way at a time, so a server that dies says little about which of them it was. When it dies
//! again before all of them are done, they are sent one at a time, until the last of them is done: then the one that is
//! alone on its way is the one.

use rtdb_consensus::Position;

/// How often the server may be stopped with commands on their way until they go one at a time. It may have been killed
/// for reasons of its own.
const STOPS_UNTIL_WARY: u32 = 2;
/// How often a command may stop the server with nothing else on its way until it is given up.
pub(super) const ATTEMPTS_MAX: u32 = 3;

/// What is known of commands that were on their way when the server was stopped.
#[derive(Debug, Default)]
pub(super) struct Poison {
    suspects: Option<Suspects>,
    /// The last command that was alone on its way, and how often.
    alone: Option<Stuck>,
}

/// The commands of which one has stopped the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspects {
    first: Position,
    last: Position,
    /// How often the server was stopped.
    stops: u32,
}

/// A command that the server does not survive, or can't finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stuck {
    pub(super) position: Position,
    /// How often the server was stopped by it.
    pub(super) attempts: u32,
}

impl Poison {
    /// The server was stopped, or broke the connection, with the commands from `first` to `last` on their way;
    /// `undisturbed` if no other database's suspect was.
    pub(super) fn stopped(&mut self, first: Position, last: Position, undisturbed: bool) {
        let before = self.suspects.filter(|it| first <= it.last && it.first <= last);
        self.suspects = Some(Suspects {
            // What comes before it was not on its way the other time.
            first: before.map_or(first, |before| before.first.max(first)),
            last: before.map_or(last, |before| before.last.max(last)),
            stops: before.map_or(0, |before| before.stops) + 1,
        });
        if first == last && undisturbed {
            let before = self.alone.filter(|alone| alone.position == first);
            self.alone = Some(Stuck {
                position: first,
                attempts: before.map_or(0, |alone| alone.attempts) + 1,
            });
        }
    }

    /// Everything up to `position` is done.
    pub(super) fn done(&mut self, position: Position) {
        self.suspects = self.suspects.filter(|suspects| suspects.last > position);
        self.alone = self.alone.filter(|alone| alone.position > position);
    }

    /// Whether the command at `position` must be alone on its way.
    pub(super) fn is_suspect(&self, position: Position) -> bool {
        self.suspects.is_some_and(|suspects| {
            (suspects.first..=suspects.last).contains(&position) && suspects.stops >= STOPS_UNTIL_WARY
        })
    }

    /// The command that has stopped the server too often.
    pub(super) fn stuck(&self) -> Option<Stuck> {
        self.alone.filter(|alone| alone.attempts >= ATTEMPTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that dies of the command at `poison`, and commands from 1 to `count`, of which so many are on their way
    /// at a time. `lost` is how many of those that were done it forgets each time. Gives the command that is found, and
    /// how often the server died.
    fn find(poison: u64, count: u64, window: u64, lost: u64) -> (Stuck, u32) {
        let (mut known, mut done) = (Poison::default(), 0);
        for deaths in 1..100 {
            loop {
                let first = Position(done + 1);
                let unsuspected = |at: &u64| !known.is_suspect(Position(*at));
                let more = (first.0..=(done + window).min(count)).take_while(unsuspected);
                let last = Position(more.last().unwrap_or(first.0));
                if (first.0..=last.0).contains(&poison) {
                    known.stopped(first, last, known.is_suspect(first));
                    done = (poison - 1).saturating_sub(lost);
                    break;
                }
                done = last.0;
                known.done(last);
            }
            if let Some(stuck) = known.stuck() {
                return (stuck, deaths);
            }
        }
        panic!("it was not found: {known:?}");
    }

    #[test]
    fn the_command_is_found_whichever_it_is() {
        for window in [1, 7, 64] {
            for poison in 1..=100 {
                for lost in [0, 1, 90] {
                    let (stuck, deaths) = find(poison, 100, window, lost);
                    assert_eq!(stuck.position, Position(poison), "{window} {poison} {lost}");
                    assert_eq!(stuck.attempts, ATTEMPTS_MAX);
                    assert!(deaths <= STOPS_UNTIL_WARY + ATTEMPTS_MAX);
                }
            }
        }
    }

    #[test]
    fn a_server_that_is_killed_now_and_then_slows_nothing_down() {
        let mut poison = Poison::default();
        for round in 0..100 {
            let (first, last) = (Position(round * 10 + 1), Position(round * 10 + 10));
            poison.stopped(first, last, true);
            assert!(!poison.is_suspect(first));
            poison.done(last);
            assert_eq!(poison.stuck(), None);
        }
    }

    /// As when the server has lost everything.
    #[test]
    fn what_was_done_before_is_applied_again_at_full_speed() {
        let mut poison = Poison::default();
        for _ in 0..STOPS_UNTIL_WARY {
            poison.stopped(Position(900), Position(950), true);
        }
        let suspects: Vec<u64> = (1..1000).filter(|at| poison.is_suspect(Position(*at))).collect();
        assert_eq!(suspects, (900..=950).collect::<Vec<_>>());
        // It died of something else.
        poison.stopped(Position(10), Position(20), true);
        assert!(!poison.is_suspect(Position(10)) && !poison.is_suspect(Position(900)));
    }

    #[test]
    fn what_is_done_is_not_suspect() {
        let mut poison = Poison::default();
        for _ in 0..ATTEMPTS_MAX - 1 {
            poison.stopped(Position(5), Position(5), true);
        }
        assert!(poison.is_suspect(Position(5)) && !poison.is_suspect(Position(6)));
        poison.done(Position(5));
        assert!(!poison.is_suspect(Position(5)));
        // Another one that is alone is counted from the beginning.
        poison.stopped(Position(6), Position(6), true);
        assert_eq!(poison.stuck(), None);
    }
}
