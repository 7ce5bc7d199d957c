//! Clients that share their subscriptions: each sees what it would see alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::Method;
use rtdb_testkit::client::{Args, Client, Connect, Event, TableChange, Wire};
use rtdb_testkit::demo_module::{ADD, TABLE, add};
use rtdb_testkit::server;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, run, until};

/// Clients that write and look on, and clients that only look on.
const WRITERS: u64 = 3;
const WATCHERS: u64 = 12;

/// Calls that a writer has under way.
const WINDOW: usize = 8;

/// Calls between two steps.
const SOME: u64 = 400;

/// What the last row is called.
const LAST: &str = "last";

/// Connections to SpacetimeDB: a feed for each protocol and, in v1, for each list of queries.
const UPSTREAMS_MAX: u64 = 3;

const ALL: &str = "SELECT * FROM counter";
const SOME_ROWS: &str = "SELECT * FROM counter WHERE value > 3";

/// What a client has been shown of one query.
#[derive(Default)]
struct Cache(BTreeMap<Bytes, u32>);

impl Cache {
    /// Takes an update over: no row comes that is there, and none goes that is not.
    fn apply(&mut self, change: &TableChange) -> Result<()> {
        ensure!(change.table == TABLE, "rows of {}", change.table);
        for row in &change.inserts {
            *self.0.entry(row.clone()).or_default() += 1;
        }
        for row in &change.deletes {
            let copies = self.0.get_mut(row).context("a row goes that was never shown")?;
            *copies -= 1;
            if *copies == 0 {
                self.0.remove(row);
            }
        }
        ensure!(
            self.0.values().all(|copies| *copies == 1),
            "a row comes that is there"
        );
        Ok(())
    }

    fn has_last(&self) -> bool {
        self.0
            .keys()
            .any(|row| row.windows(LAST.len()).any(|part| part == LAST.as_bytes()))
    }
}

/// A client that looks at one query.
struct Watcher {
    client: Client,
    cache: Cache,
}

impl Watcher {
    async fn new(to: &Connect, query: &str, query_set: u32) -> Result<Self> {
        let mut client = Client::connect(to).await?;
        client.subscribe(&[query], query_set).await?;
        let mut cache = Cache::default();
        match timeout(PATIENCE, client.event()).await?? {
            Event::Subscribed { tables, .. } => {
                tables.iter().try_for_each(|change| cache.apply(change))?;
                Ok(Self { client, cache })
            }
            other => bail!("{other:?} before the first rows"),
        }
    }

    /// Takes the next message over; whether it was an answer to a call.
    async fn step(&mut self) -> Result<bool> {
        let event = timeout(PATIENCE, self.client.event())
            .await
            .context("nothing comes")??;
        let (tables, answer) = match event {
            Event::Update(tables) => (tables, false),
            Event::Reply(reply) => (reply.result.map_err(anyhow::Error::msg)?.tables, true),
            other => bail!("{other:?}"),
        };
        tables.iter().try_for_each(|change| self.cache.apply(change))?;
        Ok(answer)
    }

    async fn until_last(&mut self) -> Result<()> {
        while !self.cache.has_last() {
            self.step().await?;
        }
        Ok(())
    }
}

/// How far the clients are.
#[derive(Default)]
struct Progress {
    calls: AtomicU64,
    ends: AtomicBool,
}

/// Adds rows, and sees each of them with the answer to its call, or before.
async fn write(to: Connect, writer: u64, progress: Arc<Progress>) -> Result<Cache> {
    let mut watcher = Watcher::new(&to, ALL, 7).await?;
    let mut under_way = 0;
    let mut value = 0;
    loop {
        let ends = progress.ends.load(Ordering::Relaxed);
        if ends && under_way == 0 {
            break;
        }
        while !ends && under_way < WINDOW {
            value += 1;
            let name = format!("w{writer}");
            let args = Args::new().str(&name).i64(value % 10);
            watcher.client.call(ADD, &args).await?;
            under_way += 1;
        }
        watcher.client.flush().await?;
        if watcher.step().await? {
            under_way -= 1;
            progress.calls.fetch_add(1, Ordering::Relaxed);
        }
    }
    watcher.until_last().await?;
    Ok(watcher.cache)
}

