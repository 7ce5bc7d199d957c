//! Databases that end and come again, and updates that break clients, while whoever works on them is killed.

use crate::poison::{self, stuck};
use crate::support::{DATABASE, Log, Node, TIMEOUT, add, delete, prepared, program};
use crate::verdict::{Others, told};
use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_consensus::command::{Body, Owner};
use rtdb_consensus::{Follow, LogIndex, Origin, Outcome, Position, ReadError, ResolvedEntry, Unapplied};
use rtdb_determinism::Prepared;
use rtdb_replica::{Replica, ServerLimits, migration_token};
use rtdb_testkit::{demo_module, poison_module, variant};
use spacetimedb_lib::{Hash, hash_bytes};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// A database whose first module the server does not survive is deleted, for which nobody has to decide anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_behind_a_creation_that_stops_the_server_is_carried_out() {
    let Some(program) = program() else { return };
    let limits = ServerLimits {
        memory_max: Some(700 << 20),
        ..ServerLimits::default()
    };
    let node = Node::limited(program, limits).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let Body::Publish(mut publish) = poison::publish(&node) else {
        unreachable!()
    };
    publish.module = poison_module::eats_when_loaded().unwrap().into();
    let deadly = log.append(vec![Body::Publish(publish)])[0];
    while replica.progress().databases.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stuck(&replica).await;
    let gone = log.append(vec![delete()])[0];
    let told = tokio::time::timeout(TIMEOUT, told(&log, gone)).await;
    let status = replica.progress();
    assert!(told.is_ok(), "the deletion is not done: {status:?}");
    assert!(matches!(log.outcome(deadly), Err(Unapplied::Unknown { .. })));
    // It is gone for good, and the server is there for the others.
    log.all_applied().await;
    node.server.up().await;
    let pid = node.pid();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.pid(), pid);
    replica.stop().await;
    node.server.stop().await;
}

/// The node is away while a database is deleted and made again by its owner: nobody sees there what was before.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_was_before_is_not_served() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    log.append(vec![node.publish(false), add("old", 1, 0)]);
    let mut replica = node.replica(&log);
    log.all_applied().await;
    for _ in 0..5 {
        replica.stop().await;
        let again = log.append(vec![delete(), node.publish(false), add("new", 1, 0)]);
        replica = node.replica(&log);
        let served = async {
            loop {
                if let Some(active) = replica.database(&DATABASE) {
                    return active.position;
                }
                tokio::task::yield_now().await;
            }
        };
        let first = tokio::time::timeout(TIMEOUT, served).await.unwrap();
        assert_eq!(first, again[1], "the one that is deleted is served");
        log.all_applied().await;
    }
    replica.stop().await;
    node.server.stop().await;
}

/// The server is killed before it has put on disk which databases it has: their files are there all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_has_nothing_of_what_the_server_has_forgotten() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    for round in 0..8 {
        let first = log.append(vec![node.publish(false)])[0];
        told(&log, first).await;
        node.kill_server();
        let name = format!("n{round}");
        let calls = log.append(vec![
            add(&name, 1, 0),
            delete(),
            node.publish(false),
            add(&name, 1, 0),
        ]);
        log.all_applied().await;
        for call in [first, calls[0], calls[2], calls[3]] {
            for outcome in log.outcomes(call) {
                outcome.unwrap();
            }
        }
        assert_eq!(names(&replica, &node.owner).await, [name].into(), "round {round}");
        log.append(vec![delete()]);
        log.all_applied().await;
        tokio::time::sleep(Duration::from_millis(round * 170 % 500)).await;
    }
    replica.stop().await;
    node.server.stop().await;
}

/// Numbers without an end, always the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn owned(node: &Node, owner: &Owner) -> Body {
    let Body::Publish(mut publish) = node.publish(false) else {
        unreachable!()
    };
    publish.owner = Some(owner.clone());
    Body::Publish(publish)
}

