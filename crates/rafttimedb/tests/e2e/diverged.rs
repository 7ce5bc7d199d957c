//! Replicas that differ are found, named and set aside; the rest goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::client::{Args, Client, Connect};
use rtdb_testkit::{demo_module, poison_module};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::support::{DATABASE, PATIENCE, Scene, program, run, until};

/// Another database, whose replicas are left alone.
const OTHER: &str = "other";

/// What a node says of a database.
async fn said(scene: &Scene, node: u64, name: &str) -> Result<Value> {
    let status: Value = scene.cluster.node(node).admin().get("/cluster/status").await?;
    let databases = status["databases"].as_array().context("no databases")?;
    let named = |database: &&Value| {
        let names = database["names"].as_array();
        names.is_some_and(|names| names.iter().any(|it| it == name))
    };
    Ok(databases.iter().find(named).context("no such database")?.clone())
}

/// Waits until the nodes have agreed on all that was written to the database.
async fn agreed(scene: &Scene, name: &str) -> Result<()> {
    until("the replicas agree on all there is", async || {
        let said = said(scene, 1, name).await?;
        ensure!(said["agreed_index"] == said["index"], "{said}");
        Ok(())
    })
    .await
}

/// Changes a row behind the cluster's back: what a broken disk, a bug or a curious operator may do.
async fn tamper(scene: &Scene, node: u64) -> Result<()> {
    update(scene, node, "UPDATE rtdb_state SET digest = 1").await
}

async fn update(scene: &Scene, node: u64, update: &str) -> Result<()> {
    let (server, database) = scene.server(node).await?;
    let path = format!("/v1/database/{database}/sql");
    server
        .expect(Method::POST, &path, update.to_owned())
        .await
        .map(drop)
}

/// The digests say nothing of rows that change by themselves.
#[test]
fn rows_that_a_server_has_changed_by_itself_are_found() {
    run(async {
        let scene = Scene::with(3, |config| {
            config.arguments = ["--scrub-interval-s", "1"].map(str::to_owned).to_vec();
        })
        .await?;
        add(&scene, 1, DATABASE, 1).await?;
        agreed(&scene, DATABASE).await?;
        update(&scene, 2, "UPDATE counter SET value = 77 WHERE value = 1").await?;
        until("node 2's replica is set aside", async || {
            for node in 1..=3 {
                let said = said(&scene, node, DATABASE).await?;
                ensure!(
                    said["diverged"][0]["node"] == 2 && said["split"].is_null(),
                    "{said}"
                );
                ensure!(said["set_aside"].is_string() == (node == 2), "{said}");
            }
            Ok(())
        })
        .await?;
        // Nobody else is taken for wrong meanwhile.
        add(&scene, 1, DATABASE, 2).await?;
        agreed(&scene, DATABASE).await?;
        scene.end().await
    });
}

async fn add(scene: &Scene, node: u64, database: &str, value: i64) -> Result<()> {
    let to = Connect::new(scene.cluster.node(node).client_addr(), database);
    let mut client = Client::connect(&to).await?;
    let reply = client.call_and_wait("add", &demo_module::add("x", value)).await?;
    client.close().await;
    reply.result.map(drop).map_err(anyhow::Error::msg)
}

