//! Whose turn it is: pure.

use std::collections::{BTreeMap, VecDeque};

/// Those who wait: one identity has its turn after the other, and of each the one who came first. As many wait as there are
/// connections.
pub(super) struct Turns<K, W> {
    /// The identities of those who wait, the next one first.
    ring: VecDeque<K>,
    waiting: BTreeMap<K, VecDeque<W>>,
    /// How many may pass.
    calls: u64,
}

impl<K, W> Default for Turns<K, W> {
    fn default() -> Self {
        Self {
            ring: VecDeque::new(),
            waiting: BTreeMap::new(),
            calls: 0,
        }
    }
}

impl<K: Copy + Ord, W> Turns<K, W> {
    /// So many more may pass, but no more than `max` at once.
    pub(super) fn allow(&mut self, calls: u64, max: u64) {
        self.calls = self.calls.saturating_add(calls).min(max);
    }

    /// Whether somebody who has just come may pass: nobody waits, and there is room.
    pub(super) fn take(&mut self) -> bool {
        let passes = self.ring.is_empty() && self.calls > 0;
        self.calls -= u64::from(passes);
        passes
    }

    pub(super) fn wait(&mut self, who: K, waiter: W) {
        let queue = self.waiting.entry(who).or_default();
        if queue.is_empty() {
            self.ring.push_back(who);
        }
        queue.push_back(waiter);
    }

    /// The next who may pass.
    pub(super) fn pop(&mut self) -> Option<W> {
        if self.calls == 0 {
            return None;
        }
        let who = self.ring.pop_front()?;
        let queue = self.waiting.get_mut(&who)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&who);
        } else {
            self.ring.push_back(who);
        }
        self.calls -= 1;
        next
    }

    /// Whose turn it was has gone away.
    pub(super) fn give_back(&mut self) {
        self.calls += 1;
    }

    /// Forgets those who are not waiting any more.
    pub(super) fn retain(&mut self, mut waits: impl FnMut(&W) -> bool) {
        self.waiting.retain(|_, queue| {
            queue.retain(&mut waits);
            !queue.is_empty()
        });
        self.ring.retain(|who| self.waiting.contains_key(who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(turns: &mut Turns<char, u32>, calls: u64) -> Vec<u32> {
        turns.allow(calls, 100);
        std::iter::from_fn(|| turns.pop()).collect()
    }

    #[test]
    fn identities_take_turns_whatever_their_connections_are() {
        let mut turns = Turns::default();
        for n in 1..=1_000 {
            turns.wait('a', n);
        }
        turns.wait('b', 2_000);
        turns.wait('c', 3_000);
        turns.wait('b', 2_001);
        assert_eq!(passed(&mut turns, 4), [1, 2_000, 3_000, 2]);
        turns.wait('c', 3_001);
        assert_eq!(passed(&mut turns, 5), [2_001, 3, 3_001, 4, 5]);
        assert_eq!(turns.waiting.len(), 1);
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let mut turns = Turns::default();
        turns.allow(2, 100);
        assert!(turns.take());
        assert!(turns.take());
        assert!(!turns.take());
        turns.wait('a', 1);
        assert!(!turns.take());
        assert_eq!(passed(&mut turns, 1), [1]);
        assert!(!turns.take());
    }

    #[test]
    fn a_turn_is_not_lost_and_not_saved_up() {
        let mut turns = Turns::default();
        turns.wait('a', 1);
        turns.wait('b', 2);
        turns.wait('b', 3);
        turns.retain(|waiter| *waiter > 1);
        turns.allow(1, 100);
        assert_eq!(turns.pop(), Some(2));
        turns.give_back();
        assert_eq!(turns.pop(), Some(3));
        assert_eq!((turns.pop(), turns.ring.len(), turns.waiting.len()), (None, 0, 0));
        turns.allow(1_000, 7);
        assert_eq!((0..100).filter(|_| turns.take()).count(), 7);
    }
}
