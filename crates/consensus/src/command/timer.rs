//! Calls that fall due.

use bytes::Bytes;

/// A row of a schedule table is due: its reducer is called, and then the row goes, if it is for one time. Proposed by the
/// shard's leader, and it counts only in an entry that the leader of the same term has written: so no other leader can have
/// seen the row before or after that. Of [`TIMERS_LEVEL`](super::TIMERS_LEVEL).
///
/// It takes two positions, since it is two transactions: an entry has both or none.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Timer {
    /// The database's identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub database: Bytes,
    /// The position of the publication whose module had the row: by another one it is nothing.
    #[prost(fixed64, tag = "2")]
    pub module: u64,
    /// The schedule's place among the module's.
    #[prost(uint32, tag = "3")]
    pub schedule: u32,
    /// The row's primary key.
    #[prost(uint64, tag = "4")]
    pub row: u64,
    /// The leader's term.
    #[prost(uint64, tag = "5")]
    pub term: u64,
    /// When it was due, in microseconds since the Unix epoch, if it is due again and again: the next leader goes on from there.
    /// 0 for one time.
    #[prost(sfixed64, tag = "7")]
    pub interval_due_us: i64,
    /// Whether this is the second of the two. Set where the command is resolved, and never in the log.
    #[prost(bool, tag = "6")]
    pub over: bool,
}
