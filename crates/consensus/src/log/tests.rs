use super::group::log_key;
use super::{Disk, Done, GroupLog, Journal, Space, Store, StoreError};
use crate::config::Limits;
use crate::machine::Machine;
use crate::proposer::Proposer;
use crate::record::LogRecord;
use crate::resolved::ResolvedLog;
use crate::resolver::Resolver;
use crate::types::{GroupId, LeaderId, LogId, Payload, Proposal, RaftEntry, TypeConfig, Vote};
use bytes::Bytes;
use fjall::OwnedWriteBatch;
use openraft::StorageError;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use parking_lot::Mutex;
use proptest::prelude::*;
use prost::Message;
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const CHILD_DIR: &str = "RTDB_TEST_KILL_DIR";

/// Bytes that are compared at once.
const BLOCK: usize = 64;

fn entry(index: u64) -> RaftEntry {
    let bytes = Bytes::from(format!("entry {index}"));
    RaftEntry {
        log_id: log_id(index),
        payload: Payload::Normal(Proposal(bytes)),
    }
}

fn log_id(index: u64) -> LogId {
    LogId {
        leader_id: LeaderId { term: 1, node_id: 1 },
        index,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

async fn append(log: &mut GroupLog, indices: std::ops::Range<u64>) -> io::Result<()> {
    let (flushed, waiter) = TypeConfig::oneshot();
    log.append(indices.map(entry), IOFlushed::signal(flushed)).await?;
    waiter.await.map_err(io::Error::other)?
}

async fn indices(log: &mut GroupLog) -> Vec<u64> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    for (place, found) in entries.iter().enumerate() {
        assert_eq!(*found, entry(found.log_id.index));
        assert_eq!(found.log_id.index, entries[0].log_id.index + place as u64);
    }
    entries.iter().map(|entry| entry.log_id.index).collect()
}

struct Builder;

impl StoreBuilder<TypeConfig, GroupLog, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, GroupLog, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = Store::open(dir.path(), 1).unwrap().group(GroupId::SHARD).unwrap();
        let proposer = Arc::new(Proposer::new(1, 1, Limits::default()));
        let machine = Machine::open(ResolvedLog::new(log.clone(), Resolver::shard(), proposer)).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn openraft_s_storage_suite_passes() {
    TypeConfig::run(async { Suite::test_all(Builder).await.unwrap() });
}

#[test]
fn entries_that_left_the_memory_are_read_from_disk() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        {
            let mut log = Store::open(dir.path(), 1).unwrap().group(GroupId::SHARD).unwrap();
            append(&mut log, 1..101).await.unwrap();
        }
        let mut log = Store::open(dir.path(), 1).unwrap().group(GroupId::SHARD).unwrap();
        append(&mut log, 101..201).await.unwrap();
        assert_eq!(indices(&mut log).await, (1..201).collect::<Vec<_>>());
        let limited = log.read(95, 300, 10 * 140).await.unwrap();
        assert!((5..=11).contains(&limited.len()), "{} entries", limited.len());
        log.truncate_after(Some(log_id(50))).await.unwrap();
        append(&mut log, 51..61).await.unwrap();
        assert_eq!(indices(&mut log).await, (1..61).collect::<Vec<_>>());
    });
}

#[test]
fn groups_share_the_journal_and_nothing_else() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1).unwrap();
        let mut logs = [GroupId(0), GroupId(1), GroupId(2)].map(|id| store.group(id).unwrap());
        let [first, second, third] = &mut logs;
        let vote = Vote::new(3, 1);
        let results = futures::join!(append(first, 1..5), append(second, 1..9), third.save_vote(&vote));
        results.0.and(results.1).and(results.2).unwrap();
        assert_eq!(indices(first).await.len(), 4);
        assert_eq!(indices(second).await.len(), 8);
        assert_eq!(third.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
        assert_eq!(second.read_vote().await.unwrap(), None);
        let stats = store.stats();
        assert!(stats.syncs <= stats.writes && stats.writes == 3, "{stats:?}");
    });
}

