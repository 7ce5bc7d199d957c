//! One run: a cluster, its clients, and what goes wrong, all from a seed.

use crate::client::{Client, Publisher, call};
use crate::cluster::{Cluster, Dangers, set_clock};
use crate::fault::{Fault, KINDS};
use crate::module::{ADD, ADDS, publish};
use crate::mover;
use crate::network::{Network, Weather, addr};
use crate::readers;
use crate::timers;
use crate::truth::{Counts, Reign};
use crate::visitor::Visitor;
use rtdb_consensus::command::{Body, InitCluster};
use rtdb_consensus::{Propose, Timing};
use rtdb_runtime::{sim, sleep, timeout};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// The longest that a task runs at once.
const POLL_NS_MAX: u64 = 4_000;

/// A cluster must be founded within so much virtual time, while only the weather is bad.
const FOUNDED_WITHIN: Duration = Duration::from_secs(120);

/// After the last fault everything must be answered and level within so much virtual time.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// And all nodes must be members that vote, where nodes come and go: what was asked for before is tried for a while.
const ALL_IN_WITHIN: Duration = Duration::from_secs(90);

/// The same where servers have died so often with one call on its way that it is taken for what stops them: they are not asked
/// to make it again for five minutes.
const STUCK_WITHIN: Duration = Duration::from_secs(330);

/// The client that publishes.
const PUBLISHER: u64 = 500;

/// The number of the last modules that are published.
const LAST: u64 = 1_000_000;

/// Nodes that are to be killed at once, at most.
const VICTIMS_MAX: usize = 16;

/// What the nodes say that they have reached: a search that never gets there says so.
pub const STATES: [&str; 10] = [
    "commands of streams that are over",
    "commands that came before others",
    "commands that came twice",
    "entries from the future",
    "epochs that were given up",
    "leaders that made no progress",
    "leaders that took no more",
    "sessions of dead nodes",
    "tails that were cut off",
    "writes that failed",
];

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What every choice comes from.
    pub seed: u64,
    /// For how long things go wrong, in virtual time.
    pub time: Duration,
    /// What goes wrong, and when; what the seed says, if nothing is named.
    pub schedule: Option<Vec<(Duration, Fault)>>,
    /// Which of these faults happen; all, if none are named.
    pub only: Option<BTreeSet<usize>>,
    /// Nodes come and go.
    pub moves: bool,
    /// The weather is fair: nothing is lost or late by chance.
    pub is_calm: bool,
    /// Faults that are planted in the code.
    pub planted: BTreeSet<String>,
    /// Whether to keep the trace.
    pub trace: bool,
}

/// What a run was.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its hash, its polls and its time.
    pub summary: sim::Summary,
    /// Nodes.
    pub nodes: u64,
    /// What the clients were told; nothing if the run has failed.
    pub counts: Counts,
    /// How often what went wrong.
    pub faults: [u64; KINDS.len()],
    /// What was reached, and how often.
    pub reached: BTreeMap<&'static str, u64>,
    /// How long nothing new was applied after each death of a leader that was asked for.
    pub gaps: Vec<Duration>,
    /// Who began to lead the shard, and when.
    pub reigns: Vec<Reign>,
    /// When there was a cluster: the schedule counts from there.
    pub begun: Duration,
    /// The seed's faults.
    pub schedule: Vec<(Duration, Fault)>,
    /// The rule that was broken.
    pub broken: Option<String>,
    /// The newest of what happened.
    pub trace: Vec<String>,
}

/// What the outside sees of a run, even of one that fails.
#[derive(Clone, Default)]
struct Seen(Arc<parking_lot::Mutex<Report>>);

/// Runs a plan.
pub fn run(plan: &Plan) -> Report {
    let config = sim::Config {
        seed: plan.seed,
        poll_ns_max: POLL_NS_MAX,
        trace: plan.trace,
        faults: plan.planted.clone(),
    };
    let seen = Seen::default();
    let ran = sim::run(&config, world(plan.clone(), seen.clone()));
    let mut report = seen.0.lock().clone();
    report.summary = ran.summary;
    report.trace = ran.trace;
    for what in STATES {
        report.reached.insert(what, 0);
    }
    report.reached.extend(ran.reached);
    report.broken = ran.output.err();
    report
}

