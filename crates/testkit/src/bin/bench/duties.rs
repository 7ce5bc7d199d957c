//! What a database does besides calls: rows that fall due, procedures, and updates of its module under load.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use futures::stream::{self, StreamExt};
use rtdb_testkit::client::Client;
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::demo_module::{self, ADD, add, another_build};
use rtdb_testkit::server::{PlainServer, binary, major};
use rtdb_testkit::{Api, sql};
use serde::Serialize;
use serde_json::json;
use tokio::time::sleep;

use crate::PATIENCE;
use crate::latencies::median;
use crate::measure::{connect_to, median_ms};
use crate::sides::published;

/// Rows that are due at once, in each round.
const DUE: u32 = 2_000;
/// Rounds whose median is taken.
const ROUNDS: usize = 3;
/// Procedures one after the other, and by how many callers at a time.
const ALONE: usize = 200;
const TOGETHER: usize = 500;
const CALLERS: usize = 8;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Before and after an update.
const QUIET: Duration = Duration::from_millis(500);

/// What one server, or one cluster, makes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Duties {
    /// Scheduled reducers, a second, while many rows are due.
    pub(crate) ticks: f64,
    /// Procedures of one transaction each, a second, of some callers at a time; 0 before 2.x.
    pub(crate) transactions: f64,
    /// One of them with nothing else going on, in ms.
    pub(crate) transaction_ms: f64,
    /// The longest call while the module is updated, in ms, of one client that calls all the time.
    pub(crate) update_ms: f64,
}

/// The plain server, one node, and three.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct AllDuties {
    pub(crate) plain: Duties,
    pub(crate) one_node: Duties,
    pub(crate) three_nodes: Duties,
}

/// One of the figures.
type Figure = fn(&Duties) -> f64;

impl AllDuties {
    pub(crate) async fn measure(folder: &Path) -> Result<Self> {
        eprintln!("rows that are due, procedures, and updates");
        let server = PlainServer::start(&binary()?, &folder.join("plain")).await?;
        let plain = Duties::measure(&server.api(), server.addr(), async |_| Ok(()))
            .await
            .context("plain server")?;
        drop(server);
        let one_node = of_cluster(&folder.join("one"), 1).await.context("one node")?;
        let three_nodes = of_cluster(&folder.join("three"), 3)
            .await
            .context("three nodes")?;
        Ok(Self {
            plain,
            one_node,
            three_nodes,
        })
    }
}

async fn of_cluster(folder: &Path, nodes: u16) -> Result<Duties> {
    let mut cluster = Cluster::start_ready(&ClusterConfig::new(nodes, folder)?, PATIENCE).await?;
    let leader = cluster.wait_leader(PATIENCE).await?;
    let node = cluster.node(leader);
    let level = async |database: &str| cluster.wait_level(database, PATIENCE).await.map(drop);
    let duties = Duties::measure(&node.api(), node.client_addr(), level).await?;
    cluster.stop().await?;
    Ok(duties)
}

impl Duties {
    /// `level` waits until all replicas have all of a database.
    async fn measure(api: &Api, addr: &str, level: impl AsyncFn(&str) -> Result<()>) -> Result<Self> {
        let mut duties = Self {
            ticks: ticks(api, &level).await.context("rows that are due")?,
            ..Self::default()
        };
        if major()? >= 2 {
            (duties.transaction_ms, duties.transactions) =
                transactions(api, &level).await.context("procedures")?;
        }
        duties.update_ms = updates(api, addr, &level).await.context("updates")?;
        eprintln!("  {duties:?}");
        Ok(duties)
    }
}

/// From the first to the last of many rows that are due at once, by the time that they see themselves.
async fn ticks(api: &Api, level: &impl AsyncFn(&str) -> Result<()>) -> Result<f64> {
    const DATABASE: &str = "ticks";
    let api = published(api, DATABASE, &demo_module::timers()?).await?;
    level(DATABASE).await?;
    let mut rates = Vec::new();
    let mut before = 0;
    for _ in 0..ROUNDS {
        call(&api, DATABASE, "many", &json!([DUE, 0, 0])).await?;
        let deadline = Instant::now() + PATIENCE;
        // Looking at all rows would take longer than what is measured.
        while waiting(&api, DATABASE).await? > 0 {
            ensure!(Instant::now() < deadline, "rows are due still");
            sleep(LOOK).await;
        }
        let rows = sql::select(&api, DATABASE, "SELECT id, at, due FROM ran").await?;
        let (ids, times) = (rows.column("id")?, rows.column("at")?);
        // What is due again and again is for no time.
        let rows = ids.into_iter().zip(times).zip(rows.column("due")?);
        let rows = rows.filter(|(_, due)| due[0] == 0);
        let rows = rows.filter_map(|((id, at), _)| Some((id.as_u64()?, at[0].as_i64()?)));
        let (ids, times): (Vec<_>, Vec<_>) = rows.filter(|(id, _)| *id > before).unzip();
        ensure!(times.len() >= DUE as usize, "{} of {DUE} have run", times.len());
        before = ids.into_iter().max().unwrap_or(before);
        let first = times.iter().min().context("a time")?;
        let last = times.iter().max().context("a time")?;
        let us = u32::try_from(last - first)?.max(1);
        rates.push(f64::from(u32::try_from(times.len())? - 1) / f64::from(us) * 1e6);
    }
    Ok(median(rates))
}