#[test]
fn what_nobody_waits_for_is_written_in_its_order() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), 1).unwrap();
    let key = |n: u64| n.to_be_bytes().to_vec();
    let value = |n: u64| [key(n), vec![0; 1 << 10]].concat();
    let writes = 1..10_000_u64;
    block_on(async {
        for n in writes.clone() {
            // Each write changes what the one before it wrote.
            let changes = [n - 1, n].map(|at| (Space::State, key(at), Some(value(n))));
            let (written, index) = (Arc::default(), n);
            let done = Done::Later { written, index };
            store.write(changes.into(), done).await.unwrap();
        }
        store.sync(Vec::new()).await.unwrap();
    });
    for n in writes {
        let found = store.get(Space::State, &key(n - 1)).unwrap().unwrap();
        assert_eq!(found[..8], key(n), "at {}", n - 1);
    }
}

#[test]
fn a_directory_is_bound_and_guarded() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1).unwrap();
        assert!(matches!(
            Store::open(dir.path(), 1).err(),
            Some(StoreError::Locked { .. })
        ));
        store.bind_cluster("a").await.unwrap();
        store.bind_cluster("a").await.unwrap();
        assert!(matches!(
            store.bind_cluster("b").await,
            Err(StoreError::OtherCluster { .. })
        ));
        let epoch = store.next_epoch(5).await.unwrap();
        assert_eq!(epoch, 5);
        drop(store);
        assert!(matches!(
            Store::open(dir.path(), 2).err(),
            Some(StoreError::OtherNode { found: 1, .. })
        ));
        let store = Store::open(dir.path(), 1).unwrap();
        assert_eq!(store.cluster().as_deref(), Some("a"));
        assert_eq!(
            store.next_epoch(0).await.unwrap(),
            epoch + 1,
            "the clock went back"
        );
        drop(store);
        std::fs::write(dir.path().join("FORMAT"), "rafttimedb 2\n").unwrap();
        assert!(matches!(
            Store::open(dir.path(), 1).err(),
            Some(StoreError::Newer { found: 2, .. })
        ));
        std::fs::write(dir.path().join("FORMAT"), "something\n").unwrap();
        assert!(matches!(
            Store::open(dir.path(), 1).err(),
            Some(StoreError::Damaged { .. })
        ));
        std::fs::remove_file(dir.path().join("FORMAT")).unwrap();
        assert!(matches!(
            Store::open(dir.path(), 1).err(),
            Some(StoreError::Foreign { .. })
        ));
    });
}

/// What happens at a commit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    Before,
    /// With a part, in thousandths, of what the commit wrote on disk.
    In(usize),
    After,
}

/// A disk that fails at one commit, and keeps a picture of itself as a crash there would have left it.
struct Failing {
    dir: PathBuf,
    picture: PathBuf,
    crash: Crash,
    commits_left: usize,
}

impl Journal for Failing {
    fn commit(&mut self, batch: OwnedWriteBatch, sync: bool) -> io::Result<()> {
        if self.commits_left > 0 {
            self.commits_left -= 1;
            return Disk.commit(batch, sync);
        }
        copy_dir(&self.dir, &self.picture);
        if self.crash == Crash::Before {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Disk.commit(batch, true)?;
        let after = tempfile::tempdir()?;
        copy_dir(&self.dir, after.path());
        for path in journals(after.path()) {
            let target = self.picture.join(path.strip_prefix(after.path()).unwrap());
            let (new, mut old) = (std::fs::read(&path)?, std::fs::read(&target).unwrap_or_default());
            old.resize(new.len(), 0);
            let first = differs(new.chunks(BLOCK).zip(old.chunks(BLOCK)));
            let last = differs(new.rchunks(BLOCK).zip(old.rchunks(BLOCK)));
            let (first, last) = (
                first.map(|block| block * BLOCK),
                last.map(|block| new.len() - block * BLOCK - 1),
            );
            if let (Some(first), Some(last)) = (first, last) {
                let end = match self.crash {
                    Crash::In(part) => first + (last - first) * part / 1000,
                    Crash::Before | Crash::After => last + 1,
                };
                old[first..end].copy_from_slice(&new[first..end]);
                let mut file = std::fs::File::options().write(true).open(&target)?;
                file.seek(io::SeekFrom::Start(first as u64))?;
                file.write_all(&old[first..end])?;
            }
        }
        Err(io::Error::other("crashed"))
    }
}

fn journals(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(journals(&path));
        } else if path.extension().is_some_and(|extension| extension == "jnl") {
            found.push(path);
        }
    }
    found
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_dir(&item.path(), &target);
        } else {
            // The journal is allocated ahead: its end is not worth copying.
            let bytes = std::fs::read(item.path()).unwrap();
            let zeros = [0; BLOCK];
            let blank = bytes
                .rchunks(BLOCK)
                .take_while(|block| **block == zeros[..block.len()]);
            let used = bytes.len() - blank.map(<[u8]>::len).sum::<usize>();
            std::fs::write(&target, &bytes[..used]).unwrap();
            std::fs::File::options()
                .write(true)
                .open(&target)
                .unwrap()
                .set_len(bytes.len() as u64)
                .unwrap();
        }
    }
}

