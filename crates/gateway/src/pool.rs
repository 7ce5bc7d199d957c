//! Work that would hold up others: large things are scanned, compared, compressed and parsed a few at a time, away from the
//! threads that serve clients.

use crate::limits::{APART_BYTES, APART_MAX};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turn to do something large. Held while it is done.
pub(crate) type Turn = Option<OwnedSemaphorePermit>;

/// Where large things are done. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Semaphore>);

impl Pool {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(APART_MAX)))
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
        let _turn = self.turn().await;
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going away, and nobody waits for this any more.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Does something large right here, while another thread takes over what else this one has to do.
pub(crate) fn in_place<T>(_turn: Turn, work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    #[tokio::test]
    async fn large_work_is_done_elsewhere_and_little_of_it_at_a_time() {
        let pool = Pool::new();
        let here = thread::current().id();
        assert_eq!(pool.run(APART_BYTES, || thread::current().id()).await, here);

        let under_way = Arc::new(AtomicUsize::new(0));
        let works = (0..4 * APART_MAX).map(|_| {
            let under_way = under_way.clone();
            pool.run(APART_BYTES + 1, move || {
                let together = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                thread::sleep(Duration::from_millis(5));
                under_way.fetch_sub(1, Ordering::SeqCst);
                (together, thread::current().id())
            })
        });
        for (together, thread) in futures::future::join_all(works).await {
            assert!(together <= APART_MAX);
            assert_ne!(thread, here);
        }
    }
}
