//! The store on the real disk.

use super::super::change::{Change, Sequence, Space};
use super::super::tail::Tail;
use super::super::troubled::{Trouble, Troubled};
use super::super::{Done, GroupLog, Store, StoreError};
use crate::config::Limits;
use crate::entry::Proposal;
use crate::group_id::GroupId;
use crate::machine::Machine;
use crate::proposer::Proposer;
use crate::record::LogRecord;
use crate::resolved::ResolvedLog;
use crate::resolver::Resolver;
use crate::types::{LeaderId, LogId, Payload, RaftEntry, TypeConfig, Vote};
use bytes::Bytes;
use openraft::StorageError;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use prost::Message;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;

const CHILD_DIR: &str = "RTDB_TEST_KILL_DIR";

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
            let changes = [n - 1, n].map(|at| Change::set(Space::State, key(at), value(n)));
            let (written, index) = (Arc::default(), n);
            let done = Done::Later { written, index };
            store.write(changes.into(), done).await.unwrap();
        }
        store.sync(Vec::new()).await.unwrap();
    });
    for n in writes {
        let found = store.get(Space::State, &key(n - 1)).unwrap();
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
        store.bind_cluster("a", &[1, 2].into()).await.unwrap();
        store.bind_cluster("a", &[1, 2].into()).await.unwrap();
        assert!(matches!(
            store.bind_cluster("b", &[1, 2].into()).await,
            Err(StoreError::OtherCluster { .. })
        ));
        let epoch = store.next_epoch(5, 0).await.unwrap();
        assert_eq!(epoch, 5);
        drop(store);
        assert!(matches!(
            Store::open(dir.path(), 2).err(),
            Some(StoreError::OtherNode { found: 1, .. })
        ));
        let store = Store::open(dir.path(), 1).unwrap();
        assert_eq!(store.cluster().as_deref(), Some("a"));
        assert_eq!(
            store.next_epoch(0, 0).await.unwrap(),
            epoch + 1,
            "the clock went back"
        );
        drop(store);
        std::fs::write(dir.path().join("FORMAT"), "rafttimedb 3\n").unwrap();
        assert!(matches!(
            Store::open(dir.path(), 1).err(),
            Some(StoreError::Newer { found: 3, .. })
        ));
        std::fs::write(dir.path().join("FORMAT"), "something\n").unwrap();
        assert!(matches!(
            Store::open(dir.path(), 1).err(),
            Some(StoreError::Damaged { .. })
        ));
        std::fs::remove_file(dir.path().join("FORMAT")).unwrap();
        assert!(matches!(
            Store::open(dir.path(), 1).err(),
            Some(StoreError::Damaged { .. })
        ));
    });
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
            .args([
                "log::tests::store::kill_child",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
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
                let mut log = store.group([GroupId::META, GroupId::SHARD][group]).unwrap();
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
    block_on(async {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Troubled::new());
        let store = Store::open_with(dir.path(), 1, disk.clone()).unwrap();
        let mut log = store.group(GroupId::SHARD).unwrap();
        append(&mut log, 1..4).await.unwrap();
        disk.set(Trouble::Full);
        let error = append(&mut log, 4..6).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let reason = store.fatal().borrow().clone().unwrap();
        assert!(
            reason.contains("no storage space") || reason.contains("full"),
            "{reason}"
        );
        disk.set(Trouble::None);
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
fn a_disk_that_hangs_stops_the_node_with_a_reason() {
    block_on(async {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Troubled::new());
        let store = Store::open_with(dir.path(), 1, disk.clone()).unwrap();
        let mut log = store.group(GroupId::SHARD).unwrap();
        disk.set(Trouble::Hangs);
        let waiting = tokio::spawn(async move { append(&mut log, 1..4).await });
        store.watch(Duration::from_millis(100)).await;
        let reason = store.fatal().borrow().clone().unwrap();
        assert!(reason.contains("has not finished a write"), "{reason}");
        // The node ends, though the thread does not.
        waiting.abort();
        assert!(waiting.await.is_err(), "nothing was acknowledged");
        drop(store);
        disk.set(Trouble::None);
    });
}

#[test]
fn a_writer_that_panics_stops_the_node_with_a_reason() {
    block_on(async {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Troubled::new());
        let store = Store::open_with(dir.path(), 1, disk.clone()).unwrap();
        let mut log = store.group(GroupId::SHARD).unwrap();
        disk.set(Trouble::Panics);
        assert!(append(&mut log, 1..4).await.is_err());
        let reason = store
            .fatal()
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(reason.contains("panicked"), "{reason}");
        assert!(log.save_vote(&Vote::new(9, 1)).await.is_err());
    });
}

#[test]
fn what_is_said_of_entries_is_never_on_disk_before_them() {
    block_on(async {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Troubled::new());
        let store = Store::open_with(dir.path(), 1, disk.clone()).unwrap();
        let record = |index| LogRecord::from(&entry(index)).encode_to_vec();
        let append = |index: u64, size: usize| Change::Append {
            group: GroupId::SHARD,
            sequence: Sequence::Entries,
            index,
            record: [record(index), vec![0; size]].concat(),
        };
        disk.set(Trouble::Hangs);
        let mut waiters = Vec::new();
        // More than one batch holds, and then what the resolver made of the last of it.
        for index in 1..=5 {
            let (done, waiter) = oneshot::channel();
            store
                .write(vec![append(index, 6 << 20)], Done::Synced(done))
                .await
                .unwrap();
            waiters.push(waiter);
            let state = Change::set(Space::State, b"applied".to_vec(), index.to_be_bytes().to_vec());
            let (written, index) = (Arc::default(), index);
            store
                .write(vec![state], Done::Later { written, index })
                .await
                .unwrap();
        }
        // The disk takes one more write, and is full.
        disk.set(Trouble::None);
        waiters.remove(0).await.unwrap().unwrap();
        disk.set(Trouble::Full);
        for waiter in waiters {
            drop(waiter.await);
        }
        drop(store);
        let store = Store::open(dir.path(), 1).unwrap();
        let last = store.bounds(GroupId::SHARD).unwrap().1;
        let applied = store
            .get(Space::State, b"applied")
            .map_or(0, |value| u64::from_be_bytes((*value).try_into().unwrap()));
        assert!(
            applied <= last,
            "applied up to {applied}, and the log ends with {last}"
        );
    });
}