/// Looks on, and comes again from time to time, until the end.
async fn watch(to: Connect, number: u64, query: &str, progress: Arc<Progress>) -> Result<Cache> {
    loop {
        let mut watcher = Watcher::new(&to, query, 1 + number as u32 % 3).await?;
        for _ in 0..40 + number * 7 {
            if progress.ends.load(Ordering::Relaxed) {
                break;
            }
            watcher.step().await?;
        }
        if progress.ends.load(Ordering::Relaxed) {
            watcher.until_last().await?;
            return Ok(watcher.cache);
        }
        watcher.client.close().await;
    }
}

#[test]
fn who_shares_a_subscription_sees_what_it_would_see_alone() {
    run(async {
        let mut scene = Scene::start(1).await?;
        let addr = scene.cluster.node(1).client_addr().to_owned();
        let wires: &[Wire] = match server::major()? {
            ..2 => &[Wire::V1],
            _ => &[Wire::V1, Wire::V2, Wire::V3],
        };
        let to = |number: u64| {
            let mut to = Connect::new(addr.clone(), DATABASE);
            to.wire = wires[number as usize % wires.len()];
            to
        };
        let progress = Arc::new(Progress::default());
        let mut clients = JoinSet::new();
        for writer in 0..WRITERS {
            let written = write(to(writer), writer, progress.clone());
            clients.spawn(async move { anyhow::Ok((ALL, written.await.context("a writer")?)) });
        }
        for number in 0..WATCHERS {
            let query = [ALL, SOME_ROWS][number as usize % 2];
            let watched = watch(to(number), number, query, progress.clone());
            clients.spawn(async move { anyhow::Ok((query, watched.await.context(query)?)) });
        }
        let more = async |clients: &mut JoinSet<_>| {
            let goal = progress.calls.load(Ordering::Relaxed) + SOME;
            until("some calls are done", async || {
                if let Some(ended) = clients.try_join_next() {
                    let ended: Result<(&str, Cache)> = ended?;
                    panic!("a client has ended: {:?}", ended.map(|(query, _)| query));
                }
                ensure!(progress.calls.load(Ordering::Relaxed) >= goal, "some are missing");
                Ok(())
            })
            .await
        };
        more(&mut clients).await?;
        let admin = scene.cluster.node(1).admin();
        let metrics = admin.expect(Method::GET, "/metrics", "").await?;
        let metrics = String::from_utf8_lossy(&metrics);
        let upstreams = metrics
            .lines()
            .find_map(|line| line.strip_prefix("rtdb_upstreams "));
        let upstreams: u64 = upstreams.context("no metric")?.trim().parse()?;
        ensure!((1..=UPSTREAMS_MAX).contains(&upstreams), "{upstreams} upstreams");

        scene.cluster.node_mut(1).kill9_server().await?;
        more(&mut clients).await?;

        progress.ends.store(true, Ordering::Relaxed);
        let mut last = Watcher::new(&to(0), ALL, 1).await?;
        last.client.call_and_wait(ADD, &add(LAST, 9)).await?;
        let rows = scene.count(1, TABLE).await?;
        let mut caches = Vec::new();
        while let Some(ended) = clients.join_next().await {
            caches.push(ended??);
        }
        for query in [ALL, SOME_ROWS] {
            let fresh = Watcher::new(&to(0), query, 1).await?;
            ensure!(query != ALL || fresh.cache.0.len() == rows, "{rows} rows");
            for (_, cache) in caches.iter().filter(|(of, _)| *of == query) {
                ensure!(cache.0 == fresh.cache.0, "{query}: the rows differ");
            }
            fresh.client.close().await;
        }
        last.client.close().await;
        scene.end().await
    });
}
