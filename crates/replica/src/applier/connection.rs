//! One connection to the local server, in the name of a database's owner.

use super::calls::Calls;
use super::core::fence_args;
use super::pump::FENCE_AFTER;
use super::window::FENCE_INDEX;
use crate::server::{Line, LineError};
use crate::{Admin, DatabaseId};
use bytes::Bytes;
use rtdb_consensus::command::Owner;
use rtdb_determinism::MARK;
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::{self, AppliedCall, ServerMessage};
use rtdb_protocol::{FrameError, Subprotocol, client};
use rtdb_runtime::Instant;
use spacetimedb_lib::Identity;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio_tungstenite::tungstenite::Error as WebSocketError;

/// How long connecting may take, the server's first message included, beside what a call may take that is under way. A
/// server that has just started replays its commit log before it lets anyone in.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest message that the server may send on a connection that subscribes to nothing, in bytes: results with their
/// arguments, and the rows of a query.
const MESSAGE_BYTES_MAX: usize = rtdb_protocol::MESSAGE_BYTES_MAX + (1 << 20);

/// The number of the only subscription that a connection of ours has.
const QUERY_SET: u32 = 1;

/// A connection, and the calls that are to be sent on it.
pub(crate) struct Connection {
    subprotocol: Subprotocol,
    line: Box<dyn Line>,
    pub(super) calls: Calls,
    unflushed: bool,
    /// Whether results gather at the socket.
    gathers: bool,
    call_time_max: Duration,
}

/// Why there is no connection (any more).
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// It takes too long to come about.
    #[error("connecting takes longer than {0:?}")]
    OpenTimeout(Duration),
    /// A call has run for too long.
    #[error("a call has run for {0:?}, longer than it may")]
    Overlong(Duration),
    /// It is lost.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The server can't be understood.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The server does not say whom it takes us for.
    #[error("the server greets with something else than the connection's identity")]
    NoHello,
    /// The server takes us for somebody else.
    #[error("the server takes the owner's token for another identity: {0}")]
    OtherIdentity(Identity),
}

impl ConnectionError {
    /// Whether the server has said more at once than a connection takes.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self, Self::Line(LineError::Socket(error)) if matches!(**error, WebSocketError::Capacity(_)))
    }
}

impl Connection {
    /// Connects to a database as its owner.
    pub(crate) async fn open(
        admin: &Admin,
        owner: &Owner,
        database: &DatabaseId,
    ) -> Result<Self, ConnectionError> {
        Self::open_for(admin, owner, database, MESSAGE_BYTES_MAX).await
    }

    /// The same, for messages of up to so many bytes.
    pub(crate) async fn open_for(
        admin: &Admin,
        owner: &Owner,
        database: &DatabaseId,
        bytes_max: usize,
    ) -> Result<Self, ConnectionError> {
        let open = async {
            let (subprotocol, line) = admin.server().connect(owner, database, bytes_max).await?;
            let mut connection = Self {
                subprotocol,
                line,
                calls: Calls::new(subprotocol),
                unflushed: false,
                gathers: false,
                call_time_max: admin.call_time_max(),
            };
            connection.greet(owner).await?;
            Ok(connection)
        };
        let max = OPEN_TIMEOUT + admin.call_time_max();
        rtdb_runtime::timeout(max, open)
            .await
            .unwrap_or(Err(ConnectionError::OpenTimeout(max)))
    }

    /// Awaits the server's first message, which says whom it takes us for.
    async fn greet(&mut self, owner: &Owner) -> Result<(), ConnectionError> {
        let payload = self.next().await?;
        match server::split(self.subprotocol, payload).next().transpose()? {
            Some(ServerMessage::Hello { identity, .. }) if identity[..] == owner.identity[..] => Ok(()),
            Some(ServerMessage::Hello { identity, .. }) => Err(ConnectionError::OtherIdentity(
                Identity::from_byte_array(identity),
            )),
            _ => Err(ConnectionError::NoHello),
        }
    }

    /// Sends what is to be sent while it waits for the server's next payload. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Bytes, ConnectionError> {
        self.gather(false)?;
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Only sends, for so long. 1.2.0 sends each result by itself: waking this process for each would cost more than what
    /// is done with it.
    pub(super) async fn send_for(&mut self, duration: Duration) -> Result<(), ConnectionError> {
        self.gather(true)?;
        let end = Instant::now() + duration;
        let sent = rtdb_runtime::timeout_at(end, std::future::poll_fn(|cx| self.poll_send(cx))).await;
        if let Ok(sent) = sent {
            sent?;
            rtdb_runtime::sleep_until(end).await;
        }
        Ok(())
    }

