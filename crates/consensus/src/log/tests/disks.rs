//! Disks that refuse, hang, forget or run out, and logs that were left half made.

use super::super::block::BLOCK;
use super::super::change::{Change, Sequence, Space};
use super::super::files::{DataFile, Disk, Files};
use super::super::journal::Journal;
use super::super::sim::SimFiles;
use super::super::{GroupLog, Store, StoreError};
use crate::entry::Proposal;
use crate::group_id::GroupId;
use crate::record::LogRecord;
use crate::types::{LeaderId, LogId, Payload, RaftEntry, TypeConfig, Vote};
use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use parking_lot::{Condvar, Mutex};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId { term, node_id: 1 },
        index,
    }
}

fn entry(term: u64, index: u64, size: usize) -> RaftEntry {
    RaftEntry {
        log_id: log_id(term, index),
        payload: Payload::Normal(Proposal(Bytes::from(vec![7; size]))),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

async fn append(log: &mut GroupLog, entries: Vec<RaftEntry>) -> io::Result<()> {
    let (flushed, waiter) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(flushed)).await?;
    waiter.await.map_err(io::Error::other)?
}

fn change(group: u64, term: u64, index: u64, size: usize) -> Change {
    Change::Append {
        group: GroupId(group),
        sequence: Sequence::Entries,
        index,
        record: LogRecord::from(&entry(term, index, size)).encode_to_vec(),
    }
}

type Hook = Arc<dyn Fn(&Path, What) -> io::Result<()> + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Debug)]
enum What {
    Read,
    Write,
    Sync,
}

/// Any disk, with a hook before everything.
struct Hooked<F> {
    inner: F,
    hook: Hook,
}
struct HookedFile {
    inner: Box<dyn DataFile>,
    path: PathBuf,
    hook: Hook,
}

impl<F: Files> Files for Hooked<F> {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }
    fn create(&self, path: &Path, size: u64, head: &[u8]) -> io::Result<Box<dyn DataFile>> {
        let inner = self.inner.create(path, size, head)?;
        Ok(Box::new(HookedFile {
            inner,
            path: path.to_owned(),
            hook: self.hook.clone(),
        }))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DataFile>> {
        let inner = self.inner.open(path)?;
        Ok(Box::new(HookedFile {
            inner,
            path: path.to_owned(),
            hook: self.hook.clone(),
        }))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
}

impl DataFile for HookedFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (self.hook)(&self.path, What::Read)?;
        self.inner.read(buffer, offset)
    }
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (self.hook)(&self.path, What::Write)?;
        self.inner.write(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        (self.hook)(&self.path, What::Sync)?;
        self.inner.sync()
    }
    fn uncache(&self) -> io::Result<()> {
        self.inner.uncache()
    }
}

const FD_DIR: &str = "RTDB_TEST_FD_DIR";

#[test]
#[ignore = "child"]
fn fd_child() {
    let Ok(dir) = std::env::var(FD_DIR) else { return };
    let folder = Path::new(&dir).join("log");
    let mut journal = match std::fs::exists(&folder).unwrap() {
        false => Journal::create(Arc::new(Disk), &folder, 4096, [1; 16]).unwrap(),
        true => Journal::open(Arc::new(Disk), &folder, 4096).unwrap_or_else(|e| panic!("OPEN: {e}")),
    };
    for index in 1..=150 {
        journal
            .append(&[change(0, 1, index, 1500)])
            .unwrap_or_else(|e| panic!("APPEND {index}: {e}"));
    }
}

