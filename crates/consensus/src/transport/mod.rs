//! How nodes talk: messages, who may send them, and gRPC to carry them.
//!
//! There is one HTTP/2 connection to each peer for all groups, and one for the proposals of each. [`Transport`] is the
//! client's side, and the server's is the [`Service`](crate::Service); tests put something else than gRPC between the two.

mod budgets;
mod convert;
mod error;
pub(crate) mod grpc;
mod line;
mod network;
mod peers;
mod protocol;
pub(crate) mod sanity;
mod window;
pub mod wire;

pub(crate) use budgets::PeerBudgets;
pub(crate) use convert::{heard, told};
pub use error::PeerError;
pub use grpc::Grpc;
pub(crate) use network::Network;
pub(crate) use peers::Peers;
pub use peers::{PeerInfo, Replies, Transport};
pub(crate) use protocol::Versions;
pub use protocol::{PROTOCOL, PROTOCOL_MIN};

/// Bytes of a message: an entry of the largest command, with room to spare.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;
