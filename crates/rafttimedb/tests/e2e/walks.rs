//! Random calls of a module that lets the first row it reads decide what it writes, from clients on all nodes, while servers
//! and nodes are killed and the module is replaced: the replicas must be the same in every row.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rtdb_testkit::Api;
use rtdb_testkit::demo_module::{another_build, walks};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{DATABASE, PATIENCE, Scene, run, until};

/// Calls of one client. `RTDB_WALKS` is how many times as many are made instead; `RTDB_SEED` makes them others.
const CALLS: u64 = 400;
/// Clients on each node.
const CLIENTS: u64 = 2;
/// So many calls lie between one disturbance and the next.
const CALM: u64 = 250;

fn setting(name: &str) -> Result<u64> {
    match std::env::var(name) {
        Ok(value) => value.parse().with_context(|| format!("{name}={value}")),
        Err(_) => Ok(1),
    }
}

/// Random, but the same again.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        self.0 >> 20
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Makes calls of one node, and asks another when that is away.
async fn client(apis: Vec<Api>, mut dice: Dice, calls: u64, made: Arc<AtomicU64>) -> Result<u64> {
    let (mut at, mut succeeded) = (dice.next() as usize, 0);
    for _ in 0..calls {
        let reducer = match dice.below(100) {
            0 => "explode",
            1..=4 => "fail",
            5 => "flood",
            _ => "step",
        };
        let args = match reducer {
            "flood" => json!([dice.next(), 40]),
            _ => json!([dice.next(), dice.below(8)]),
        };
        let path = format!("/v1/database/{DATABASE}/call/{reducer}");
        // What comes of a call that its node did not survive is not known; nor does it matter here.
        match apis[at % apis.len()].post_json(&path, &args).await {
            Ok(answer) if answer.status.is_success() => succeeded += 1,
            Ok(answer) if answer.status.as_u16() == 530 => {}
            _ => {
                at += 1;
                sleep(Duration::from_millis(50)).await;
            }
        }
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(succeeded)
}

/// Kills a server or a node, or replaces the module.
async fn disturb(scene: &mut Scene, dice: &mut Dice, wasm: &[u8], build: u8) -> Result<()> {
    let node = 1 + dice.below(3);
    match dice.below(4) {
        0 => {
            scene.cluster.node_mut(node).kill9().await?;
            scene.cluster.restart(node)?;
            scene.cluster.wait_ready(PATIENCE).await
        }
        1 => {
            let api = scene.cluster.node(node).api().with_token(&scene.owner);
            api.publish(DATABASE, another_build(wasm, build)).await
        }
        _ => scene.cluster.node_mut(node).kill9_server().await,
    }
}

#[test]
fn random_calls_leave_the_same_rows_whatever_is_killed() {
    run(async {
        let wasm = walks()?;
        let mut scene = Scene::publishing(wasm.clone(), 3, |config| {
            // What compares the replicas must not take any of this for a difference.
            config.arguments = ["--scrub-interval-s", "1"].map(str::to_owned).to_vec();
        })
        .await?;
        let (calls, seed) = (CALLS * setting("RTDB_WALKS")?, setting("RTDB_SEED")?);
        let apis: Vec<Api> = scene
            .cluster
            .nodes()
            .iter()
            .map(|node| node.api().with_token(&scene.owner))
            .collect();
        let made = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for number in 0..3 * CLIENTS {
            let dice = Dice(seed * 1_000 + number);
            clients.spawn(client(apis.clone(), dice, calls, made.clone()));
        }
        let mut dice = Dice(seed);
        for round in 1_u8.. {
            let next = u64::from(round) * CALM;
            if next + CALM > calls * 3 * CLIENTS {
                break;
            }
            until("more calls are made", async || {
                let made = made.load(Ordering::Relaxed);
                ensure!(made >= next, "{made} of {next}");
                Ok(())
            })
            .await?;
            disturb(&mut scene, &mut dice, &wasm, round).await?;
        }
        let mut succeeded = 0;
        while let Some(ended) = clients.join_next().await {
            succeeded += ended??;
        }
        ensure!(
            succeeded > calls * 3 * CLIENTS / 2,
            "only {succeeded} calls succeeded"
        );
        scene.level_and_identical().await?;
        scene.no_alarms()?;
        scene.end().await
    });
}
