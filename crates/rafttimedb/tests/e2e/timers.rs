//! Scheduled reducers: the cluster calls them when they are due, once each, and the replicas stay the same.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use http::Method;
use rtdb_testkit::demo_module::timers;
use rtdb_testkit::{Api, sql};
use serde_json::{Value, json};

use crate::support::{DATABASE, PATIENCE, Scene, call, run, until};

/// Calls for one time that are under way while leaders die.
const MANY: u32 = 300;

/// A call that has run.
#[derive(Debug)]
struct Ran {
    job: String,
    id: u64,
    bytes: u64,
    due_us: Option<i64>,
    at_us: i64,
    connected: bool,
}

/// What has run, in order, as a node's own server has it.
async fn ran(scene: &Scene, node: u64) -> Result<Vec<Ran>> {
    let (server, database) = scene.server(node).await?;
    let rows = sql::select(&server, &database, "SELECT * FROM ran").await?;
    let (ids, jobs, keys) = (
        rows.column("id")?,
        rows.column("job")?,
        rows.column("scheduled_id")?,
    );
    let (bytes, connected) = (rows.column("bytes")?, rows.column("connected")?);
    let (due, at) = (rows.column("due")?, rows.column("at")?);
    let number = |value: &Value| value.as_u64().context("no number");
    let mut ran = BTreeMap::new();
    for (nth, id) in ids.into_iter().enumerate() {
        let one = Ran {
            job: jobs[nth].as_str().unwrap_or_default().to_owned(),
            id: number(keys[nth])?,
            bytes: number(bytes[nth])?,
            due_us: time(due[nth]),
            at_us: time(at[nth]).context("no time")?,
            connected: connected[nth].as_bool().unwrap_or(true),
        };
        ran.insert(number(id)?, one);
    }
    Ok(ran.into_values().collect())
}

/// The time in a value, however it is wrapped.
fn time(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().filter(|micros| *micros > 1_000_000_000_000),
        Value::Array(values) => values.iter().find_map(time),
        Value::Object(values) => values.values().find_map(time),
        _ => None,
    }
}

/// Changes one row by SQL.
async fn write(scene: &Scene, node: u64, text: &str) -> Result<()> {
    let api: Api = scene.cluster.node(node).api().with_token(&scene.owner);
    let path = format!("/v1/database/{DATABASE}/sql");
    let answer = api.send(Method::POST, &path, text.to_owned()).await?;
    let words = answer.text();
    let changed = ["deleted", "updated"].map(|what| words.contains(&format!("\"rows_{what}\":1")));
    ensure!(changed.contains(&true), "{text}: {} {words}", answer.status);
    Ok(())
}

/// Waits until as many calls of a name have run.
async fn have_run(scene: &Scene, node: u64, job: &str, count: usize) -> Result<()> {
    until(&format!("`{job}` has run {count} times"), async || {
        let ran = ran(scene, node).await?;
        let found = ran.iter().filter(|it| it.job.starts_with(job)).count();
        ensure!(found >= count, "it has {found} times");
        Ok(())
    })
    .await
}

/// Waits until nothing is scheduled any more.
async fn all_over(scene: &Scene, node: u64) -> Result<()> {
    until("no call is scheduled", async || {
        let left = scene.count(node, "job").await?;
        ensure!(left == 0, "{left} are");
        Ok(())
    })
    .await
}

