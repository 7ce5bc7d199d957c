//! Tasks, and work beside them.

use crate::sim;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use thiserror::Error;
use tokio::runtime::{Handle, RuntimeFlavor};

/// A task has no output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JoinError {
    /// It was ended.
    #[error("the task was ended")]
    Cancelled,
    /// It has panicked.
    #[error("the task has panicked")]
    Panicked,
}

impl From<tokio::task::JoinError> for JoinError {
    fn from(error: tokio::task::JoinError) -> Self {
        match error.is_panic() {
            true => Self::Panicked,
            false => Self::Cancelled,
        }
    }
}

/// A task; dropped, it goes on.
#[derive(Debug)]
pub struct JoinHandle<T>(Inner<T>);

#[derive(Debug)]
enum Inner<T> {
    Tokio(tokio::task::JoinHandle<T>),
    Sim(sim::Handle<T>),
}

impl<T> JoinHandle<T> {
    /// Ends the task, wherever it waits.
    pub fn abort(&self) {
        match &self.0 {
            Inner::Tokio(task) => task.abort(),
            Inner::Sim(task) => task.abort(),
        }
    }

    pub(crate) fn of_tokio(task: tokio::task::JoinHandle<T>) -> Self {
        Self(Inner::Tokio(task))
    }

    pub(crate) fn of_sim(handle: sim::Handle<T>) -> Self {
        Self(Inner::Sim(handle))
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Tokio(task) => Pin::new(task).poll(cx).map_err(Into::into),
            Inner::Sim(task) => Pin::new(task).poll(cx),
        }
    }
}

/// Runs a task.
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    JoinHandle(match sim::current() {
        Some(sim) => Inner::Sim(sim.spawn(None, future)),
        None => Inner::Tokio(tokio::spawn(future)),
    })
}

/// Whether there is something that runs tasks.
pub fn is_running() -> bool {
    sim::current().is_some() || Handle::try_current().is_ok()
}

/// Lets the other tasks have a turn.
pub async fn yield_now() {
    match sim::current() {
        // Whoever is ready is chosen at random there: a turn may be anybody's.
        Some(_) => sim::yield_once().await,
        None => tokio::task::yield_now().await,
    }
}

/// Does what may wait for the disk, or takes long, where nobody waits for the thread.
///
/// # Errors
/// [`JoinError`] if it panics.
pub async fn unblock<T, F>(work: F) -> Result<T, JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match sim::current() {
        Some(sim) => sim.spawn(None, async move { work() }).await,
        None => Ok(tokio::task::spawn_blocking(work).await?),
    }
}

/// Does what takes long right here, while another thread takes over what else this one has to do.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) if sim::current().is_none() => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A thread that does one thing.
#[derive(Debug)]
pub struct Worker(WorkerInner);

#[derive(Debug)]
enum WorkerInner {
    Thread(std::thread::JoinHandle<()>),
    Sim,
}

impl Worker {
    /// Whether it is done.
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            WorkerInner::Thread(thread) => thread.is_finished(),
            // Nobody can wait for it without letting it run.
            WorkerInner::Sim => true,
        }
    }

    /// Waits for its end, and says whether it has panicked.
    ///
    /// # Errors
    /// [`JoinError`] if it has.
    pub fn join(self) -> Result<(), JoinError> {
        match self.0 {
            WorkerInner::Thread(thread) => thread.join().map_err(|_| JoinError::Panicked),
            WorkerInner::Sim => Ok(()),
        }
    }
}

/// Does something on a thread of its own: it may wait there for the disk.
///
/// # Errors
/// When the system has no thread.
#[track_caller]
pub fn worker(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Worker> {
    Ok(Worker(match sim::current() {
        Some(sim) => {
            sim.spawn(None, work);
            WorkerInner::Sim
        }
        None => WorkerInner::Thread(
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || futures::executor::block_on(work))?,
        ),
    }))
}
