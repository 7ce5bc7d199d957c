//! Tasks that belong together.

use crate::{JoinError, JoinHandle, spawn};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::future::Future;

/// Tasks that end with it.
#[derive(Debug)]
pub struct Tasks<T>(FuturesUnordered<JoinHandle<T>>);

impl<T> Default for Tasks<T> {
    fn default() -> Self {
        Self(FuturesUnordered::new())
    }
}

impl<T: Send + 'static> Tasks<T> {
    /// Runs another one.
    #[track_caller]
    pub fn spawn(&self, task: impl Future<Output = T> + Send + 'static) {
        self.0.push(spawn(task));
    }

    /// Waits for the next one that is done; `None` if there are none.
    pub async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        self.0.next().await
    }

    /// Ends all of them, and waits until they have ended.
    pub async fn shutdown(&mut self) {
        self.abort();
        while self.join_next().await.is_some() {}
    }
}

impl<T> Tasks<T> {
    fn abort(&self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl<T> Drop for Tasks<T> {
    fn drop(&mut self) {
        self.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::sync::Arc;

    #[tokio::test]
    async fn tasks_end_with_their_set() {
        let held = Arc::new(());
        let mut tasks = Tasks::default();
        assert_eq!(tasks.join_next().await, None);
        for number in 0..3 {
            tasks.spawn(async move { number });
        }
        let mut done = Vec::new();
        while let Some(Ok(number)) = tasks.join_next().await {
            done.push(number);
        }
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2]);
        let endless = |held: Arc<()>| async move {
            pending::<()>().await;
            drop(held);
            3
        };
        tasks.spawn(endless(held.clone()));
        tasks.shutdown().await;
        assert_eq!(Arc::strong_count(&held), 1);
        tasks.spawn(endless(held.clone()));
        drop(tasks);
        while Arc::strong_count(&held) > 1 {
            crate::yield_now().await;
        }
    }
}
