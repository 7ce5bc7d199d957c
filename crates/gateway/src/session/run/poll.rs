//! What is ready first.

use super::super::outbox::Payload;
use super::{End, Event, Io, Session};
use crate::budget::Exceeded;
use crate::feed::Frames;
use crate::limits::OUTGOING_BYTES_MAX;
use crate::wire::Wire;
use bytes::Bytes;
use futures::FutureExt;
use std::task::{Context as TaskContext, Poll};

/// Bytes that are gathered for the client while more is to come.
const GATHER_BYTES: usize = 32 << 10;

/// Events of which one may be rare while there are always others: who floods is closed and looked after, too.
const RARE_EVERY: u32 = 64;

impl<W: Wire> Session<W> {
    /// The next event. What is written waits until nothing else is to be done, so that it leaves together.
    pub(super) fn poll(&mut self, io: &mut Io, cx: &mut TaskContext<'_>) -> Poll<Event> {
        // Before anything that the new module may say.
        if io.drain.is_none() && self.broken.poll_unpin(cx).is_ready() {
            return Poll::Ready(Event::Broken);
        }
        if let Err(exceeded) = self.account(io) {
            return Poll::Ready(Event::Exceeded(exceeded));
        }
        io.polls = io.polls.wrapping_add(1);
        if io.polls.is_multiple_of(RARE_EVERY)
            && let Poll::Ready(event) = self.poll_rare(io, cx)
        {
            return Poll::Ready(event);
        }
        if let Some((_, pending)) = io.pending.front_mut()
            && self.core.wants_outcome()
            && let Poll::Ready(outcome) = pending.poll_unpin(cx)
        {
            return Poll::Ready(Event::Outcome(outcome));
        }
        if let Poll::Ready(Some((request_id, finished))) = io.finished.heard.poll_recv(cx) {
            return Poll::Ready(Event::Finished(request_id, Box::new(finished)));
        }
        if let Some(room) = &mut io.room
            && let Poll::Ready(pass) = room.poll_unpin(cx)
        {
            io.pass = io.pass.take().or(pass);
            io.room = None;
            return Poll::Ready(Event::Room);
        }
        if let Some(opening) = &mut io.opening
            && let Poll::Ready(opened) = opening.poll_unpin(cx)
        {
            io.opening = None;
            return Poll::Ready(Event::Opened(Box::new(opened)));
        }
        if let Some(upstream) = &mut io.upstream
            && upstream.poll_published(cx).is_ready()
        {
            return Poll::Ready(Event::Published);
        }
        if let Some(preparing) = &mut io.preparing
            && let Poll::Ready(prepared) = preparing.poll_unpin(cx)
        {
            io.preparing = None;
            return Poll::Ready(Event::Views(prepared));
        }
        if let Some(failed) = &mut io.view_failed
            && failed.poll_unpin(cx).is_ready()
        {
            return Poll::Ready(Event::ViewFailed);
        }
        if let Some((_, sleep)) = &mut io.keeps
            && sleep.poll_unpin(cx).is_ready()
        {
            io.keeps = None;
            return Poll::Ready(Event::Late);
        }
        if let Some(member) = &mut io.member
            && self.core.wants_feed()
            && let Poll::Ready(item) = member.poll_next(cx)
        {
            return Poll::Ready(Event::Feed(item));
        }
        if self.outbox.bytes() >= GATHER_BYTES
            && let Err(end) = self.poll_write(cx)
        {
            return Poll::Ready(Event::Ended(end));
        }
        let was_full = !self.has_room();
        if let Some(upstream) = &mut io.upstream
            && !was_full
            && self.core.wants_upstream()
            && let Poll::Ready(received) = upstream.socket.poll_read(cx)
        {
            return Poll::Ready(Event::Upstream(received));
        }
        if self.listens() {
            if let Poll::Ready(received) = self.client.poll_read(cx) {
                return Poll::Ready(Event::Client(received));
            }
        } else if self.client.poll_end(cx).is_ready()
            && let Poll::Ready(end) = self.client.poll_read(cx)
        {
            return Poll::Ready(Event::Client(end));
        }
        if let Poll::Ready(event) = self.poll_rare(io, cx) {
            return Poll::Ready(event);
        }
        if let Err(end) = self.poll_write(cx) {
            return Poll::Ready(Event::Ended(end));
        }
        if matches!(self.client.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(Event::Ended(End::Gone));
        }
        if let Some(upstream) = &mut io.upstream
            && matches!(upstream.socket.poll_flush(cx), Poll::Ready(Err(_)))
        {
            return Poll::Ready(Event::Upstream(None));
        }
        if was_full && self.has_room() {
            // Writing made room for what was not asked above, and nothing else would wake this task for it.
            return self.poll(io, cx);
        }
        if let Err(exceeded) = self.account(io) {
            return Poll::Ready(Event::Exceeded(exceeded));
        }
        Poll::Pending
    }

    /// The next event that is none of the client's or the upstream's.
    fn poll_rare(&mut self, io: &mut Io, cx: &mut TaskContext<'_>) -> Poll<Event> {
        if io.drain.is_none()
            && let Poll::Ready(reason) = self.closing.poll_unpin(cx)
        {
            return Poll::Ready(Event::Closing(reason));
        }
        if let Some(drain) = &mut io.drain
            && drain.0.poll_unpin(cx).is_ready()
        {
            return Poll::Ready(Event::Drained);
        }
        if io.tick.poll_unpin(cx).is_ready() {
            return Poll::Ready(Event::Tick);
        }
        Poll::Pending
    }

    /// Counts what is held for the client.
    fn account(&mut self, io: &Io) -> Result<(), Exceeded> {
        let upstream = io.upstream.as_ref().map_or(0, |upstream| upstream.socket.bytes());
        let bytes = self.core.bytes() + self.outbox.bytes() + self.client.bytes() + upstream + io.held_bytes;
        let shared = self.outbox.shared_bytes() + self.client.shared_bytes();
        self.share.set_all(bytes - shared, shared)
    }

    /// Whether the client has room for more.
    fn has_room(&self) -> bool {
        self.outbox.bytes() + self.client.queued_bytes() < OUTGOING_BYTES_MAX
    }

    /// Whether the client is read.
    pub(super) fn listens(&self) -> bool {
        self.has_room() && self.core.wants_client()
    }

    /// Frames what waits in the outbox, as far as the client takes it.
    pub(super) fn poll_write(&mut self, cx: &mut TaskContext<'_>) -> Result<(), End> {
        loop {
            match self.client.poll_write(cx) {
                Poll::Ready(written) => written.map_err(|_| End::Gone)?,
                Poll::Pending => return Ok(()),
            }
            match self.outbox.poll_next(cx) {
                Poll::Ready(Some(Payload::Parts(head, body, shared))) => {
                    self.client.push_parts(head, body, shared);
                }
                Poll::Ready(Some(Payload::Frames(frames))) => match &*frames {
                    Frames::Ready(bytes) => self.client.push_frames(bytes.clone()),
                    Frames::Payloads(payloads) => {
                        for payload in payloads {
                            self.client.push_parts(Bytes::new(), payload.clone(), true);
                        }
                    }
                },
                Poll::Ready(Some(Payload::Unsayable(reason))) => return Err(End::Close(reason)),
                Poll::Ready(None) | Poll::Pending => return Ok(()),
            }
        }
    }
}
