//! Bytes that may be held at once, by many together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// One in so many of a budget's bytes is kept for those who hold nothing.
const RESERVE_PARTS: usize = 4;

/// Bytes that may be held at once. Each of those who hold them has a [`Share`].
///
/// Most of them are a pool for all, in the order in which they ask. The rest is for shares that hold nothing: one that
/// takes what it can get, and never gives it back, so can't keep the others from going on. Whatever is larger than the
/// pool waits until all of it is there, and is let through alone: it never waits for ever, and it is the only way in
/// which more than the limit is held.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    pool: Lane,
    reserve: Lane,
    /// Bytes that are held now.
    held: AtomicUsize,
    /// The most that were ever held.
    held_max: AtomicUsize,
}

impl ByteBudget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let reserve = limit / RESERVE_PARTS;
        Arc::new(Self {
            pool: Lane::new(limit - reserve),
            reserve: Lane::new(reserve),
            held: AtomicUsize::new(0),
            held_max: AtomicUsize::new(0),
        })
    }

    /// A part in the budget, for somebody whom the others must not hold up.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share {
            budget: self.clone(),
            permits: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Bytes that are held now.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The most bytes that were ever held at once.
    #[cfg(test)]
    pub(crate) fn held_max(&self) -> usize {
        self.held_max.load(Ordering::Relaxed)
    }
}

/// First come, first served.
#[derive(Debug)]
struct Lane {
    room: Arc<Semaphore>,
    bytes: u32,
}

impl Lane {
    fn new(bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        Self {
            room: Arc::new(Semaphore::new(bytes as usize)),
            bytes,
        }
    }

    /// `None` never comes: the semaphore is not closed.
    async fn enter(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes);
        self.room.clone().acquire_many_owned(bytes).await.ok()
    }
}

/// One's part in a budget. Clones are the same part.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    budget: Arc<ByteBudget>,
    permits: Arc<watch::Sender<usize>>,
}

impl Share {
    /// Waits until so many bytes may be held. Whoever waits may be dropped, and has taken nothing then.
    pub(crate) async fn acquire(&self, bytes: usize) -> Permit {
        let budget = &self.budget;
        let alone = async {
            let mut permits = self.permits.subscribe();
            // It has a sender here.
            drop(permits.wait_for(|permits| *permits == 0).await);
            budget.reserve.enter(bytes).await
        };
        let room = rtdb_runtime::select! {
            room = budget.pool.enter(bytes) => room,
            room = alone => room,
        };
        let held = budget.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        budget.held_max.fetch_max(held, Ordering::Relaxed);
        self.permits.send_modify(|permits| *permits += 1);
        Permit {
            share: self.clone(),
            bytes,
            _room: room,
        }
    }
}

/// Bytes that may be held until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    share: Share,
    bytes: usize,
    _room: Option<OwnedSemaphorePermit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.share.permits.send_modify(|permits| *permits -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, poll};
    use std::pin::pin;

    /// 75 bytes for all, and 25 for those who hold nothing.
    fn budget() -> Arc<ByteBudget> {
        ByteBudget::new(100)
    }

    #[tokio::test]
    async fn what_is_given_back_may_be_held_again() {
        let budget = budget();
        let share = budget.share();
        let first = share.acquire(50).await;
        let second = share.acquire(25).await;
        assert_eq!(budget.held(), 75);
        let mut third = pin!(share.acquire(1));
        assert!(poll!(&mut third).is_pending());
        assert!(
            share.acquire(0).now_or_never().is_some(),
            "nothing is always there"
        );
        drop(first);
        let third = third.await;
        assert_eq!(budget.held(), 26);
        drop((second, third));
        assert_eq!((budget.held(), budget.held_max()), (0, 75));
        assert!(share.acquire(75).now_or_never().is_some());
    }

    #[tokio::test]
    async fn first_come_first_served() {
        let budget = budget();
        let share = budget.share();
        let [first, second] = [share.acquire(35).await, share.acquire(40).await];
        let mut large = pin!(share.acquire(60));
        let mut small = pin!(share.acquire(1));
        assert!(poll!(&mut large).is_pending() && poll!(&mut small).is_pending());
        drop(first);
        assert!(poll!(&mut large).is_pending(), "not enough");
        assert!(
            poll!(&mut small).is_pending(),
            "the large one would never have its turn"
        );
        drop(second);
        assert!(poll!(&mut large).is_ready() && poll!(&mut small).is_ready());
    }

    #[tokio::test]
    async fn whoever_waits_no_more_has_taken_nothing() {
        let budget = budget();
        let share = budget.share();
        let first = share.acquire(70).await;
        let mut large = Box::pin(share.acquire(60));
        let mut small = pin!(share.acquire(1));
        assert!(poll!(&mut large).is_pending() && poll!(&mut small).is_pending());
        drop(large);
        assert!(poll!(&mut small).is_ready());
        drop(first);
        assert_eq!(budget.held(), 0);
        assert!(share.acquire(75).now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_is_larger_than_the_budget_is_let_through_alone() {
        let budget = budget();
        let share = budget.share();
        let first = share.acquire(1).await;
        let mut huge = pin!(share.acquire(usize::MAX / 2));
        assert!(poll!(&mut huge).is_pending());
        drop(first);
        let huge = huge.await;
        let mut next = pin!(share.acquire(1));
        assert!(poll!(&mut next).is_pending());
        drop(huge);
        next.await;
    }

    #[tokio::test]
    async fn one_that_gives_nothing_back_does_not_hold_up_the_others() {
        let budget = budget();
        let (greedy, modest, other) = (budget.share(), budget.share(), budget.share());
        let _stuck = greedy.acquire(75).await;
        let mut more = pin!(greedy.acquire(1));
        assert!(poll!(&mut more).is_pending());
        // One after the other, as often as it likes.
        for _ in 0..3 {
            let permit = modest.acquire(20).await;
            let mut second = pin!(modest.acquire(1));
            assert!(poll!(&mut second).is_pending(), "it holds something");
            assert!(
                other.acquire(5).now_or_never().is_some(),
                "there is room for another one"
            );
            drop(permit);
            drop(second.await);
        }
        assert!(poll!(&mut more).is_pending());
        assert!(budget.held_max() <= 100);
        let large = modest.acquire(1_000).await;
        let mut waiting = pin!(other.acquire(5));
        assert!(poll!(&mut waiting).is_pending());
        drop(large);
        waiting.await;
    }
}
