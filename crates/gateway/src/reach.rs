//! How the local server is reached in clients' names: over the network, or by what stands in for it.

use crate::wire::Wire;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::StatusCode;
use rtdb_protocol::Subprotocol;
use spacetimedb_lib::Identity;
use thiserror::Error;

/// The local server, for its clients.
pub trait Reach: Send + Sync {
    /// Connects to a database.
    fn connect<'a>(&'a self, visit: Visit<'a>) -> BoxFuture<'a, Result<Box<dyn Wire>, OpenError>>;

    /// Asks a query, and waits for the whole answer, which must be small.
    fn query<'a>(
        &'a self,
        database: &'a Identity,
        token: &'a str,
        query: String,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), Unanswered>>;
}

/// A connection that is wanted: of payloads that are not compressed, and updates that need not be durable.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// The database.
    pub database: &'a Identity,
    /// How to talk.
    pub subprotocol: Subprotocol,
    /// Whether other people's updates come without the call that made them (v1).
    pub light: bool,
    /// Whose it is.
    pub token: &'a str,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The server does not answer.
    #[error("SpacetimeDB is not available on this node")]
    Unavailable,
    /// The server refuses.
    #[error("SpacetimeDB refused the connection: {0}")]
    Refused(String),
}

/// There is no answer to a query, and why.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Unanswered(pub String);
