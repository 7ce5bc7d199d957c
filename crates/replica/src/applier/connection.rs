//! One WebSocket connection to the local server, in the name of a database's owner.

use super::calls::Calls;
use super::core::fence_args;
use super::pump::FENCE_AFTER;
use super::window::FENCE_INDEX;
use crate::{Admin, DatabaseId, TokenError};
use bytes::Bytes;
use futures::{Sink, Stream};
use http::{HeaderValue, header};
use rtdb_consensus::command::Owner;
use rtdb_determinism::MARK;
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::{self, AppliedCall, ServerMessage};
use rtdb_protocol::{FrameError, Subprotocol};
use spacetimedb_lib::Identity;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// How long connecting may take, the server's first message included, beside what a call may take that is under way. A
/// server that has just started replays its commit log before it lets anyone in.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest message that the server may send on this connection, which subscribes to nothing, in bytes: results
/// with their arguments.
const MESSAGE_BYTES_MAX: usize = rtdb_protocol::MESSAGE_BYTES_MAX + (1 << 20);

/// Bytes read from the socket at once. The WebSocket clears as many before each read.
const READ_BYTES: usize = 32 << 10;

/// Bytes of results that may gather at the socket before they wake this process.
const GATHERED_BYTES: u16 = 16 << 10;

/// A connection, and the calls that are to be sent on it.
pub(crate) struct Connection {
    subprotocol: Subprotocol,
    socket: WebSocketStream<TcpStream>,
    pub(super) calls: Calls,
    unflushed: bool,
    /// Whether results gather at the socket.
    gathers: bool,
    call_time_max: Duration,
}

/// Why there is no connection (any more).
#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    #[error("connecting takes longer than {0:?}")]
    OpenTimeout(Duration),
    #[error("a call has run for {0:?}, longer than it may")]
    Overlong(Duration),
    #[error("the connection ended")]
    Ended,
    #[error(transparent)]
    Socket(Box<WebSocketError>),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("no subprotocol was agreed on")]
    NoSubprotocol,
    #[error("the server greets with something else than the connection's identity")]
    NoHello,
    #[error("the server takes the owner's token for another identity: {0}")]
    OtherIdentity(Identity),
}

impl From<WebSocketError> for ConnectionError {
    fn from(error: WebSocketError) -> Self {
        Self::Socket(Box::new(error))
    }
}

impl Connection {
    /// Connects to a database as its owner.
    pub(crate) async fn open(
        admin: &Admin,
        owner: &Owner,
        database: &DatabaseId,
    ) -> Result<Self, ConnectionError> {
        let open = async {
            let token = admin.token(owner)?;
            let authority = admin.server().authority();
            let mut connection =
                Self::shake_hands(&authority, &token, database, admin.call_time_max()).await?;
            connection.greet(owner).await?;
            Ok(connection)
        };
        let max = OPEN_TIMEOUT + admin.call_time_max();
        tokio::time::timeout(max, open)
            .await
            .unwrap_or(Err(ConnectionError::OpenTimeout(max)))
    }

    async fn shake_hands(
        authority: &str,
        token: &str,
        database: &DatabaseId,
        call_time_max: Duration,
    ) -> Result<Self, ConnectionError> {
        let database = Identity::from_byte_array(*database).to_hex();
        let url =
            format!("ws://{authority}/v1/database/{database}/subscribe?compression=None&confirmed=false");
        let mut request = url.into_client_request()?;
        let offered = Subprotocol::ALL.map(Subprotocol::name).join(", ");
        for (name, value) in [
            (header::AUTHORIZATION, format!("Bearer {token}")),
            (header::SEC_WEBSOCKET_PROTOCOL, offered),
        ] {
            let value = HeaderValue::try_from(value).map_err(|e| WebSocketError::HttpFormat(e.into()))?;
            request.headers_mut().insert(name, value);
        }
        let stream = TcpStream::connect(authority).await.map_err(WebSocketError::Io)?;
        stream.set_nodelay(true).map_err(WebSocketError::Io)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let (socket, response) = client_async_with_config(request, stream, Some(config)).await?;
        let agreed = response
            .headers()
            .get(header::SEC_WEBSOCKET_PROTOCOL)
            .and_then(|name| name.to_str().ok());
        let subprotocol = agreed
            .and_then(Subprotocol::from_name)
            .ok_or(ConnectionError::NoSubprotocol)?;
        Ok(Self {
            subprotocol,
            socket,
            calls: Calls::new(subprotocol),
            unflushed: false,
            gathers: false,
            call_time_max,
        })
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
        let end = tokio::time::Instant::now() + duration;
        let sent = tokio::time::timeout_at(end, std::future::poll_fn(|cx| self.poll_send(cx))).await;
        if let Ok(sent) = sent {
            sent?;
            tokio::time::sleep_until(end).await;
        }
        Ok(())
    }

    fn gather(&mut self, gathers: bool) -> Result<(), ConnectionError> {
        if self.gathers != gathers {
            let bytes = if gathers { GATHERED_BYTES } else { 1 };
            rtdb_spawn::set_low_water(self.socket.get_ref(), bytes).map_err(WebSocketError::Io)?;
            self.gathers = gathers;
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, ConnectionError>> {
        // Writing must not keep from reading: the server may be waiting for us to read.
        if let Poll::Ready(Err(e)) = self.poll_send(cx) {
            return Poll::Ready(Err(e.into()));
        }
        loop {
            let message = ready!(Pin::new(&mut self.socket).poll_next(cx));
            match message {
                Some(Ok(Message::Binary(payload))) => return Poll::Ready(Ok(payload)),
                // Pings are answered by the WebSocket itself; a close frame is followed by the end.
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(e.into())),
                None => return Poll::Ready(Err(ConnectionError::Ended)),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        let mut socket = Pin::new(&mut self.socket);
        loop {
            if self.calls.is_empty() {
                break;
            }
            ready!(socket.as_mut().poll_ready(cx))?;
            if let Some(frame) = self.calls.pop() {
                socket.as_mut().start_send(Message::Binary(frame))?;
                self.unflushed = true;
            }
        }
        if self.unflushed {
            ready!(socket.poll_flush(cx))?;
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

    /// Makes one call and waits for its result: no other may be under way.
    pub(crate) async fn call(&mut self, reducer: &str, args: &[u8]) -> Result<AppliedCall, ConnectionError> {
        let max = self.call_time_max;
        tokio::time::timeout(max, self.answer(reducer, args))
            .await
            .unwrap_or(Err(ConnectionError::Overlong(max)))
    }

    async fn answer(&mut self, reducer: &str, args: &[u8]) -> Result<AppliedCall, ConnectionError> {
        self.calls.push(reducer, &[args], 0);
        let (mut fenced, mut answer) = (false, None);
        loop {
            let payload = match tokio::time::timeout(FENCE_AFTER, self.next()).await {
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
                    (true, None) => {
                        return Ok(AppliedCall {
                            outcome: Outcome::OutOfEnergy,
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
