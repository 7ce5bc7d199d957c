//! The data directory's lock and its format marker.

use super::StoreError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

/// The format this program writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 2;

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

/// Whether the directory has a format, and so a log.
///
/// # Errors
/// [`StoreError`] if it is not one that this program reads.
pub(super) fn check(dir: &Path) -> Result<bool, StoreError> {
    let path = dir.join(FORMAT_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => {
            let path = dir.to_owned();
            return Err(StoreError::Io { path, source });
        }
    };
    let version = text.trim().strip_prefix(FORMAT_PREFIX);
    let (path, supported) = (dir.to_owned(), FORMAT);
    match version.and_then(|version| version.parse().ok()) {
        Some(FORMAT) => Ok(true),
        Some(found) if found > FORMAT => Err(StoreError::Newer {
            path,
            found,
            supported,
        }),
        Some(found) if found > 0 => Err(StoreError::Older {
            path,
            found,
            supported,
        }),
        _ => Err(StoreError::Damaged {
            path,
            reason: format!("{FORMAT_FILE} says `{}`", text.trim()),
        }),
    }
}

/// Makes the directory durable: its name, and the names in it.
pub(super) fn settle(dir: &Path, log: &str) -> std::io::Result<()> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    match File::open(parent.unwrap_or(Path::new("."))) {
        Ok(parent) => parent.sync_all()?,
        // Whoever may not look into it has not made the directory.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error),
    }
    File::open(dir)?.sync_all()?;
    File::open(dir.join(log))?.sync_all()
}

/// Marks a new directory, whose log is there already.
pub(super) fn mark(dir: &Path) -> std::io::Result<()> {
    let new = dir.join("FORMAT.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{FORMAT_PREFIX}{FORMAT}")?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(FORMAT_FILE))?;
    File::open(dir)?.sync_all()
}
