//! SQL that writes, through every node and through kills: once or not at all, and the same everywhere.

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::{Api, sql};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::task::JoinHandle;

use crate::support::{DATABASE, PATIENCE, Scene, run, until};

/// Rows that are written between two kills.
const SOME: usize = 5;

/// How many rows of each text there may be.
type Expected = BTreeMap<String, &'static [usize]>;

/// Writes one row after the other, each by three statements through three nodes.
struct Writer {
    stops: Arc<AtomicBool>,
    /// Rows of which all statements were acknowledged.
    done: Arc<AtomicUsize>,
    task: JoinHandle<Result<Expected>>,
}

impl Writer {
    fn start(scene: &Scene) -> Self {
        let addrs = scene.cluster.client_addrs();
        let apis: Vec<_> = addrs
            .into_iter()
            .map(|addr| Api::new(addr).with_token(&scene.owner))
            .collect();
        let (stops, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (until, count) = (stops.clone(), done.clone());
        let task = tokio::spawn(async move {
            let mut expected = Expected::new();
            for number in 0.. {
                if until.load(Ordering::Relaxed) {
                    break;
                }
                if row(&apis, number, &mut expected).await? {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(expected)
        });
        Self { stops, done, task }
    }

    async fn more(&self) -> Result<()> {
        let goal = self.done.load(Ordering::Relaxed) + SOME;
        until("rows are written", async || {
            let now = self.done.load(Ordering::Relaxed);
            ensure!(now >= goal || self.task.is_finished(), "{now} of {goal}");
            Ok(())
        })
        .await
    }

    async fn stop(self) -> Result<Expected> {
        self.stops.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// A row comes, changes and, if it is a third one, goes. Whether all that was acknowledged.
async fn row(apis: &[Api], number: usize, expected: &mut Expected) -> Result<bool> {
    let via = |step: usize| &apis[(number + step) % apis.len()];
    let (text, new) = (number.to_string(), format!("{number} new"));
    expected.insert(text.clone(), &[0, 1]);
    expected.insert(new.clone(), &[0, 1]);
    let insert = format!("INSERT INTO secret (id, text) VALUES (0, '{text}')");
    let update = format!("UPDATE secret SET text = '{new}' WHERE text = '{text}'");
    if !write(via(0), &insert).await? || !write(via(1), &update).await? {
        return Ok(false);
    }
    expected.insert(text, &[0]);
    expected.insert(new.clone(), &[1]);
    if number.is_multiple_of(3) {
        expected.insert(new.clone(), &[0, 1]);
        if !write(via(2), &format!("DELETE FROM secret WHERE text = '{new}'")).await? {
            return Ok(false);
        }
        expected.insert(new, &[0]);
    }
    Ok(true)
}

/// Whether a statement has certainly changed its one row.
async fn write(api: &Api, text: &str) -> Result<bool> {
    let path = format!("/v1/database/{DATABASE}/sql");
    let Ok(answer) = api.send(Method::POST, &path, text.to_owned()).await else {
        return Ok(false);
    };
    let words = answer.text();
    ensure!(answer.status != StatusCode::BAD_REQUEST, "{text}: {words}");
    if !answer.status.is_success() {
        return Ok(false);
    }
    let body: Value = serde_json::from_slice(&answer.body)?;
    let stats = body.pointer("/0/stats").and_then(Value::as_object);
    let changed = stats.into_iter().flat_map(|stats| stats.values());
    let changed: u64 = changed.filter_map(Value::as_u64).sum();
    ensure!(changed == 1, "{text}: {words}");
    Ok(true)
}

#[test]
fn sql_writes_once_on_every_replica_whatever_dies() {
    run(async {
        let mut scene = Scene::start(3).await?;
        let clients = Clients::start(scene.loads(0, 1));
        let writer = Writer::start(&scene);
        writer.more().await?;
        let leader = scene.cluster.wait_leader(PATIENCE).await?;
        scene.cluster.node_mut(leader).kill9().await?;
        writer.more().await?;
        scene.cluster.restart(leader)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        for node in 1..=3 {
            writer.more().await?;
            scene.cluster.node_mut(node).kill9_server().await?;
        }
        writer.more().await?;
        scene.cluster.wait_ready(PATIENCE).await?;
        let expected = writer.stop().await?;
        let histories = clients.stop().await?;
        scene.settled(&histories).await?;

        let (server, database) = scene.server(1).await?;
        let rows = sql::select(&server, &database, "SELECT text FROM secret").await?;
        let texts = rows.column("text")?;
        for (text, counts) in expected {
            let count = texts.iter().filter(|it| it.as_str() == Some(&text)).count();
            ensure!(counts.contains(&count), "{text}: {count}, not of {counts:?}");
        }
        texts.first().context("no rows")?;
        scene.end().await
    });
}
