//! Events that bring so much that they are handled apart.

use super::{End, Event, Io, Session};
use crate::feed::Item;
use crate::pool::Turn;
use crate::wire::Wire;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::task::{Context as TaskContext, Poll};
use tokio_tungstenite::tungstenite::Message;

impl<W: Wire> Session<W> {
    /// How many bytes may have to be gone through for an event.
    pub(super) fn burden(&self, event: &Event, io: &Io) -> usize {
        let bytes = match event {
            Event::Client(Some(Ok(message))) => message.len(),
            Event::Upstream(Some(Ok(Message::Binary(payload)))) if self.core.is_restoring() => {
                payload.len() + self.core.row_bytes()
            }
            Event::Upstream(Some(Ok(Message::Binary(payload)))) => payload.len() + self.core.kept_bytes(),
            Event::Late => self.core.kept_bytes(),
            Event::Upstream(_) | Event::Opened(_) | Event::Published => self.core.row_bytes(),
            Event::Outcome(_) | Event::Views(_) => io.held_bytes,
            Event::Feed(Some(Item::Batch(batch))) => match &io.shape {
                Some(shape) if !batch.is_made(shape) => batch.bytes(),
                _ => 0,
            },
            Event::Feed(Some(Item::Moved { shown })) => shown.iter().map(|(_, rows)| rows.len()).sum(),
            _ => return 0,
        };
        bytes + self.core.backlog()
    }

    /// Waits for the turn to do something large, maybe with what the client has sent. What was begun goes on meanwhile.
    pub(super) fn poll_turn(
        &mut self,
        turn: &mut BoxFuture<'static, Turn>,
        is_sent: bool,
        io: &mut Io,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Turn, End>> {
        if let Poll::Ready(turn) = turn.poll_unpin(cx) {
            return Poll::Ready(Ok(turn));
        }
        // The next one is asked for, too: else nothing would wake this task for it.
        while io.tick.poll_unpin(cx).is_ready() {
            if let Some(end) = self.tick(io) {
                return Poll::Ready(Err(end));
            }
        }
        // What it sent before is still to be done.
        let left = self.client.poll_end(cx).is_ready();
        if let Err(end) = self.poll_write(cx) {
            return Poll::Ready(Err(end));
        }
        if left && !is_sent || matches!(self.client.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(Err(End::Gone));
        }
        Poll::Pending
    }
}