/// The first pair of blocks that differ.
fn differs<'a>(mut blocks: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<usize> {
    blocks.position(|(new, old)| new != old)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_acknowledged_survives_a_crash_before_in_and_after_each_write(
        crash in prop_oneof![
            Just(Crash::Before), (0usize..1000).prop_map(Crash::In), Just(Crash::After),
        ],
        commits_left in 0usize..8,
        sizes in proptest::collection::vec(1u64..6, 8),
    ) {
        block_on(async {
            let (dir, picture) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let failing = Failing {
                dir: dir.path().to_owned(),
                picture: picture.path().to_owned(),
                crash,
                commits_left,
            };
            let store = Store::open_with(dir.path(), 1, failing).unwrap();
            let mut log = store.group(GroupId::SHARD).unwrap();
            let (mut acknowledged, mut voted, mut next, mut failed) = (0, 0, 1, None);
            for (turn, size) in sizes.iter().enumerate() {
                let result = if turn % 3 == 2 {
                    let term = turn as u64;
                    log.save_vote(&Vote::new(term, 1)).await.map(|()| voted = term)
                } else {
                    let end = next + size;
                    let result = append(&mut log, next..end).await.map(|()| acknowledged = end - 1);
                    next = end;
                    result
                };
                if result.is_err() {
                    failed = Some(turn);
                    break;
                }
            }
            assert_eq!(failed, Some(commits_left), "one write at a time is one commit");
            assert!(store.fatal().borrow().is_some(), "the node must stop");
            assert!(append(&mut log, next..next + 1).await.is_err(), "nothing follows a failed write");

            let mut log = Store::open(picture.path(), 1).unwrap().group(GroupId::SHARD).unwrap();
            let found = indices(&mut log).await;
            let last = found.last().copied().unwrap_or(0);
            assert!(found.first().is_none_or(|first| *first == 1));
            assert!(last == acknowledged || last == next - 1, "{last} is neither {acknowledged} nor {}", next - 1);
            let vote = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
            assert!(vote >= voted, "the vote went back from {voted} to {vote}");
            append(&mut log, last + 1..last + 4).await.unwrap();
            assert_eq!(indices(&mut log).await, (1..last + 4).collect::<Vec<_>>());
        });
    }
}

/// Appends and votes, and says so when it is on disk, until somebody kills it.
#[test]
#[ignore = "the child of the test below"]
fn kill_child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    block_on(async {
        let store = Store::open(Path::new(&dir), 1).unwrap();
        let mut logs = [
            store.group(GroupId::META).unwrap(),
            store.group(GroupId::SHARD).unwrap(),
        ];
        let mut out = io::stdout();
        for round in 0u64.. {
            for (group, log) in logs.iter_mut().enumerate() {
                let next = log
                    .get_log_state()
                    .await
                    .unwrap()
                    .last_log_id
                    .map_or(1, |id| id.index + 1);
                append(log, next..next + 1 + round % 7).await.unwrap();
                writeln!(out, "\nack entry {group} {}", next + round % 7).unwrap();
                if round % 5 == 0 {
                    let term = log
                        .read_vote()
                        .await
                        .unwrap()
                        .map_or(0, |vote| vote.leader_id.term)
                        + 1;
                    log.save_vote(&Vote::new(term, 1)).await.unwrap();
                    writeln!(out, "\nack vote {group} {term}").unwrap();
                }
                out.flush().unwrap();
            }
        }
    });
}