    fn gather(&mut self, gathers: bool) -> Result<(), ConnectionError> {
        if self.gathers != gathers {
            self.line.gather(gathers).map_err(LineError::from)?;
            self.gathers = gathers;
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, ConnectionError>> {
        // Writing must not keep from reading: the server may be waiting for us to read.
        if let Poll::Ready(Err(e)) = self.poll_send(cx) {
            return Poll::Ready(Err(e.into()));
        }
        self.line.poll_receive(cx).map_err(Into::into)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        loop {
            if self.calls.is_empty() {
                break;
            }
            ready!(self.line.poll_ready(cx))?;
            if let Some(frame) = self.calls.pop() {
                self.line.send(frame)?;
                self.unflushed = true;
            }
        }
        if self.unflushed {
            ready!(self.line.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The results in a payload.
    pub(super) fn results(
        &self,
        payload: Bytes,
    ) -> impl Iterator<Item = Result<AppliedCall, FrameError>> + use<> {
        server::split(self.subprotocol, payload)
            .filter_map(|message| message.map(ServerMessage::into_applied).transpose())
    }

    /// Whether the server says nothing of a call that runs out of energy, as 1.2.0 does.
    pub(super) fn may_leave_calls_unanswered(&self) -> bool {
        self.subprotocol == Subprotocol::V1
    }

    /// Asks for the rows of queries, and for what becomes of them. What comes is [split](Self::split) from payloads.
    pub(crate) fn subscribe(&mut self, queries: &[&str]) {
        let frame = client::subscribe(self.subprotocol, queries, QUERY_SET, QUERY_SET);
        self.calls.push_frame(frame);
    }

    /// The messages in a payload.
    pub(crate) fn split(&self, payload: Bytes) -> server::Messages {
        server::split(self.subprotocol, payload)
    }

    /// Makes a call whose result is among the messages that come. Its arguments are `args` one after the other.
    pub(crate) fn send_call(&mut self, reducer: &str, args: &[&[u8]]) {
        self.calls.push(reducer, args, 0);
    }

    /// Makes one call and waits for its result: no other may be under way.
    pub(crate) async fn call(&mut self, reducer: &str, args: &[u8]) -> Result<AppliedCall, ConnectionError> {
        let max = self.call_time_max;
        rtdb_runtime::timeout(max, self.answer(reducer, args))
            .await
            .unwrap_or(Err(ConnectionError::Overlong(max)))
    }

    /// Makes sure that the server at the other end lives, and has done so since the connection began: nothing may be under way.
    pub(super) async fn check(&mut self) -> Result<(), ConnectionError> {
        self.call(MARK, &fence_args()).await.map(drop)
    }

    /// Makes one query and waits for its rows: nothing else may be under way.
    ///
    /// # Errors
    /// The inner one is why the server does not answer the query.
    pub(super) async fn query(&mut self, query: &str) -> Result<Result<Vec<Bytes>, String>, ConnectionError> {
        self.calls.push_query(query);
        let end = Instant::now() + self.call_time_max;
        loop {
            let payload = rtdb_runtime::timeout_at(end, self.next()).await;
            let payload = payload.unwrap_or(Err(ConnectionError::Overlong(self.call_time_max)))?;
            for message in server::split(self.subprotocol, payload) {
                if let ServerMessage::QueryReply { error, changes, .. } = message? {
                    return Ok(match error {
                        Some(error) => Err(error.to_string()),
                        None => Ok(changes
                            .iter()
                            .flat_map(|change| change.inserts.iter().collect::<Vec<_>>())
                            .collect()),
                    });
                }
            }
        }
    }

    async fn answer(&mut self, reducer: &str, args: &[u8]) -> Result<AppliedCall, ConnectionError> {
        self.calls.push(reducer, &[args], 0);
        let (mut fenced, mut answer) = (false, None);
        loop {
            let payload = match rtdb_runtime::timeout(FENCE_AFTER, self.next()).await {
                Ok(payload) => payload?,
                Err(_) if !fenced && self.may_leave_calls_unanswered() => {
                    fenced = true;
                    self.calls.push(MARK, &[&fence_args()], 0);
                    continue;
                }
                Err(_) => continue,
            };
            for result in self.results(payload) {
                let result = result?;
                match (fenced && result.index == Some(FENCE_INDEX), answer.take()) {
                    (false, _) => answer = Some(result),
                    (true, Some(answer)) => return Ok(answer),
                    // The index is the fence's.
                    (true, None) => {
                        return Ok(AppliedCall {
                            outcome: Outcome::OutOfEnergy,
                            index: None,
                            ..result
                        });
                    }
                }
            }
            if !fenced && let Some(answer) = answer.take() {
                return Ok(answer);
            }
        }
    }
}
