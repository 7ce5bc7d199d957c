//! A client's WebSocket session, from the handshake to the last frame.
//!
//! [`upgrade`] answers the HTTP request, lets the client in through the log and says hello; [`run`] carries messages
//! between the client, the log and the local SpacetimeDB, as [`core`] decides; [`run::finish`] closes the socket.

mod core;
mod counted;
mod outbox;
mod params;
mod run;
mod socket;
pub(crate) mod upgrade;
mod upstream;