#[test]
fn whatever_was_acknowledged_survives_kill_9() {
    const KILLS: u64 = 6;
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = [[0u64; 2]; 2];
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["log::tests::kill_child", "--exact", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Let it get under way, then kill it in the middle of whatever it is doing.
        let first = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.starts_with("ack "));
        assert!(first.is_some(), "the child did not come to life");
        std::thread::sleep(Duration::from_micros(
            rand::random_range(0..60_000) * (1 + kill % 2),
        ));
        child.kill().unwrap();
        child.wait().unwrap();
        // The last line may have been cut off.
        let said: Vec<String> = first.into_iter().chain(lines.map_while(Result::ok)).collect();
        for line in said {
            let mut words = line.split(' ');
            let (Some("ack"), Some(kind), Some(group), Some(number)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let (Ok(group), Ok(number)) = (group.parse::<usize>(), number.parse::<u64>()) else {
                continue;
            };
            let known = &mut acknowledged[group][usize::from(kind == "vote")];
            *known = (*known).max(number);
        }
        block_on(async {
            let store = Store::open(dir.path(), 1).unwrap();
            for (group, [entries, vote]) in acknowledged.iter().enumerate() {
                let mut log = store.group(GroupId(group as u64)).unwrap();
                let found = indices(&mut log).await;
                let last = found.last().copied().unwrap_or(0);
                assert!(
                    last >= *entries,
                    "entry {entries} was acknowledged, and the log ends with {last}"
                );
                let term = log
                    .read_vote()
                    .await
                    .unwrap()
                    .map_or(0, |vote| vote.leader_id.term);
                assert!(term >= *vote, "the vote went back from {vote} to {term}");
            }
        });
    }
    assert!(acknowledged[1][0] > KILLS, "hardly anything was written");
}

#[test]
fn a_full_disk_stops_the_node_and_acknowledges_nothing() {
    struct Full(Arc<Mutex<bool>>);
    impl Journal for Full {
        fn commit(&mut self, batch: OwnedWriteBatch, sync: bool) -> io::Result<()> {
            if *self.0.lock() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Disk.commit(batch, sync)
        }
    }
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let full = Arc::new(Mutex::new(false));
        let store = Store::open_with(dir.path(), 1, Full(full.clone())).unwrap();
        let mut log = store.group(GroupId::SHARD).unwrap();
        append(&mut log, 1..4).await.unwrap();
        *full.lock() = true;
        let error = append(&mut log, 4..6).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let reason = store.fatal().borrow().clone().unwrap();
        assert!(
            reason.contains("no storage space") || reason.contains("full"),
            "{reason}"
        );
        *full.lock() = false;
        assert!(
            log.save_vote(&Vote::new(9, 1)).await.is_err(),
            "nothing follows a failed write"
        );
        drop((store, log));
        let mut log = Store::open(dir.path(), 1).unwrap().group(GroupId::SHARD).unwrap();
        assert_eq!(indices(&mut log).await, [1, 2, 3]);
        assert_eq!(log.read_vote().await.unwrap(), None);
    });
}

#[test]
fn a_hole_in_the_log_is_an_error() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1).unwrap();
        let record = |index| LogRecord::from(&entry(index)).encode_to_vec();
        let changes =
            [1, 2, 4].map(|index| (Space::Log, log_key(GroupId::SHARD, index), Some(record(index))));
        store.sync(changes.to_vec()).await.unwrap();
        let mut log = store.group(GroupId::SHARD).unwrap();
        let error = log.try_get_log_entries(..).await.unwrap_err().to_string();
        assert!(error.contains("entry"), "{error}");
    });
}
