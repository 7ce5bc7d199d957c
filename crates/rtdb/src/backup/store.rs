//! Where backups lie: files by name. What is written is there as a whole, or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// The most bytes of a file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A directory.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    /// `to` names a directory, which need not exist yet.
    pub(crate) fn new(to: &str) -> io::Result<Self> {
        if let Some((scheme, _)) = to.split_once("://") {
            let why = format!("backups go to a directory as yet, not to {scheme}://");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        Ok(Self { root: to.into() })
    }

    pub(crate) fn show(&self) -> String {
        self.root.display().to_string()
    }

    /// Writes a file, which survives a crash once this returns.
    pub(crate) fn put(&self, folder: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.root.join(folder);
        fs::create_dir_all(&folder)?;
        let half = folder.join(format!(".{name}.half"));
        let written = || {
            let mut file = File::create(&half)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&half, folder.join(name))?;
            File::open(&folder)?.sync_all()
        };
        written().inspect_err(|_| drop(fs::remove_file(&half)))
    }

    pub(crate) fn get(&self, folder: &str, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.root.join(folder).join(name))?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > FILE_BYTES_MAX {
            true => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the file is no part of a backup",
            )),
            false => Ok(bytes),
        }
    }

    /// The folders in one of them, or at the top.
    pub(crate) fn folders(&self, of: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(of))? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes a folder, the file that makes it whole first.
    pub(crate) fn remove(&self, folder: &str, first: &str) -> io::Result<()> {
        let folder = self.root.join(folder);
        gone(fs::remove_file(folder.join(first)))?;
        gone(fs::remove_dir_all(&folder))
    }

    #[cfg(test)]
    pub(crate) fn path(&self, folder: &str, name: &str) -> PathBuf {
        self.root.join(folder).join(name)
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
