//! The disk, as the log uses it: files whose whole space is taken when they are made, written at places and synced.

use futures::future::BoxFuture;
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise, posix_fallocate};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A disk. The seam at which tests let it fail, or put another one in its place.
pub trait Files: Send + Sync + 'static {
    /// The names of the files in a folder; none if there is no such folder.
    ///
    /// # Errors
    /// When the disk refuses.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Makes a file of `size` bytes that begins with `head` and is zeros from there on. It is on disk, name and all,
    /// when this returns; after a crash it is there whole or not at all. If it can't be made, nothing of it is left.
    ///
    /// # Errors
    /// When the disk refuses.
    fn create(&self, path: &Path, size: u64, head: &[u8]) -> io::Result<Box<dyn DataFile>>;

    /// Opens a file.
    ///
    /// # Errors
    /// When the disk refuses.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DataFile>>;

    /// Removes a file. It may come back after a crash.
    ///
    /// # Errors
    /// When the disk refuses.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes what was left in a folder by a [`create`](Self::create) that a crash broke off.
    ///
    /// # Errors
    /// When the disk refuses.
    fn tidy(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }

    /// What is to be waited for until all is on disk that was synced: for disks whose [`sync`](DataFile::sync) can't wait
    /// itself, since time only passes for who awaits it.
    fn settling(&self) -> Option<BoxFuture<'static, io::Result<()>>> {
        None
    }
}

/// An open file.
pub trait DataFile: Send + Sync {
    /// Its size in bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    fn size(&self) -> io::Result<u64>;

    /// Fills the buffer from the byte at `offset` on.
    ///
    /// # Errors
    /// When the disk refuses, or the file ends before.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes, from the byte at `offset` on. After a crash any of the sectors may be missing, until the next
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the disk refuses; what it has written then is not known.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Waits until everything that was written is on disk.
    ///
    /// # Errors
    /// When the disk refuses; what it has written then is not known.
    fn sync(&self) -> io::Result<()>;

    /// Lets reads come from the disk, not from the system's memory: after a [`sync`](Self::sync) that failed, that has
    /// what the disk has not.
    ///
    /// # Errors
    /// When the system refuses.
    fn uncache(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The disk as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

/// The end of the name of a file in the making.
const UNFINISHED: &str = "new";

impl Files for Disk {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let items = match fs::read_dir(folder) {
            Ok(items) => items,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        items
            .map(|item| Ok(item?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn create(&self, path: &Path, size: u64, head: &[u8]) -> io::Result<Box<dyn DataFile>> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(folder)?;
        let unfinished = path.with_extension(UNFINISHED);
        let file = make(&unfinished, size, head).inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
        fs::rename(&unfinished, path)?;
        File::open(folder)?.sync_all()?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DataFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn tidy(&self, folder: &Path) -> io::Result<()> {
        for name in self.list(folder)? {
            let path = folder.join(name);
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// A file whose whole space is taken. A disk on which there is none may have kept what it had taken before it found out.
fn make(path: &Path, size: u64, head: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)?;
    let len = i64::try_from(size).map_err(io::Error::other)?;
    while let Err(error) = posix_fallocate(&file, 0, len) {
        if error != Errno::EINTR {
            return Err(error.into());
        }
    }
    file.write_all(head)?;
    file.sync_all()?;
    Ok(file)
}

impl DataFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn uncache(&self) -> io::Result<()> {
        Ok(posix_fadvise(
            self,
            0,
            0,
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        )?)
    }
}