#[test]
fn a_long_log_needs_no_file_descriptor_for_each_segment() {
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let run = |limit: u32| {
        let line = format!(
            "ulimit -n {limit}; exec {} log::tests::disks::fd_child --exact --ignored --nocapture",
            exe.display()
        );
        let out = Command::new("sh")
            .args(["-c", &line])
            .env(FD_DIR, dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        (
            out.status.success(),
            text.lines()
                .filter(|l| l.contains("OPEN") || l.contains("APPEND"))
                .collect::<String>(),
        )
    };
    let first = run(64);
    let second = run(64);
    assert!(first.0 && second.0, "first: {first:?}; opened again: {second:?}");
}

#[test]
fn the_directory_stays_locked_while_a_write_is_under_way() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let hook: Hook = {
            let gate = gate.clone();
            Arc::new(move |_, what| {
                if what == What::Write {
                    let mut held = gate.0.lock();
                    while *held {
                        gate.1.wait(&mut held);
                    }
                }
                Ok(())
            })
        };
        let store = Store::open_with(dir.path(), 1, Hooked { inner: Disk, hook }).unwrap();
        let mut log = store.group(GroupId::SHARD).unwrap();
        append(&mut log, vec![entry(1, 1, 10)]).await.unwrap();
        *gate.0.lock() = true;
        let waiting = tokio::spawn(async move { append(&mut log, vec![entry(1, 2, 10)]).await });
        store.watch(Duration::from_millis(50)).await;
        waiting.abort();
        drop(waiting.await);
        drop(store);
        // The next process.
        let again = Store::open(dir.path(), 1);
        if let Ok(store) = again {
            let mut log = store.group(GroupId::SHARD).unwrap();
            append(&mut log, vec![entry(5, 2, 10), entry(5, 3, 10)])
                .await
                .unwrap();
            log.save_vote(&Vote::new(6, 1)).await.unwrap();
            drop((store, log));
            *gate.0.lock() = false;
            gate.1.notify_all();
            std::thread::sleep(Duration::from_millis(300));
            let after = Store::open(dir.path(), 1).map(|store| {
                let mut log = store.group(GroupId::SHARD).unwrap();
                let entries = block_on_inner(async { log.try_get_log_entries(..).await.unwrap() });
                entries
                    .into_iter()
                    .map(|e| e.log_id.to_string())
                    .collect::<Vec<_>>()
            });
            panic!(
                "opened while a write was under way; later: {:?}",
                after.map_err(|e| e.to_string())
            );
        }
        assert!(matches!(again.err(), Some(StoreError::Locked { .. })));
    });
}

fn block_on_inner<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| block_on(future)).join().unwrap())
}

fn bound(dir: &Path) {
    block_on(async {
        let store = Store::open(dir, 1).unwrap();
        store.next_epoch(5, 0).await.unwrap();
        store.bind_cluster("a", &[1].into()).await.unwrap();
        let mut log = store.group(GroupId::SHARD).unwrap();
        log.save_vote(&Vote::new(7, 1)).await.unwrap();
        append(&mut log, vec![entry(1, 1, 10)]).await.unwrap();
    });
    std::fs::remove_file(dir.join("FORMAT")).unwrap();
}

#[test]
fn a_damaged_log_without_format_is_not_wiped() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    bound(dir.path());
    let file = dir.path().join("log/0000000000000001.log");
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(&[0x55], 3 * BLOCK as u64 + 77).unwrap();
    let opened = Store::open(dir.path(), 1);
    assert!(
        opened.is_err(),
        "begun anew: cluster {:?}",
        opened.unwrap().cluster()
    );
}