/// How many rows wait that are for one time: all but the one that is there always.
async fn waiting(api: &Api, database: &str) -> Result<u64> {
    let rows = sql::select(api, database, "SELECT COUNT(*) AS n FROM job").await?;
    let count = rows.column("n")?.first().and_then(|count| count.as_u64());
    Ok(count.context("a count")?.saturating_sub(1))
}

/// One procedure at a time, in ms; and how many a second of several callers.
async fn transactions(api: &Api, level: &impl AsyncFn(&str) -> Result<()>) -> Result<(f64, f64)> {
    const DATABASE: &str = "transactions";
    let api = published(api, DATABASE, &demo_module::wasm_named("procedures-2x")?).await?;
    level(DATABASE).await?;
    let keys = AtomicI32::new(0);
    let run = async || {
        let key = keys.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        call(&api, DATABASE, "run", &json!([[{"put": [0, key, 1, "x"]}]])).await?;
        anyhow::Ok(began.elapsed())
    };
    let mut times = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        times.push(run().await?);
    }
    let began = Instant::now();
    stream::iter(0..TOGETHER)
        .map(|_| run())
        .buffer_unordered(CALLERS)
        .try_for_each(async |_| Ok(()))
        .await?;
    let rate = f64::from(u32::try_from(TOGETHER)?) / began.elapsed().as_secs_f64();
    Ok((median_ms(times), rate))
}

/// The longest call during an update: the median of some updates.
async fn updates(api: &Api, addr: &str, level: &impl AsyncFn(&str) -> Result<()>) -> Result<f64> {
    const DATABASE: &str = "updates";
    let module = demo_module::wasm()?;
    let api = published(api, DATABASE, &module).await?;
    level(DATABASE).await?;
    let mut longest = Vec::new();
    for build in 0..ROUNDS {
        let ends = Arc::<AtomicBool>::default();
        let until = ends.clone();
        let mut client = Client::connect(&connect_to(addr, DATABASE)?).await?;
        let calls = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                let reply = client.call_and_wait(ADD, &add("update", 1)).await?;
                ensure!(reply.result.is_ok(), "{reply:?}");
                longest = longest.max(began.elapsed());
            }
            client.close().await;
            anyhow::Ok(longest)
        });
        sleep(QUIET).await;
        api.publish(DATABASE, another_build(&module, u8::try_from(build)?))
            .await?;
        sleep(QUIET).await;
        ends.store(true, Ordering::Relaxed);
        longest.push(calls.await??.as_secs_f64() * 1e3);
        level(DATABASE).await?;
    }
    Ok(median(longest))
}

async fn call(api: &Api, database: &str, name: &str, args: &serde_json::Value) -> Result<()> {
    let path = format!("/v1/database/{database}/call/{name}");
    let answer = api.post_json(&path, args).await?;
    ensure!(answer.status.is_success(), "{name}: {}", answer.text());
    Ok(())
}

impl fmt::Display for AllDuties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            plain,
            one_node,
            three_nodes,
        } = self;
        writeln!(
            f,
            "  besides calls            {:>10} {:>16} {:>16}",
            "plain", "one node", "three"
        )?;
        let rates: [(&str, Figure); 2] = [
            ("scheduled ticks a second", |it| it.ticks),
            ("procedures a second", |it| it.transactions),
        ];
        for (what, of) in rates {
            let all = of(plain).max(f64::MIN_POSITIVE);
            let [one, three] = [of(one_node), of(three_nodes)];
            writeln!(
                f,
                "  {what:<25}{all:>10.0} {one:>9.0} ({:.2}) {three:>9.0} ({:.2})",
                one / all,
                three / all
            )?;
        }
        let times: [(&str, Figure); 2] = [
            ("one procedure, median", |it| it.transaction_ms),
            ("longest call in an update", |it| it.update_ms),
        ];
        for (what, of) in times {
            let all = of(plain);
            let [one, three] = [of(one_node), of(three_nodes)];
            writeln!(
                f,
                "  {what:<25}{all:>7.2} ms {one:>6.2} (+{:.2}) ms {three:>6.2} (+{:.2}) ms",
                one - all,
                three - all
            )?;
        }
        Ok(())
    }
}
