//! A cluster's life: init, serving, updates, orderly stops and restarts.

use anyhow::{Context, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::client::{Args, Client, Connect};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::{demo_module, sql};
use serde_json::{Value, json};
use spacetimedb_lib::Identity;
use std::time::Duration;
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, answered, program, run, undisturbed, until};

/// Acknowledged calls that show that work goes on: more than can be in flight.
const SOME: u64 = 500;

/// How long a busy machine may take to say how a node is.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What `/metrics` promises.
const METRICS: [&str; 28] = [
    "rtdb_ready",
    "rtdb_spacetimedb_up",
    "rtdb_raft_term",
    "rtdb_raft_leader_id",
    "rtdb_raft_is_leader",
    "rtdb_raft_last_log_index",
    "rtdb_raft_committed_index",
    "rtdb_raft_applied_index",
    "rtdb_raft_apply_lag_entries",
    "rtdb_database_index",
    "rtdb_database_digest",
    "rtdb_apply_window_calls",
    "rtdb_overlong_calls",
    "rtdb_database_stuck",
    "rtdb_log_syncs_total",
    "rtdb_log_sync_seconds_total",
    "rtdb_apply_lag_seconds",
    "rtdb_timer_delay_seconds_count",
    "rtdb_connections",
    "rtdb_client_bytes",
    "rtdb_refused_connections_total",
    "rtdb_failed_calls_total",
    "rtdb_sessions",
    "rtdb_upstreams",
    "rtdb_calls_total",
    "rtdb_write_latency_seconds_bucket",
    "rtdb_write_latency_seconds_count",
    "rtdb_slow_clients_total",
];

#[test]
fn a_leader_that_is_told_to_stop_hands_over() {
    run(async {
        let mut scene = Scene::start(3).await?;
        let clients = Clients::start(scene.loads(0, 2));
        answered(&clients, SOME).await?;
        let leader = scene.cluster.wait_leader(PATIENCE).await?;
        let addr = scene.cluster.node(leader).client_addr().to_string();
        let mut idle = Client::connect(&Connect::new(addr, DATABASE)).await?;

        let (closed, status) = tokio::join!(
            timeout(PATIENCE, idle.closed()),
            scene.cluster.node_mut(leader).terminate()
        );
        let status = status?;
        ensure!(status.success(), "the node ended with {status}");
        let frame = closed?.context("no close frame")?;
        let code = u16::from(frame.code);
        let successor = scene
            .cluster
            .running()
            .find(|node| frame.reason.as_str() == format!("leader={}:{}", node.id(), node.client_addr()));
        ensure!(code == 1001 && successor.is_some(), "{code} {}", frame.reason);

        answered(&clients, SOME).await?;
        scene.cluster.restart(leader)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        let histories = clients.stop().await?;
        undisturbed(&histories, |node| node != leader)?;
        scene.settled(&histories).await?;
        scene.end().await
    });
}

#[test]
fn clients_come_and_go_once_on_every_replica() {
    run(async {
        let scene = Scene::start(3).await?;
        let to = |node| Connect::new(scene.cluster.node(node).client_addr(), DATABASE);
        let first = Client::connect(&to(1)).await?;
        let mut owner = Client::connect(&to(2).with_token(scene.owner.clone())).await?;
        // The same token is the same identity on every node, and another connection.
        let again = Client::connect(&to(3).with_token(first.hello().token.clone())).await?;
        ensure!(again.hello().identity == first.hello().identity);
        ensure!(again.hello().connection != first.hello().connection);
        for node in 1..=3 {
            scene.present(node, 3).await?;
        }
        let dumps = scene.cluster.dumps(DATABASE, &scene.owner).await?;
        ensure!(dumps.iter().all(|dump| dump == &dumps[0]), "presence differs");
        let identity = Identity::from_byte_array(first.hello().identity);
        for node in scene.cluster.running() {
            let api = node.api().with_token(&scene.owner);
            let clients = sql::select(&api, DATABASE, "SELECT identity FROM st_client").await?;
            let shown = format!("0x{}", identity.to_hex());
            let shown = clients
                .column("identity")?
                .iter()
                .filter(|it| **it == &shown)
                .count();
            ensure!(shown == 2, "node {}: {clients:?}", node.id());
        }

        let banned = first.hello().clone();
        first.close().await;
        again.close().await;
        for node in 1..=3 {
            scene.present(node, 1).await?;
        }
        let who = Args::new().raw(&banned.identity);
        let call = format!("/v1/database/{DATABASE}/call/add");
        ensure!(owner.call_and_wait("ban_identity", &who).await?.result.is_ok());
        for node in 1..=3 {
            let refused = Client::connect(&to(node).with_token(banned.token.clone())).await;
            let why = format!("{:#}", refused.err().context("a banned client was let in")?);
            ensure!(
                !why.contains("closed"),
                "a close frame is no error for an SDK: {why}"
            );
            // Over HTTP it is told.
            let api = scene.cluster.node(node).api().with_token(&banned.token);
            let call = api.post_json(&call, &json!(["banned", 1])).await?;
            ensure!(
                call.status == StatusCode::FORBIDDEN && call.text() == "you are banned",
                "{call:?}"
            );
        }
        ensure!(owner.call_and_wait("lift_ban", &who).await?.result.is_ok());
        let back = Client::connect(&to(3).with_token(banned.token.clone())).await?;
        scene.present(1, 2).await?;
        back.close().await;
        owner.close().await;
        scene.identical().await?;
        scene.end().await
    });
}

