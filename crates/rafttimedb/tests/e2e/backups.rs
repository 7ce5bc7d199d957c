//! Backups of a cluster whose clients go on calling, and databases that are made of them.

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::Api;
use rtdb_testkit::client::{Client, Connect};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::cluster::Dump;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, answered, call, connected, program, run, until};

/// Acknowledged calls that show that work goes on.
const SOME: u64 = 300;

/// What of a database's own tables is the cluster's, and another after it was restored.
const OURS: [&str; 3] = ["rtdb_state", "rtdb_session", "rtdb_claims"];

/// Runs `rtdb` against a node; gives whether it went well, and what it has said.
async fn rtdb(scene: &Scene, node: u64, args: &[&str]) -> Result<(bool, String)> {
    let url = format!("http://{}", scene.cluster.node(node).raft_addr());
    let args = args.iter().copied().chain(["--cluster", &url]);
    let output = program("rtdb", args).await?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

async fn done(scene: &Scene, node: u64, args: &[&str]) -> Result<String> {
    let (well, said) = rtdb(scene, node, args).await?;
    ensure!(well, "{args:?}: {said}");
    Ok(said)
}

/// The rows of the module's tables on all nodes, which are the same.
async fn rows(scene: &Scene, database: &str) -> Result<Dump> {
    until("all nodes have the same rows", async || {
        let mut dumps = scene.cluster.dumps(database, &scene.owner).await?;
        let first = dumps.swap_remove(0);
        ensure!(dumps.iter().all(|other| *other == first), "the nodes differ");
        Ok(first
            .into_iter()
            .filter(|(table, _)| !OURS.contains(&table.as_str()))
            .collect())
    })
    .await
}

/// The same without those that tell who is connected, and what is done when somebody leaves.
fn still(rows: &Dump) -> Dump {
    let stays = |table: &str| !["presence", "visit"].contains(&table);
    rows.iter().filter(|(table, _)| stays(table)).cloned().collect()
}

/// A part of the only backup there is.
fn part(backups: &Path) -> Result<PathBuf> {
    let mut folder = backups.to_owned();
    for _ in 0..2 {
        let entry = std::fs::read_dir(&folder)?.next().context("an empty folder")??;
        folder = entry.path();
    }
    Ok(folder.join("000000.zst"))
}

#[test]
fn a_backup_that_is_taken_under_load_is_restored_beside_its_database_and_in_its_place() {
    run(async {
        let scene = Scene::start(3).await?;
        let place = tempfile::tempdir()?;
        let to = place.path().to_str().context("a path")?;

        // Under load, from any node; nobody's connection suffers.
        let clients = Clients::start(scene.loads(0, 2));
        answered(&clients, SOME).await?;
        for node in 1..=3 {
            let said = done(
                &scene,
                node,
                &["backup", "--database", DATABASE, "--to", to, "--keep", "2"],
            )
            .await?;
            ensure!(said.contains(" rows of "), "{said}");
        }
        answered(&clients, SOME).await?;
        let histories = clients.stop().await?;
        connected(&histories, |_| true)?;
        let listed = program("rtdb", ["backups", "--from", to]).await?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        ensure!(listed.lines().count() == 3, "two of three are kept:\n{listed}");
        scene.settled(&histories).await?;

        // One of a database that stands still holds just its rows. A client is connected.
        let mut client = Client::connect(&Connect::new(
            scene.cluster.node(2).client_addr().to_owned(),
            DATABASE,
        ))
        .await?;
        scene.present(2, 1).await?;
        let before = rows(&scene, DATABASE).await?;
        done(&scene, 2, &["backup", "--all", "--to", to, "--keep", "1"]).await?;
        let verified = program("rtdb", ["backup", "verify", "--from", to]).await?;
        ensure!(verified.status.success(), "{verified:?}");
        call(&scene, 1, "add", json!(["later", 1])).await?;

        let (well, said) = rtdb(&scene, 1, &["restore", "--from", to, "--database", DATABASE]).await?;
        ensure!(!well && said.contains("--replace"), "{said}");
        let (well, said) = rtdb(
            &scene,
            1,
            &[
                "restore",
                "--from",
                to,
                "--database",
                DATABASE,
                "--as",
                "Not A Name",
            ],
        )
        .await?;
        ensure!(!well && said.contains("invalid characters"), "{said}");

        // A rotted byte: nothing is begun.
        let part = part(place.path())?;
        let sound = std::fs::read(&part)?;
        let mut rotted = sound.clone();
        let middle = rotted.len() / 2;
        rotted[middle] ^= 1;
        std::fs::write(&part, rotted)?;
        let (well, said) = rtdb(
            &scene,
            1,
            &["restore", "--from", to, "--database", DATABASE, "--replace"],
        )
        .await?;
        ensure!(!well && said.contains("damaged"), "{said}");
        let verified = program("rtdb", ["backup", "verify", "--from", to]).await?;
        ensure!(!verified.status.success(), "{verified:?}");
        std::fs::write(&part, sound)?;

        // Beside it.
        let said = done(
            &scene,
            3,
            &["restore", "--from", to, "--database", DATABASE, "--as", "copy"],
        )
        .await?;
        ensure!(said.contains("Restored copy"), "{said}");
        let copy = until("the client of then counts as gone", async || {
            let copy = rows(&scene, "copy").await?;
            let present = copy
                .iter()
                .find(|(table, _)| table == "presence")
                .context("no such table")?;
            ensure!(present.1.is_empty(), "{present:?}");
            Ok(copy)
        })
        .await?;
        ensure!(still(&copy) == still(&before), "other rows");
        for node in 1..=3 {
            let api = scene.cluster.node(node).api().with_token(&scene.owner);
            let answer = api
                .post_json("/v1/database/copy/call/add", &json!(["a", 1]))
                .await?;
            ensure!(
                answer.status == StatusCode::OK,
                "{} {}",
                answer.status,
                answer.text()
            );
        }
        ensure!(rows(&scene, "copy").await? != copy);
        ensure!(
            rows(&scene, DATABASE).await? != before,
            "the call of later is there"
        );

        // In its place: its clients are disconnected, and what came later is gone.
        let said = done(
            &scene,
            1,
            &["restore", "--from", to, "--database", DATABASE, "--replace"],
        )
        .await?;
        ensure!(said.contains(&format!("Restored {DATABASE}")), "{said}");
        timeout(PATIENCE, client.closed())
            .await
            .context("the client is still connected")?;
        scene.present(1, 0).await?;
        ensure!(still(&rows(&scene, DATABASE).await?) == still(&before));
        call(&scene, 2, "add", json!(["after", 1])).await?;

        // All of it is there again after all nodes were killed.
        let (demo, copy) = (rows(&scene, DATABASE).await?, rows(&scene, "copy").await?);
        let mut scene = scene;
        for node in 1..=3 {
            scene.cluster.node_mut(node).kill9().await?;
        }
        for node in 1..=3 {
            scene.cluster.node_mut(node).start()?;
        }
        scene.cluster.wait_ready(PATIENCE).await?;
        ensure!(rows(&scene, DATABASE).await? == demo);
        ensure!(rows(&scene, "copy").await? == copy);
        scene.no_alarms()?;
        scene.end().await
    });
}

#[test]
fn what_is_restored_by_half_leaves_nothing() {
    run(async {
        let scene = Scene::start(3).await?;
        call(&scene, 1, "add", json!(["a", 1])).await?;
        let admin = Api::new(scene.cluster.node(1).raft_addr());
        let answer = admin
            .send(Method::GET, "/cluster/databases/demo/snapshot", "")
            .await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.status);
        let snapshot = answer.body.clone();
        let restore = async |node: u64, bytes: &[u8]| {
            let admin = Api::new(scene.cluster.node(node).raft_addr());
            admin
                .send(Method::POST, "/cluster/restore?as=half", bytes.to_vec())
                .await
        };
        let mut changed = snapshot.to_vec();
        let last = changed.len() - 40;
        changed[last] ^= 1;
        let mut newer = snapshot.to_vec();
        newer[8] = 200;
        for (what, bytes, status, says) in [
            ("cut off", &snapshot[..snapshot.len() - 1], 400, "cut off"),
            ("only a header", &snapshot[..snapshot.len() / 2], 400, "cut off"),
            ("changed", &changed[..], 400, "damaged"),
            ("newer", &newer[..], 400, "newer"),
            ("nothing", &b""[..], 400, "cut off"),
            ("something else", &b"PK\x03\x04abcdefgh"[..], 400, "no snapshot"),
        ] {
            let answer = restore(2, bytes).await?;
            ensure!(
                answer.status.as_u16() == status && answer.text().contains(says),
                "{what}: {} {}",
                answer.status,
                answer.text()
            );
            let there = scene
                .cluster
                .node(1)
                .api()
                .send(Method::GET, "/v1/database/half", "")
                .await?;
            ensure!(there.status == StatusCode::NOT_FOUND, "{what}: {}", there.text());
        }
        let answer = restore(3, &snapshot).await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.text());
        let restored: Value = serde_json::from_str(&answer.text())?;
        ensure!(restored["names"][0] == "half", "{restored}");
        ensure!(still(&rows(&scene, "half").await?) == still(&rows(&scene, DATABASE).await?));
        scene.no_alarms()?;
        scene.end().await
    });
}

