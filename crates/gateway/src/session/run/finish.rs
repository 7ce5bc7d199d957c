//! The end of a session's socket.

use super::Session;
use crate::close::CloseReason;
use crate::limits::{CLOSE_HANDSHAKE_MAX, DRAIN_MAX};
use crate::socket::Socket;
use crate::wire::Wire;
use std::future::poll_fn;
use std::task::Poll;

impl<W: Wire> Session<W> {
    /// Sends what is still to be sent, then closes.
    pub(in crate::session) async fn finish(&mut self, reason: &CloseReason) {
        let flush = poll_fn(|cx| {
            let failed = self.poll_write(cx).is_err();
            match self.client.poll_flush(cx) {
                Poll::Ready(Ok(())) if self.outbox.is_empty() || failed => Poll::Ready(()),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                Poll::Ready(Err(_)) => Poll::Ready(()),
            }
        });
        if rtdb_runtime::timeout(DRAIN_MAX, flush).await.is_ok() {
            close(&mut self.client, reason).await;
        }
    }

    /// Closes without what is still to be sent.
    pub(in crate::session) async fn cut_off(&mut self, reason: &CloseReason) {
        self.outbox.clear();
        self.client.clear();
        close(&mut self.client, reason).await;
    }

    /// Answers the client's close frame.
    pub(in crate::session) async fn answer_close(&mut self) {
        let _ = rtdb_runtime::timeout(CLOSE_HANDSHAKE_MAX, self.client.until_closed()).await;
    }
}

/// Sends the close frame and waits for the client's own, a moment each.
pub(in crate::session) async fn close<W: Wire>(client: &mut Socket<W>, reason: &CloseReason) {
    client.close(reason.frame());
    let _ = rtdb_runtime::timeout(CLOSE_HANDSHAKE_MAX, client.until_closed()).await;
}
