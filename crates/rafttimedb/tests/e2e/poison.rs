//! Calls that no SpacetimeDB survives: they end, and the cluster goes on.

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::Api;
use rtdb_testkit::poison_module::{self, EAT, FILL, NOTHING};
use serde_json::{Value, json};

use crate::support::{DATABASE, PATIENCE, Scene, program, run, until};

/// How long a call may run, in seconds: short, for the tests' sake.
const CALL_TIME_MAX_S: &str = "2";

/// The memory that a server may have, in MiB: more than it needs, and less than the module takes.
const MEMORY_MAX: &str = "700";

async fn scene(nodes: u16) -> Result<Scene> {
    Scene::publishing(poison_module::wasm()?, nodes, |config| {
        let arguments = [
            "--call-time-max-s",
            CALL_TIME_MAX_S,
            "--stdb-memory-max",
            MEMORY_MAX,
        ];
        config.arguments = arguments.map(str::to_owned).into();
    })
    .await
}

/// A call over HTTP: its status, and the answer.
async fn call(api: &Api, reducer: &str, args: Value) -> Result<(StatusCode, String)> {
    let path = format!("/v1/database/{DATABASE}/call/{reducer}");
    let answer = api.post_json(&path, &args).await?;
    Ok((answer.status, answer.text()))
}

async fn nothing_works(api: &Api) -> Result<()> {
    let (status, text) = call(api, NOTHING, json!([])).await?;
    ensure!(status == StatusCode::OK, "{status} {text}");
    Ok(())
}

/// What a node's status says of the command that stops its server.
async fn stuck(scene: &Scene, node: u64) -> Result<Value> {
    let status: Value = scene.cluster.node(node).admin().get("/cluster/status").await?;
    let stuck = &status["databases"][0]["stuck"];
    ensure!(
        !stuck.is_null(),
        "node {node} is not stuck: {}",
        status["databases"]
    );
    Ok(stuck.clone())
}

async fn level(scene: &Scene) -> Result<()> {
    let replicas = scene.cluster.wait_level(DATABASE, PATIENCE).await?;
    ensure!(
        replicas
            .iter()
            .all(|replica| replica.digest == replicas[0].digest),
        "digests differ: {replicas:?}"
    );
    Ok(())
}

#[test]
fn a_call_that_stops_every_server_has_failed_and_the_cluster_goes_on() {
    run(async {
        let scene = scene(3).await?;
        let api = scene.cluster.node(1).api().with_token(&scene.owner);
        nothing_works(&api).await?;
        for (reducer, args) in [(EAT, json!([])), (FILL, json!([u32::MAX]))] {
            let (status, text) = call(&api, reducer, args).await?;
            ensure!(
                status.as_u16() == 530 && text == "this call stopped SpacetimeDB on every node",
                "{reducer}: {status} {text}"
            );
            nothing_works(&api).await?;
            level(&scene).await?;
        }
        scene.end().await
    });
}

