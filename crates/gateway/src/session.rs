//! A client's WebSocket session, from the handshake to the last frame.
//!
//! [`upgrade`] answers the HTTP request; [`arrival`] lets the client in through the log and says hello; [`run`] carries messages
//! between the client, the log and the local SpacetimeDB, as [`core`] decides, and at last closes the socket.
//!
//! When the local SpacetimeDB dies, [`core`] has the client's connection to it opened again, repeats its
//! [`subscriptions`], and tells the client what has changed in its [rows](crate::rows) meanwhile: it notices a pause, no more.

pub(crate) mod arrival;
mod core;
mod outbox;
mod params;
mod run;
mod subscriptions;
pub(crate) mod upgrade;
mod views;

pub use arrival::Guest;
