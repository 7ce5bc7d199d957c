//! Nodes come and go while clients call.

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::client::{Client, Connect};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::history::History;
use serde_json::Value;
use std::process::Output;
use std::time::Duration;
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, answered, program, run, undisturbed, until};

/// Acknowledged calls that show that work goes on: more than can be in flight.
const SOME: u64 = 300;

/// How long a node that was removed may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Runs `rtdb` against a node.
async fn rtdb(scene: &Scene, node: u64, args: &[&str]) -> Result<Output> {
    let url = format!("http://{}", scene.cluster.node(node).raft_addr());
    let args = args.iter().copied().chain(["--cluster", &url]);
    program("rtdb", args).await
}

/// The same of what must go well; gives back what it says.
async fn done(scene: &Scene, node: u64, args: &[&str]) -> Result<String> {
    let output = rtdb(scene, node, args).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {said}{error}");
    Ok(said)
}

/// Starts a node more, has it added through `asked`, and waits until it votes and serves.
async fn comes(scene: &mut Scene, asked: u64) -> Result<u64> {
    let id = scene.cluster.start_spare()?;
    let addr = scene.cluster.node(id).raft_addr().to_owned();
    let args = ["add-node", "--node-id", &id.to_string(), "--addr", &addr];
    let said = until("the node answers", async || done(scene, asked, &args).await).await?;
    ensure!(said.contains("is a member"), "{said}");
    until(&format!("node {id} votes"), async || {
        let members = done(scene, asked, &["members", "--json"]).await?;
        let members: Value = serde_json::from_str(&members)?;
        let members = members["members"].as_array().context("no list")?;
        let it = members
            .iter()
            .find(|member| member["id"] == id)
            .context("it is no member")?;
        ensure!(it["votes"] == true, "{it}");
        Ok(())
    })
    .await?;
    scene.cluster.wait_ready(PATIENCE).await?;
    Ok(id)
}

#[test]
fn each_of_three_nodes_is_replaced_while_clients_call() {
    run(async {
        let mut scene = Scene::start(3).await?;
        let mut histories: Vec<History> = Vec::new();
        for (round, victim) in [3, 2].into_iter().enumerate() {
            let clients = Clients::start(scene.loads(round as u32 * 100, 2));
            answered(&clients, SOME).await?;
            let new = comes(&mut scene, 1).await?;
            answered(&clients, SOME).await?;

            // One dies, and is removed; the other goes in order. Either may lead.
            let is_dead = round == 0;
            if is_dead {
                scene.cluster.node_mut(victim).kill9().await?;
                answered(&clients, SOME).await?;
            }
            let id = victim.to_string();
            let said = done(&scene, new, &["remove-node", "--node-id", &id]).await?;
            ensure!(said.contains("3 nodes remain"), "{said}");
            if !is_dead {
                let status = scene.cluster.node_mut(victim).ended(STOP_MAX).await?;
                ensure!(!status.success(), "it ended with {status}");
                let log = std::fs::read_to_string(scene.cluster.node(victim).log())?;
                ensure!(log.contains("was removed from the cluster"), "{log}");
            }
            scene.cluster.node_mut(victim).retire();
            answered(&clients, SOME).await?;
            let ended = clients.stop().await?;
            undisturbed(&ended, |node| !scene.cluster.node(node).is_retired())?;
            histories.extend(ended);
            scene.settled(&histories).await?;
        }
        // The last of the founders may go, too: two of those that came are a majority.
        done(&scene, 4, &["transfer-leader", "--node-id", "4"]).await?;
        ensure!(scene.cluster.wait_leader(PATIENCE).await? == 4);
        let refused = rtdb(&scene, 4, &["transfer-leader", "--node-id", "2"]).await?;
        let error = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            !refused.status.success() && error.contains("no member"),
            "{error}"
        );
        drained(&mut scene, 4).await?;
        scene.end().await
    });
}

/// Drains a node, and lets clients come again.
async fn drained(scene: &mut Scene, node: u64) -> Result<()> {
    let addr = scene.cluster.node(node).client_addr().to_owned();
    let mut client = Client::connect(&Connect::new(addr.clone(), DATABASE)).await?;
    let id = node.to_string();
    let said = done(scene, 1, &["drain", "--node-id", &id]).await?;
    ensure!(said.contains("leads nothing"), "{said}");
    let frame = timeout(PATIENCE, client.closed())
        .await?
        .context("no close frame")?;
    let (code, reason) = (u16::from(frame.code), frame.reason.as_str());
    ensure!(code == 1001 && reason.starts_with("leader="), "{code} {reason}");
    let answer = scene
        .cluster
        .node(node)
        .api()
        .send(Method::GET, "/v1/ping", "")
        .await?;
    ensure!(
        answer.status == StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        answer.text()
    );
    let ready = rtdb(scene, node, &["wait", "--for", "ready", "--timeout", "0"]).await?;
    ensure!(!ready.status.success());
    ensure!(scene.cluster.wait_leader(PATIENCE).await? != node);

    done(scene, 1, &["drain", "--node-id", &id, "--undo"]).await?;
    Client::connect(&Connect::new(addr, DATABASE)).await?;
    for goal in ["leader", "ready", "applied"] {
        done(scene, node, &["wait", "--for", goal]).await?;
    }
    let state = done(scene, node, &["state"]).await?;
    ensure!(state == "meta follower\nshard-0 follower\n", "{state}");
    Ok(())
}
