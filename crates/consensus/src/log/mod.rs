//! The log store: one directory and one journal for all groups of a node.
//!
//! A thread of its own writes: it takes what all groups have waiting, writes it as one batch with one fsync, and then
//! says so to everybody who waited. What the resolver writes needs no fsync and goes with the next batch: since the
//! journal keeps the order, it can never be ahead of the entries it was made from.

mod error;
mod format;
mod group;
mod journal;
mod store;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use error::StoreError;
pub(crate) use group::GroupLog;
pub use journal::{Disk, Journal};
pub use store::Store;
pub(crate) use store::{Change, Space};
pub(crate) use writer::Done;
pub use writer::WriteStats;
