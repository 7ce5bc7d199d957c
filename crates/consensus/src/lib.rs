//! Raft groups: commands, log store, transport, membership.
//!
//! Knows nothing of SpacetimeDB: a command is carried, ordered, stamped and counted here, and what it means is the
//! replica's and the gateway's affair.

pub mod command;
mod outcome;
mod position;
mod propose;

pub use command::Command;
pub use outcome::{Applied, Outcome, Refusal, Reply, Unapplied};
pub use position::{COMMANDS_PER_ENTRY_MAX, LogIndex, Position};
pub use propose::{
    Follow, NotProposed, Origin, Pending, Propose, ReadError, ResolvedCommand, ResolvedEntry, Session,
};