#[test]
fn a_log_without_format_that_can_t_be_read_just_now_is_not_wiped() {
    let dir = tempfile::tempdir().unwrap();
    bound(dir.path());
    let fails = Arc::new(AtomicUsize::new(1));
    let hook: Hook = Arc::new(move |_, what| {
        let fail = what == What::Read
            && fails
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok();
        if fail {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    });
    let opened = Store::open_with(dir.path(), 1, Hooked { inner: Disk, hook });
    assert!(
        opened.is_err(),
        "begun anew: cluster {:?}",
        opened.unwrap().cluster()
    );
}

#[derive(Clone, Copy, PartialEq)]
enum Fsync {
    Works,
    Dies,
    Fails,
}

struct Cached {
    disk: Vec<u8>,
    cache: Vec<u8>,
    dirty: BTreeSet<usize>,
}
struct CacheState {
    files: BTreeMap<PathBuf, Cached>,
    fsync: Fsync,
}

/// A disk behind a page cache, as Linux's: a failed fsync leaves the pages clean, and not written.
#[derive(Clone)]
struct PageCache(Arc<Mutex<CacheState>>);
struct CacheFile(PageCache, PathBuf);
const PAGE: usize = 4096;

impl PageCache {
    fn power_cut(&self, keep: impl Fn(usize) -> bool) {
        for file in self.0.lock().files.values_mut() {
            for page in std::mem::take(&mut file.dirty) {
                for sector in page * PAGE / BLOCK..((page + 1) * PAGE / BLOCK).min(file.disk.len() / BLOCK) {
                    if keep(sector) {
                        let range = sector * BLOCK..(sector + 1) * BLOCK;
                        file.disk[range.clone()].copy_from_slice(&file.cache[range]);
                    }
                }
            }
            file.cache.clone_from(&file.disk);
        }
    }
}

impl Files for PageCache {
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(self
            .0
            .lock()
            .files
            .keys()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect())
    }
    fn create(&self, path: &Path, size: u64, head: &[u8]) -> io::Result<Box<dyn DataFile>> {
        let mut disk = head.to_vec();
        disk.resize(size as usize, 0);
        self.0.lock().files.insert(
            path.to_owned(),
            Cached {
                cache: disk.clone(),
                disk,
                dirty: BTreeSet::new(),
            },
        );
        self.open(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DataFile>> {
        Ok(Box::new(CacheFile(self.clone(), path.to_owned())))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().files.remove(path);
        Ok(())
    }
}

impl DataFile for CacheFile {
    fn uncache(&self) -> io::Result<()> {
        let mut state = self.0.0.lock();
        let file = state.files.get_mut(&self.1).unwrap();
        for page in (0..file.disk.len().div_ceil(PAGE)).filter(|page| !file.dirty.contains(page)) {
            let range = page * PAGE..((page + 1) * PAGE).min(file.disk.len());
            file.cache[range.clone()].copy_from_slice(&file.disk[range]);
        }
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.0.lock().files[&self.1].cache.len() as u64)
    }
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        buffer.copy_from_slice(&self.0.0.lock().files[&self.1].cache[at..at + buffer.len()]);
        Ok(())
    }
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.0.lock();
        let file = state.files.get_mut(&self.1).unwrap();
        let at = offset as usize;
        file.cache[at..at + bytes.len()].copy_from_slice(bytes);
        file.dirty.extend(at / PAGE..(at + bytes.len()).div_ceil(PAGE));
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.0.lock();
        let how = state.fsync;
        let file = state.files.get_mut(&self.1).unwrap();
        match how {
            Fsync::Dies => return Err(io::Error::other("the process is dead")),
            Fsync::Fails => {
                file.dirty.clear();
                return Err(io::Error::from_raw_os_error(5));
            }
            Fsync::Works => {}
        }
        for page in std::mem::take(&mut file.dirty) {
            let range = page * PAGE..((page + 1) * PAGE).min(file.disk.len());
            file.disk[range.clone()].copy_from_slice(&file.cache[range]);
        }
        Ok(())
    }
}

#[test]
fn a_recovery_whose_fsync_failed_is_not_believed() {
    let files = PageCache(Arc::new(Mutex::new(CacheState {
        files: BTreeMap::new(),
        fsync: Fsync::Works,
    })));
    let (folder, segment) = (Path::new("/node/log"), 64 << 10);
    let fsync = |how| files.0.lock().fsync = how;
    let open = || Journal::open(Arc::new(files.clone()), folder, segment);
    let mut journal = Journal::create(Arc::new(files.clone()), folder, segment, [1; 16]).unwrap();
    journal.append(&[change(0, 1, 1, 10)]).unwrap();
    // A power cut in the middle of a large batch: of it, one sector far behind is on disk.
    fsync(Fsync::Dies);
    journal.append(&[change(0, 1, 2, 20_000)]).unwrap_err();
    drop(journal);
    files.power_cut(|sector| sector == 30);
    // The first start after it: the disk refuses once. The second one finds nothing wrong.
    fsync(Fsync::Fails);
    assert!(open().is_err());
    fsync(Fsync::Works);
    let mut journal = open().unwrap();
    journal.append(&[change(0, 2, 2, 10)]).unwrap();
    journal.append(&[change(0, 2, 3, 10)]).unwrap();
    drop(journal);
    files.power_cut(|_| false);
    let again = open();
    assert!(
        again.is_ok(),
        "a healthy store, all of whose writes were synced: {}",
        again.err().unwrap()
    );
}