#[test]
fn a_cluster_that_was_stopped_goes_on_with_its_data() {
    run(async {
        let mut scene = Scene::start(3).await?;
        let clients = Clients::start(scene.loads(0, 1));
        answered(&clients, SOME).await?;
        let mut histories = clients.stop().await?;
        let before = scene.identical().await?;
        let path = format!("/v1/database/{DATABASE}");
        let owner = scene.cluster.node(2).api().with_token(&scene.owner);
        owner.expect(Method::POST, &format!("{path}/lock"), "").await?;
        for id in 1..=3 {
            let status = scene.cluster.node_mut(id).terminate().await?;
            ensure!(status.success(), "node {id} ended with {status}");
        }
        for id in 1..=3 {
            scene.cluster.restart(id)?;
        }
        ensure!(scene.identical().await? == before, "not the data of before");

        // It is locked still.
        let other = scene.cluster.node(3).api();
        let owner = other.with_token(&scene.owner);
        let refused = owner.send(Method::DELETE, &path, "").await?;
        ensure!(refused.status == StatusCode::FORBIDDEN, "{}", refused.status);
        ensure!(refused.text().contains("locked"), "{}", refused.text());
        owner.expect(Method::POST, &format!("{path}/unlock"), "").await?;

        // A new module, through another node, finds the rows; only the owner may publish it.
        let stranger = other.with_token(other.new_token().await?);
        let refused = stranger.send(Method::PUT, &path, demo_module::wasm()?).await?;
        ensure!(refused.status == StatusCode::FORBIDDEN, "{}", refused.status);
        let rows = scene.count(1, "counter").await?;
        other
            .with_token(&scene.owner)
            .publish(DATABASE, demo_module::wasm()?)
            .await?;
        ensure!(scene.count(3, "counter").await? == rows, "rows were lost");

        let clients = Clients::start(scene.loads(100, 1));
        answered(&clients, SOME).await?;
        histories.extend(clients.stop().await?);
        scene.settled(&histories).await?;
        scene.end().await
    });
}

#[test]
fn a_cluster_of_one_serves_and_restarts() {
    run(async {
        let mut scene = Scene::start(1).await?;
        let mut histories = Vec::new();
        for round in 0..2 {
            let clients = Clients::start(scene.loads(round * 100, 4));
            answered(&clients, SOME).await?;
            histories.extend(clients.stop().await?);
            scene.settled(&histories).await?;
            let status = scene.cluster.node_mut(1).terminate().await?;
            ensure!(status.success(), "the node ended with {status}");
            scene.cluster.restart(1)?;
        }
        scene.settled(&histories).await?;
        scene.end().await
    });
}