#[test]
fn a_replica_that_differs_is_set_aside_and_the_rest_goes_on() {
    run(async {
        let scene = Scene::start(3).await?;
        let publisher = scene.cluster.node(1).api().with_token(&scene.owner);
        publisher.publish(OTHER, demo_module::wasm()?).await?;
        add(&scene, 1, DATABASE, 1).await?;
        agreed(&scene, DATABASE).await?;
        let mut witness =
            Client::connect(&Connect::new(scene.cluster.node(3).client_addr(), DATABASE)).await?;
        let bystander = Client::connect(&Connect::new(scene.cluster.node(3).client_addr(), OTHER)).await?;

        tamper(&scene, 3).await?;
        add(&scene, 1, DATABASE, 2).await?;
        until("node 3's replica is set aside", async || {
            let said = said(&scene, 3, DATABASE).await?;
            ensure!(said["set_aside"].is_string(), "{said}");
            Ok(())
        })
        .await?;
        for node in 1..=3 {
            until("every node names it", async || {
                let said = said(&scene, node, DATABASE).await?;
                ensure!(
                    said["diverged"][0]["node"] == 3 && said["split"].is_null(),
                    "{said}"
                );
                Ok(())
            })
            .await?;
        }

        // Its client is sent to another node, and so is whoever comes.
        let closed = witness.closed().await.context("closed without a reason")?;
        ensure!(
            u16::from(closed.code) == 1001 && closed.reason.starts_with("leader="),
            "{closed:?}"
        );
        ensure!(!closed.reason.starts_with("leader=3:"), "{closed:?}");
        let path = format!("/v1/database/{DATABASE}/sql");
        let api = scene.cluster.node(3).api().with_token(&scene.owner);
        let refused = api.send(Method::POST, &path, "SELECT * FROM counter").await?;
        ensure!(
            refused.status == StatusCode::SERVICE_UNAVAILABLE,
            "{}",
            refused.status
        );
        ensure!(refused.text().contains("turn to leader="), "{}", refused.text());

        // The others go on, with this database and with others, on this node too.
        add(&scene, 2, DATABASE, 3).await?;
        add(&scene, 3, OTHER, 1).await?;
        let status = program("rtdb", ["status", "--addr", scene.cluster.node(2).raft_addr()]).await?;
        let shown = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(shown.contains("DIVERGED: node 3's replica of demo"), "{shown}");
        ensure!(shown.contains("SET ASIDE: node 3 does not serve demo"), "{shown}");
        bystander.close().await;

        // The others can still be compared.
        let addr = scene.cluster.node(1).raft_addr();
        let verify = program("rtdb", ["verify", "--database", DATABASE, "--addr", addr]).await?;
        let shown = String::from_utf8_lossy(&verify.stdout).into_owned();
        ensure!(
            verify.status.code() == Some(3) && shown.contains("on nodes 1, 2 are the same"),
            "{shown}"
        );
        ensure!(
            shown.contains("node 3: not compared") && shown.contains("is set aside here"),
            "{shown}"
        );

        // After a restart it is still known. What clears the database makes the replica right again.
        let mut scene = scene;
        scene.cluster.node_mut(3).kill9().await?;
        scene.cluster.restart(3)?;
        until("node 3 knows it after a restart", async || {
            let said = said(&scene, 3, DATABASE).await?;
            ensure!(said["set_aside"].is_string(), "{said}");
            Ok(())
        })
        .await?;
        let path = format!("/v1/database/{DATABASE}?clear=true");
        let publisher = scene.cluster.node(1).api().with_token(&scene.owner);
        publisher.expect(Method::PUT, &path, demo_module::wasm()?).await?;
        until("node 3 serves the database again", async || {
            let said = said(&scene, 3, DATABASE).await?;
            ensure!(said["set_aside"].is_null(), "{said}");
            Ok(())
        })
        .await?;
        add(&scene, 3, DATABASE, 4).await?;
        agreed(&scene, DATABASE).await?;
        until("node 3 holds what node 1 does", async || {
            let (ours, theirs) = (said(&scene, 1, DATABASE).await?, said(&scene, 3, DATABASE).await?);
            ensure!(ours["digest"] == theirs["digest"], "{ours} {theirs}");
            Ok(())
        })
        .await?;

        // A row that changes by itself is in no digest; comparing all rows shows it.
        let verify = async |node: u64| {
            let addr = scene.cluster.node(node).raft_addr();
            let verify = program("rtdb", ["verify", "--database", DATABASE, "--addr", addr]).await?;
            let shown = [verify.stdout, verify.stderr].concat();
            Ok::<_, anyhow::Error>((
                verify.status.success(),
                String::from_utf8_lossy(&shown).into_owned(),
            ))
        };
        let (same, shown) = verify(1).await?;
        ensure!(same && shown.contains("are the same at"), "{shown}");
        let (server, database) = scene.server(2).await?;
        let update = "UPDATE counter SET value = 77".to_owned();
        server
            .expect(Method::POST, &format!("/v1/database/{database}/sql"), update)
            .await?;
        let (same, shown) = verify(3).await?;
        ensure!(!same && shown.contains("counter: the replicas differ"), "{shown}");
        ensure!(
            shown.contains("on node 2 only: ") && shown.contains("on node 1, 3 only: "),
            "{shown}"
        );
        scene.end().await
    });
}