async fn names(replica: &Replica, owner: &Owner) -> BTreeSet<String> {
    let query = "SELECT name FROM counter WHERE name != 'init'";
    let asked = async {
        loop {
            // The server may have been killed just now.
            match replica.admin().sql(owner, &DATABASE, query).await {
                Ok(tables) => return tables,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let tables = tokio::time::timeout(TIMEOUT, asked).await.unwrap();
    let rows = tables[0].rows.iter();
    rows.map(|row| row[0].get().trim_matches('"').to_owned())
        .collect()
}

/// How much happens in one history.
const STEPS: u32 = 20;

/// Whatever is killed and whenever: in the end there is what the last of the databases of that identity has been told.
async fn lives(seed: u64) {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let minted = node.tokens.mint("localhost", "heir", None).unwrap();
    let heir = Owner {
        identity: bytes::Bytes::copy_from_slice(&minted.identity),
        issuer: "localhost".into(),
        subject: "heir".into(),
    };
    let owners = [node.owner.clone(), heir];
    let log = Log::new();
    let mut replica = node.replica(&log);
    let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut life, mut calls): (Option<(Owner, BTreeSet<String>)>, Vec<Position>) = (None, Vec::new());
    for step in 0..STEPS {
        match (numbers.below(8), &mut life) {
            (0 | 1, None) | (_, None) => {
                let owner = owners[numbers.below(2) as usize].clone();
                log.append(vec![owned(&node, &owner)]);
                life = Some((owner, BTreeSet::new()));
            }
            (0 | 1, Some(_)) => {
                log.append(vec![delete()]);
                life = None;
            }
            (2, Some((owner, _))) => {
                log.append(vec![owned(&node, owner)]);
            }
            (_, Some((_, names))) => {
                let name = format!("n{step}");
                calls.extend(log.append(vec![add(&name, 1, 0)]));
                names.insert(name);
            }
        }
        match numbers.below(12) {
            0 => node.kill_server(),
            1 => {
                replica.stop().await;
                log.forget_applied();
                replica = node.replica(&log);
            }
            2 => {
                replica.stop().await;
                node.kill_server();
                log.forget_applied();
                replica = node.replica(&log);
            }
            3 | 4 => log.all_applied().await,
            5 => {
                log.all_applied().await;
                node.kill_server();
            }
            6 => tokio::time::sleep(Duration::from_millis(numbers.below(400))).await,
            _ => {}
        }
    }
    if life.is_none() {
        log.append(vec![owned(&node, &owners[0])]);
        life = Some((owners[0].clone(), BTreeSet::new()));
    }
    log.all_applied().await;
    // The server may have been killed since, and have lost what it had last.
    tokio::time::timeout(TIMEOUT, replica.caught_up(&DATABASE, 0))
        .await
        .unwrap();
    let (owner, expected) = life.unwrap();
    assert_eq!(names(&replica, &owner).await, expected, "seed {seed}");
    for call in calls {
        for outcome in log.outcomes(call) {
            assert!(
                matches!(outcome, Ok(_) | Err(Unapplied::Unknown { .. })),
                "seed {seed}, {call}: {outcome:?}"
            );
        }
    }
    assert!(replica.fatal().borrow().is_none());
    assert!(!*replica.deleted(&DATABASE).expect("it is there").borrow());
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lives_are_told_apart_whatever_is_killed() {
    for seed in 1..=2 {
        lives(seed).await;
    }
}

fn ruled() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let module = demo_module::wasm_named("counter-1x").unwrap();
        let module = variant::with_rule(&module, "SELECT * FROM dice").unwrap();
        rtdb_determinism::prepare(&module).unwrap()
    })
}

fn update(node: &Node, module: &Prepared, from: Hash, to: Hash) -> Body {
    let Body::Publish(mut publish) = node.publish(false) else {
        unreachable!()
    };
    publish.module = module.wasm.clone().into();
    publish.original_def = module.original_def.clone().into();
    publish.program = to.data.to_vec().into();
    publish.token = migration_token(&DATABASE, from, to).data.to_vec().into();
    Body::Publish(publish)
}

/// The server, or the node, is killed at any time of an update that breaks clients.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_breaks_clients_once_whatever_is_killed() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    if node.server.version().unwrap().numbers() < Some((1, 4)) {
        node.server.stop().await;
        return;
    }
    let log = Log::new();
    let others = Others::new(&log, 1);
    let mut replica = node.reporting(&log, others.clone());
    let first = log.append(vec![node.publish(false)]);
    told(&log, first[0]).await;
    let (mut from, mut last) = (hash_bytes(&prepared().wasm), Position::default());
    for (round, millis) in [0, 20, 100, 300, 800].into_iter().enumerate() {
        let to = hash_bytes(format!("original {round}"));
        let module = if round % 2 == 0 { ruled() } else { prepared() };
        let mut broken = replica.broken(&DATABASE).unwrap();
        broken.mark_unchanged();
        let calls = log.append(vec![
            add("a", 1, 0),
            update(&node, module, from, to),
            add("b", 1, 0),
        ]);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        let is_restarted = round % 3 == 2;
        if is_restarted {
            replica.stop().await;
            node.kill_server();
            log.forget_applied();
            replica = node.reporting(&log, others.clone());
            broken = replica.broken(&DATABASE).unwrap_or(broken);
        } else {
            node.kill_server();
        }
        log.all_applied().await;
        last = last.max(calls[1]);
        assert_eq!(
            replica.database(&DATABASE).unwrap().position,
            calls[1],
            "round {round}"
        );
        assert_eq!(
            *replica.broken(&DATABASE).unwrap().borrow(),
            last,
            "round {round}"
        );
        if !is_restarted {
            assert_eq!(*broken.borrow_and_update(), last);
            // And the server once more: nobody is disconnected for it again.
            node.kill_server();
            log.append(vec![add("c", 1, 0)]);
            log.all_applied().await;
            assert!(!broken.has_changed().unwrap(), "round {round}");
        }
        for outcome in log.outcomes(calls[1]) {
            assert!(
                matches!(outcome, Ok(_) | Err(Unapplied::Unknown { .. })),
                "{outcome:?}"
            );
        }
        from = to;
    }
    // A token of before is stale, here and on a node that makes everything anew.
    let stale = log.append(vec![update(
        &node,
        ruled(),
        hash_bytes("original 0"),
        hash_bytes("new"),
    )])[0];
    told(&log, stale).await;
    assert!(matches!(log.outcome(stale), Err(Unapplied::Refused(_))));
    replica.admin().delete(&node.owner, &DATABASE).await.unwrap();
    replica.stop().await;
    log.forget_applied();
    let replica = node.reporting(&log, others);
    log.all_applied().await;
    assert_eq!(replica.database(&DATABASE).unwrap().program, from);
    replica.stop().await;
    node.server.stop().await;
}

