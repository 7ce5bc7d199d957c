//! What the server has sent, until it is told.
//!
//! To tell a client of one update costs nearly as much as to tell it of many. So where there are many clients, updates wait while
//! commands are at the server whose updates are about to follow; no longer than it would take to tell them, so that nothing comes
//! more than twice as late.

use crate::limits::{BATCH_BYTES_MAX, GATHER_A_MEMBER, GATHER_MAX, GATHER_MEMBERS_MIN};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::task::{Context, Poll};
use tokio::sync::watch;

#[derive(Default)]
pub(super) struct Gathering {
    payloads: Vec<Bytes>,
    bytes: usize,
    /// Until then it waits for more.
    wait: Option<BoxFuture<'static, ()>>,
}

impl Gathering {
    pub(super) fn add(&mut self, payload: Bytes) {
        self.bytes += payload.len();
        self.payloads.push(payload);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.payloads.is_empty()
    }

    /// Whether nothing more is to be added.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX
    }

    pub(super) fn take(&mut self) -> Vec<Bytes> {
        (self.bytes, self.wait) = (0, None);
        std::mem::take(&mut self.payloads)
    }

    /// What is to be told to so many members now, given whether the server is busy with commands.
    pub(super) fn poll(
        &mut self,
        members: usize,
        busy: impl FnOnce() -> Option<watch::Receiver<bool>>,
        cx: &mut Context<'_>,
    ) -> Poll<Vec<Bytes>> {
        if self.is_empty() {
            return Poll::Pending;
        }
        if !self.is_full() && members >= GATHER_MEMBERS_MIN {
            let wait = self.wait.get_or_insert_with(|| until_idle(members, busy()));
            if wait.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(self.take())
    }
}

/// Until no command is at the server, or it has taken too long.
fn until_idle(members: usize, busy: Option<watch::Receiver<bool>>) -> BoxFuture<'static, ()> {
    let Some(mut busy) = busy.filter(|busy| *busy.borrow()) else {
        return std::future::ready(()).boxed();
    };
    let telling = u32::try_from(members).map_or(GATHER_MAX, |members| GATHER_A_MEMBER * members);
    let idle = async move {
        let idle = busy.wait_for(|busy| !busy);
        // Who knew of it may be gone.
        let _ = rtdb_runtime::timeout(telling.min(GATHER_MAX), idle).await;
    };
    idle.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_runtime::Instant;
    use std::future::poll_fn;
    use std::time::Duration;

    const MANY: usize = 100;
    const UPDATE: Bytes = Bytes::from_static(b"an update");

    /// How long an update waits.
    async fn waits(gathering: &mut Gathering, members: usize, busy: &watch::Sender<bool>) -> Duration {
        let begun = Instant::now();
        gathering.add(UPDATE);
        let told = poll_fn(|cx| gathering.poll(members, || Some(busy.subscribe()), cx)).await;
        assert_eq!(told, [UPDATE]);
        assert!(gathering.is_empty());
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_waits_while_others_are_about_to_follow() {
        let (mut gathering, busy) = (Gathering::default(), watch::Sender::new(true));
        let telling = GATHER_A_MEMBER * MANY as u32;
        assert!(waits(&mut gathering, MANY, &busy).await >= telling);
        assert!(waits(&mut gathering, 1_000 * MANY, &busy).await < 2 * GATHER_MAX);
        let few = GATHER_MEMBERS_MIN - 1;
        assert_eq!(waits(&mut gathering, few, &busy).await, Duration::ZERO);
        busy.send_replace(false);
        assert_eq!(waits(&mut gathering, MANY, &busy).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_told_when_nothing_more_is_to_follow_or_it_is_much() {
        let (mut gathering, busy) = (Gathering::default(), watch::Sender::new(true));
        let poll = |gathering: &mut Gathering, update: &[u8]| {
            if !update.is_empty() {
                gathering.add(Bytes::copy_from_slice(update));
            }
            gathering
                .poll(
                    MANY,
                    || Some(busy.subscribe()),
                    &mut Context::from_waker(futures::task::noop_waker_ref()),
                )
                .map(|told| told.len())
        };
        assert_eq!(poll(&mut gathering, b""), Poll::Pending, "there is nothing");
        assert_eq!(poll(&mut gathering, b"one"), Poll::Pending);
        assert_eq!(poll(&mut gathering, b"two"), Poll::Pending);
        busy.send_replace(false);
        assert_eq!(poll(&mut gathering, b""), Poll::Ready(2));
        busy.send_replace(true);
        assert_eq!(poll(&mut gathering, b"three"), Poll::Pending);
        assert_eq!(poll(&mut gathering, &[0; BATCH_BYTES_MAX]), Poll::Ready(2));
        assert_eq!(poll(&mut gathering, b"four"), Poll::Pending, "it waits anew");
    }
}
