//! Against the real SpacetimeDB server: `$SPACETIMEDB_BIN`, or the one that `cargo xtask server` caches. Without one
//! every test says that it is skipped.

// Tests have time and tasks of their own.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::disallowed_types,
    clippy::unwrap_used
)]

mod apply;
mod decisions;
mod lives;
mod poison;
mod procedures;
mod publish;
mod restore;
mod server;
mod support;
mod timers;
mod update;
mod verdict;
mod views;
mod write;
