//! Ports nobody listens on.

use std::net::TcpListener;

use anyhow::{Context, Result};

/// `wanted` if it is free on loopback, else any free port.
///
/// Free when looked at: somebody else may take it before it is used, which then shows as a node that can't listen.
pub fn free(wanted: u16) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    Ok(listener
        .context("no free port on 127.0.0.1")?
        .local_addr()?
        .port())
}