#[test]
fn a_full_line_waits_and_keeps_its_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Troubled::new());
        let store = Store::open_with(dir.path(), 1, disk.clone()).unwrap();
        disk.set(Trouble::Hangs);
        let written = Arc::new(AtomicUsize::new(0));
        let writes = tokio::spawn({
            let (store, written) = (store.clone(), written.clone());
            async move {
                for n in 0..200u64 {
                    let value = [n.to_be_bytes().to_vec(), vec![1; 1 << 20]].concat();
                    let change = Change::set(Space::State, b"n".to_vec(), value);
                    let (cell, index) = (Arc::default(), n);
                    store
                        .write(vec![change], Done::Later { written: cell, index })
                        .await
                        .unwrap();
                    written.store(n as usize + 1, Ordering::SeqCst);
                }
            }
        });
        // It takes no more than its limit (64 MiB), and a batch that is under way.
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = written.load(Ordering::SeqCst);
            if now == before && now > 0 {
                break;
            }
            before = now;
        }
        assert!(before <= 64 + 17, "{before} MiB wait");
        disk.set(Trouble::None);
        writes.await.unwrap();
        store.sync(Vec::new()).await.unwrap();
        assert_eq!(store.get(Space::State, b"n").unwrap()[..8], 199u64.to_be_bytes());
    });
}

