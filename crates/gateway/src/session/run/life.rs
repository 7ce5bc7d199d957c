//! Whether the client lives.

use super::{End, Io, Session};
use crate::close::CloseReason;
use crate::limits::{SLOWEST_BYTES_PER_S, SYSTEM_BYTES_MAX, WRITE_STALL_MAX};
use crate::wire::Wire;
use rtdb_runtime::{Instant, Sleep};
use std::pin::Pin;
use std::time::Duration;

impl<W: Wire> Session<W> {
    /// Resolves when it is time to look after the client again.
    pub(super) fn next_tick(&self) -> Pin<Box<Sleep>> {
        Box::pin(rtdb_runtime::sleep(self.node.limits.idle_timeout / 2))
    }

    /// Pings the client, and lets go of one that is silent or does not read.
    pub(super) fn tick(&mut self, io: &mut Io) -> Option<End> {
        io.tick = self.next_tick();
        let now = Instant::now();
        // While the session had no turn the client was sent nothing, no ping either.
        let late = (now - io.looked).saturating_sub(self.node.limits.idle_timeout / 2);
        io.looked = now;
        io.heard.0 += late;
        io.progress.1 += late;
        let written = self.client.written();
        if io.progress.0 != written || !self.client.is_writing() {
            io.progress = (written, now);
        } else if now - io.progress.1 >= WRITE_STALL_MAX {
            self.node.metrics.slow_clients.inc();
            tracing::info!(connection = %self.upstream_config.connection, "closing a client that does not read");
            let reason = CloseReason::new(CloseReason::AGAIN, "the client does not read fast enough");
            return Some(End::Close(reason));
        }
        if !self.core.is_busy() {
            // A burst's memory is not kept for a client that may be silent from now on.
            self.core.trim();
            io.pending.shrink_to(0);
        }
        if self.client.queued_bytes() > 0 || !self.listens() {
            // That it takes what it is sent is enough.
            io.heard.0 = now;
        } else if now - io.heard.0 >= self.node.limits.idle_timeout + time_to_take(written - io.heard.1) {
            tracing::debug!(connection = %self.upstream_config.connection, "a client timed out");
            return Some(End::Gone);
        }
        self.client.ping();
        None
    }
}

/// How long a slow client takes for what was written last, before it comes to the ping behind.
fn time_to_take(bytes: u64) -> Duration {
    Duration::from_secs(bytes.min(SYSTEM_BYTES_MAX) / SLOWEST_BYTES_PER_S)
}
