//! What clients see of a node: SpacetimeDB's WebSocket protocol and HTTP API, on one address.
//!
//! Writes become commands that are proposed to the log; reads and subscriptions are served by the node's own
//! SpacetimeDB; results come back as the native server would send them, in the same order. One call's way in: [`Gateway`]
//! accepts the connection, `http` routes the request, `session` carries the WebSocket, its `core` decides, and a
//! [`Propose`](rtdb_consensus::Propose) takes the command.
//!
//! The gateway knows SpacetimeDB's protocols and the commands of the log. It may not know how the log reaches
//! agreement, nor how the replica feeds the local server: of both it sees only the traits [`Catalog`] and [`Local`]
//! (over the real replica: [`OverReplica`]) and the outcomes of its proposals.

// Tests have time and tasks of their own.
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_macros,
        clippy::disallowed_types
    )
)]

mod asking;
mod budget;
mod catalog;
mod close;
mod database_name;
mod entrance;
mod feed;
mod freshness;
mod gate;
mod gateway;
mod http;
mod http_error;
mod issuers;
mod json;
pub mod limits;
mod local;
mod local_client;
mod metrics;
mod node;
mod over_replica;
mod place;
mod pool;
mod presence;
mod procedures;
mod publishers;
mod query;
mod reach;
mod reducers;
mod rows;
mod session;
mod socket;
mod upstream;
mod views;
mod wire;
mod writes;

pub use catalog::{Catalog, Client, DatabaseRecord, FirstCall};
pub use close::CloseReason;
pub use database_name::{NameError, check as check_name};
pub use gate::{Quotas, Slowed};
pub use gateway::Gateway;
pub use issuers::{Issuers, NotVerified};
pub use limits::ClientLimits;
pub use local::{Claims, Local, LocalDatabase, SetAside, TokenError, Tokens};
pub use metrics::GatewayMetrics;
pub use over_replica::OverReplica;
pub use procedures::scheduled::Scheduled;
pub use publishers::{Publishers, PublishersError};
pub use reach::{OpenError, Reach, Unanswered, Visit};
pub use session::Guest;
pub use wire::{Received, Wire};
