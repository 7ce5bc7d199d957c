//! A disk in memory, which remembers all that was done to it: so that it can be had as a crash at any moment would have
//! left it.

use super::block::BLOCK;
use super::files::{DataFile, Files};
use parking_lot::Mutex;
use rand::{Rng, RngExt};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was done to the disk, and what the log's user was told in between.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Create {
        path: PathBuf,
        size: usize,
        head: Vec<u8>,
    },
    Write {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    Sync {
        path: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    /// So many writes were said to be on disk.
    Acknowledged(usize),
}

/// What a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    /// Everything that was written: the process died, the system lives.
    Killed,
    /// Everything that was synced, and any of the sectors that were written since.
    PowerCut,
}

#[derive(Default)]
struct Content {
    synced: Vec<u8>,
    written: Vec<u8>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Content>,
    /// Files that were removed: without a sync of the folder they may come back.
    removed: BTreeMap<PathBuf, Content>,
    trace: Vec<Op>,
}

/// A disk in memory.
#[derive(Clone, Default)]
pub(super) struct SimFiles(Arc<Mutex<State>>);

impl State {
    fn apply(&mut self, op: Op) -> io::Result<()> {
        match &op {
            Op::Create { path, size, head } => {
                let mut bytes = head.clone();
                bytes.resize(*size, 0);
                let content = Content {
                    synced: bytes.clone(),
                    written: bytes,
                };
                self.removed.remove(path);
                self.files.insert(path.clone(), content);
            }
            Op::Write { path, at, bytes } => {
                let content = self.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
                let target = content.written.get_mut(*at..*at + bytes.len());
                target.ok_or(io::ErrorKind::StorageFull)?.copy_from_slice(bytes);
            }
            Op::Sync { path } => {
                let content = self.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
                content.synced.clone_from(&content.written);
            }
            Op::Remove { path } => {
                let content = self.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
                self.removed.insert(path.clone(), content);
            }
            Op::Acknowledged(_) => {}
        }
        self.trace.push(op);
        Ok(())
    }
}

impl SimFiles {
    pub(super) fn trace(&self) -> Vec<Op> {
        self.0.lock().trace.clone()
    }

    pub(super) fn acknowledge(&self, count: usize) {
        self.0.lock().trace.push(Op::Acknowledged(count));
    }

    /// The disk after a crash that let these operations happen, and a part of the next one.
    pub(super) fn crashed(&self, done: &[Op], next: Option<&Op>, crash: Crash, rng: &mut impl Rng) -> Self {
        let mut state = {
            let before = self.0.lock();
            State {
                files: before.files.iter().map(copy_file).collect(),
                removed: before.removed.iter().map(copy_file).collect(),
                trace: Vec::new(),
            }
        };
        for op in done {
            state.apply(op.clone()).unwrap();
        }
        match next {
            Some(Op::Write { path, at, bytes }) => {
                let part = rng.random_range(0..=bytes.len() / BLOCK) * BLOCK;
                let (path, at, bytes) = (path.clone(), *at, bytes[..part].to_vec());
                state.apply(Op::Write { path, at, bytes }).unwrap();
            }
            Some(op) if rng.random() => state.apply(op.clone()).unwrap(),
            _ => {}
        }
        if crash == Crash::PowerCut {
            for (path, content) in std::mem::take(&mut state.removed) {
                if rng.random() {
                    state.files.insert(path, content);
                }
            }
            for content in state.files.values_mut() {
                let sectors = content
                    .synced
                    .chunks_mut(BLOCK)
                    .zip(content.written.chunks(BLOCK));
                // One in a few crashes loses nothing, or everything, that was not synced.
                let keep = [0.0, 0.2, 0.5, 0.8, 1.0][rng.random_range(0..5)];
                for (synced, written) in sectors {
                    if synced != written && rng.random_bool(keep) {
                        synced.copy_from_slice(written);
                    }
                }
                content.written.clone_from(&content.synced);
            }
        }
        state.removed.clear();
        state.trace.clear();
        Self(Arc::new(Mutex::new(state)))
    }

    /// Lets something happen to it.
    pub(super) fn apply(&self, op: &Op) {
        self.0.lock().apply(op.clone()).unwrap();
    }

    /// A copy of the disk, as it is.
    pub(super) fn copy(&self) -> Self {
        let copied = self.0.lock().files.iter().map(copy_file).collect();
        let state = State {
            files: copied,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn sizes(&self) -> Vec<(PathBuf, usize)> {
        let files = &self.0.lock().files;
        files
            .iter()
            .map(|(path, content)| (path.clone(), content.written.len()))
            .collect()
    }

    pub(super) fn content(&self, path: &Path) -> Option<Vec<u8>> {
        Some(self.0.lock().files.get(path)?.written.clone())
    }

    /// Lets a file rot.
    pub(super) fn rot(&self, path: &Path, rot: impl FnOnce(&mut Vec<u8>)) {
        rot(&mut self.0.lock().files.get_mut(path).unwrap().written);
    }

    pub(super) fn forget(&self, path: &Path) {
        self.0.lock().files.remove(path);
    }
}

fn copy_file((path, content): (&PathBuf, &Content)) -> (PathBuf, Content) {
    let content = Content {
        synced: content.synced.clone(),
        written: content.written.clone(),
    };
    (path.clone(), content)
}

struct SimFile {
    disk: Arc<Mutex<State>>,
    path: PathBuf,
}

impl SimFile {
    fn with<T>(&self, look: impl FnOnce(&Content) -> io::Result<T>) -> io::Result<T> {
        let state = self.disk.lock();
        look(state.files.get(&self.path).ok_or(io::ErrorKind::NotFound)?)
    }
}

impl Files for SimFiles {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        let names = state.files.keys().filter(|path| path.parent() == Some(folder));
        Ok(names
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect())
    }

    fn create(&self, path: &Path, size: u64, head: &[u8]) -> io::Result<Box<dyn DataFile>> {
        let op = Op::Create {
            path: path.to_owned(),
            size: size as usize,
            head: head.to_vec(),
        };
        self.0.lock().apply(op)?;
        self.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DataFile>> {
        let (disk, path) = (self.0.clone(), path.to_owned());
        Ok(Box::new(SimFile { disk, path }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.0.lock().apply(Op::Remove { path })
    }
}

impl DataFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|content| Ok(content.written.len() as u64))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        self.with(|content| {
            let bytes = content.written.get(at..at + buffer.len());
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (path, bytes) = (self.path.clone(), bytes.to_vec());
        self.disk.lock().apply(Op::Write {
            path,
            at: offset as usize,
            bytes,
        })
    }

    fn sync(&self) -> io::Result<()> {
        let path = self.path.clone();
        self.disk.lock().apply(Op::Sync { path })
    }
}
