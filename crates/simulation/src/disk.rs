//! A node's disk: what was synced stays, and of the rest any sectors.

use futures::future::BoxFuture;
use parking_lot::Mutex;
use rtdb_consensus::{DataFile, Files};
use rtdb_runtime::{sim, sleep};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What is written whole, or not at all.
const SECTOR: usize = 512;

/// How often a disk that hangs is looked at.
const HANG_LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Default)]
struct Content {
    /// What a power failure leaves.
    durable: Vec<u8>,
    /// What the system shows.
    live: Vec<u8>,
    /// What was written, and not synced.
    dirty: Vec<Range<usize>>,
}

impl Content {
    fn flush(&mut self, ranges: &[Range<usize>]) {
        for range in ranges {
            self.durable[range.clone()].copy_from_slice(&self.live[range.clone()]);
        }
    }
}

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ailment {
    /// The longest that a sync takes.
    pub sync_max: Duration,
    /// Nothing can be written.
    pub is_full: bool,
    /// The next sync fails.
    pub fails: bool,
    /// Nothing is ever done with.
    pub hangs: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Content>,
    /// Files that were removed: the next power failure may bring them back.
    removed: BTreeMap<PathBuf, Content>,
    /// A sync that is under way.
    syncing: Option<(PathBuf, Vec<Range<usize>>)>,
    ailment: Ailment,
    syncs: u64,
    /// Of a thousand syncs so many cost the machine its power.
    kills: u64,
    node: u64,
    /// Where that is said.
    victims: Option<mpsc::Sender<u64>>,
}

impl State {
    /// A thread that goes on has waited for its sync.
    fn settle(&mut self) {
        if let Some((path, ranges)) = self.syncing.take()
            && let Some(content) = self.files.get_mut(&path)
        {
            content.flush(&ranges);
        }
    }
}

/// A disk in memory. Clones are the same.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// Of a thousand syncs so many cost the machine its power: it says `node` there.
    pub fn endanger(&self, node: u64, kills: u64, victims: mpsc::Sender<u64>) {
        let mut state = self.0.lock();
        (state.node, state.kills, state.victims) = (node, kills, Some(victims));
    }

    /// Changes what is wrong with it.
    pub fn ail(&self, change: impl FnOnce(&mut Ailment)) {
        change(&mut self.0.lock().ailment);
    }

    /// Nothing is wrong with it any more.
    pub fn heal(&self, sync_max: Duration) {
        self.0.lock().ailment = Ailment {
            sync_max,
            ..Ailment::default()
        };
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// The process dies, and the system does not: nothing is lost.
    pub fn survive(&self) {
        let mut state = self.0.lock();
        state.syncing = None;
        for content in state.files.values_mut() {
            let dirty = std::mem::take(&mut content.dirty);
            content.flush(&dirty);
            content.durable.clone_from(&content.live);
        }
    }

    /// All that is on it goes.
    pub fn wipe(&self) {
        let mut state = self.0.lock();
        (state.syncing, state.files, state.removed) = Default::default();
    }

    /// The power fails. Says how many sectors are lost.
    pub fn lose_power(&self) -> usize {
        let mut state = self.0.lock();
        if let Some((path, ranges)) = state.syncing.take()
            && let Some(content) = state.files.get_mut(&path)
        {
            content.dirty.extend(ranges);
        }
        for (path, content) in std::mem::take(&mut state.removed) {
            if sim::draw(2) == 0 {
                state.files.entry(path).or_insert(content);
            }
        }
        // One in a few failures loses nothing, or everything, that was not synced.
        let keep = [0, 200, 500, 800, 1_000][sim::draw(5) as usize];
        let mut lost = 0;
        for content in state.files.values_mut() {
            for range in std::mem::take(&mut content.dirty) {
                for start in range.clone().step_by(SECTOR) {
                    let sector = start..(start + SECTOR).min(range.end);
                    if content.durable[sector.clone()] == content.live[sector.clone()] {
                        continue;
                    }
                    match sim::per_mille(keep) {
                        true => content.flush(&[sector]),
                        false => lost += 1,
                    }
                }
            }
            content.live.clone_from(&content.durable);
        }
        lost
    }

    /// A bit of what was written flips; `false` if there is none.
    pub fn rot(&self) -> bool {
        let mut state = self.0.lock();
        let count = state.files.len() as u64;
        let Some(content) = (count > 0)
            .then(|| sim::draw(count) as usize)
            .and_then(|place| state.files.values_mut().nth(place))
        else {
            return false;
        };
        let written = content.durable.iter().rposition(|byte| *byte != 0);
        let Some(end) = written else { return false };
        let (at, bit) = (sim::draw(end as u64 + 1) as usize, 1 << sim::draw(8));
        content.durable[at] ^= bit;
        content.live[at] ^= bit;
        true
    }
}

impl Files for Disk {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        let names = state.files.keys().filter(|path| path.parent() == Some(folder));
        Ok(names
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn create(&self, path: &Path, size: u64, head: &[u8]) -> io::Result<Box<dyn DataFile>> {
        let mut state = self.0.lock();
        state.settle();
        if state.ailment.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = head.to_vec();
        bytes.resize(usize::try_from(size).map_err(io::Error::other)?, 0);
        let content = Content {
            durable: bytes.clone(),
            live: bytes,
            dirty: Vec::new(),
        };
        state.removed.remove(path);
        state.files.insert(path.to_owned(), content);
        drop(state);
        self.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DataFile>> {
        let (disk, path) = (self.clone(), path.to_owned());
        Ok(Box::new(SimFile { disk, path }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.settle();
        let content = state.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.removed.insert(path.to_owned(), content);
        Ok(())
    }

    fn settling(&self) -> Option<BoxFuture<'static, io::Result<()>>> {
        let disk = self.clone();
        Some(Box::pin(async move {
            let max = {
                let state = disk.0.lock();
                if let Some(victims) = state.victims.as_ref().filter(|_| sim::per_mille(state.kills)) {
                    // Enough are to die if there is no room for more.
                    let _ = victims.try_send(state.node);
                }
                state.ailment.sync_max
            };
            sleep(sim::up_to(max)).await;
            while disk.0.lock().ailment.hangs {
                sleep(HANG_LOOK).await;
            }
            disk.0.lock().settle();
            Ok(())
        }))
    }
}

struct SimFile {
    disk: Disk,
    path: PathBuf,
}

impl SimFile {
    fn with<T>(&self, look: impl FnOnce(&Content) -> io::Result<T>) -> io::Result<T> {
        let state = self.disk.0.lock();
        look(state.files.get(&self.path).ok_or(io::ErrorKind::NotFound)?)
    }
}

impl DataFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|content| Ok(content.live.len() as u64))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|content| {
            let bytes = content.live.get(at..at + buffer.len());
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let mut state = self.disk.0.lock();
        state.settle();
        let is_full = state.ailment.is_full;
        // A disk that is full may have taken a part.
        let taken = match is_full {
            true => sim::draw((bytes.len() / SECTOR) as u64 + 1) as usize * SECTOR,
            false => bytes.len(),
        };
        let content = state.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?;
        let target = content.live.get_mut(at..at + taken);
        target
            .ok_or(io::ErrorKind::StorageFull)?
            .copy_from_slice(&bytes[..taken]);
        content.dirty.push(at..at + taken);
        match is_full {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.settle();
        state.syncs += 1;
        if std::mem::take(&mut state.ailment.fails) {
            return Err(io::Error::other("the disk has failed"));
        }
        let content = state.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?;
        let dirty = std::mem::take(&mut content.dirty);
        state.syncing = Some((self.path.clone(), dirty));
        Ok(())
    }
}