#[test]
fn operators_see_how_the_cluster_is() {
    run(async {
        let scene = Scene::bare(3, |_| {}).await?;
        let admin = scene.cluster.node(2).admin();
        let status = |path: &'static str| {
            let admin = admin.clone();
            async move { anyhow::Ok(admin.send(Method::GET, path, "").await?.status) }
        };
        // Before init: no leader, and everything says what is missing.
        until("the nodes answer", async || {
            for node in scene.cluster.nodes() {
                node.status().await?;
            }
            Ok(())
        })
        .await?;
        ensure!(status("/cluster/health").await? == StatusCode::SERVICE_UNAVAILABLE);
        ensure!(status("/cluster/leader").await? == StatusCode::SERVICE_UNAVAILABLE);
        let early = scene.cluster.node(2).api();
        let answer = early.send(Method::POST, "/v1/identity", "").await?;
        ensure!(
            answer.status == StatusCode::SERVICE_UNAVAILABLE,
            "{}",
            answer.status
        );
        let addr = format!("http://{}", scene.cluster.node(2).raft_addr());
        let shown = program("rtdb", ["status", "--addr", &addr]).await?;
        ensure!(shown.status.code() == Some(1));
        ensure!(String::from_utf8_lossy(&shown.stdout).contains("run `rtdb init`"));

        let members: Vec<String> = scene
            .cluster
            .nodes()
            .iter()
            .map(|node| format!("{}={}", node.id(), node.raft_addr()))
            .collect();
        let init = |members: &[String]| {
            let args: Vec<String> = ["init", "--nodes"]
                .into_iter()
                .map(str::to_string)
                .chain(members.iter().cloned())
                .collect();
            program("rtdb", args)
        };
        let first = init(&members).await?;
        ensure!(first.status.success(), "{first:?}");
        scene.cluster.wait_ready(PATIENCE).await?;

        // Again: nothing changes with the same nodes; others are refused.
        let again = init(&members).await?;
        ensure!(again.status.success(), "{again:?}");
        let first_id = cluster_id(&first.stdout).context("no cluster id")?;
        ensure!(cluster_id(&again.stdout).as_ref() == Some(&first_id), "{again:?}");
        ensure!(
            String::from_utf8_lossy(&again.stdout).contains("already"),
            "{again:?}"
        );
        let fewer = init(&members[..2]).await?;
        ensure!(fewer.status.code() == Some(1), "{fewer:?}");
        let why = String::from_utf8_lossy(&fewer.stderr);
        ensure!(why.contains("initialised already"), "{why}");

        ensure!(status("/cluster/health").await? == StatusCode::OK);
        let leader: Value = admin.get("/cluster/leader").await?;
        ensure!(
            leader["id"].as_u64() == Some(scene.cluster.wait_leader(PATIENCE).await?),
            "{leader}"
        );
        until("the leader's client address is known", async || {
            let leader: Value = admin.get("/cluster/leader").await?;
            let known = scene
                .cluster
                .nodes()
                .iter()
                .any(|node| leader["client_addr"] == node.client_addr());
            ensure!(known, "{leader}");
            Ok(())
        })
        .await?;

        let publisher = scene.cluster.node(3).api();
        let owner = publisher.new_token().await?;
        publisher
            .with_token(owner)
            .publish(DATABASE, demo_module::wasm()?)
            .await?;
        scene.cluster.wait_level(DATABASE, PATIENCE).await?;
        let shown = program("rtdb", ["status", "--addr", &addr]).await?;
        ensure!(shown.status.success(), "{shown:?}");
        let text = String::from_utf8(shown.stdout)?;
        for part in [
            "node 2 (ready)",
            &first_id,
            "(up)",
            "LEADS",
            "meta",
            "shard-0",
            DATABASE,
            "DIGEST",
        ] {
            ensure!(text.contains(part), "no `{part}` in\n{text}");
        }

        let metrics = admin.expect(Method::GET, "/metrics", "").await?;
        let metrics = String::from_utf8_lossy(&metrics);
        for name in METRICS {
            let shown = metrics.lines().any(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', '{']))
            });
            ensure!(shown, "no {name} in /metrics:\n{metrics}");
        }

        // A SpacetimeDB that hangs holds up nobody who asks how the node is.
        ensure!(status("/cluster/ready").await? == StatusCode::OK);
        scene.cluster.node(2).pause_server(true)?;
        until("the node is not ready", async || {
            for path in ["/metrics", "/cluster/status", "/cluster/health"] {
                let answer = timeout(ANSWER_MAX, status(path)).await?;
                ensure!(answer? == StatusCode::OK, "{path}");
            }
            ensure!(status("/cluster/ready").await? == StatusCode::SERVICE_UNAVAILABLE);
            Ok(())
        })
        .await?;
        scene.cluster.node(2).pause_server(false)?;
        until("the node is ready again", async || {
            ensure!(status("/cluster/ready").await? == StatusCode::OK);
            Ok(())
        })
        .await?;
        scene.end().await
    });
}

/// `Cluster ID initialised …`
fn cluster_id(output: &[u8]) -> Option<String> {
    let output = String::from_utf8_lossy(output);
    Some(output.strip_prefix("Cluster ")?.split(' ').next()?.to_string())
}
