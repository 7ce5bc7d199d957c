//! Where a command stands in its group's log.

use std::fmt;

/// The index of an entry in a group's log, from 1.
pub type LogIndex = u64;

/// How many bits of a [`Position`] count commands within an entry.
const COMMAND_BITS: u32 = 16;

/// Commands an entry may hold.
pub const COMMANDS_PER_ENTRY_MAX: usize = 1 << COMMAND_BITS;

/// A command's place in its group's log: the entry's index and the command's place in the entry. Positions grow
/// along the log, and the same command has the same position on every node: modules see it as `rtdb_index`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position of the `command`th command (from 0) of the entry at `index`.
    ///
    /// # Panics
    /// If the log index needs more than 48 bits or the command more than 16: neither can happen in a sound log.
    pub fn new(index: LogIndex, command: usize) -> Self {
        assert!(index < 1 << (64 - COMMAND_BITS), "log index {index} out of range");
        assert!(command < COMMANDS_PER_ENTRY_MAX, "command {command} out of range");
        Self(index << COMMAND_BITS | command as u64)
    }

    /// The index of the entry.
    pub fn index(self) -> LogIndex {
        self.0 >> COMMAND_BITS
    }

    /// The command's place in the entry, from 0.
    pub fn command(self) -> usize {
        (self.0 & (COMMANDS_PER_ENTRY_MAX as u64 - 1)) as usize
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.command())
    }
}