#[test]
fn a_database_whose_replicas_contradict_each_other_waits_for_a_word() {
    run(async {
        let mut scene = Scene::start(3).await?;
        add(&scene, 1, DATABASE, 1).await?;
        agreed(&scene, DATABASE).await?;
        scene.cluster.node_mut(3).kill9().await?;
        scene.cluster.wait_leader(PATIENCE).await?;
        tamper(&scene, 2).await?;
        add(&scene, 1, DATABASE, 2).await?;

        until("the database takes no calls", async || {
            let refused = add(&scene, 1, DATABASE, 3).await.err().context("it was taken")?;
            ensure!(refused.to_string().contains("read-only"), "{refused:#}");
            Ok(())
        })
        .await?;
        ensure!(scene.count(1, "counter").await? >= 2, "reads go on");
        let resolve = |node: &'static str, addr: String| async move {
            program(
                "rtdb",
                ["resolve", "--database", DATABASE, "--node", node, "--addr", &addr],
            )
            .await
        };
        let addr = || scene.cluster.node(1).raft_addr().to_owned();
        let wrong = resolve("3", addr()).await?;
        let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
        ensure!(
            !wrong.status.success() && text.contains("has not reported"),
            "{text}"
        );
        let right = resolve("1", addr()).await?;
        ensure!(
            right.status.success(),
            "{}",
            String::from_utf8_lossy(&right.stderr)
        );

        add(&scene, 1, DATABASE, 4).await?;
        until("node 2's replica is set aside", async || {
            let said = said(&scene, 2, DATABASE).await?;
            ensure!(said["set_aside"].is_string(), "{said}");
            Ok(())
        })
        .await?;
        let twice = resolve("1", addr()).await?;
        let text = String::from_utf8_lossy(&twice.stderr).into_owned();
        ensure!(!twice.status.success() && text.contains("not split"), "{text}");
        scene.cluster.restart(3)?;
        until("node 3 has what node 1 has", async || {
            let ours = said(&scene, 1, DATABASE).await?;
            let theirs = said(&scene, 3, DATABASE).await?;
            ensure!(
                ours["digest"] == theirs["digest"] && theirs["set_aside"].is_null(),
                "{theirs}"
            );
            Ok(())
        })
        .await?;
        scene.end().await
    });
}

/// Times at which a node's log says something.
fn logged(scene: &Scene, node: u64, words: &str) -> usize {
    let log = std::fs::read_to_string(scene.cluster.node(node).log()).unwrap_or_default();
    log.lines().filter(|line| line.contains(words)).count()
}

