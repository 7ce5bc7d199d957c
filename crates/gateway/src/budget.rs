//! The memory that clients take: one budget for all of a node, and a share of it for each.

use crate::limits::{CLIENT_BYTES_FREE, CLIENT_BYTES_MAX};
use bytes::Bytes;
use prometheus::IntGauge;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thiserror::Error;

/// The memory of all clients of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    max: usize,
    /// The bytes that are taken.
    total: IntGauge,
    shares: Arc<AtomicUsize>,
}

/// What one client takes of the budget. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: usize,
    /// What it shares with others, beyond that.
    shared: usize,
    budget: Budget,
}

/// What many clients share.
struct Shared {
    bytes: Bytes,
    total: IntGauge,
}

impl Budget {
    /// Bytes that many clients share: they are counted once, until the last of these is gone.
    pub(crate) fn shared(&self, bytes: Bytes) -> Bytes {
        let total = self.total.clone();
        total.add(bytes.len() as i64);
        Bytes::from_owner(Shared { bytes, total })
    }
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.total.sub(self.bytes.len() as i64);
    }
}

/// Why a client can't have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Exceeded {
    /// It has too much itself.
    #[error("too much waits for this client: {} MiB, and {} may", bytes >> 20, CLIENT_BYTES_MAX >> 20)]
    Client {
        /// What it has.
        bytes: usize,
    },
    /// All clients together have too much.
    #[error("the node's memory for clients ({} MiB) is used up: come back later", max >> 20)]
    Node {
        /// What there is for all of them.
        max: usize,
    },
}

impl Budget {
    /// Clients may take `max` bytes together. What they take is counted in `total`.
    pub(crate) fn new(max: usize, total: IntGauge) -> Self {
        Self {
            max,
            total,
            shares: Arc::default(),
        }
    }

    /// Whether there is so much left that what may be of use again can be kept.
    pub(crate) fn is_ample(&self) -> bool {
        self.total.get() < self.max as i64 / 4
    }

    /// What each client may take even if all together take too much: if nobody had more, they would not.
    fn fair(&self) -> usize {
        let shares = self.shares.load(Ordering::Relaxed).max(1);
        (self.max / shares).max(CLIENT_BYTES_FREE)
    }
}

impl Share {
    /// Nothing yet.
    pub(crate) fn new(budget: &Budget) -> Self {
        budget.shares.fetch_add(1, Ordering::Relaxed);
        Self {
            bytes: 0,
            shared: 0,
            budget: budget.clone(),
        }
    }

    /// The client takes so much now, and nothing that others share. Beyond the node's budget, those are turned away that have
    /// more than their part and don't get along with less: the others are not to blame, whoever was there first.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.set_all(bytes, 0)
    }

    /// The same, of a client that also keeps `shared` bytes from being given back, which are counted elsewhere.
    pub(crate) fn set_all(&mut self, own: usize, shared: usize) -> Result<(), Exceeded> {
        let bytes = own + shared;
        let shrinks = bytes < self.bytes + self.shared;
        if own != self.bytes {
            self.budget.total.add(own as i64 - self.bytes as i64);
        }
        (self.bytes, self.shared) = (own, shared);
        if bytes > CLIENT_BYTES_MAX {
            return Err(Exceeded::Client { bytes });
        }
        let max = self.budget.max;
        if !shrinks
            && bytes > CLIENT_BYTES_FREE
            && self.budget.total.get() > max as i64
            && bytes > self.budget.fair()
        {
            return Err(Exceeded::Node { max });
        }
        Ok(())
    }

    /// The client is about to go.
    pub(crate) fn give_back(&mut self) {
        self.budget.total.sub(self.bytes as i64);
        self.bytes = 0;
    }

    /// The client takes so much more.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.set(self.bytes + bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.total.sub(self.bytes as i64);
        self.budget.shares.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CLIENTS_BYTES_MAX as MAX;

    fn budget() -> Budget {
        Budget::new(MAX, IntGauge::new("bytes", "bytes").expect("a gauge"))
    }

    #[test]
    fn who_takes_too_much_is_told_so_and_others_go_on() {
        let budget = budget();
        let mut shares: Vec<_> = (0..MAX / CLIENT_BYTES_MAX).map(|_| Share::new(&budget)).collect();
        for share in &mut shares {
            assert_eq!(share.set(CLIENT_BYTES_MAX), Ok(()));
        }
        let bytes = CLIENT_BYTES_MAX + 1;
        assert_eq!(shares[0].set(bytes), Err(Exceeded::Client { bytes }));
        assert_eq!(shares[0].set(CLIENT_BYTES_MAX), Ok(()));

        let mut other = Share::new(&budget);
        let part = MAX / (shares.len() + 1);
        assert_eq!(other.set(part), Ok(()));
        assert_eq!(other.add(1), Err(Exceeded::Node { max: MAX }));
        assert_eq!(
            shares[1].set(CLIENT_BYTES_MAX - 1),
            Ok(()),
            "one that takes less may"
        );
        drop(other);
        shares.clear();
        assert_eq!(budget.total.get(), 0);
    }

    #[test]
    fn who_sits_on_the_memory_is_turned_away_and_not_who_comes_later() {
        let budget = budget();
        let mut sitting: Vec<_> = (0..40).map(|_| Share::new(&budget)).collect();
        for share in &mut sitting {
            let _ = share.set(64 << 20);
        }
        let mut others: Vec<_> = (0..60).map(|_| Share::new(&budget)).collect();
        for share in &mut others {
            assert_eq!(share.set(16 << 20), Ok(()));
        }
        let mut gone = 0;
        for share in &mut sitting {
            if share.set(64 << 20).is_err() {
                share.give_back();
                gone += 1;
            }
        }
        assert_eq!(gone, 40 + 60 * 16 / 64 - MAX / (64 << 20), "no more than need be");
        drop(sitting);
        assert_eq!(others[0].set(64 << 20), Ok(()), "there is room again");
    }

    #[test]
    fn a_little_is_for_everybody() {
        let budget = budget();
        let mut shares: Vec<_> = (0..2 * MAX / CLIENT_BYTES_FREE)
            .map(|_| Share::new(&budget))
            .collect();
        for share in &mut shares {
            assert_eq!(share.set(CLIENT_BYTES_FREE), Ok(()));
        }
        assert!(shares[0].add(1).is_err());
    }
}
