//! Where tasks run that are asked for elsewhere.

use crate::sim;
use crate::task::JoinHandle;
use std::future::Future;
use tokio::runtime::Handle;

/// The place where it was made: a runtime, or a node of a simulation.
#[derive(Clone, Debug)]
pub struct Home(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Tokio(Handle),
    Sim(u32),
}

impl Home {
    /// This place.
    ///
    /// # Panics
    /// Where nothing runs tasks.
    pub fn here() -> Self {
        Self(match sim::current() {
            Some(_) => Inner::Sim(sim::node()),
            None => Inner::Tokio(Handle::current()),
        })
    }

    /// Runs a task there, from wherever this is called.
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match &self.0 {
            Inner::Tokio(runtime) => JoinHandle::of_tokio(runtime.spawn(future)),
            Inner::Sim(node) => sim::spawn_on(*node, future),
        }
    }
}
