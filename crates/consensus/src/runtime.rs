//! The runtime that raft runs in: the node's, whose tasks are watched.

use crate::supervisor::inherit;
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioWatch};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rtdb_runtime::{Elapsed, Instant, JoinError, JoinHandle, Sleep, Timeout};
use std::future::Future;
use std::io;
use std::time::Duration;

/// What [`rtdb_runtime`] has, except that a task is watched by whoever watches the one that spawned it: of raft's own tasks
/// (its core, its state machine, heartbeats, replication) none can die unnoticed.
#[derive(Debug)]
pub struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = SmallRng;
    // They need no runtime.
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    #[track_caller]
    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        rtdb_runtime::spawn(inherit(future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        rtdb_runtime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        rtdb_runtime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        rtdb_runtime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        rtdb_runtime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        matches!(join_error, JoinError::Panicked)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SmallRng::seed_from_u64(rtdb_runtime::random())
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    /// For openraft's own test suite.
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        let runtime = rtdb_runtime::tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let work = rtdb_runtime::unblock(work);
        async move { work.await.map_err(io::Error::other) }
    }
}
