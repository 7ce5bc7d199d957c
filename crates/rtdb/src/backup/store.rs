//! Where backups lie: files by folder and name. What is written is there as a whole, or not at all.

mod bucket;
mod directory;

use self::bucket::Bucket;
use self::directory::Directory;
use std::io;

/// The most bytes of a file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A directory, or a part of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    place: Place,
    shown: String,
}

#[derive(Clone, Debug)]
enum Place {
    Directory(Directory),
    Bucket(Bucket),
}

impl Store {
    /// `to` names a directory, which need not exist yet, or `s3://BUCKET/PREFIX`.
    pub(crate) fn new(to: &str) -> io::Result<Self> {
        let place = match to.split_once("://") {
            Some(("s3", rest)) => Place::Bucket(Bucket::s3(rest)?),
            Some((scheme, _)) => {
                let why = format!("backups go to a directory or to s3://BUCKET/PREFIX, not to {scheme}://");
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
            None => Place::Directory(Directory::new(to)),
        };
        Ok(Self {
            place,
            shown: to.trim_end_matches('/').to_owned(),
        })
    }

    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        Self {
            place: Place::Bucket(Bucket::in_memory()),
            shown: "memory".to_owned(),
        }
    }

    pub(crate) fn show(&self) -> &str {
        &self.shown
    }

    /// Writes a file, which is there for good once this returns.
    pub(crate) fn put(&self, folder: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        match &self.place {
            Place::Directory(directory) => directory.put(folder, name, bytes),
            Place::Bucket(bucket) => bucket.put(folder, name, bytes),
        }
    }

    pub(crate) fn get(&self, folder: &str, name: &str) -> io::Result<Vec<u8>> {
        match &self.place {
            Place::Directory(directory) => directory.get(folder, name),
            Place::Bucket(bucket) => bucket.get(folder, name),
        }
    }

    /// The folders in one of them, or at the top, in order.
    pub(crate) fn folders(&self, of: &str) -> io::Result<Vec<String>> {
        let mut names = match &self.place {
            Place::Directory(directory) => directory.folders(of)?,
            Place::Bucket(bucket) => bucket.folders(of)?,
        };
        names.sort();
        Ok(names)
    }

    /// Removes a folder, the file that makes it whole first.
    pub(crate) fn remove(&self, folder: &str, first: &str) -> io::Result<()> {
        match &self.place {
            Place::Directory(directory) => directory.remove(folder, first),
            Place::Bucket(bucket) => bucket.remove(folder, first),
        }
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the file is no part of a backup")
}

/// Removes what may be gone already.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
