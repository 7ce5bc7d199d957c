//! Work that would hold up others: large things are scanned, compared, compressed and parsed a few at a time, away from the
//! threads that serve clients.

use crate::limits::APART_BYTES;
use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_runtime::{JoinError, JoinHandle};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turn to do something large. Held while it is done.
pub(crate) type Turn = Option<OwnedSemaphorePermit>;

/// Where large things are done. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Semaphore>);

impl Pool {
    /// Does at most `max` things at one time.
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Semaphore::new(max)))
    }

    /// Resolves when something large may be done.
    pub(crate) fn turn(&self) -> BoxFuture<'static, Turn> {
        // It is never closed.
        self.0.clone().acquire_owned().map(Result::ok).boxed()
    }

    /// Does something with so many bytes: at once if it is small, else when its turn comes, on a thread of its own.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if bytes <= APART_BYTES {
            return work();
        }
        self.apart(work).await
    }

    /// Does something when its turn comes, on a thread of its own.
    pub(crate) async fn apart<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let work = |turn| {
            let done = work();
            drop(turn);
            done
        };
        match self.in_turn(work).await {
            Ok(done) => done,
            Err(JoinError::Panicked) => std::panic::resume_unwind(Box::new("large work has panicked")),
            // The runtime is going away, and nobody waits for this any more.
            Err(JoinError::Cancelled) => std::future::pending().await,
        }
    }

    /// Does something on a thread of its own when its turn comes.
    ///
    /// A turn that has come is used at once, though nobody may look after this future: its client may not read. And it
    /// lasts as long as the work, though nobody may wait for that any more: what is begun takes its core to the end.
    ///
    /// # Errors
    /// If the work panics.
    pub(crate) async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(Turn) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = self.turn();
        let mut waiting = Waiting(rtdb_runtime::spawn(async move {
            let turn = turn.await;
            rtdb_runtime::unblock(move || work(turn)).await
        }));
        (&mut waiting.0).await.flatten()
    }
}

/// Work whose turn has not come ends with who waits for it.
struct Waiting<T>(JoinHandle<T>);

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does something large right here, while another thread takes over what else this one has to do.
pub(crate) fn in_place<T>(_turn: Turn, work: impl FnOnce() -> T) -> T {
    rtdb_runtime::in_place(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// Turns of the pools here.
    const TURNS: usize = 2;

    /// How long anything here may take.
    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn large_work_is_done_elsewhere_and_little_of_it_at_a_time() {
        let pool = Pool::new(TURNS);
        let here = thread::current().id();
        assert_eq!(pool.run(APART_BYTES, || thread::current().id()).await, here);

        let under_way = Arc::new(AtomicUsize::new(0));
        let works = (0..4 * TURNS).map(|_| {
            let under_way = under_way.clone();
            pool.run(APART_BYTES + 1, move || {
                let together = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                thread::sleep(Duration::from_millis(5));
                under_way.fetch_sub(1, Ordering::SeqCst);
                (together, thread::current().id())
            })
        });
        for (together, thread) in futures::future::join_all(works).await {
            assert!(together <= TURNS);
            assert_ne!(thread, here);
        }
    }

    #[tokio::test]
    async fn who_does_not_fetch_what_was_done_holds_up_nobody() {
        let pool = Pool::new(TURNS);
        let mut left: Vec<_> = (0..2 * TURNS)
            .map(|_| {
                pool.run(APART_BYTES + 1, || thread::sleep(Duration::from_millis(5)))
                    .boxed()
            })
            .collect();
        for work in &mut left {
            assert!(futures::poll!(work).is_pending());
        }
        let other = pool.run(APART_BYTES + 1, || ());
        tokio::time::timeout(SOON, other).await.expect("its turn comes");
    }

    #[tokio::test]
    async fn what_was_begun_holds_its_turn_though_nobody_waits_for_it() {
        let pool = Pool::new(1);
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let (end, ends) = mpsc::channel::<()>();
        let work = move || {
            let _ = begun.send(());
            let _ = ends.recv();
        };
        let mut abandoned = pool.run(APART_BYTES + 1, work).boxed();
        tokio::select! {
            () = &mut abandoned => panic!("it has ended"),
            begun = is_begun => begun.expect("it is begun"),
        }
        drop(abandoned);
        // One that is not begun has no turn to hold.
        let mut waits = pool.run(APART_BYTES + 1, || ()).boxed();
        assert!(futures::poll!(&mut waits).is_pending());
        tokio::task::yield_now().await;
        drop(waits);
        let mut next = pool.turn();
        for _ in 0..10 {
            tokio::task::yield_now().await;
            assert!(futures::poll!(&mut next).is_pending(), "two are under way");
        }
        drop(end);
        tokio::time::timeout(SOON, next).await.expect("its turn comes");
    }
}
