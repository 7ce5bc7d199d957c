//! What may be on its way to each peer.

use crate::budget::ByteBudget;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// For each peer, the bytes that are on their way to it, of all groups together.
#[derive(Debug)]
pub(crate) struct PeerBudgets {
    bytes_max: usize,
    budgets: Mutex<BTreeMap<u64, Arc<ByteBudget>>>,
}

impl PeerBudgets {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            budgets: Mutex::default(),
        }
    }

    pub(crate) fn of(&self, peer: u64) -> Arc<ByteBudget> {
        let mut budgets = self.budgets.lock();
        budgets
            .entry(peer)
            .or_insert_with(|| ByteBudget::new(self.bytes_max))
            .clone()
    }

    /// Bytes that are on their way to anybody.
    pub(crate) fn held(&self) -> usize {
        self.budgets.lock().values().map(|budget| budget.held()).sum()
    }
}
