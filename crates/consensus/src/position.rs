//! Where a command stands in its group's log.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The index of an entry in a group's log, from 1 to [`LOG_INDEX_MAX`].
pub type LogIndex = u64;

/// How often what a database's positions count has begun anew: 0 at first, raised when the database moves to another
/// group or is restored, whose indices may be lower.
pub type Generation = u8;

/// How many bits of a [`Position`] count commands within an entry.
const COMMAND_BITS: u32 = 16;

/// How many bits of a [`Position`] are the entry's index; what is above them is the generation.
const INDEX_BITS: u32 = 40;

/// Commands an entry may hold, those that take two positions counted twice.
pub const COMMANDS_PER_ENTRY_MAX: usize = 1 << COMMAND_BITS;

/// The largest index of an entry: at a thousand entries a second a log gets there after 34 years.
pub const LOG_INDEX_MAX: LogIndex = (1 << INDEX_BITS) - 1;

/// A command's place in its group's log: 8 bits of generation, 40 bits of the entry's index, and 16 bits of the command's
/// place in the entry. Positions grow along the log and along the generations, and the same command has the same
/// position on every node: modules see it as `rtdb_index`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position of the `command`th command (from 0) of the entry at `index`, in the first generation.
    ///
    /// # Panics
    /// If the index is above [`LOG_INDEX_MAX`] or the command not below [`COMMANDS_PER_ENTRY_MAX`]: the log's rules let
    /// no such entry in.
    pub fn new(index: LogIndex, command: usize) -> Self {
        Self::in_generation(0, index, command)
    }

    /// The same, in a generation.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn in_generation(generation: Generation, index: LogIndex, command: usize) -> Self {
        assert!(index <= LOG_INDEX_MAX, "log index {index} out of range");
        assert!(command < COMMANDS_PER_ENTRY_MAX, "command {command} out of range");
        let generation = u64::from(generation) << (INDEX_BITS + COMMAND_BITS);
        Self(generation | index << COMMAND_BITS | command as u64)
    }

    /// The generation.
    pub fn generation(self) -> Generation {
        (self.0 >> (INDEX_BITS + COMMAND_BITS)) as Generation
    }

    /// The index of the entry.
    pub fn index(self) -> LogIndex {
        self.0 >> COMMAND_BITS & LOG_INDEX_MAX
    }

    /// The command's place in the entry, from 0.
    pub fn command(self) -> usize {
        (self.0 & (COMMANDS_PER_ENTRY_MAX as u64 - 1)) as usize
    }
}

/// `index.command`, after `generation:` unless that is the first.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.generation() != 0 {
            write!(f, "{}:", self.generation())?;
        }
        write!(f, "{}.{}", self.index(), self.command())
    }
}

/// A text that is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a position: write it as `rtdb status` shows it, such as 118.3")]
pub struct NotAPosition;

/// As it is shown.
impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let (generation, place) = text.split_once(':').unwrap_or(("0", text));
        let (index, command) = place.split_once('.').ok_or(NotAPosition)?;
        let generation = generation.parse().map_err(|_| NotAPosition)?;
        let index = index.parse().ok().filter(|index| *index <= LOG_INDEX_MAX);
        let command = command
            .parse()
            .ok()
            .filter(|command| *command < COMMANDS_PER_ENTRY_MAX);
        match (index, command) {
            (Some(index), Some(command)) => Ok(Self::in_generation(generation, index, command)),
            _ => Err(NotAPosition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts() -> impl Strategy<Value = (Generation, LogIndex, usize)> {
        (any::<Generation>(), 0..=LOG_INDEX_MAX, 0..COMMANDS_PER_ENTRY_MAX)
    }

    fn position((generation, index, command): (Generation, LogIndex, usize)) -> Position {
        Position::in_generation(generation, index, command)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_position_is_its_parts(parts in parts()) {
            let position = position(parts);
            prop_assert_eq!((position.generation(), position.index(), position.command()), parts);
        }

        #[test]
        fn every_number_is_a_position(number: u64) {
            let at = Position(number);
            prop_assert_eq!(position((at.generation(), at.index(), at.command())), at);
        }

        /// As a module compares them: as numbers.
        #[test]
        fn positions_are_ordered_by_generation_then_index_then_command(one in parts(), other in parts()) {
            prop_assert_eq!(position(one).0.cmp(&position(other).0), one.cmp(&other));
        }
    }

    #[test]
    fn the_limits_fill_the_number() {
        let last = COMMANDS_PER_ENTRY_MAX - 1;
        assert_eq!(Position::new(1, 0), Position(65_536));
        assert_eq!(Position::new(LOG_INDEX_MAX, last), Position((1 << 56) - 1));
        assert_eq!(Position::in_generation(1, 0, 0), Position(1 << 56));
        assert_eq!(
            Position::in_generation(255, LOG_INDEX_MAX, last),
            Position(u64::MAX)
        );
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn an_index_does_not_run_over_into_the_generation() {
        Position::new(LOG_INDEX_MAX + 1, 0);
    }

    #[test]
    fn a_position_is_read_as_it_is_shown() {
        let last = COMMANDS_PER_ENTRY_MAX - 1;
        for position in [
            Position::new(118, 3),
            Position::in_generation(2, LOG_INDEX_MAX, last),
        ] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for wrong in [
            "",
            "118",
            "118.",
            ".3",
            "x.3",
            "118.65536",
            "1099511627776.0",
            "256:1.0",
            "-1.0",
        ] {
            assert_eq!(wrong.parse::<Position>(), Err(NotAPosition), "{wrong}");
        }
    }

    #[test]
    fn only_a_later_generation_is_shown() {
        assert_eq!(Position::new(118, 3).to_string(), "118.3");
        assert_eq!(Position::in_generation(2, 118, 3).to_string(), "2:118.3");
    }
}
