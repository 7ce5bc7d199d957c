//! What a replica asks of its server, whether that is one or stands in for one.

use super::{ServerState, Version};
use crate::tokens::TokenError;
use crate::{AdminError, DatabaseId};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::Method;
use rtdb_consensus::command::Owner;
use rtdb_protocol::Subprotocol;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Error as WebSocketError;

/// A connection that is being made, and how they talk on it.
pub type Connecting<'a> = BoxFuture<'a, Result<(Subprotocol, Box<dyn Line>), LineError>>;

/// A SpacetimeDB, asked in the names of databases' owners.
pub trait Server: Send + Sync {
    /// Makes a request in the name of `owner`, and waits for the whole answer, for as long as `timeout` says.
    fn ask<'a>(
        &'a self,
        owner: &'a Owner,
        method: Method,
        path: String,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, AdminError>>;

    /// Connects to a database in the name of `owner`, and agrees on how to talk. A message of more than `bytes_max` ends
    /// the connection.
    fn connect<'a>(&'a self, owner: &'a Owner, database: &'a DatabaseId, bytes_max: usize) -> Connecting<'a>;

    /// How it is doing.
    fn state(&self) -> watch::Receiver<ServerState>;

    /// Its version, if that is known.
    fn version(&self) -> Option<Version>;

    /// Which of its lives this is, if it is ours to start and end: each process is another one. Else 0.
    fn life(&self) -> u64;

    /// Kills it if `life` is its present one; it is started again. `false` if it is not ours.
    fn end_life(&self, life: u64, why: String) -> bool;
}

/// A connection to a server. It carries frames that way, and payloads the other.
pub trait Line: Send {
    /// The next payload.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, LineError>>;

    /// Whether there is room for a frame.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LineError>>;

    /// Takes a frame, for which there is [room](Line::poll_ready).
    ///
    /// # Errors
    /// [`LineError`].
    fn send(&mut self, frame: Bytes) -> Result<(), LineError>;

    /// Sends what it has taken.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LineError>>;

    /// Whether payloads may gather before somebody is woken for them.
    ///
    /// # Errors
    /// What the operating system says.
    fn gather(&mut self, gathers: bool) -> io::Result<()>;
}

/// Why there is no line (any more).
#[derive(Debug, Error)]
pub enum LineError {
    /// It has come to its end.
    #[error("the connection ended")]
    Ended,
    /// It has failed.
    #[error(transparent)]
    Socket(Box<WebSocketError>),
    /// No token can be made for the owner.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The server speaks none that we do.
    #[error("no subprotocol was agreed on")]
    NoSubprotocol,
}

impl From<WebSocketError> for LineError {
    fn from(error: WebSocketError) -> Self {
        Self::Socket(Box::new(error))
    }
}

impl From<io::Error> for LineError {
    fn from(error: io::Error) -> Self {
        WebSocketError::Io(error).into()
    }
}
