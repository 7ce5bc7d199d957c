//! How this node is, and whether it should lead.

use crate::clock::{Clock, ClockVerdict};
use crate::space::Space;

/// A node's clock and disk.
pub(crate) struct Vitals {
    pub(crate) clock: Clock,
    pub(crate) space: Space,
}

impl Vitals {
    /// Why this node should not lead, for people: nothing, if it should.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        if let ClockVerdict::Off { offset_us } = *self.clock.verdict().borrow() {
            troubles.push(format!(
                "its clock is {} ms {} the other nodes': it neither leads nor stamps; see to its time synchronisation",
                offset_us.unsigned_abs() / 1000,
                if offset_us > 0 { "behind" } else { "ahead of" },
            ));
        }
        let space = self.space.now();
        if space.is_low {
            troubles.push(format!(
                "its disk has {} MiB left, and {} MiB are to stay free: it takes no calls; make room, or lower --disk-reserve-mb",
                space.free_bytes.unwrap_or(0) >> 20,
                space.reserve_bytes >> 20,
            ));
        }
        troubles
    }

    /// Whether the clock can't be trusted.
    pub(crate) fn is_clock_off(&self) -> bool {
        matches!(*self.clock.verdict().borrow(), ClockVerdict::Off { .. })
    }
}
