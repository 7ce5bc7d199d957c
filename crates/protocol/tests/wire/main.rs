//! The wire formats against SpacetimeDB's own message types, of 1.2.0 and of 2.8.3: what they encode we split and
//! rewrite, what we encode they decode. And against arbitrary bytes.

#![allow(
    clippy::duplicate_mod,
    reason = "the v1 suite is compiled against two versions' types"
)]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod exercise;
mod garbage;
mod model;
mod recorded;
mod v1_new;
mod v1_old;
mod v2;