#[test]
fn a_read_does_not_glue_two_histories_together() {
    let files = SimFiles::default();
    let path = Path::new("/node");
    let armed: Arc<Mutex<Option<GroupLog>>> = Arc::default();
    let hook: Hook = {
        let armed = armed.clone();
        Arc::new(move |path, what| {
            if what == What::Read && path.ends_with("0000000000000001.log") {
                let log = armed.lock().take();
                if let Some(mut log) = log {
                    futures::executor::block_on(async {
                        log.truncate_after(Some(log_id(1, 2))).await.unwrap();
                        append(&mut log, (3..=12).map(|i| entry(3, i, 1000)).collect())
                            .await
                            .unwrap();
                    });
                }
            }
            Ok(())
        })
    };
    block_on(async {
        let open = |is_new| {
            let files = Hooked {
                inner: files.clone(),
                hook: hook.clone(),
            };
            Store::on(Arc::new(files), path, 1, 8 << 10, is_new, None).unwrap()
        };
        let store = open(true);
        let mut log = store.group(GroupId::SHARD).unwrap();
        for index in 1..=12 {
            append(&mut log, vec![entry(1, index, 1000)]).await.unwrap();
        }
        drop((store, log));
        let store = open(false);
        let log = store.group(GroupId::SHARD).unwrap();
        *armed.lock() = Some(log.clone());
        let found = log.read(1, 13, usize::MAX).await.unwrap();
        let terms: Vec<u64> = found.iter().map(|e| e.log_id.leader_id.term).collect();
        let old = terms.iter().all(|t| *t == 1);
        let new = terms
            .iter()
            .enumerate()
            .all(|(at, t)| *t == if at < 2 { 1 } else { 3 });
        assert!(
            old || new,
            "entries 1.. of the terms {terms:?}; the log was 1..12 of term 1, then 1,2 of 1 and 3..12 of 3"
        );
    });
}

#[test]
fn a_newer_log_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path(), 1).unwrap());
    let file = dir.path().join("log/0000000000000001.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[8 + 8] = 2; // the head's version
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&1u64.to_le_bytes());
    hasher.update(&0u64.to_le_bytes());
    hasher.update(&bytes[4..BLOCK]);
    let sum = hasher.finalize();
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let error = Store::open(dir.path(), 1).err().unwrap().to_string();
    assert!(
        !error.contains("is damaged") && !error.contains("take the node out"),
        "{error}"
    );
}

#[test]
fn a_large_state_is_not_written_again_with_each_batch() {
    let files = SimFiles::default();
    let segment = 64 << 10;
    let mut journal =
        Journal::create(Arc::new(files.clone()), Path::new("/node/log"), segment, [1; 16]).unwrap();
    let state = Change::set(Space::State, b"s".to_vec(), vec![7; 70 << 10]);
    journal.append(&[state]).unwrap();
    for index in 1..=50 {
        journal.append(&[change(0, 1, index, 100)]).unwrap();
    }
    let segments = files.sizes().len();
    let bytes: usize = files.sizes().iter().map(|(_, size)| size).sum();
    assert!(
        segments <= 10,
        "50 entries of 100 bytes made {segments} segments of {bytes} bytes together"
    );
}

