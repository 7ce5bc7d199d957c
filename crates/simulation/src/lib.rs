//! Whole clusters in a deterministic simulation: the nodes' own code, on simulated networks, disks and clocks.
//!
//! A run has a seed, from which everything comes: the same seed gives the same run. [`run`](run::run) makes one; [`hunt`]
//! makes many, and looks for the shortest way to what it has found. What must hold is in [`truth`]; what goes wrong in
//! [`fault`]; how the world is made in [`network`], [`disk`] and [`spacetime`].

pub mod client;
pub mod cluster;
pub mod disk;
pub mod fault;
pub mod gateway;
pub mod gray;
pub mod hunt;
pub mod module;
pub mod mover;
pub mod network;
pub mod planted;
pub mod readers;
mod repeat;
pub mod replica;
pub mod run;
pub mod shown;
pub mod spacetime;
pub mod timers;
pub mod truth;
pub mod visitor;
pub mod wire;
