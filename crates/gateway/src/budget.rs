//! The memory that clients take: one budget for all of a node, and a share of it for each.

use crate::limits::{CLIENT_BYTES_FREE, CLIENT_BYTES_MAX, CLIENTS_BYTES_MAX};
use prometheus::IntGauge;
use thiserror::Error;

/// What one client takes of the budget. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: usize,
    /// The bytes of all clients of the node.
    total: IntGauge,
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
    #[error("the node's memory for clients ({} MiB) is used up: come back later", CLIENTS_BYTES_MAX >> 20)]
    Node,
}

impl Share {
    /// Nothing yet. What it takes is counted in `total`.
    pub(crate) fn new(total: IntGauge) -> Self {
        Self { bytes: 0, total }
    }

    /// The client takes so much now. Beyond the node's budget, only those are turned away that ask for more than a little:
    /// the others are not to blame.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), Exceeded> {
        let grows = bytes > self.bytes;
        if bytes != self.bytes {
            self.total.add(bytes as i64 - self.bytes as i64);
            self.bytes = bytes;
        }
        if bytes > CLIENT_BYTES_MAX {
            return Err(Exceeded::Client { bytes });
        }
        if grows && bytes > CLIENT_BYTES_FREE && self.total.get() > CLIENTS_BYTES_MAX as i64 {
            return Err(Exceeded::Node);
        }
        Ok(())
    }

    /// The client takes so much more.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.set(self.bytes + bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.total.sub(self.bytes as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_too_much_is_told_so_and_others_go_on() {
        let total = IntGauge::new("bytes", "bytes").expect("a gauge");
        let mut shares: Vec<_> = (0..CLIENTS_BYTES_MAX / CLIENT_BYTES_MAX)
            .map(|_| Share::new(total.clone()))
            .collect();
        for share in &mut shares {
            assert_eq!(share.set(CLIENT_BYTES_MAX), Ok(()));
        }
        let bytes = CLIENT_BYTES_MAX + 1;
        assert_eq!(shares[0].set(bytes), Err(Exceeded::Client { bytes }));
        assert_eq!(shares[0].set(CLIENT_BYTES_MAX), Ok(()));

        let mut small = Share::new(total.clone());
        assert_eq!(small.set(CLIENT_BYTES_FREE), Ok(()));
        assert_eq!(small.add(1), Err(Exceeded::Node));
        assert_eq!(
            shares[1].set(CLIENT_BYTES_MAX - 1),
            Ok(()),
            "one that takes less may"
        );
        drop(small);
        shares.clear();
        assert_eq!(total.get(), 0);
    }
}
