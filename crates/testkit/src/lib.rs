//! Test kit: a client of SpacetimeDB, a cluster of real processes, faults, and the check of what came of it.
//!
//! It stands outside the product: it starts the `rafttimedb` binary and a real SpacetimeDB server as processes and talks
//! to them over their sockets only. The client decodes SpacetimeDB's wire format with code of its own, so that a mistake
//! in the product's `rtdb-protocol` can't hide itself in its tests. The one thing taken from the product is the module
//! preparation, for the benchmark that measures what it costs.
//!
//! Reading order: [`client`] (one connection), [`load`] (a client that numbers its calls and lives through failures),
//! [`history`] (what was acknowledged against what is in the tables), [`cluster`] (nodes as processes) and [`proxy`]
//! (the network between them).

pub mod client;
pub mod clients;
pub mod cluster;
pub mod demo_module;
pub mod history;
mod http;
pub mod issuer;
pub mod load;
mod node;
pub mod poison_module;
pub mod ports;
mod process;
pub mod proxy;
pub mod server;
mod slow_disk;
pub mod sql;
pub mod status;
pub mod tables_module;
pub mod variant;

pub use http::{Api, Response};
pub use node::Node;
pub use process::{children, cpu_us, interrupted, kill9, resident_kib};
