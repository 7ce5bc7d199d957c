//! How much room the disk has.

use parking_lot::Mutex;
use std::fmt::Debug;
use std::io;
use std::path::Path;

/// Free bytes of the disk that a node keeps for itself, by default: below it nothing is taken that makes the log grow.
pub const DISK_RESERVE_BYTES: u64 = 512 << 20;

/// How much more than the reserve must be free, in percent of it, before a disk that was low counts as having room again.
const RECOVERED_PERCENT: u64 = 125;

/// A source of the disk's free bytes. Tests have their own.
pub trait FreeSpace: Debug + Send + Sync + 'static {
    /// The bytes that this process may still write to the disk that holds `path`. May wait for the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The file system's own word.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSpace;

impl FreeSpace for SystemSpace {
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(path)?;
        Ok(stat.blocks_available() * stat.fragment_size())
    }
}

/// The disk's room, as it was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Free bytes; `None` before the first look.
    pub free_bytes: Option<u64>,
    /// The bytes that must stay free.
    pub reserve_bytes: u64,
    /// Whether there is too little.
    pub is_low: bool,
}

impl DiskSpace {
    fn seen(self, free_bytes: u64) -> Self {
        let enough = match self.is_low {
            true => self.reserve_bytes / 100 * RECOVERED_PERCENT,
            false => self.reserve_bytes,
        };
        Self {
            free_bytes: Some(free_bytes),
            is_low: free_bytes < enough,
            ..self
        }
    }
}

/// Remembers what was seen of the disk.
#[derive(Debug)]
pub(crate) struct Space(Mutex<DiskSpace>);

impl Space {
    pub(crate) fn new(reserve_bytes: u64) -> Self {
        Self(Mutex::new(DiskSpace {
            free_bytes: None,
            reserve_bytes,
            is_low: false,
        }))
    }

    pub(crate) fn now(&self) -> DiskSpace {
        *self.0.lock()
    }

    pub(crate) fn see(&self, free_bytes: u64) {
        let mut space = self.0.lock();
        *space = space.seen(free_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_was_low_must_have_more_than_enough() {
        let space = Space::new(1000);
        let is_low = |free| {
            space.see(free);
            space.now().is_low
        };
        assert!(!is_low(1000));
        assert!(is_low(999));
        assert!(is_low(1249));
        assert!(!is_low(1250));
        assert!(!is_low(1000));
        assert!(SystemSpace.free_bytes(Path::new("/")).unwrap() > 0);
    }
}
