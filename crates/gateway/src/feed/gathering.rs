//! What the server has sent, until it is told.
//!
//! To tell a client of one update costs nearly as much as to tell it of many. So where there are many clients, updates wait while
//! commands are at the server whose updates are about to follow: for some of them where clients are few, so that the server has more
//! to do meanwhile, and for nearly all where telling takes longer than what the server does; but no longer than it would take to tell
//! them, so that nothing comes more than twice as late.

use crate::limits::{BATCH_BYTES_MAX, Gather};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;

#[derive(Default)]
pub(super) struct Gathering {
    limits: Gather,
    payloads: Vec<Bytes>,
    bytes: usize,
    /// What it waits for.
    wait: Option<Wait>,
}

/// Why what has come is not told yet.
struct Wait {
    /// Until so many have come,
    enough: usize,
    /// or no more are to follow, or it takes too long.
    over: BoxFuture<'static, ()>,
}

impl Gathering {
    pub(super) fn new(limits: Gather) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

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

    /// What is to be told to so many members now, given how many commands are at the server.
    pub(super) fn poll(
        &mut self,
        members: usize,
        in_flight: impl FnOnce() -> Option<watch::Receiver<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<Vec<Bytes>> {
        if self.is_empty() {
            return Poll::Pending;
        }
        if !self.is_full() && members >= self.limits.members_min {
            let came = self.payloads.len();
            let wait = self
                .wait
                .get_or_insert_with(|| Wait::new(&self.limits, members, came, in_flight()));
            if came < wait.enough && wait.over.poll_unpin(cx).is_pending() {
                if rtdb_runtime::planted("updates that wait change places") {
                    self.payloads.reverse();
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(self.take())
    }
}

impl Wait {
    /// Some have come, and more may follow.
    fn new(limits: &Gather, members: usize, came: usize, in_flight: Option<watch::Receiver<usize>>) -> Self {
        let to_follow = in_flight.as_ref().map_or(0, |in_flight| *in_flight.borrow());
        let Some(mut in_flight) = in_flight.filter(|_| to_follow > 0) else {
            return Self {
                enough: came,
                over: std::future::ready(()).boxed(),
            };
        };
        let telling = limits.telling(members);
        let over = async move {
            let idle = in_flight.wait_for(|in_flight| *in_flight == 0);
            // Who knew of it may be gone.
            let _ = rtdb_runtime::timeout(telling, idle).await;
        };
        Self {
            enough: came + to_follow * members / (members + limits.members_half),
            over: over.boxed(),
        }
    }
}

impl Gather {
    /// About how long it takes to tell so many members of an update.
    fn telling(&self, members: usize) -> Duration {
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        self.a_member.saturating_mul(members).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_runtime::Instant;
    use std::future::poll_fn;

    const MANY: usize = 200;
    const UPDATE: Bytes = Bytes::from_static(b"an update");

    /// How long an update waits.
    async fn waits(gathering: &mut Gathering, members: usize, in_flight: &watch::Sender<usize>) -> Duration {
        let begun = Instant::now();
        gathering.add(UPDATE);
        let told = poll_fn(|cx| gathering.poll(members, || Some(in_flight.subscribe()), cx)).await;
        assert_eq!(told, [UPDATE]);
        assert!(gathering.is_empty());
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_waits_while_others_are_about_to_follow() {
        let (mut gathering, in_flight) = (Gathering::default(), watch::Sender::new(10));
        let Gather {
            a_member,
            max,
            members_min,
            ..
        } = gathering.limits;
        assert!(waits(&mut gathering, MANY, &in_flight).await >= a_member * MANY as u32);
        assert!(waits(&mut gathering, 1_000 * MANY, &in_flight).await < 2 * max);
        let few = members_min - 1;
        assert_eq!(waits(&mut gathering, few, &in_flight).await, Duration::ZERO);
        in_flight.send_replace(0);
        assert_eq!(waits(&mut gathering, MANY, &in_flight).await, Duration::ZERO);
    }

    /// What is told to so many members when updates come one after the other, with so many commands at the server at first.
    fn told(members: usize, commands: usize) -> Vec<usize> {
        let (mut gathering, in_flight) = (Gathering::default(), watch::Sender::new(commands));
        let cx = &mut Context::from_waker(futures::task::noop_waker_ref());
        let mut poll = |gathering: &mut Gathering| {
            let told = gathering.poll(members, || Some(in_flight.subscribe()), cx);
            told.map(|told| told.len())
        };
        let mut all = Vec::new();
        for left in (0..commands).rev() {
            // The updates may come before their commands are known to be done, or behind.
            gathering.add(UPDATE);
            let told = poll(&mut gathering);
            in_flight.send_replace(left);
            for told in [told, poll(&mut gathering)] {
                all.extend(match told {
                    Poll::Ready(told) => Some(told),
                    Poll::Pending => None,
                });
            }
        }
        all
    }

    #[tokio::test]
    async fn the_more_members_the_more_is_told_at_once() {
        let Gather {
            members_min,
            members_half,
            ..
        } = Gather::default();
        assert_eq!(told(members_min - 1, 4), [1, 1, 1, 1]);
        assert_eq!(told(members_half, 16), [9, 4, 2, 1]);
        assert_eq!(told(100 * members_half, 16), [16]);
        assert_eq!(told(MANY, 1), [1]);
    }

    #[tokio::test]
    async fn what_is_much_is_told_at_once() {
        let (mut gathering, in_flight) = (Gathering::default(), watch::Sender::new(10));
        let cx = &mut Context::from_waker(futures::task::noop_waker_ref());
        gathering.add(UPDATE);
        assert!(
            gathering
                .poll(MANY, || Some(in_flight.subscribe()), cx)
                .is_pending()
        );
        gathering.add(vec![0; BATCH_BYTES_MAX].into());
        assert!(
            gathering
                .poll(MANY, || Some(in_flight.subscribe()), cx)
                .is_ready()
        );
    }
}
