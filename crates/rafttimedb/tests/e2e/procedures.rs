//! Procedures through every node: what they have committed is there once, the same everywhere, whatever dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use parking_lot::Mutex;
use rtdb_testkit::{Api, demo_module, server, sql};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{DATABASE, PATIENCE, Scene, call, run, until};

/// Transactions that are committed between two faults.
const SOME: usize = 5;

/// Calls one procedure after the other on one node, and remembers the keys of the rows that it was told are there.
struct Caller {
    stops: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<i32>>>,
    task: JoinHandle<Result<()>>,
}

impl Caller {
    fn start(api: Api, keys: Arc<AtomicI32>) -> Self {
        let (stops, done) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<i32>>>::default());
        let (until, told) = (stops.clone(), Arc::clone(&done));
        let task = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                let key = keys.fetch_add(2, Ordering::Relaxed);
                let put = |key: i32| json!([{"put": [0, key, 1, "x"]}]);
                let args = json!([put(key), 5, put(key + 1)]);
                let path = format!("/v1/database/{DATABASE}/call/run_twice");

                match api.post_json(&path, &args).await {
                    Ok(answer) if answer.status == StatusCode::OK => told.lock().extend([key, key + 1]),
                    // Calls that came between, or the node or its server is away.
                    Ok(answer) => ensure!(answer.status.is_server_error(), "{}", answer.text()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
            Ok(())
        });
        Self { stops, done, task }
    }
}

async fn more(callers: &[Caller]) -> Result<()> {
    let now = || {
        callers
            .iter()
            .map(|caller| caller.done.lock().len())
            .sum::<usize>()
    };
    let goal = now() + SOME;
    until("procedures are run", async || {
        ensure!(
            now() >= goal || callers.iter().any(|it| it.task.is_finished()),
            "{} of {goal}",
            now()
        );
        Ok(())
    })
    .await
}

#[test]
fn procedures_commit_once_on_every_replica_whatever_dies() {
    run(async {
        if server::major()? < 2 {
            eprintln!("skipped: SPACETIMEDB_BIN names a server without procedures, of 1.x");
            return Ok(());
        }
        let module = demo_module::wasm_named("procedures-2x")?;
        let mut scene = Scene::publishing(module, 3, |config| {
            config.arguments = ["--scrub-interval-s", "1"].map(str::to_owned).to_vec();
        })
        .await?;
        let keys = Arc::new(AtomicI32::new(0));
        let apis = scene.cluster.client_addrs().into_iter();
        let apis: Vec<_> = apis.map(|addr| Api::new(addr).with_token(&scene.owner)).collect();
        let callers: Vec<_> = apis
            .iter()
            .map(|api| Caller::start(api.clone(), keys.clone()))
            .collect();
        more(&callers).await?;
        let leader = scene.cluster.wait_leader(PATIENCE).await?;
        scene.cluster.node_mut(leader).kill9().await?;
        more(&callers).await?;
        scene.cluster.restart(leader)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        for node in 1..=3 {
            more(&callers).await?;
            scene.cluster.node_mut(node).kill9_server().await?;
        }
        more(&callers).await?;
        scene.cluster.wait_ready(PATIENCE).await?;
        let mut told = Vec::new();
        for caller in callers {
            caller.stops.store(true, Ordering::Relaxed);
            caller.task.await??;
            told.extend(caller.done.lock().iter().copied());
        }
        let path = format!("/v1/database/{DATABASE}/call/count");
        let read = apis[0].post_json(&path, &json!([])).await?;
        let count: u64 = serde_json::from_slice(&read.body).context("a number")?;
        scene.level_and_identical().await?;
        scene.no_alarms()?;
        let (server, database) = scene.server(1).await?;
        let rows = sql::select(&server, &database, "SELECT key FROM item").await?;
        let there: Vec<_> = rows
            .column("key")?
            .into_iter()
            .filter_map(Value::as_i64)
            .collect();
        ensure!(count as usize == there.len(), "{count} of {}", there.len());
        for key in told {
            let found = there.iter().filter(|it| **it == i64::from(key)).count();
            ensure!(found == 1, "{key} is there {found} times");
        }
        // No second transaction without the first.
        for key in there.iter().filter(|key| *key % 2 == 1) {
            ensure!(there.contains(&(key - 1)), "{key} alone");
        }
        scene.end().await
    });
}

/// What reducers make up is the same everywhere, and what a module logs stands where it has run: of a reducer on all nodes, of a
/// procedure on the one that was asked.
#[test]
fn names_that_are_made_up_are_the_same_and_each_node_has_its_own_log() {
    run(async {
        if server::major()? < 2 {
            eprintln!("skipped: SPACETIMEDB_BIN names a server without procedures, of 1.x");
            return Ok(());
        }
        let module = demo_module::wasm_named("procedures-2x")?;
        let scene = Scene::publishing(module, 3, |_| {}).await?;
        let apis = scene.cluster.client_addrs().into_iter();
        let apis: Vec<_> = apis.map(|addr| Api::new(addr).with_token(&scene.owner)).collect();
        for api in &apis {
            let path = format!("/v1/database/{DATABASE}/call/make_names");
            let made = api.post_json(&path, &json!([])).await?;
            ensure!(made.status == StatusCode::OK, "{}", made.text());
        }
        scene.level_and_identical().await?;
        let rows = sql::select(&apis[0], DATABASE, "SELECT text FROM note").await?;
        let mut names: Vec<_> = rows
            .column("text")?
            .into_iter()
            .filter_map(Value::as_str)
            .collect();
        names.sort_unstable();
        names.dedup();
        ensure!(names.len() == 9, "{names:?}");
        let of_version = |version: char| {
            names
                .iter()
                .filter(|name| name.chars().nth(14) == Some(version))
                .count()
        };
        ensure!((of_version('4'), of_version('7')) == (3, 6), "{names:?}");

        let failed = apis[1]
            .post_json(&format!("/v1/database/{DATABASE}/call/explode"), &json!([[]]))
            .await?;
        ensure!(
            failed.status == StatusCode::INTERNAL_SERVER_ERROR,
            "{}",
            failed.text()
        );
        for (api, expected) in apis.iter().zip([0, 1, 0]) {
            let path = format!("/v1/database/{DATABASE}/logs?num_lines=1000");
            let log = api.send(http::Method::GET, &path, "").await?.text();
            let said = log.matches("as it should").count();
            ensure!((said > 0) == (expected > 0), "{said} of {expected}: {log}");
        }
        scene.end().await
    });
}

