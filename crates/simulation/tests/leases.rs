//! Nodes whose sessions end, and those whose sessions must not, in virtual time: a busy machine does not make a node late.

use rtdb_consensus::command::{Body, Connect};
use rtdb_consensus::{Propose, Timing};
use rtdb_runtime::{sim, sleep};
use rtdb_simulation::cluster::{Cluster, Dangers};
use rtdb_simulation::module::DATABASE;
use rtdb_simulation::network::{Network, Weather};
use rtdb_simulation::run::found;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A lease as short as `--lease-ms` lets it be, and heartbeats that are as far apart.
fn short() -> Timing {
    Timing {
        heartbeat_ms: 1_000,
        election_ms_min: 2_000,
        election_ms_max: 3_000,
        lease_ms: 1_000,
        ..Timing::default()
    }
}

/// The fewest sessions that there were at once in 20 s, of a client on each of three nodes.
async fn fewest(disturb: impl FnOnce(&Arc<Cluster>)) -> usize {
    let (victims, _) = mpsc::channel(1);
    let delay = (Duration::from_micros(200), Duration::from_millis(2));
    let weather = Weather {
        delay,
        ..Weather::default()
    };
    let net = Network::new(weather, victims.clone());
    let dangers = Dangers {
        sync_kills: 0,
        victims,
    };
    let cluster = Cluster::new([3, 0], net, short(), Duration::from_millis(20), &dangers);
    found(&cluster).await;
    for node in 1..=3 {
        let connect = Body::Connect(Connect {
            database: DATABASE,
            sender: vec![node; 32].into(),
            connection: vec![node; 16].into(),
            ..Connect::default()
        });
        let manager = cluster.manager(node.into()).expect("it runs");
        let submitted = manager.shard().submit(connect.into());
        submitted.expect("there is room").await.expect("it is taken");
    }
    disturb(&cluster);
    let mut fewest = usize::MAX;
    for _ in 0..200 {
        let manager = cluster.manager(1).expect("it runs");
        fewest = fewest.min(manager.shard().status().sessions);
        sleep(Duration::from_millis(100)).await;
    }
    fewest
}

fn in_worlds(check: impl Fn(usize, u64), disturb: impl Fn(&Arc<Cluster>) + Send + Copy + 'static) {
    for seed in 1..=3 {
        let config = sim::Config {
            seed,
            ..sim::Config::default()
        };
        let ran = sim::run(&config, fewest(disturb));
        check(ran.output.expect("it runs"), seed);
    }
}

#[test]
fn a_short_lease_does_not_expire_healthy_nodes() {
    let check = |fewest, seed| assert_eq!(fewest, 3, "seed {seed}: sessions of healthy nodes were ended");
    in_worlds(check, |_| {});
}

#[test]
fn it_expires_one_that_nobody_hears() {
    let check = |fewest, seed| assert_eq!(fewest, 2, "seed {seed}");
    in_worlds(check, |cluster| {
        for other in 1..=2 {
            cluster.net.cut(3, other);
        }
    });
}
