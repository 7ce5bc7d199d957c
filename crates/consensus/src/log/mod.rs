//! The log store: one log, on one disk, for all groups of a node.
//!
//! A thread of its own writes: it takes what all groups have waiting, in the order in which it came, writes it as one
//! batch with one fsync, and then says so to everybody who waited. What nobody waits for (the resolver's state, how far
//! the log is committed) stands in the same line and goes with the next batch: so nothing is ever on disk before what it
//! speaks of.
//!
//! In the order in which one builds on the other: a [`block`] carries its checksum; a [`change`] is what is written; a
//! [`segment`] is a [`head`] and [`batch`]es of changes; the [`index`] says in memory what there is, and where; the
//! [`reader`] finds it; the [`journal`] keeps the segments; the [`queue`] and the [`writer`] fill them; and a [`group`](GroupLog) is what raft sees of it all.
//!
//! Every byte that was acknowledged is checked when it is read: those of the newest segment, in which all that is not
//! entries stands, when the store opens; those of older ones when their entries are wanted. Only the last batch may be
//! unfinished, and only if nobody was told of it. What else is found is damage, and the node does not start, or stops.

mod batch;
mod block;
mod broken;
mod change;
mod error;
mod files;
mod format;
mod group;
mod head;
mod index;
mod journal;
mod queue;
mod reader;
mod segment;
#[cfg(test)]
mod sim;
mod stall;
mod store;
mod tail;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod troubled;
mod writer;

pub(crate) use change::{Change, Sequence, Space};
pub use error::StoreError;
pub use files::{DataFile, Disk, Files};
pub(crate) use group::GroupLog;
pub(crate) use queue::Done;
pub(crate) use store::EPOCH_MAX;
pub use store::Store;
pub use writer::WriteStats;