#[test]
fn a_log_that_ends_before_what_was_committed_or_applied_is_refused() {
    block_on(async {
        let applied = crate::record::LogIdRecord::from(log_id(9)).encode_to_vec();
        let group = GroupId::SHARD.0.to_be_bytes();
        let committed_key = [b"g".as_slice(), &group, b"c"].concat();
        let applied_key = [group.as_slice(), b"a"].concat();
        for (space, key, says) in [
            (Space::Meta, committed_key, "committed up to"),
            (Space::State, applied_key, "applied up to"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), 1).unwrap();
            append(&mut store.group(GroupId::SHARD).unwrap(), 1..4)
                .await
                .unwrap();
            store
                .sync(vec![Change::set(space, key, applied.clone())])
                .await
                .unwrap();
            let opened = store
                .group(GroupId::SHARD)
                .map_err(|error| error.to_string())
                .and_then(|log| {
                    let proposer = Arc::new(Proposer::new(1, 1, Limits::default()));
                    let opened = Machine::open(ResolvedLog::new(log, Resolver::shard(), proposer));
                    opened.map(drop).map_err(|error| error.to_string())
                });
            let error = opened.unwrap_err();
            assert!(
                error.contains(says) && error.contains("must not start with it"),
                "{error}"
            );
        }
    });
}

#[test]
fn a_hole_in_the_log_is_an_error() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1).unwrap();
        let append = |index| Change::Append {
            group: GroupId::SHARD,
            sequence: Sequence::Entries,
            index,
            record: LogRecord::from(&entry(index)).encode_to_vec(),
        };
        let error = store
            .sync([1, 2, 4].map(append).to_vec())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("entry 4"), "{error}");
        assert!(store.fatal().borrow().is_some(), "the node must stop");
    });
}

/// An append from before a truncation that is done after it says nothing of the entries that came in its place.
#[test]
fn what_was_truncated_is_not_on_disk() {
    let mut tail = Tail::new(0, None, None, Arc::new(AtomicUsize::new(1)));
    for index in 0..100 {
        tail.push(entry(index)).unwrap();
    }
    let before = tail.era();
    tail.written(before, 49);
    // The truncation is queued while 50 to 99 are being written, ...
    tail.truncate(Some(log_id(49)));
    tail.written(before, 99);
    // ... and then other entries come in their place.
    for index in 50..180 {
        let payload = Payload::Normal(Proposal(vec![0; 1 << 20].into()));
        let log_id = log_id(index);
        tail.push(RaftEntry { log_id, payload }).unwrap();
    }
    tail.written(tail.era(), 50);
    assert!(
        tail.cached_from() <= 51,
        "entries up to {} are only in the writer's queue, and have left the memory",
        tail.cached_from() - 1
    );
}

#[test]
fn what_is_committed_is_never_cut_off() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Store::open(dir.path(), 1).unwrap().group(GroupId::SHARD).unwrap();
        append(&mut log, 1..9).await.unwrap();
        log.save_committed(Some(log_id(5))).await.unwrap();
        let error = log.truncate_after(Some(log_id(4))).await.unwrap_err().to_string();
        assert!(error.contains("committed"), "{error}");
        log.truncate_after(Some(log_id(5))).await.unwrap();
        assert_eq!(indices(&mut log).await, [1, 2, 3, 4, 5]);
    });
}

#[test]
fn a_directory_is_bound_once_however_many_try() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1).unwrap();
        let founders = [1, 2].into();
        let (first, second) = futures::join!(
            store.bind_cluster("a", &founders),
            store.bind_cluster("b", &founders)
        );
        assert!(first.is_ok() && second.is_err(), "{first:?} {second:?}");
        drop(store);
        let store = Store::open(dir.path(), 1).unwrap();
        assert_eq!(store.cluster().as_deref(), Some("a"));
    });
}

#[test]
fn a_store_that_was_broken_off_in_the_making_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path(), 1).unwrap());
    std::fs::remove_file(dir.path().join("FORMAT")).unwrap();
    drop(Store::open(dir.path(), 1).unwrap());
    // With a checkpoint that was not finished, and a segment that was not, too.
    std::fs::remove_file(dir.path().join("FORMAT")).unwrap();
    let log = dir.path().join("log");
    let segment = std::fs::File::options()
        .write(true)
        .open(log.join("0000000000000001.log"))
        .unwrap();
    segment.write_all_at(&[0; 700], 600).unwrap();
    std::fs::write(log.join("0000000000000001.new"), [7; 99]).unwrap();
    drop(Store::open(dir.path(), 1).unwrap());
    Store::open(dir.path(), 1).unwrap().verify().unwrap();
}
