//! How this node is, and whether it should lead.

mod clock;
mod lag;
mod space;

pub(crate) use clock::Clock;
pub use clock::{CLOCK_OFFSET_MAX, ClockVerdict, SystemClock, WallClock};
pub(crate) use lag::{DatabaseId, LAGGING_MAX};
pub use lag::{LAG_MS_MAX, LAG_POSITIONS_MAX, LAG_POSITIONS_MIN, Lag, SLOWED_CALLS_PER_SECOND_MIN, Slowed};
pub use space::{DISK_RESERVE_BYTES, DiskSpace, FreeSpace, SystemSpace};

use lag::Lags;
use parking_lot::Mutex;
use space::Space;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A node's clock and disk, and how its replicas and the others' do.
pub(crate) struct Vitals {
    pub(crate) clock: Clock,
    pub(crate) space: Space,
    pub(crate) lags: Mutex<Lags>,
    /// Whether the disk has been slow for a while.
    pub(crate) is_disk_slow: AtomicBool,
    /// Whether its replicas have lagged for a while, and most others' have not.
    pub(crate) is_behind: AtomicBool,
    /// Whether an operator wants it to have nothing to do.
    pub(crate) is_drained: AtomicBool,
}

impl Vitals {
    pub(crate) fn new(node: u64, wall_clock: Arc<dyn WallClock>, disk_reserve_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            clock: Clock::new(node, wall_clock),
            space: Space::new(disk_reserve_bytes),
            lags: Mutex::new(Lags::new(node)),
            is_disk_slow: AtomicBool::new(false),
            is_behind: AtomicBool::new(false),
            is_drained: AtomicBool::new(false),
        })
    }

    /// Whether this node should lead: whether it has no [`troubles`](Self::troubles).
    pub(crate) fn is_fit(&self) -> bool {
        let is_slow = self.is_disk_slow.load(Relaxed) || self.is_behind.load(Relaxed);
        !self.is_clock_off() && !self.space.now().is_low && !is_slow && !self.is_drained.load(Relaxed)
    }

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
        if self.is_disk_slow.load(Relaxed) {
            troubles.push("its disk takes long for what is written to the log".to_owned());
        }
        if self.is_behind.load(Relaxed) {
            troubles.push("its SpacetimeDB lags behind those of the other nodes".to_owned());
        }
        if self.is_drained.load(Relaxed) {
            troubles.push("it is drained, until `rtdb drain --undo` or a restart".to_owned());
        }
        troubles
    }

    /// Whether the clock can't be trusted.
    pub(crate) fn is_clock_off(&self) -> bool {
        matches!(*self.clock.verdict().borrow(), ClockVerdict::Off { .. })
    }
}
