//! Calls that fall due.

use bytes::Bytes;

/// In the place of a schedule: the row is a call that the module has asked for at once. Of
/// [`IMMEDIATE_LEVEL`](super::IMMEDIATE_LEVEL).
pub const IMMEDIATE_SCHEDULE: u32 = u32::MAX;

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
    /// The schedule's place among the module's, or [`IMMEDIATE_SCHEDULE`].
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
    /// What the row says of when it is due, as the leader has seen it. One that says something else when its turn comes is
    /// another row, and waits. From [`DUE_LEVEL`](super::DUE_LEVEL) on.
    #[prost(oneof = "TimerAt", tags = "8, 9")]
    pub at: Option<TimerAt>,
    /// Whether this is the second of the two. Set where the command is resolved, and never in the log.
    #[prost(bool, tag = "6")]
    pub over: bool,
}

/// When a row is due.
#[derive(Clone, Copy, PartialEq, Eq, prost::Oneof)]
pub enum TimerAt {
    /// Again and again, after so many microseconds each.
    #[prost(sfixed64, tag = "8")]
    IntervalUs(i64),
    /// Once, in microseconds since the Unix epoch.
    #[prost(sfixed64, tag = "9")]
    TimeUs(i64),
}

impl Timer {
    /// Since when the row is due, in microseconds since the Unix epoch, if the command says so.
    pub(crate) fn due_us(&self) -> Option<i64> {
        self.at.map(|at| match at {
            TimerAt::IntervalUs(_) => self.interval_due_us,
            TimerAt::TimeUs(at_us) => at_us,
        })
    }
}
