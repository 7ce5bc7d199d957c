//! A WebSocket connection to the local server.

use super::{Line, LineError};
use crate::DatabaseId;
use bytes::Bytes;
use futures::{Sink, Stream};
use http::{HeaderValue, header};
use rtdb_protocol::Subprotocol;
use spacetimedb_lib::Identity;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Bytes read from the socket at once. The WebSocket clears as many before each read.
const READ_BYTES: usize = 32 << 10;

/// Bytes of results that may gather at the socket before they wake this process.
const GATHERED_BYTES: u16 = 16 << 10;

struct Socket(WebSocketStream<TcpStream>);

/// Connects to a database of the server at `authority`, as the bearer of `token`. A message of more than `bytes_max` ends the
/// connection.
#[expect(
    clippy::disallowed_methods,
    reason = "what a simulation has another `Server` for"
)]
pub(super) async fn connect(
    authority: &str,
    token: &str,
    database: &DatabaseId,
    bytes_max: usize,
) -> Result<(Subprotocol, Box<dyn Line>), LineError> {
    let database = Identity::from_byte_array(*database).to_hex();
    let url = format!("ws://{authority}/v1/database/{database}/subscribe?compression=None&confirmed=false");
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
        .max_message_size(Some(bytes_max))
        .max_frame_size(Some(bytes_max));
    let (socket, response) = client_async_with_config(request, stream, Some(config)).await?;
    let agreed = response
        .headers()
        .get(header::SEC_WEBSOCKET_PROTOCOL)
        .and_then(|name| name.to_str().ok());
    let subprotocol = agreed
        .and_then(Subprotocol::from_name)
        .ok_or(LineError::NoSubprotocol)?;
    Ok((subprotocol, Box::new(Socket(socket))))
}

impl Line for Socket {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, LineError>> {
        loop {
            match ready!(Pin::new(&mut self.0).poll_next(cx)) {
                Some(Ok(Message::Binary(payload))) => return Poll::Ready(Ok(payload)),
                // Pings are answered by the WebSocket itself; a close frame is followed by the end.
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(e.into())),
                None => return Poll::Ready(Err(LineError::Ended)),
            }
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        Ok(ready!(Pin::new(&mut self.0).poll_ready(cx))?).into()
    }

    fn send(&mut self, frame: Bytes) -> Result<(), LineError> {
        Ok(Pin::new(&mut self.0).start_send(Message::Binary(frame))?)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        Ok(ready!(Pin::new(&mut self.0).poll_flush(cx))?).into()
    }

    fn gather(&mut self, gathers: bool) -> io::Result<()> {
        let bytes = if gathers { GATHERED_BYTES } else { 1 };
        rtdb_spawn::set_low_water(self.0.get_ref(), bytes)
    }
}
