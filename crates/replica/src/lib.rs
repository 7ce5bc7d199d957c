//! The local SpacetimeDB: its process, its keys, and the appliers that carry the log into it.
//!
//! Each node follows its shard's log with [`Replica`]. Per database there is one applier with one pipelined WebSocket
//! connection to the local server, in the name of the database's owner. An applier reads resolved entries from the log
//! at its own pace (the log is the queue), sends each command as a reducer call, and tells the proposer what became of
//! it. Start-up, catching up, recovery after a crash of the server and normal operation are one code path: read the
//! database's own record of what it has applied, and send everything after that.
//!
//! This crate may not know of Raft, nor of clients: it meets the rest through [`rtdb_consensus::Follow`], commands and
//! outcomes.

// Tests have time and tasks of their own.
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        clippy::disallowed_types
    )
)]

mod admin;
mod applier;
mod contents;
mod database;
mod fatal;
mod import;
mod keys;
mod migration;
mod procedures;
mod quarantine;
mod replica;
mod schedules;
pub mod server;
mod snapshot;
mod status;
mod tokens;
mod views;

pub use admin::{Admin, AdminError, DatabaseState, SqlError, SqlTable};
pub use applier::{ConnectionError, TURN_MAX, WRITE_ROWS_MAX, write_too_large};
pub use contents::{Contents, TableContents};
pub use database::{ActiveDatabase, DatabaseId};
pub use fatal::Fatal;
pub use import::{ImportError, Imported, Source, import};
pub use keys::{KeyError, KeyFiles, Keys};
pub use migration::migration_token;
pub use procedures::{Procedures, Run, TooManyRuns, TurnQueue, Uncommitted};
pub use quarantine::Quarantine;
pub use replica::{Became, Found, Replica, ReplicaConfig, Report};
pub use rtdb_determinism::{Firing, Module, SEQUENCE_TABLE, STATE_TABLE, ScheduleKind, When, calls_at_once};
pub use rtdb_protocol::server::RowList;
pub use schedules::{ScheduleRow, ScheduleWatch, WatchError, Watched};
pub use server::{
    Connecting, Line, LineError, LocalServer, Server, ServerConfig, ServerError, ServerLimits, ServerState,
    Version,
};
pub use snapshot::{SNAPSHOT_BYTES_MAX, Snapshot, SnapshotError};
pub use status::{DatabaseStatus, Digest, Phase, ReplicaStatus};
pub use tokens::{Claims, LOCAL_ISSUER, Minted, TokenError, Tokens};
pub use views::{ViewError, ViewHold, Views};
