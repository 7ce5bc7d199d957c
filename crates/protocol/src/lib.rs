//! SpacetimeDB's WebSocket wire formats: `v1.bsatn`, `v2.bsatn` and `v3.bsatn`.
//!
//! Frames are split into messages by the negotiated subprotocol, in both directions ([`client`], [`server`]); each
//! message is classified, and rewritten where the cluster must not show: hidden tables are stripped, receipts become
//! the caller's own result ([`server::Update`], [`reply`]). A message that needs no change stays a slice of the frame
//! it came in.
//!
//! This crate is pure: bytes in, bytes out. It may not know of Raft, of sockets, of clocks or of how a module is
//! prepared, beyond the call header's layout and the names of the hidden tables.
//!
//! The formats are those of SpacetimeDB 1.2.0 and 2.8.3 (`crates/client-api-messages`), and the one addition of 2.14
//! (`SubscribeBatch`). All of it is BSATN: little-endian integers, `u32` lengths before strings and arrays, one tag
//! byte before a sum, products simply concatenated.

pub mod client;
pub mod compress;
mod error;
pub mod hidden;
mod reader;
pub mod reply;
pub mod server;
pub mod sql;
mod subprotocol;
mod text;
mod writer;

pub use error::FrameError;
pub use hidden::{HIDDEN_PREFIX, RECEIPT_QUERY_SET, Refreshed};
pub use subprotocol::Subprotocol;
pub use text::Text;

/// The largest message a client may send, in bytes: SpacetimeDB's own limit (32 MiB).
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// The length of the call header that stands before a replicated call's own arguments, in bytes.
pub const CALL_HEADER_BYTES: usize = 72;

/// An identity as BSATN writes it: a `u256`, little endian.
pub type Identity = [u8; 32];

/// A connection id as BSATN writes it: a `u128`, little endian.
pub type ConnectionId = [u8; 16];
