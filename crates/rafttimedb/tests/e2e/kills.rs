//! `kill -9` of anything, under load and repeatedly.

use anyhow::Result;
use rtdb_testkit::Node;
use rtdb_testkit::clients::Clients;
use rtdb_testkit::history::History;

use crate::support::{PATIENCE, Scene, answered, connected, run, undisturbed};

/// Acknowledged calls that show that work goes on: more than can be in flight.
const SOME: u64 = 500;

/// Short, for the tests' sake, and long enough for a busy machine's live nodes to be heard of.
const LEASE_MS: u64 = 3_000;

/// Clients on each node.
const CLIENTS: u32 = 2;

#[derive(Clone, Copy, Debug)]
enum Victim {
    Leader,
    Follower,
}

const ROUNDS: [Victim; 4] = [Victim::Leader, Victim::Follower, Victim::Leader, Victim::Follower];

impl Victim {
    async fn find(self, scene: &Scene) -> Result<u64> {
        let leader = scene.cluster.wait_leader(PATIENCE).await?;
        Ok(match self {
            Self::Leader => leader,
            Self::Follower => leader % scene.cluster.nodes().len() as u64 + 1,
        })
    }
}

/// A scene whose dead nodes are given up soon.
async fn scene() -> Result<Scene> {
    Scene::with(3, |config| {
        config.arguments = vec!["--lease-ms".to_string(), LEASE_MS.to_string()];
    })
    .await
}

/// Kills nodes in turn, each while clients call, and starts them again.
async fn nodes_die(kill: impl AsyncFn(&mut Node) -> Result<()>, rounds: &[Victim]) -> Result<()> {
    let mut scene = scene().await?;
    let mut histories: Vec<History> = Vec::new();
    for (round, victim) in (0..).zip(rounds) {
        let loads = scene.loads(round * 100, CLIENTS);
        let all = loads.len();
        let clients = Clients::start(loads);
        answered(&clients, SOME).await?;

        let victim = victim.find(&scene).await?;
        kill(scene.cluster.node_mut(victim)).await?;
        answered(&clients, SOME).await?;
        // The sessions that died with the node are ended, and those who moved have one each.
        let survivor = victim % 3 + 1;
        scene.present(survivor, all).await?;

        scene.cluster.restart(victim)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        answered(&clients, SOME).await?;
        let ended = clients.stop().await?;
        undisturbed(&ended, |node| node != victim)?;
        histories.extend(ended);
        scene.settled(&histories).await?;
    }
    scene.end().await
}

#[test]
fn nodes_and_their_servers_die_in_turn() {
    run(nodes_die(async |node| node.kill9().await, &ROUNDS));
}

#[test]
fn spacetimedb_dies_alone() {
    run(async {
        let mut scene = scene().await?;
        let mut histories: Vec<History> = Vec::new();
        for (round, victim) in (0..).zip(ROUNDS) {
            let clients = Clients::start(scene.loads(round * 100, CLIENTS));
            answered(&clients, SOME).await?;
            let victim = victim.find(&scene).await?;
            scene.cluster.node_mut(victim).kill9_server().await?;
            answered(&clients, SOME).await?;
            scene.cluster.wait_ready(PATIENCE).await?;
            answered(&clients, SOME).await?;
            let ended = clients.stop().await?;
            // Rows that the dead server did not tell of may come apart from their answers.
            connected(&ended, |_| true)?;
            histories.extend(ended);
            scene.settled(&histories).await?;
        }
        scene.end().await
    });
}

#[test]
fn everything_dies_at_once() {
    run(async {
        let mut scene = scene().await?;
        let mut histories: Vec<History> = Vec::new();
        for round in 0..2 {
            let clients = Clients::start(scene.loads(round * 100, CLIENTS));
            answered(&clients, SOME).await?;
            for id in 1..=3 {
                scene.cluster.node_mut(id).kill9().await?;
            }
            for id in 1..=3 {
                scene.cluster.restart(id)?;
            }
            scene.cluster.wait_ready(PATIENCE).await?;
            answered(&clients, SOME).await?;
            histories.extend(clients.stop().await?);
            scene.settled(&histories).await?;
        }
        scene.end().await
    });
}
