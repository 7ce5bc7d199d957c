//! The levels of what nodes can apply.

/// What this version's nodes can apply. Raised with each command, or field of one, that a node must know; none is
/// proposed before every node of the cluster has announced the level that it came with.
pub const FEATURE_LEVEL: u32 = 11;

/// The level from which on replicas report what they hold, and an operator may say which is right.
pub const LEVEL_REPORTS: u32 = 2;

/// The level that [`Poison`](super::Poison) came with.
pub const POISON_LEVEL: u32 = 2;

/// The level from which on [`Connect`](super::Connect) and [`Call`](super::Call) carry claims.
pub const CLAIMS_LEVEL: u32 = 2;

/// The level that [`Judgement`](super::Judgement) and [`Trapped`](super::Trapped) came with.
pub const JUDGEMENT_LEVEL: u32 = 3;

/// The level from which on a publication may break clients, and databases may be locked.
pub const MIGRATION_LEVEL: u32 = 4;

/// The level that [`Timer`](super::Timer) came with.
pub const TIMERS_LEVEL: u32 = 5;

/// The level from which on a [`Timer`](super::Timer) says when its row is due, and counts for nothing before that.
pub const DUE_LEVEL: u32 = 6;

/// The level that [`EndDatabase`](super::EndDatabase) came with: from it on databases have births, names are compared before
/// they are replaced, and connection ids are unique.
pub const ENDS_LEVEL: u32 = 4;

/// The level that [`Write`](super::Write) came with.
pub const WRITE_LEVEL: u32 = 6;

/// The level that [`Transaction`](super::Transaction) and [`Turn`](super::Turn) came with.
pub const TRANSACTION_LEVEL: u32 = 6;

/// The level from which on a [`Transaction`](super::Transaction) may take a row that is due, whose procedure then runs.
pub const CLAIM_LEVEL: u32 = 7;

/// The level from which on [`Call`](super::Call) and [`Write`](super::Write) may have keys, and [`Outcomes`](super::Outcomes) are
/// kept.
pub const KEYS_LEVEL: u32 = 8;

/// The level that [`SetIssuer`](super::SetIssuer) and [`WantIssuer`](super::WantIssuer) came with.
pub const ISSUERS_LEVEL: u32 = 9;

/// The level from which on a [`Timer`](super::Timer) may be of a call that the module has asked for at once.
pub const IMMEDIATE_LEVEL: u32 = 10;

/// The level that [`Load`](super::Load) came with.
pub const RESTORE_LEVEL: u32 = 11;
