//! Clusters that found themselves, with the nodes' own groups, in virtual time: nodes start in random orders, lose their power on the
//! way, and come to be one cluster.

use parking_lot::Mutex;
use rtdb_consensus::command::InitCluster;
use rtdb_consensus::{Bootstrap, Config, FreeSpace, Limits, Manager, Store, SystemClock, Timing};
use rtdb_runtime::{Instant, sim, sleep};
use rtdb_simulation::disk::Disk;
use rtdb_simulation::network::{Link, Network, Weather, addr};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

#[derive(Debug)]
struct Roomy;

impl FreeSpace for Roomy {
    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

struct World {
    net: Arc<Network>,
    electors: BTreeSet<u64>,
    disks: BTreeMap<u64, Disk>,
    marked: Mutex<BTreeSet<u64>>,
    managers: Mutex<BTreeMap<u64, Arc<Manager>>>,
}

impl World {
    async fn live(self: Arc<Self>, node: u64) {
        let is_new = self.marked.lock().insert(node);
        let store = Store::bare(Arc::new(self.disks[&node].clone()), node, 64 << 10, is_new);
        let config = Config {
            node,
            data_dir: "data".into(),
            raft_addr: addr(node),
            client_addr: format!("c{node}"),
            version: "simulation".to_owned(),
            cpu: "virtual".to_owned(),
            timing: Timing::default(),
            limits: Limits::default(),
            disk_reserve_bytes: 0,
            wall_clock: Arc::new(SystemClock),
            free_space: Arc::new(Roomy),
        };
        let link = Arc::new(Link(self.net.clone()));
        let started = Manager::start_on(store.expect("a log"), config, link).await;
        let manager = started.expect("it starts");
        self.net.connect(node, manager.service());
        self.managers.lock().insert(node, manager.clone());
        let plan = Bootstrap {
            looks: true,
            electors: self.electors.clone(),
            window: Duration::from_secs(10),
            share: 0.8,
            alone: false,
        };
        let addrs = self.electors.iter().map(|node| addr(*node)).collect();
        let (_keep, addrs) = watch::channel(addrs);
        let settings = || {
            Ok(InitCluster {
                jwt_public_key: format!("node {node}'s"),
                ..InitCluster::default()
            })
        };
        manager.bootstrap(plan, addrs, settings).await.expect("a cluster");
    }

    fn die(&self, node: u64) {
        self.net.disconnect(node);
        sim::kill(node as u32);
        drop(self.managers.lock().remove(&node));
        sim::kill(node as u32);
        self.disks[&node].lose_power();
    }

    /// Whether all nodes vote in one cluster that has its settings.
    fn is_one(&self) -> bool {
        let managers = self.managers.lock();
        let mut known = BTreeSet::new();
        let all = managers.values().all(|manager| {
            let meta = manager.meta().meta();
            let Some(settings) = meta.cluster() else {
                return false;
            };
            known.insert((settings.cluster_id.clone(), settings.jwt_public_key.clone()));
            let groups = manager.status().groups;
            let is_in = groups
                .iter()
                .all(|group| group.voters.iter().eq(&self.electors) && group.leader.is_some());
            is_in && manager.cluster() == Some(settings.cluster_id.clone())
        });
        all && managers.len() == self.electors.len() && known.len() == 1
    }

    fn clusters(&self) -> BTreeSet<String> {
        let managers = self.managers.lock();
        managers
            .values()
            .filter_map(|manager| manager.cluster())
            .collect()
    }
}

async fn formed(count: u64, deaths: u64) {
    let (victims, _) = mpsc::channel(1);
    let weather = Weather {
        delay: (Duration::from_micros(200), Duration::from_millis(5)),
        lost: 20,
        ..Weather::default()
    };
    let electors: BTreeSet<u64> = (1..=count).collect();
    let disk = |node: &u64| {
        let disk = Disk::default();
        disk.heal(Duration::from_millis(20));
        (*node, disk)
    };
    let world = Arc::new(World {
        net: Network::new(weather, victims),
        disks: electors.iter().map(disk).collect(),
        electors,
        marked: Mutex::default(),
        managers: Mutex::default(),
    });
    // Some at once, some apart.
    let apart = [
        Duration::from_millis(300),
        Duration::from_secs(4),
        Duration::from_secs(20),
    ];
    let apart = apart[sim::draw(3) as usize];
    let begin = Instant::now();
    let mut starts: Vec<(Duration, u64)> = world
        .electors
        .iter()
        .map(|node| (sim::up_to(apart), *node))
        .collect();
    for _ in 0..deaths {
        let node = 1 + sim::draw(count);
        let born = starts
            .iter()
            .find(|(_, it)| *it == node)
            .map_or(apart, |(at, _)| *at);
        let at = born + sim::up_to(Duration::from_secs(3));
        // Comes again: the second start of a node is after its death.
        let again = at + sim::up_to(Duration::from_secs(5));
        starts.push((again, node));
        starts.push((at, node + 1_000));
    }
    starts.sort_unstable();
    let mut seen = BTreeSet::new();
    for (at, node) in starts {
        while begin.elapsed() < at {
            sleep(Duration::from_millis(20).min(at - begin.elapsed())).await;
            seen.extend(world.clusters());
        }
        if node > 1_000 {
            world.die(node - 1_000);
        } else if !world.managers.lock().contains_key(&node) {
            // It may be starting: a process more is one too many.
            world.die(node);
            sim::spawn_on(node as u32, world.clone().live(node));
        }
    }
    while !world.is_one() {
        assert!(
            begin.elapsed() < Duration::from_secs(180),
            "they are not one: {:?}",
            world.clusters()
        );
        sleep(Duration::from_millis(50)).await;
        seen.extend(world.clusters());
        assert!(seen.len() <= 1, "two clusters: {seen:?}");
    }
}

fn in_orders(count: u64, deaths: u64, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let config = sim::Config {
            seed,
            ..sim::Config::default()
        };
        let ran = sim::run(&config, formed(count, deaths));
        assert_eq!(ran.output, Ok(()), "{count} nodes, {deaths} deaths, seed {seed}");
    }
}

#[test]
fn three_nodes_in_random_orders() {
    in_orders(3, 0, 0..20);
}

#[test]
fn five_nodes_in_random_orders() {
    in_orders(5, 0, 0..20);
}

#[test]
fn nodes_that_lose_their_power_on_the_way() {
    in_orders(3, 3, 100..120);
    in_orders(5, 5, 200..210);
}