fn weather(is_calm: bool) -> (Weather, Duration) {
    let min = Duration::from_micros(50 + sim::draw(400));
    let is_bad = sim::draw(3) > 0 && !is_calm;
    let rate = |max| if is_bad { sim::draw(max) } else { 0 };
    let weather = Weather {
        delay: (min, min * (1 + sim::draw(20) as u32)),
        lost: rate(10),
        twice: rate(100),
        late: rate(50),
        vote_kills: if is_bad {
            [0, 0, 100, 500][sim::draw(4) as usize]
        } else {
            0
        },
    };
    let sync_max = [200, 2_000, 20_000][sim::draw(3) as usize];
    (weather, Duration::from_micros(sync_max))
}

async fn world(plan: Plan, seen: Seen) {
    let nodes = if sim::draw(4) == 0 { 5 } else { 3 };
    let (weather, sync_max) = weather(plan.is_calm);
    let spares = u64::from(plan.moves);
    let drawn = Fault::schedule(nodes + spares, plan.time);
    let mut schedule = plan.schedule.clone().unwrap_or(drawn);
    {
        let mut seen = seen.0.lock();
        (seen.nodes, seen.schedule) = (nodes, schedule.clone());
    }
    if let Some(only) = &plan.only {
        let kept = schedule
            .into_iter()
            .enumerate()
            .filter(|(place, _)| only.contains(place));
        schedule = kept.map(|(_, fault)| fault).collect();
    }
    let (victims, mut doomed) = mpsc::channel(VICTIMS_MAX);
    let dangers = Dangers {
        sync_kills: if weather.vote_kills > 0 {
            [0, 1, 5][sim::draw(3) as usize]
        } else {
            0
        },
        victims: victims.clone(),
    };
    let net = Network::new(weather, victims);
    let timing = Timing {
        lease_ms: 4_000,
        ..Timing::default()
    };
    let cluster = Cluster::new([nodes, spares], net, timing, sync_max, &dangers);
    drop(dangers);
    let watch = sim::spawn_on(0, cluster.clone().watch());
    let founded = timeout(FOUNDED_WITHIN, found(&cluster)).await;
    assert!(founded.is_ok(), "there is no cluster within {FOUNDED_WITHIN:?}");

    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..nodes + sim::draw(3))
        .map(|id| {
            let (cluster, is_over) = (cluster.clone(), is_over.clone());
            sim::spawn_on(0, Client { id, cluster, is_over }.run())
        })
        .collect();
    let is_level = Arc::new(AtomicBool::new(false));
    // Fair weather is for what the log does.
    let count = if plan.is_calm { 0 } else { 2 + sim::draw(2) };
    let visitors: Vec<_> = (0..count)
        .map(|id| {
            let visitor = Visitor {
                id,
                cluster: cluster.clone(),
                is_over: is_over.clone(),
                is_level: is_level.clone(),
            };
            sim::spawn_on(0, visitor.run())
        })
        .collect();
    let publisher = Client {
        id: PUBLISHER,
        cluster: cluster.clone(),
        is_over: is_over.clone(),
    };
    let publishes = sim::spawn_on(0, Publisher(publisher).run());
    let others: Vec<_> = cluster
        .nodes()
        .map(|node| sim::spawn_on(0, timers::run(cluster.clone(), node)))
        .chain((0..readers::COUNT).map(|_| sim::spawn_on(0, readers::run(cluster.clone()))))
        .collect();
    let mover = plan.moves.then(|| sim::spawn_on(0, mover::run(cluster.clone())));
    let (reached, mut moments) = mpsc::channel(VICTIMS_MAX);
    sim::tell_moments(reached);
    let kills = [0, 0, 20, 100][sim::draw(4) as usize];
    let (killer, kills) = (cluster.clone(), if plan.is_calm { 0 } else { kills });
    let killer = sim::spawn_on(0, async move {
        loop {
            let node = rtdb_runtime::select! {
                Some(node) = doomed.recv() => node,
                Some((node, _)) = moments.recv() => match sim::per_mille(kills) {
                    true => node.into(),
                    false => continue,
                },
                else => return,
            };
            killer.clone().doom(node).await;
        }
    });
    let begin = sim::true_now();
    seen.0.lock().begun = sim::elapsed();
    let mut suffering = Vec::new();
    for (at, fault) in schedule {
        rtdb_runtime::sleep_until(begin + at).await;
        suffering.push(sim::spawn_on(0, cluster.clone().suffer(fault)));
        let mut report = seen.0.lock();
        (report.faults, report.reached) = (cluster.counted(), cluster.reached());
    }
    rtdb_runtime::sleep_until(begin + plan.time).await;
    killer.abort();
    suffering.iter().for_each(rtdb_runtime::JoinHandle::abort);
    cluster.heal().await;
    sim::note(|| "everything is well again".to_owned(), [7, 0, 0]);
    is_over.store(true, Ordering::Relaxed);
    publishes.abort();
    others.iter().for_each(rtdb_runtime::JoinHandle::abort);
    if let Some(mover) = mover {
        mover.abort();
        let all = timeout(ALL_IN_WITHIN, mover::all_are_in(&cluster)).await;
        assert!(
            all.is_ok(),
            "not all are members within {ALL_IN_WITHIN:?}\n{}",
            cluster.describe()
        );
    }
    let settled = async {
        for client in clients {
            assert!(client.await.is_ok(), "a client has gone");
        }
        found_again(&cluster, LAST).await;
        for node in cluster.nodes().collect::<Vec<_>>() {
            last_word(&cluster, node).await;
        }
        while !cluster.is_level() {
            sleep(Duration::from_millis(20)).await;
        }
        is_level.store(true, Ordering::Relaxed);
        for visitor in visitors {
            assert!(visitor.await.is_ok(), "a client has gone");
        }
        while cluster.is_anybody_in() || !cluster.is_level() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let mut settled = pin!(settled);
    let mut is_settled = timeout(SETTLED_WITHIN, &mut settled).await.is_ok();
    if !is_settled && cluster.is_any_stuck() {
        is_settled = timeout(STUCK_WITHIN, &mut settled).await.is_ok();
    }
    assert!(
        is_settled,
        "it does not settle within {SETTLED_WITHIN:?}\n{}",
        cluster.describe()
    );
    cluster.check();
    watch.abort();
    let counts = cluster.truth.finish();
    let mut report = seen.0.lock();
    (report.counts, report.faults, report.reached) = (counts, cluster.counted(), cluster.reached());
    (report.gaps, report.reigns) = (cluster.truth.gaps(), cluster.truth.reigns());
}

