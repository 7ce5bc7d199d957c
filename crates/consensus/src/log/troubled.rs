//! A disk with which something is wrong now and then.

use super::files::{DataFile, Disk, Files};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a [`Troubled`] disk does when it is written to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trouble {
    None,
    Full,
    /// It takes so many writes more, and is full then.
    FullAfter(usize),
    Hangs,
    /// It takes so long for each write.
    Slow(Duration),
    Panics,
}

/// A disk with which something is wrong now and then.
#[derive(Clone)]
pub(crate) struct Troubled(Arc<Mutex<Trouble>>);

impl Troubled {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Trouble::None)))
    }

    pub(crate) fn set(&self, trouble: Trouble) {
        *self.0.lock() = trouble;
    }
}

struct TroubledFile(Box<dyn DataFile>, Troubled);

impl Files for Troubled {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        Disk.list(folder)
    }

    fn create(&self, path: &Path, size: u64, head: &[u8]) -> io::Result<Box<dyn DataFile>> {
        Ok(Box::new(TroubledFile(
            Disk.create(path, size, head)?,
            self.clone(),
        )))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DataFile>> {
        Ok(Box::new(TroubledFile(Disk.open(path)?, self.clone())))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }
}

impl DataFile for TroubledFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read(buffer, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        loop {
            let mut trouble = self.1.0.lock();
            match &mut *trouble {
                Trouble::None => return self.0.write(bytes, offset),
                Trouble::Full => return Err(io::ErrorKind::StorageFull.into()),
                Trouble::Panics => panic!("the disk is on fire"),
                Trouble::FullAfter(0) => *trouble = Trouble::Full,
                Trouble::FullAfter(left) => {
                    *left -= 1;
                    return self.0.write(bytes, offset);
                }
                Trouble::Hangs => {}
                Trouble::Slow(time) => {
                    let time = *time;
                    drop(trouble);
                    std::thread::sleep(time);
                    return self.0.write(bytes, offset);
                }
            }
            drop(trouble);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}
