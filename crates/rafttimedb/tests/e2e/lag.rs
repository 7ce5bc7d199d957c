//! Replicas that lag: those who write are slowed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rtdb_consensus::SLOWED_CALLS_PER_SECOND_MIN;
use rtdb_testkit::client::{Client, Connect};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::demo_module::{self, ADD, add};
use rtdb_testkit::status::Database;
use tokio::time::Instant;

use crate::support::{DATABASE, PATIENCE, Scene, answered, run, until};

/// A database that nobody writes much to.
const OTHER: &str = "other";

/// Calls that nobody holds back.
const SOME: u64 = 100;

/// Calls of the clients that may be under way.
const UNDER_WAY_MAX: u64 = 4 * 16;

#[test]
fn a_log_that_most_replicas_do_not_follow_does_not_run_away() {
    run(async {
        let scene = Scene::start(3).await?;
        let owner = scene.cluster.node(1).api().with_token(&scene.owner);
        owner.publish(OTHER, demo_module::wasm()?).await?;
        scene.cluster.wait_level(OTHER, PATIENCE).await?;
        for node in [2, 3] {
            scene.cluster.node(node).pause_server(true)?;
        }
        // Through the node that keeps up.
        let loads = scene.loads(0, 4).into_iter().filter(|load| load.first == 0);
        let clients = Clients::start(loads);
        until("the database is slowed", async || {
            ensure!(database(&scene, DATABASE).await?.slowed);
            Ok(())
        })
        .await?;
        // What was under way is answered, and no more than that and what is let through.
        answered(&clients, UNDER_WAY_MAX).await?;
        let began = Instant::now();
        answered(&clients, 2 * SLOWED_CALLS_PER_SECOND_MIN).await?;
        ensure!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());

        let began = Instant::now();
        let to = Connect::new(scene.cluster.node(1).client_addr(), OTHER);
        let mut client = Client::connect(&to).await?;
        for value in 0..SOME {
            let reply = client.call_and_wait(ADD, &add("x", value as i64)).await?;
            ensure!(reply.result.is_ok(), "{:?}", reply.result);
        }
        let slowed = Duration::from_secs(SOME / SLOWED_CALLS_PER_SECOND_MIN);
        ensure!(began.elapsed() < slowed, "{:?}", began.elapsed());
        client.close().await;

        for node in [2, 3] {
            scene.cluster.node(node).pause_server(false)?;
        }
        until("the replicas have caught up", async || {
            ensure!(!database(&scene, DATABASE).await?.slowed);
            Ok(())
        })
        .await?;
        answered(&clients, SOME).await?;
        scene.settled(&clients.stop().await?).await?;
        scene.end().await
    });
}

async fn database(scene: &Scene, name: &str) -> Result<Database> {
    let status = scene.cluster.node(1).status().await?;
    status.database(name).cloned().context("no such database")
}