/// Scheduled for one time, while leaders die.
const MANY: usize = 40;

/// How often those of a name have begun, by their keys, as a node's own server has it.
async fn rung(scene: &Scene, node: u64, name: &str) -> Result<BTreeMap<u64, usize>> {
    let (server, database) = scene.server(node).await?;
    let rows = sql::select(&server, &database, "SELECT * FROM rung").await?;
    let (names, keys) = (rows.column("alarm")?, rows.column("scheduled_id")?);
    let mut times = BTreeMap::new();
    for (found, key) in names.into_iter().zip(keys) {
        if found.as_str().is_some_and(|found| found.starts_with(name)) {
            *times.entry(key.as_u64().context("a key")?).or_insert(0) += 1;
        }
    }
    Ok(times)
}

async fn has_rung(scene: &Scene, node: u64, name: &str, count: usize) -> Result<()> {
    until(&format!("`{name}` has rung {count} times"), async || {
        let times: usize = rung(scene, node, name).await?.values().sum();
        ensure!(times >= count, "it has {times} times");
        Ok(())
    })
    .await
}

#[test]
fn scheduled_procedures_run_once_though_leaders_die() {
    run(async {
        if server::major()? < 2 {
            eprintln!("skipped: SPACETIMEDB_BIN names a server without procedures, of 1.x");
            return Ok(());
        }
        let module = demo_module::wasm_named("procedures-2x")?;
        let mut scene = Scene::publishing(module, 3, |_| {}).await?;
        let anybody = scene.cluster.node(1).api();
        for hidden in ["ring", "rtdb_tick"] {
            let path = format!("/v1/database/{DATABASE}/call/{hidden}");
            let answer = anybody.post_json(&path, &json!([])).await?;
            ensure!(
                !answer.status.is_success(),
                "{hidden} may be called: {}",
                answer.text()
            );
        }
        call(&scene, 1, "alarm_once", json!(["once", 0, 3])).await?;
        call(&scene, 2, "alarm_once", json!(["heavy", 0, 1 << 20])).await?;
        for name in ["rests", "panics"] {
            call(&scene, 3, "alarm_once", json!([name, 0, 0])).await?;
        }
        call(&scene, 3, "alarm_once", json!(["off", 3_600_000_000_i64, 0])).await?;
        call(&scene, 1, "alarm_off", json!(["off"])).await?;
        call(&scene, 2, "alarm_every", json!(["beat", 50_000])).await?;
        for name in ["once", "heavy", "rests", "panics"] {
            has_rung(&scene, 1, name, 1).await?;
        }
        has_rung(&scene, 2, "beat", 5).await?;

        let leader = scene.cluster.wait_leader(PATIENCE).await?;
        let other = leader % 3 + 1;
        call(&scene, other, "alarm_many", json!([MANY, 100_000, 5_000])).await?;
        has_rung(&scene, other, "many", MANY / 4).await?;
        scene.cluster.node_mut(leader).kill9().await?;
        // Those that the leader had taken may not have begun.
        until("no procedure is scheduled for one time", async || {
            let left = scene.count(other, "alarm").await?;
            ensure!(left == 1, "{left} are left");
            Ok(())
        })
        .await?;
        let before: usize = rung(&scene, other, "beat").await?.values().sum();
        has_rung(&scene, other, "beat", before + 5).await?;
        scene.cluster.restart(leader)?;
        scene.cluster.wait_ready(PATIENCE).await?;
        call(&scene, 1, "alarm_off", json!(["beat"])).await?;
        scene.level_and_identical().await?;
        scene.no_alarms()?;
        for name in ["once", "heavy", "rests", "panics", "many"] {
            let times = rung(&scene, 1, name).await?;
            ensure!(times.values().all(|times| *times == 1), "{name}: {times:?}");
        }
        // As many as may have been under way, and one that was being taken.
        let many = rung(&scene, 1, "many").await?.len();
        ensure!(many + 17 >= MANY, "only {many} have begun");
        ensure!(rung(&scene, 1, "off").await?.is_empty());
        let (server, database) = scene.server(1).await?;
        let rows = sql::select(&server, &database, "SELECT * FROM rung").await?;
        for (connected, stands) in rows.column("connected")?.into_iter().zip(rows.column("stands")?) {
            ensure!(connected == false);
            ensure!(stands.is_boolean());
        }
        scene.end().await
    });
}