/// What is read at once by whoever looks for databases.
const SCOUTS_BYTES: usize = 4 << 20;

/// A log with a hook before each reading, which says how many bytes are read.
struct Hooked<F>(Arc<Log>, F);

impl<F, R> Follow for Hooked<F>
where
    F: Fn(LogIndex, usize) -> R + Send + Sync,
    R: Future<Output = usize> + Send + 'static,
{
    fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.0.resolved()
    }

    fn read(
        &self,
        from: LogIndex,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>> {
        let hook = self.1(from, bytes_max);
        async move { self.0.read(from, hook.await).await }.boxed()
    }

    fn complete(&self, origin: Origin, seq: u64, outcome: Outcome) {
        self.0.complete(origin, seq, outcome);
    }

    fn applied(&self, index: LogIndex) {
        self.0.applied(index);
    }
}

/// Whether it is whoever looks for databases that reads: an applier reads less at once.
fn is_scout(bytes_max: usize) -> bool {
    bytes_max >= SCOUTS_BYTES
}

/// The applier comes to a deletion before it is looked for databases there.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_before_a_deletion_begins_no_database() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let first = OnceLock::new();
    // Whoever looks for databases reads late, and entry by entry.
    let late = Hooked(log.clone(), move |from, bytes_max| {
        let is_scout = is_scout(bytes_max);
        let is_first = is_scout && from > 1 && from == *first.get_or_init(|| from);
        async move {
            if is_first {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
            if is_scout { 1 } else { bytes_max }
        }
    });
    let replica = Replica::start(node.config(None), Arc::new(late));
    let mut calls = log.append(vec![node.publish(false), add("a", 1, 0)]);
    log.all_applied().await;
    for _ in 0..10 {
        calls.extend(log.append(vec![add("b", 1, 0)]));
    }
    for body in [node.publish(false), add("c", 1, 0), delete()] {
        calls.extend(log.append(vec![body]));
    }
    told(&log, calls[calls.len() - 1]).await;
    log.all_applied().await;
    let gone = async {
        while !replica.progress().databases.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, gone).await.expect("it is given up");
    tokio::time::sleep(Duration::from_secs(1)).await;
    for position in calls {
        log.outcome(position).unwrap();
    }
    replica.stop().await;
    node.server.stop().await;
}

/// How many are reading.
#[derive(Default)]
struct Readers {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Readers {
    async fn read(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Many databases have been deleted in a node's life: what is read of each is not read at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_many_deletions_takes_one_after_the_other() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    for number in 0..500u64 {
        let database = bytes::Bytes::from([number.to_le_bytes(); 4].concat());
        let of = |body| match body {
            Body::Publish(mut publish) => {
                publish.database = database.clone();
                Body::Publish(publish)
            }
            Body::Delete(mut delete) => {
                delete.database = database.clone();
                Body::Delete(delete)
            }
            other => other,
        };
        log.append(vec![of(node.publish(false)), of(delete())]);
    }
    let calls = log.append(vec![node.publish(false), add("a", 1, 0)]);
    let readers: Arc<Readers> = Arc::default();
    let counting = readers.clone();
    let counted = Hooked(log.clone(), move |_, bytes_max| {
        let readers = counting.clone();
        async move {
            if !is_scout(bytes_max) {
                readers.read().await;
            }
            bytes_max
        }
    });
    let replica = Replica::start(node.config(None), Arc::new(counted));
    told(&log, calls[1]).await;
    log.outcome(calls[1]).unwrap();
    log.all_applied().await;
    let gone = async {
        while replica.progress().databases.len() > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, gone)
        .await
        .expect("they are given up");
    let most = readers.most.load(Ordering::SeqCst);
    assert!(most <= 64, "{most} at once");
    replica.stop().await;
    node.server.stop().await;
}
