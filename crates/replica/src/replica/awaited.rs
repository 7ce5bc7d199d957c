//! Who waits for a replica to get to an index of the log: nobody looks again and again, however many there are and however far
//! off it is.

use parking_lot::Mutex;
use rtdb_consensus::LogIndex;
use std::collections::BTreeMap;
use tokio::sync::watch;

/// Those who wait, by what they wait for. A sender that is dropped wakes them.
#[derive(Debug, Default)]
pub(super) struct Awaited(Mutex<BTreeMap<LogIndex, watch::Sender<()>>>);

/// One who waits. Nothing is left of whoever has gone.
struct Waiting<'a> {
    awaited: &'a Awaited,
    index: LogIndex,
    reached: watch::Receiver<()>,
}

impl Awaited {
    /// All is done up to there: to be said after that can be seen.
    pub(super) fn reached(&self, done: LogIndex) {
        let mut waiting = self.0.lock();
        let is_awaited = waiting.first_key_value().is_some_and(|(index, _)| *index <= done);
        if is_awaited {
            let later = waiting.split_off(&done.saturating_add(1));
            *waiting = later;
        }
    }

    /// Resolves once `done` says so; it is asked again whenever that is reached.
    pub(super) async fn wait(&self, index: LogIndex, done: impl Fn() -> LogIndex) {
        loop {
            let reached = {
                let mut waiting = self.0.lock();
                let sender = waiting.entry(index).or_insert_with(|| watch::Sender::new(()));
                sender.subscribe()
            };
            let mut waiting = Waiting {
                awaited: self,
                index,
                reached,
            };
            // What is reached from here on wakes it.
            if done() >= index {
                return;
            }
            let _ = waiting.reached.changed().await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.awaited.0.lock();
        let is_last = waiting
            .get(&self.index)
            .is_some_and(|sender| sender.receiver_count() <= 1);
        if is_last {
            waiting.remove(&self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::cell::Cell;

    #[test]
    fn they_are_woken_when_it_is_reached() {
        let (awaited, done) = (Awaited::default(), Cell::new(0));
        let mut waits = [3, 5, 5, LogIndex::MAX].map(|index| Box::pin(awaited.wait(index, || done.get())));
        for wait in &mut waits {
            assert!(wait.as_mut().now_or_never().is_none());
        }
        done.set(2);
        awaited.reached(2);
        assert!(waits[0].as_mut().now_or_never().is_none());
        done.set(5);
        awaited.reached(5);
        for wait in &mut waits[..3] {
            assert!(wait.as_mut().now_or_never().is_some());
        }
        assert!(waits[3].as_mut().now_or_never().is_none());
        assert!(awaited.wait(5, || done.get()).now_or_never().is_some());
    }

    #[test]
    fn nothing_is_left_of_who_has_gone() {
        let awaited = Awaited::default();
        for index in 1..1_000 {
            let mut waits = [(); 2].map(|()| Box::pin(awaited.wait(index, || 0)));
            for wait in &mut waits {
                assert!(wait.as_mut().now_or_never().is_none());
            }
            let [one, mut other] = waits;
            drop(one);
            assert_eq!(awaited.0.lock().len(), 1);
            awaited.reached(index);
            // It is told of no more than it asks for.
            assert!(other.as_mut().now_or_never().is_none());
            drop(other);
            assert!(awaited.0.lock().is_empty());
        }
    }
}
