//! Ports nobody listens on.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

/// Ports that the system does not give to outgoing connections, which would take them between the look and the use.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// How many ports are looked at before it is given up.
const LOOKS_MAX: u16 = 1_000;

/// `wanted` if it is free on loopback, else any free port (always for 0).
///
/// Free when looked at: somebody else may take it before it is used, which then shows as a node that can't listen.
/// Programs that run at the same time begin at different places.
pub fn free(wanted: u16) -> Result<u16> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    if wanted != 0 && is_free(wanted) {
        return Ok(wanted);
    }
    let start = std::process::id().wrapping_mul(101) % u32::from(COUNT);
    (0..LOOKS_MAX)
        .map(|_| u32::from(TAKEN.fetch_add(1, Ordering::Relaxed)))
        .map(|taken| FIRST + ((start + taken) % u32::from(COUNT)) as u16)
        .find(|port| is_free(*port))
        .context("no free port on 127.0.0.1")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