#[test]
fn calls_fall_due_once_and_the_same_everywhere() {
    run(async {
        let mut scene = Scene::publishing(timers()?, 3, |_| {}).await?;
        // From `init`: one for one time, and one again and again.
        have_run(&scene, 1, "first", 1).await?;
        have_run(&scene, 2, "pulse", 3).await?;
        call(&scene, 2, "cancel", json!(["pulse"])).await?;

        call(&scene, 1, "every", json!(["beat", 20_000])).await?;
        call(&scene, 2, "once", json!(["cancelled", 3_600_000_000_i64])).await?;
        call(&scene, 2, "once", json!(["moved", 3_600_000_000_i64])).await?;
        call(&scene, 3, "heavy", json!(["heavy", 1 << 20])).await?;
        // Already overdue, the last ones for the longest.
        call(&scene, 3, "many", json!([20, -1_000_000, -1_000])).await?;
        for job in ["chain", "fails", "panics", "moves itself"] {
            call(&scene, 1, "once", json!([job, 0])).await?;
        }
        call(&scene, 3, "cancel", json!(["cancelled"])).await?;
        call(&scene, 1, "postpone", json!(["moved", 1_000])).await?;
        // What is written by SQL is seen, too.
        call(&scene, 1, "once", json!(["struck", 3_600_000_000_i64])).await?;
        write(&scene, 2, "DELETE FROM job WHERE name = 'struck'").await?;
        call(&scene, 3, "once", json!(["old", 1_000_000])).await?;
        write(
            &scene,
            1,
            "UPDATE job SET name = 'new', payload = 'abc' WHERE name = 'old'",
        )
        .await?;
        have_run(&scene, 2, "new", 1).await?;
        have_run(&scene, 1, "beat", 20).await?;
        call(&scene, 1, "cancel", json!(["beat"])).await?;
        all_over(&scene, 1).await?;

        let ran_so_far = ran(&scene, 1).await?;
        let count = |job: &str| ran_so_far.iter().filter(|it| it.job == job).count();
        for job in ["first", "moved", "heavy", "chain", "link", "moves itself", "new"] {
            ensure!(count(job) == 1, "{job} has run {} times", count(job));
        }
        for job in ["cancelled", "fails", "panics", "struck", "old"] {
            ensure!(count(job) == 0, "{job} has left {} rows", count(job));
        }
        ensure!(
            ran_so_far
                .iter()
                .all(|it| !it.connected && it.due_us <= Some(it.at_us))
        );
        ensure!(ran_so_far.iter().any(|it| it.bytes == 1 << 20));
        let many: Vec<_> = ran_so_far
            .iter()
            .filter(|it| it.job.starts_with("many "))
            .collect();
        ensure!(
            many.len() == 20 && many.is_sorted_by_key(|it| it.due_us),
            "{many:?}"
        );
        // A tick that comes late does not move those behind it.
        let beats: Vec<_> = ran_so_far.iter().filter(|it| it.job == "beat").collect();
        let (first, last) = (beats[0].at_us, beats[beats.len() - 1].at_us);
        ensure!((last - first) / 20_000 + 2 >= beats.len() as i64, "{beats:?}");

        // Overdue after nothing has run for a while.
        call(&scene, 1, "once", json!(["late", 1_000_000])).await?;
        call(&scene, 1, "every", json!(["after", 50_000])).await?;
        for id in 1..=3 {
            scene.cluster.node_mut(id).kill9().await?;
        }
        for id in 1..=3 {
            scene.cluster.restart(id)?;
        }
        scene.cluster.wait_ready(PATIENCE).await?;
        have_run(&scene, 2, "late", 1).await?;
        have_run(&scene, 3, "after", 3).await?;
        call(&scene, 2, "cancel", json!(["after"])).await?;
        all_over(&scene, 1).await?;
        let late = ran(&scene, 1).await?;
        ensure!(late.iter().filter(|it| it.job == "late").count() == 1);
        scene.level_and_identical().await?;
        scene.no_alarms()?;
        scene.end().await
    });
}

