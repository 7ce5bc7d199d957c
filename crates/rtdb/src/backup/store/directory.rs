//! Backups in a directory, each file synced.

use super::{FILE_BYTES_MAX, gone, too_large};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn put(&self, folder: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
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

    pub(super) fn get(&self, folder: &str, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.root.join(folder).join(name))?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > FILE_BYTES_MAX {
            true => Err(too_large()),
            false => Ok(bytes),
        }
    }

    pub(super) fn folders(&self, of: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(of))? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(super) fn remove(&self, folder: &str, first: &str) -> io::Result<()> {
        let folder = self.root.join(folder);
        gone(fs::remove_file(folder.join(first)))?;
        gone(fs::remove_dir_all(&folder))
    }
}
