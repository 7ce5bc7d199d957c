//! Whole clusters, end to end: node processes, real SpacetimeDB servers, real signals.
//!
//! They need a SpacetimeDB server, as `cargo xtask test` obtains it. Without one they are skipped with a line that says
//! so, except where `CI=true`, where that is a failure.

mod backups;
mod bad_input;
mod claims;
mod deletion;
mod diverged;
mod formation;
mod gray;
mod handlers;
mod idempotency;
mod identical;
mod imports;
mod issuers;
mod kills;
mod lag;
mod lifecycle;
mod members;
mod partition;
mod poison;
mod procedures;
mod reads;
mod sdk;
mod sharing;
mod stranger;
mod support;
mod timers;
mod update;
mod upgrade;
mod views;
mod walks;
mod writes;