#[test]
fn each_call_runs_once_though_leaders_die_in_the_middle() {
    run(async {
        let mut scene = Scene::publishing(timers()?, 3, |_| {}).await?;
        call(&scene, 1, "cancel", json!(["pulse"])).await?;
        call(&scene, 1, "every", json!(["beat", 10_000])).await?;
        call(&scene, 1, "many", json!([MANY, 300_000, 5_000])).await?;
        for share in [4, 2] {
            let leader = scene.cluster.wait_leader(PATIENCE).await?;
            have_run(&scene, leader, "many", (MANY / share) as usize).await?;
            scene.cluster.node_mut(leader).kill9().await?;
            let other = leader % 3 + 1;
            have_run(&scene, other, "many", (MANY / share) as usize + 10).await?;
            scene.cluster.restart(leader)?;
            scene.cluster.wait_ready(PATIENCE).await?;
        }
        have_run(&scene, 1, "many", MANY as usize).await?;
        call(&scene, 1, "cancel", json!(["beat"])).await?;
        all_over(&scene, 1).await?;
        let mut times = BTreeMap::new();
        for one in ran(&scene, 1).await? {
            if one.job.starts_with("many ") {
                *times.entry(one.id).or_insert(0) += 1;
            }
        }
        ensure!(
            times.len() == MANY as usize && times.values().all(|times| *times == 1),
            "{times:?}"
        );
        scene.level_and_identical().await?;
        scene.no_alarms()?;
        scene.end().await
    });
}

/// Waits until nothing waits to be called at once.
async fn none_waits(scene: &Scene, node: u64) -> Result<()> {
    until("nothing is to be called at once", async || {
        let left = scene.count(node, "rtdb_immediate").await?;
        ensure!(left == 0, "{left} are");
        Ok(())
    })
    .await
}

/// Natively such a call is lost with the server, and is made though the call that asks for it fails: not so here.
#[test]
fn what_is_wanted_at_once_is_called_once_though_leaders_die_in_the_middle() {
    run(async {
        let mut scene = Scene::publishing(timers()?, 3, |_| {}).await?;
        let api: Api = scene.cluster.node(2).api().with_token(&scene.owner);
        // However young the cluster is.
        none_waits(&scene, 1).await?;
        call(&scene, 1, "cancel", json!(["pulse"])).await?;
        // One that asks again and again.
        call(&scene, 2, "soon", json!(["on and on", 300])).await?;
        for name in ["fails", "panics"] {
            call(&scene, 3, "at_once", json!([name, 1])).await?;
        }
        let path = format!("/v1/database/{DATABASE}/call/at_once_in_vain");
        let failed = api
            .send(Method::POST, &path, json!(["in vain"]).to_string())
            .await?;
        ensure!(!failed.status.is_success(), "{}", failed.text());
        for round in 1..=2 {
            let leader = scene.cluster.wait_leader(PATIENCE).await?;
            call(&scene, leader, "at_once", json!([format!("round {round}"), MANY])).await?;
            have_run(&scene, leader, &format!("round {round}"), 10).await?;
            scene.cluster.node_mut(leader).kill9().await?;
            have_run(&scene, leader % 3 + 1, &format!("round {round}"), MANY as usize).await?;
            scene.cluster.restart(leader)?;
            scene.cluster.wait_ready(PATIENCE).await?;
        }
        have_run(&scene, 1, "on and on", 301).await?;
        none_waits(&scene, 1).await?;
        let mut times = BTreeMap::new();
        for one in ran(&scene, 1).await? {
            // The first one was a client's.
            ensure!(!one.connected || one.job == "on and on", "{one:?}");
            *times.entry(one.job).or_insert(0) += 1;
        }
        for name in ["fails 0", "panics 0", "in vain"] {
            ensure!(!times.contains_key(name), "{name} has left something");
        }
        ensure!(times.remove("on and on") == Some(301));
        for round in 1..=2 {
            for nth in 0..MANY {
                let name = format!("round {round} {nth}");
                ensure!(times.remove(&name) == Some(1), "{name}: {times:?}");
            }
        }
        // All at once, in the order in which they were asked for.
        call(&scene, 1, "at_once", json!(["in order", 50])).await?;
        have_run(&scene, 2, "in order", 50).await?;
        let order: Vec<_> = ran(&scene, 2).await?.into_iter().map(|one| one.job).collect();
        let order: Vec<_> = order.iter().filter(|job| job.starts_with("in order")).collect();
        let expected: Vec<_> = (0..50).map(|nth| format!("in order {nth}")).collect();
        ensure!(order == expected.iter().collect::<Vec<_>>(), "{order:?}");
        scene.level_and_identical().await?;
        scene.no_alarms()?;
        scene.end().await
    });
}
