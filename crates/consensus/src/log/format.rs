//! The data directory's lock and its format marker.

use super::StoreError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

/// The format this program writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "LOCK";
const FORMAT_PREFIX: &str = "rafttimedb ";

/// Takes the directory for this process: for as long as the file is open.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let io = |source| StoreError::Io {
        path: dir.to_owned(),
        source,
    };
    std::fs::create_dir_all(dir).map_err(io)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(LOCK_FILE))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// Checks the directory's format, and marks a new one.
pub(super) fn check(dir: &Path, log_dir: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::Io {
        path: dir.to_owned(),
        source,
    };
    let path = dir.join(FORMAT_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let version = text
                .trim()
                .strip_prefix(FORMAT_PREFIX)
                .and_then(|version| version.parse().ok());
            match version {
                Some(FORMAT) => Ok(()),
                Some(found) if found > FORMAT => Err(StoreError::Newer {
                    path: dir.to_owned(),
                    found,
                    supported: FORMAT,
                }),
                _ => Err(StoreError::Damaged {
                    path: dir.to_owned(),
                    reason: format!("{FORMAT_FILE} says `{}`", text.trim()),
                }),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if log_dir.exists() {
                return Err(StoreError::Foreign { path: dir.to_owned() });
            }
            let new = dir.join("FORMAT.new");
            let mut file = File::create(&new).map_err(io)?;
            writeln!(file, "{FORMAT_PREFIX}{FORMAT}").map_err(io)?;
            file.sync_all().map_err(io)?;
            std::fs::rename(&new, &path).map_err(io)?;
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}
