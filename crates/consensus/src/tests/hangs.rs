//! A node whose disk hangs.

use super::cluster::{call, config, publish, settings};
use super::hub::{Hub, addr};
use super::run;
use crate::log::troubled::{Trouble, Troubled};
use crate::{Manager, Propose};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A node whose disk hangs while it writes, and for how long it bears that.
async fn hanging(disk_ms: u64) -> (Arc<Manager>, Troubled, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Troubled::new();
    let mut config = config(1, &dir);
    config.timing.disk_ms = disk_ms;
    let manager = Manager::start_with(config, Arc::new(Arc::<Hub>::default()), disk.clone())
        .await
        .unwrap();
    manager.init([(1, addr(1))].into(), settings()).await.unwrap();
    manager.shard().submit(publish()).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    disk.set(Trouble::Hangs);
    drop(manager.shard().submit(call("lost")).unwrap());
    (manager, disk, dir)
}

/// A node whose disk hangs says so; and then it must end, too.
#[test]
fn a_node_whose_disk_hangs_ends() {
    run(async {
        let (manager, disk, _dir) = hanging(500).await;
        // Meanwhile the others have elected node 2, which says so: the vote is to be written.
        let raft = manager.shard().raft().clone();
        tokio::spawn(async move {
            let vote = crate::types::Vote::new_committed(9, 2);
            let ask = openraft::raft::AppendEntriesRequest {
                vote,
                prev_log_id: None,
                entries: Vec::new(),
                leader_commit: None,
            };
            drop(raft.append_entries(ask).await);
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let reason = manager
            .fatal()
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(reason.contains("has not finished"), "{reason}");
        let ended = tokio::time::timeout(Duration::from_secs(10), manager.shutdown()).await;
        disk.set(Trouble::None);
        assert!(ended.is_ok(), "10 s after `{reason}` the node has not ended");
    });
}

/// The same, for a node that was told to stop before it found out.
#[test]
fn a_node_whose_disk_hangs_can_be_stopped() {
    run(async {
        let (manager, disk, _dir) = hanging(1_000).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let closed = manager.closed();
        let ended = tokio::time::timeout(Duration::from_secs(10), manager.shutdown()).await;
        let dropping = std::thread::spawn(move || drop(manager));
        let closed = tokio::time::timeout(Duration::from_secs(10), closed).await;
        disk.set(Trouble::None);
        drop(dropping);
        assert!(
            ended.is_ok() && closed.is_ok(),
            "shutdown ended: {}, directory closed: {}",
            ended.is_ok(),
            closed.is_ok()
        );
    });
}

/// The disk hangs while the node starts.
#[test]
fn a_node_whose_disk_hangs_at_its_start_says_so() {
    use crate::{DataFile, Disk, Files};
    use std::io;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    #[derive(Clone)]
    struct HangsAfter(Arc<AtomicUsize>, Arc<AtomicBool>);
    struct F(Box<dyn DataFile>, HangsAfter);
    impl Files for HangsAfter {
        fn list(&self, f: &Path) -> io::Result<Vec<String>> {
            Disk.list(f)
        }
        fn create(&self, p: &Path, s: u64, h: &[u8]) -> io::Result<Box<dyn DataFile>> {
            Ok(Box::new(F(Disk.create(p, s, h)?, self.clone())))
        }
        fn open(&self, p: &Path) -> io::Result<Box<dyn DataFile>> {
            Ok(Box::new(F(Disk.open(p)?, self.clone())))
        }
        fn remove(&self, p: &Path) -> io::Result<()> {
            Disk.remove(p)
        }
    }
    impl DataFile for F {
        fn size(&self) -> io::Result<u64> {
            self.0.size()
        }
        fn read(&self, b: &mut [u8], o: u64) -> io::Result<()> {
            self.0.read(b, o)
        }
        fn write(&self, b: &[u8], o: u64) -> io::Result<()> {
            self.0.write(b, o)
        }
        fn sync(&self) -> io::Result<()> {
            if self
                .1
                .0
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_err()
            {
                while !self.1.1.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            self.0.sync()
        }
    }
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(1, &dir);
        config.timing.disk_ms = 500;
        // The checkpoint and the node's id are written, its epoch is not.
        let disk = HangsAfter(Arc::new(AtomicUsize::new(2)), Arc::default());
        let start = Manager::start_with(config, Arc::new(Arc::<Hub>::default()), disk.clone());
        let mut start = tokio::spawn(start);
        let started = tokio::time::timeout(Duration::from_secs(5), &mut start)
            .await
            .map(drop);
        disk.1.store(true, Ordering::SeqCst);
        assert!(
            started.is_ok(),
            "5 s later the node, whose patience is 0.5 s, still starts, and says nothing"
        );
    });
}