/// The cluster does not decide by itself while a voter is gone: it may be past the call.
#[test]
fn an_operator_skips_a_call_while_a_voter_is_gone() {
    run(async {
        let mut scene = scene(3).await?;
        let api = scene.cluster.node(1).api().with_token(&scene.owner);
        nothing_works(&api).await?;
        level(&scene).await?;
        scene.cluster.node_mut(3).stop().await?;
        let addr = scene.cluster.node(1).raft_addr().to_owned();
        let skip = async |position: &str| {
            let args = [
                "skip",
                "--database",
                DATABASE,
                "--position",
                position,
                "--yes",
                "--addr",
                &addr,
            ];
            program("rtdb", args).await
        };
        let operate = async {
            let stuck = until("both nodes say that they are stuck", async || {
                let stuck = stuck(&scene, 1).await?;
                ensure!(stuck["nodes"] == json!([1, 2]), "{stuck}");
                Ok(stuck)
            })
            .await?;
            let applied = skip("1.0").await?;
            let why = String::from_utf8_lossy(&applied.stderr).into_owned();
            ensure!(
                !applied.status.success() && why.contains("is past"),
                "{applied:?}"
            );
            let later = skip("1000000.0").await?;
            ensure!(!later.status.success(), "{later:?}");
            let shown = program("rtdb", ["status", "--addr", &addr]).await?;
            ensure!(
                String::from_utf8_lossy(&shown.stdout).contains("STUCK: demo"),
                "{shown:?}"
            );
            let position = stuck["position"].as_str().context("no position")?;
            let skipped = skip(position).await?;
            ensure!(skipped.status.success(), "{skipped:?}");
            anyhow::Ok(())
        };
        let (called, operated) = tokio::join!(call(&api, FILL, json!([u32::MAX])), operate);
        operated?;
        let (status, text) = called?;
        ensure!(
            status.as_u16() == 530 && text.contains("skipped by an operator"),
            "{status} {text}"
        );
        nothing_works(&api).await?;
        // It never tries the call.
        scene.cluster.restart(3)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        level(&scene).await?;
        scene.end().await
    });
}

#[test]
fn a_server_dies_with_its_node() {
    run(async {
        let mut scene = scene(1).await?;
        let servers = scene.cluster.node(1).server_pids()?;
        ensure!(servers.len() == 1, "{servers:?}");
        // It fails if the server lives on.
        scene.cluster.node_mut(1).kill9().await?;
        scene.cluster.restart(1)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        let api = scene.cluster.node(1).api().with_token(&scene.owner);
        until("calls are answered", async || nothing_works(&api).await).await?;
        scene.end().await
    });
}

/// Nothing more is decided about the calls of a database that is gone: they keep nobody waiting.
#[test]
fn a_call_that_stops_servers_ends_with_its_database() {
    run(async {
        let scene = scene(1).await?;
        let api = scene.cluster.node(1).api().with_token(&scene.owner);
        nothing_works(&api).await?;
        let eating = tokio::spawn({
            let api = api.clone();
            async move { call(&api, EAT, json!([])).await }
        });
        until("the call is under way", async || {
            let status: Value = scene.cluster.node(1).admin().get("/cluster/status").await?;
            ensure!(status["databases"][0]["in_flight"] == 1, "{status}");
            Ok(())
        })
        .await?;
        let path = format!("/v1/database/{DATABASE}");
        api.expect(Method::DELETE, &path, "").await?;
        let (status, text) = eating.await??;
        ensure!(!status.is_success(), "{status} {text}");
        scene.end().await
    });
}

#[test]
fn a_slip_of_the_operators_skips_nothing() {
    run(async {
        let scene = scene(3).await?;
        let api = scene.cluster.node(1).api().with_token(&scene.owner);
        nothing_works(&api).await?;
        level(&scene).await?;
        // A position behind the database's last call, which is another one's or nobody's.
        let own = api.with_token(api.new_token().await?);
        own.publish("another", poison_module::wasm()?).await?;
        let status: Value = scene.cluster.node(1).admin().get("/cluster/status").await?;
        let databases = status["databases"].as_array().context("no databases")?;
        let named = |name: &str| {
            let mut all = databases.iter();
            all.find(|it| it["names"][0] == name)
                .and_then(|it| it["applied"].as_str())
                .context("no position")
        };
        ensure!(named("another")? != named(DATABASE)?, "{status}");
        let addr = scene.cluster.node(1).raft_addr().to_owned();
        let position = named("another")?.to_owned();
        let args = [
            "skip",
            "--database",
            DATABASE,
            "--position",
            &position,
            "--yes",
            "--addr",
            &addr,
        ];
        // Whether it is refused or without effect, the database is as it was.
        program("rtdb", args).await?;
        nothing_works(&api).await?;
        level(&scene).await?;
        for node in scene.cluster.nodes() {
            let log = std::fs::read_to_string(node.log())?;
            ensure!(!log.contains("its database is made again"), "node {}", node.id());
        }
        scene.end().await
    });
}
