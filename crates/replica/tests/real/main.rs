//! Against the real SpacetimeDB server: `$SPACETIMEDB_BIN`, or the one that `cargo xtask server` caches. Without one
//! every test says that it is skipped.

#![allow(clippy::unwrap_used)]

mod apply;
mod decisions;
mod lives;
mod poison;
mod publish;
mod server;
mod support;
mod update;
mod verdict;
