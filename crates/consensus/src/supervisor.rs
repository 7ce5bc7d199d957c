//! Long-lived tasks: one that ends without having been told to is the end of the node.

use crate::fatal::Fatal;
use futures::FutureExt;
use parking_lot::Mutex;
use rtdb_runtime::JoinHandle;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

tokio::task_local! {
    /// Who watches the present task and the tasks that it spawns, and what they are called.
    static WATCH: (Supervisor, Arc<str>);
}

/// Runs a node's long-lived tasks, and knows why the node can't go on. Clones are handles to the same.
///
/// A task that nobody watches can die unnoticed, and the node lives on as half a node: it votes and does not commit,
/// or it takes proposals and carries them nowhere. So the first end that nobody asked for is the node's.
#[derive(Clone)]
pub(crate) struct Supervisor(Arc<Shared>);

struct Shared {
    fatal: Fatal,
    /// Whether the tasks are told to end.
    stopping: AtomicBool,
    tasks: Mutex<Vec<(String, JoinHandle<()>)>>,
}

impl Supervisor {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            fatal: Fatal::new(),
            stopping: AtomicBool::new(false),
            tasks: Mutex::default(),
        }))
    }

    /// Becomes `Some`, with the reason, when the node can't go on.
    pub(crate) fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.fatal.subscribe()
    }

    /// The node can't go on. The first reason counts, and none does any more once the node is to stop.
    pub(crate) fn fail(&self, reason: impl Into<Arc<str>>) {
        if self.0.stopping.load(Ordering::Acquire) {
            return;
        }
        self.0.fatal.set(reason);
    }

    /// Runs a task that ends only when it is told to.
    pub(crate) fn run(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name.into(), false, task);
    }

    /// Runs a task that may be done some day: only if it panics is that fatal.
    pub(crate) fn run_once(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name.into(), true, task);
    }

    fn spawn(&self, name: String, may_end: bool, task: impl Future<Output = ()> + Send + 'static) {
        let mut end = End {
            supervisor: self.clone(),
            reason: Some(format!("{name} was dropped, which it must not be")),
        };
        let what = name.clone();
        let watched = async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) if may_end => end.because(None),
                Ok(()) => end.because(Some(format!("{what} has ended, which it must not"))),
                Err(panic) => end.because(Some(panicked(&what, panic.as_ref()))),
            }
        };
        self.0.tasks.lock().push((name, rtdb_runtime::spawn(watched)));
    }

    /// Does something whose tasks, and the tasks of these, are all watched: a panic of any of them is fatal.
    pub(crate) fn watch<T: Future>(
        &self,
        name: impl Into<Arc<str>>,
        work: T,
    ) -> impl Future<Output = T::Output> {
        WATCH.scope((self.clone(), name.into()), work)
    }

    /// From now on, tasks may end.
    pub(crate) fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Ends the tasks, and waits for them.
    pub(crate) async fn stop(&self) {
        self.stopping();
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        for (_, task) in &tasks {
            task.abort();
        }
        for (_, task) in tasks {
            // Cancelled, as asked.
            let _ = task.await;
        }
    }

    /// Ends a task, as nothing else does.
    #[cfg(test)]
    pub(crate) fn kill(&self, name: &str) {
        let tasks = self.0.tasks.lock();
        let (_, task) = tasks.iter().find(|(known, _)| known == name).unwrap();
        task.abort();
    }
}

/// Says why a task has ended, however it did: it is dropped with the task.
struct End {
    supervisor: Supervisor,
    reason: Option<String>,
}

impl End {
    fn because(&mut self, reason: Option<String>) {
        self.reason = reason;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(reason) = self.reason.take() {
            self.supervisor.fail(reason);
        }
    }
}

/// A task that is watched by whoever watches the present one, if anybody does.
pub(crate) fn inherit<T: Future>(task: T) -> impl Future<Output = T::Output> {
    let watch = WATCH.try_with(Clone::clone).ok();
    async move {
        let Some((supervisor, name)) = watch else {
            return task.await;
        };
        let task = AssertUnwindSafe(task).catch_unwind();
        match WATCH.scope((supervisor.clone(), name.clone()), task).await {
            Ok(output) => output,
            Err(panic) => {
                supervisor.fail(panicked(&name, panic.as_ref()));
                resume_unwind(panic)
            }
        }
    }
}

fn panicked(name: &str, panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("{name} has panicked: {}", message.unwrap_or("it said nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reason(supervisor: &Supervisor) -> String {
        let mut fatal = supervisor.fatal();
        let reason = fatal.wait_for(Option::is_some).await.unwrap().clone();
        reason.unwrap().as_ref().to_owned()
    }

    #[tokio::test]
    async fn a_task_that_returns_panics_or_is_dropped_is_fatal() {
        let supervisor = Supervisor::new();
        supervisor.run("the clerk", async {});
        assert_eq!(
            reason(&supervisor).await,
            "the clerk has ended, which it must not"
        );
        let supervisor = Supervisor::new();
        supervisor.run("the clerk", async { panic!("no {}", "ink") });
        assert_eq!(reason(&supervisor).await, "the clerk has panicked: no ink");
        let supervisor = Supervisor::new();
        supervisor.run("the clerk", std::future::pending());
        supervisor.kill("the clerk");
        assert_eq!(
            reason(&supervisor).await,
            "the clerk was dropped, which it must not be"
        );
    }

    #[tokio::test]
    async fn the_first_reason_counts() {
        let supervisor = Supervisor::new();
        supervisor.fail("first");
        supervisor.fail("second");
        assert_eq!(reason(&supervisor).await, "first");
    }

    #[tokio::test]
    async fn a_task_that_may_be_done_is_not_missed_unless_it_panics() {
        let supervisor = Supervisor::new();
        let (done, is_done) = tokio::sync::oneshot::channel();
        supervisor.run_once("the errand", async move { done.send(()).unwrap() });
        is_done.await.unwrap();
        supervisor.run_once("the other errand", async { panic!("lost") });
        assert_eq!(reason(&supervisor).await, "the other errand has panicked: lost");
    }

    #[tokio::test]
    async fn what_is_told_to_end_may_end() {
        let supervisor = Supervisor::new();
        supervisor.run("the clerk", std::future::pending());
        supervisor.stop().await;
        assert_eq!(*supervisor.fatal().borrow(), None);
    }

    #[tokio::test]
    async fn the_tasks_of_a_watched_task_are_watched() {
        let supervisor = Supervisor::new();
        let grandchild = async { panic!("in the third generation") };
        let child = async move { tokio::spawn(inherit(grandchild)).await };
        let spawn = async move {
            let child = tokio::spawn(inherit(child));
            child.await.unwrap()
        };
        let ended: Result<(), _> = supervisor.watch("the house", spawn).await;
        assert!(
            ended.unwrap_err().is_panic(),
            "who waits for it still learns of it"
        );
        assert_eq!(
            reason(&supervisor).await,
            "the house has panicked: in the third generation"
        );
    }
}