/// Starts the nodes, and makes a cluster with a database of them.
pub async fn found(cluster: &Arc<Cluster>) {
    let nodes: Vec<u64> = cluster.nodes().collect();
    for node in &nodes {
        set_clock(*node);
        cluster.start(*node).await;
    }
    let members: BTreeMap<u64, String> = cluster.founders().map(|node| (node, addr(node))).collect();
    for attempt in 1.. {
        let Some(manager) = cluster.manager(1) else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let settings = InitCluster {
            cluster_id: "c0ffee".to_owned(),
            jwt_public_key: "pem".to_owned(),
            jwt_private_key: String::new(),
        };
        let members = members.clone();
        let begun = sim::spawn_on(1, async move {
            manager.init(members, settings).await?;
            // An attempt before this one may have come through all the same.
            let publish = Body::Publish(publish(attempt, false, false));
            let published = manager.shard().submit(publish.into());
            drop(manager);
            let is_published = match published {
                Ok(pending) => pending.await.is_ok(),
                Err(_) => false,
            };
            Ok::<_, rtdb_consensus::InitError>(is_published)
        });
        if let Ok(Ok(true)) = begun.await {
            return;
        }
        sleep(Duration::from_millis(300)).await;
    }
}

/// Publishes until there is a database: it may have been deleted.
async fn found_again(cluster: &Arc<Cluster>, first: u64) {
    let nodes: Vec<u64> = cluster.nodes().filter(|node| !cluster.is_lost(*node)).collect();
    for attempt in 0.. {
        let node = nodes[attempt as usize % nodes.len()];
        let publish = publish(first + attempt, false, false);
        let name = String::from_utf8_lossy(&publish.module).into_owned();
        let submitted = cluster
            .manager(node)
            .and_then(|manager| manager.shard().submit(Body::Publish(publish).into()).ok());
        let Some(pending) = submitted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let outcome = pending.await;
        cluster.truth.told(PUBLISHER + 1, &name, &outcome, false);
        if outcome.is_ok() {
            return;
        }
    }
}

/// Calls through a node, until it is acknowledged.
async fn last_word(cluster: &Arc<Cluster>, node: u64) {
    for attempt in 0.. {
        if cluster.is_lost(node) {
            return;
        }
        let name = format!("{ADDS}last {node}/{attempt}");
        let submitted = cluster
            .manager(node)
            .and_then(|manager| manager.shard().submit(call(0, ADD, &name)).ok());
        let Some(pending) = submitted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let outcome = pending.await;
        cluster.truth.told(1_000 + node, &name, &outcome, false);
        match outcome {
            Ok(_) => return,
            // A deletion may come late.
            Err(_) => found_again(cluster, LAST * (2 + node) + attempt * 1_000).await,
        }
    }
}