/// Calls fail on a replica that succeed on the others: it is at no position where another is.
#[test]
fn a_replica_on_which_every_call_fails_is_found() {
    run(async {
        let scene = Scene::start(3).await?;
        add(&scene, 1, DATABASE, 1).await?;
        agreed(&scene, DATABASE).await?;
        let to = Connect::new(scene.cluster.node(1).client_addr(), DATABASE);
        let mut client = Client::connect(&to).await?;
        agreed(&scene, DATABASE).await?;
        update(&scene, 3, "DELETE FROM counter WHERE id = 1").await?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let reply = client
                .call_and_wait(
                    "set",
                    &Args::new().i64(1).i64(started.elapsed().as_millis() as i64),
                )
                .await?;
            ensure!(reply.result.is_ok(), "{:?}", reply.result);
            if said(&scene, 3, DATABASE).await?["set_aside"].is_string() {
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        client.close().await;
        let ours = said(&scene, 1, DATABASE).await?;
        ensure!(
            ours["diverged"][0]["node"] == 3 && ours["split"].is_null(),
            "{ours}"
        );
        scene.end().await
    });
}

/// A replica has diverged; before that is known the database is cleared.
#[test]
fn what_is_reported_of_before_a_clear_does_not_count_after_it() {
    run(async {
        let scene = Scene::start(3).await?;
        add(&scene, 1, DATABASE, 1).await?;
        agreed(&scene, DATABASE).await?;
        let to = Connect::new(scene.cluster.node(1).client_addr(), DATABASE);
        let mut client = Client::connect(&to).await?;
        agreed(&scene, DATABASE).await?;
        tamper(&scene, 3).await?;
        // All replicas are behind the log by some seconds, as when their servers are busy with a long call.
        for node in scene.cluster.nodes() {
            node.pause_server(true)?;
        }
        for value in 0..7 {
            client.call("add", &demo_module::add("x", value)).await?;
            client.flush().await?;
            sleep(Duration::from_secs(1)).await;
        }
        let path = format!("/v1/database/{DATABASE}?clear=true");
        let publisher = scene.cluster.node(1).api().with_token(&scene.owner);
        let wasm = demo_module::wasm()?;
        let publishing = tokio::spawn(async move { publisher.expect(Method::PUT, &path, wasm).await });
        sleep(Duration::from_secs(5)).await;
        for node in scene.cluster.nodes() {
            node.pause_server(false)?;
        }
        publishing.await??;
        add(&scene, 1, DATABASE, 2).await?;
        agreed(&scene, DATABASE).await?;
        sleep(Duration::from_secs(10)).await;
        for node in 1..=3 {
            let said = said(&scene, node, DATABASE).await?;
            ensure!(said["set_aside"].is_null(), "{said}");
            ensure!(said["diverged"].as_array().is_none_or(Vec::is_empty), "{said}");
        }
        scene.identical().await?;
        scene.end().await
    });
}

#[test]
fn a_clear_that_is_refused_does_not_end_a_split() {
    run(async {
        let mut scene = Scene::start(3).await?;
        add(&scene, 1, DATABASE, 1).await?;
        agreed(&scene, DATABASE).await?;
        scene.cluster.node_mut(3).kill9().await?;
        scene.cluster.wait_leader(PATIENCE).await?;
        tamper(&scene, 2).await?;
        add(&scene, 1, DATABASE, 2).await?;
        let refused = async || {
            let refused = add(&scene, 1, DATABASE, 3).await.err().context("it was taken")?;
            ensure!(refused.to_string().contains("read-only"), "{refused:#}");
            Ok(())
        };
        until("the database takes no calls", refused).await?;
        let path = format!("/v1/database/{DATABASE}?clear=true");
        let publisher = scene.cluster.node(1).api().with_token(&scene.owner);
        let mut crafted = poison_module::crafted()?.into_iter();
        let traps = crafted.find(|(what, _)| *what == "its `init` traps");
        let (_, module) = traps.context("no such module")?;
        let answer = publisher.send(Method::PUT, &path, module).await?;
        ensure!(!answer.status.is_success(), "{}", answer.text());
        refused().await?;
        publisher.expect(Method::PUT, &path, demo_module::wasm()?).await?;
        add(&scene, 1, DATABASE, 4).await?;
        scene.end().await
    });
}

/// What a node finds about its own replica is no less a reason to give leadership away than what the others find.
#[test]
fn a_leader_whose_replica_does_not_follow_from_the_log_hands_over() {
    run(async {
        let mut scene = Scene::start(3).await?;
        add(&scene, 1, DATABASE, 1).await?;
        agreed(&scene, DATABASE).await?;
        let leader = scene.cluster.wait_leader(PATIENCE).await?;
        update(&scene, leader, "UPDATE rtdb_state SET module = 131073").await?;
        sleep(Duration::from_secs(2)).await;
        scene.cluster.node_mut(leader).kill9_server().await?;
        until("it is set aside, and another leads", async || {
            let said = said(&scene, leader, DATABASE).await?;
            ensure!(said["set_aside"].is_string(), "{said}");
            let now = scene.cluster.wait_leader(PATIENCE).await?;
            ensure!(now != leader, "node {leader} leads");
            Ok(())
        })
        .await?;
        add(&scene, leader % 3 + 1, DATABASE, 2).await?;
        scene.end().await
    });
}

/// A node is given up while what it has to report is on its way; the database rests.
#[test]
fn a_report_that_was_lost_is_made_again() {
    run(async {
        let scene = Scene::with(3, |config| {
            config.proxied = true;
            config.arguments = ["--lease-ms", "5000"].map(str::to_owned).to_vec();
        })
        .await?;
        add(&scene, 1, DATABASE, 1).await?;
        agreed(&scene, DATABASE).await?;
        let follower = scene.cluster.wait_leader(PATIENCE).await? % 3 + 1;
        let other = follower % 3 + 1;
        tamper(&scene, follower).await?;
        scene.cluster.node(follower).pause_server(true)?;
        add(&scene, other, DATABASE, 2).await?;
        sleep(Duration::from_secs(2)).await;
        scene.cluster.network()?.isolate(follower);
        scene.cluster.node(follower).pause_server(false)?;
        // It is given up meanwhile, and its report with it.
        sleep(Duration::from_secs(15)).await;
        scene.cluster.network()?.heal();
        until("its replica is found", async || {
            let said = said(&scene, other, DATABASE).await?;
            ensure!(said["diverged"][0]["node"] == follower, "{said}");
            Ok(())
        })
        .await?;
        ensure!(logged(&scene, follower, "the cluster has given this node up") > 0);
        scene.end().await
    });
}
