//! Nodes that are cut off from the others, and come back.

use std::time::Duration;

use anyhow::{Result, ensure};
use rtdb_testkit::client::{Client, Connect, Event};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::demo_module::{ADD, add};
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, answered, run, undisturbed, until};

/// Acknowledged calls that show that work goes on: more than can be in flight.
const SOME: u64 = 500;

/// Long enough for an answer that is on its way to arrive.
const MOMENT: Duration = Duration::from_millis(500);

async fn scene(lease_ms: u64) -> Result<Scene> {
    Scene::with(3, |config| {
        config.proxied = true;
        config.arguments = vec!["--lease-ms".to_string(), lease_ms.to_string()];
    })
    .await
}

/// Waits until all nodes but `old` agree on a leader other than `old`.
async fn new_leader(scene: &Scene, old: u64) -> Result<u64> {
    until("the others have a leader of their own", async || {
        let mut leaders = Vec::new();
        for node in scene.cluster.running().filter(|node| node.id() != old) {
            leaders.push(node.status().await?.shard_leader());
        }
        match leaders[..] {
            [Some(a), Some(b)] if a == b && a != old => Ok(a),
            _ => anyhow::bail!("{leaders:?}"),
        }
    })
    .await
}

/// How many rows of this name a client is shown.
async fn rows(client: &mut Client, name: &str) -> Result<usize> {
    client
        .query(&format!("SELECT * FROM counter WHERE name = '{name}'"))
        .await?;
    match timeout(PATIENCE, client.event()).await?? {
        Event::QueryReply(Ok(tables)) => Ok(tables.iter().map(|table| table.inserts.len()).sum()),
        other => anyhow::bail!("{other:?}"),
    }
}

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing() {
    run(async {
        // Nobody is given up: every client keeps its connection, and has its answers in the end.
        let scene = scene(60_000).await?;
        let clients = Clients::start(scene.loads(0, 2));
        answered(&clients, SOME).await?;
        let old = scene.cluster.wait_leader(PATIENCE).await?;
        let to = Connect::new(scene.cluster.node(old).client_addr(), DATABASE);
        let mut reader = Client::connect(&to).await?;
        let mut cut_off = Client::connect(&to).await?;
        ensure!(
            cut_off
                .call_and_wait(ADD, &add("before", 1))
                .await?
                .result
                .is_ok()
        );

        scene.cluster.network()?.isolate(old);
        let mut sent = Vec::new();
        for value in 0..10 {
            sent.push(cut_off.call(ADD, &add("cut off", value)).await?);
        }
        cut_off.flush().await?;
        new_leader(&scene, old).await?;
        answered(&clients, SOME).await?;
        let early = timeout(MOMENT, cut_off.event()).await;
        ensure!(early.is_err(), "answered while cut off: {early:?}");
        // Reads go on, and show what was there.
        ensure!(rows(&mut reader, "before").await? == 1);
        ensure!(rows(&mut reader, "cut off").await? == 0);

        scene.cluster.network()?.heal();
        for request_id in sent {
            match timeout(PATIENCE, cut_off.event()).await?? {
                Event::Reply(reply) => {
                    ensure!(reply.answers(request_id) && reply.result.is_ok(), "{reply:?}")
                }
                other => anyhow::bail!("{other:?}"),
            }
        }
        ensure!(rows(&mut reader, "cut off").await? == 10);
        reader.close().await;
        cut_off.close().await;
        let histories = clients.stop().await?;
        undisturbed(&histories, |_| true)?;
        scene.settled_beside(&histories, &["before", "cut off"]).await?;
        scene.end().await
    });
}

#[test]
fn a_follower_that_is_cut_off_catches_up() {
    run(async {
        let scene = scene(60_000).await?;
        let clients = Clients::start(scene.loads(0, 2));
        answered(&clients, SOME).await?;
        let leader = scene.cluster.wait_leader(PATIENCE).await?;
        let follower = leader % 3 + 1;
        scene.cluster.network()?.isolate(follower);
        answered(&clients, SOME).await?;
        scene.cluster.network()?.heal();
        answered(&clients, SOME).await?;
        // Pre-vote: who was cut off does not unseat the leader when it is back.
        ensure!(
            scene.cluster.wait_leader(PATIENCE).await? == leader,
            "the leader was unseated"
        );
        let histories = clients.stop().await?;
        undisturbed(&histories, |_| true)?;
        scene.settled(&histories).await?;
        scene.end().await
    });
}

/// A node that is silent for longer than its lease loses its sessions; its clients hear of it when it is back.
#[test]
fn a_node_that_was_given_up_sends_its_clients_away() {
    run(async {
        let scene = scene(3_000).await?;
        let loads = scene.loads(0, 2);
        let all = loads.len();
        let clients = Clients::start(loads);
        answered(&clients, SOME).await?;
        let old = scene.cluster.wait_leader(PATIENCE).await?;
        let mut idle =
            Client::connect(&Connect::new(scene.cluster.node(old).client_addr(), DATABASE)).await?;

        scene.cluster.network()?.isolate(old);
        let leader = new_leader(&scene, old).await?;
        // Two load clients and the idle one were on the node that is gone.
        scene.present(leader, all - 2).await?;
        scene.cluster.network()?.heal();
        let frame = timeout(PATIENCE, idle.closed()).await?;
        ensure!(
            frame.as_ref().is_some_and(|frame| u16::from(frame.code) == 1012),
            "{frame:?}"
        );
        answered(&clients, SOME).await?;
        let histories = clients.stop().await?;
        undisturbed(&histories, |node| node != old)?;
        scene.settled(&histories).await?;
        scene.end().await
    });
}
