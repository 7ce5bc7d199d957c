//! Prepared modules at work: on a fake host in an interpreter, and on a real server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accepted;
mod alarms;
mod apply;
mod database;
mod exercise;
mod fixtures;
mod generated;
mod handlers;
mod host;
mod hostile;
mod immediate;
mod instance;
mod jwt;
mod languages;
mod metered;
mod numbers;
mod order;
mod prepared;
mod procedures;
mod raw_module;
mod real_server;
mod refused;
mod scheduled;
mod taken;
mod views;