#[test]
fn a_read_that_hangs_stops_the_node() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let hook: Hook = {
        let gate = gate.clone();
        Arc::new(move |_, what| {
            if what == What::Read {
                let mut held = gate.0.lock();
                while *held {
                    gate.1.wait(&mut held);
                }
            }
            Ok(())
        })
    };
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let mut log = Store::open(dir.path(), 1).unwrap().group(GroupId::SHARD).unwrap();
        append(&mut log, (1..9).map(|i| entry(1, i, 10)).collect())
            .await
            .unwrap();
    });
    let ended = block_on(async {
        let store = Store::open_with(dir.path(), 1, Hooked { inner: Disk, hook }).unwrap();
        let log = store.group(GroupId::SHARD).unwrap();
        *gate.0.lock() = true;
        let reading = tokio::spawn(async move { log.read(1, 9, usize::MAX).await.map(drop) });
        let ended =
            tokio::time::timeout(Duration::from_secs(3), store.watch(Duration::from_millis(100))).await;
        *gate.0.lock() = false;
        gate.1.notify_all();
        drop(reading.await);
        ended
    });
    assert!(
        ended.is_ok(),
        "a read hung for 3 s, with a patience of 100 ms, and nobody minded"
    );
}

#[test]
fn a_sector_that_can_t_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path(), 1).unwrap());
    let hook: Hook = Arc::new(|_, what| {
        if what == What::Read {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    });
    let error = Store::open_with(dir.path(), 1, Hooked { inner: Disk, hook })
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("0000000000000001.log"), "{error}");
}

#[test]
fn damage_that_is_found_later_names_the_way_back() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let mut log = Store::open(dir.path(), 1).unwrap().group(GroupId::SHARD).unwrap();
        append(&mut log, (1..9).map(|i| entry(1, i, 1000)).collect())
            .await
            .unwrap();
        drop(log);
        let store = Store::open(dir.path(), 1).unwrap();
        let log = store.group(GroupId::SHARD).unwrap();
        let file = dir.path().join("log/0000000000000001.log");
        let file = std::fs::File::options().write(true).open(file).unwrap();
        file.write_all_at(&[0x55], 6 * BLOCK as u64 + 77).unwrap();
        let error = log.read(1, 9, usize::MAX).await.unwrap_err().to_string();
        assert!(
            error.contains("0000000000000001.log") && error.contains("--data-dir"),
            "{error}"
        );
    });
}

#[test]
fn five_readers_do_not_read_each_segment_again_for_each_record() {
    let files = SimFiles::default();
    let bytes = Arc::new(AtomicUsize::new(0));
    let hook: Hook = {
        let bytes = bytes.clone();
        Arc::new(move |_, what| {
            if what == What::Read {
                bytes.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    let mut journal = Journal::create(
        Arc::new(Hooked { inner: files, hook }),
        Path::new("/node/log"),
        64 << 10,
        [1; 16],
    )
    .unwrap();
    for index in 1..=500 {
        journal.append(&[change(0, 1, index, 1000)]).unwrap();
    }
    let reader = journal.reader().clone();
    let run = |positions: &[u64]| {
        let before = bytes.load(Ordering::Relaxed);
        for step in 0..30 {
            for from in positions {
                reader
                    .read(GroupId(0), Sequence::Entries, from + step, from + step + 1, 1)
                    .unwrap();
            }
        }
        (bytes.load(Ordering::Relaxed) - before) / positions.len()
    };
    let (four, five) = (run(&[1, 80, 160, 240]), run(&[1, 80, 160, 240, 320]));
    assert!(
        five < 3 * four,
        "reads of the disk by each of four readers: {four}; of five: {five}"
    );
}

#[test]
fn a_segment_that_could_not_be_made_leaves_nothing() {
    // A file size limit stands in for the full disk: fallocate fails in the same place.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log/0000000000000002.log");
    assert!(Disk.create(&path, 1 << 60, &[1; 512]).is_err());
    let left: Vec<_> = Disk.list(&dir.path().join("log")).unwrap();
    assert!(left.is_empty(), "{left:?}");
}