#[test]
fn a_node_that_lags_does_not_take_a_whole_database_for_one_that_was_restored_by_half() {
    run(async {
        let mut scene = Scene::start(3).await?;
        let place = tempfile::tempdir()?;
        let to = place.path().to_str().context("a path")?;
        // Node 3 hears of the new database at once when it is back, and of its publication behind all this.
        scene.cluster.node_mut(3).kill9().await?;
        let text = "x".repeat(1_500_000);
        for _ in 0..60 {
            call(&scene, 1, "write_note", json!([text, ["a"], true])).await?;
        }
        let publisher = scene.cluster.node(1).api().with_token(&scene.owner);
        publisher
            .publish("late", rtdb_testkit::demo_module::wasm()?)
            .await?;
        done(&scene, 1, &["backup", "--database", "late", "--to", to]).await?;
        let answer = publisher
            .post_json("/v1/database/late/call/add", &json!(["a", 1]))
            .await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.text());

        scene.cluster.node_mut(3).start()?;
        until("the node says that the database is there", async || {
            let (well, said) = rtdb(&scene, 3, &["restore", "--from", to, "--database", "late"]).await?;
            assert!(!well, "it was replaced: {said}");
            ensure!(said.contains("--replace"), "{said}");
            Ok(())
        })
        .await?;
        scene.cluster.wait_ready(PATIENCE).await?;
        let rows = rows(&scene, "late").await?;
        let added = rows.iter().find(|(table, _)| table == "counter");
        ensure!(
            added.is_some_and(|(_, rows)| rows.len() > 1),
            "what was acknowledged is gone"
        );
        scene.end().await
    });
}
