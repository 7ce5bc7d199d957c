//! Clients that ask for all that a node has: what others wait for meanwhile, and whether a leader is lost over it.

use std::iter;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, StatusCode};
use rtdb_testkit::client::{Args, Client, Connect, Thin, Told, Wire};
use rtdb_testkit::cluster::{Cluster, ClusterConfig};
use rtdb_testkit::demo_module::{self, ADD};
use rtdb_testkit::{Api, Response, poison_module};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::PATIENCE;
use crate::measure::connect_to;
use crate::sides::published;

const DATABASE: &str = "strain";

/// Who serves those who ask for much, and the pings.
const NODE: usize = 2;

/// Bytes of what is large: SpacetimeDB takes messages of 32 MiB.
const LARGE: usize = 30 << 20;

/// Calls in one frame, before a large query.
const FLOOD: u32 = 1_000;

/// Rows of the large table, how many are made by one call, and who subscribes to it.
const ROWS: u32 = 2_000_000;
const ROWS_A_CALL: u32 = 50_000;
const SUBSCRIBERS: usize = 4;

/// Publications at the same time.
const PUBLICATIONS: usize = 20;

/// Calls over HTTP that store nothing, as many at a time, and the bytes of each, just within what an HTTP body may have.
const JSON_CALLS: usize = 1_000;
const JSON_AT_A_TIME: usize = 50;
const JSON_BYTES: usize = (2 << 20) - 64;

/// Who has one update compressed, and its rows: 30 MiB of them, in few, since SpacetimeDB itself takes a minute for as many
/// bytes in small ones, beside 2 million others.
const COMPRESSED: usize = 100;
const COMPRESSED_ROWS: u32 = 3_000;
const COMPRESSED_NAME_BYTES: usize = 10_000;

/// Before what was refused is asked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long nothing is asked, for comparison.
const NOTHING: Duration = Duration::from_secs(3);

/// How often the node is pinged, and what the median answer may take.
const PING_PAUSE: Duration = Duration::from_millis(20);
const PING_MAX: Duration = Duration::from_millis(50);

/// How long one thing may take, with all others beside it.
const LOAD_MAX: Duration = Duration::from_secs(300);

/// An error if there is an election, or if the median ping takes longer than it may.
pub(crate) async fn run(folder: &Path) -> Result<()> {
    let mut cluster = Cluster::start_ready(&ClusterConfig::new(3, folder)?, PATIENCE).await?;
    let node = cluster.node(NODE as u64);
    published(&node.api(), DATABASE, &demo_module::wasm()?).await?;
    let mut writer = Client::connect(&connect_to(node.client_addr(), DATABASE)?).await?;
    for _ in 0..ROWS / ROWS_A_CALL {
        let added = writer
            .call_and_wait("add_many", &many("large", ROWS_A_CALL))
            .await?;
        ensure!(added.result.is_ok(), "no rows: {added:?}");
    }
    cluster.wait_level(DATABASE, PATIENCE).await?;

    let strain = Strain {
        addr: node.client_addr().to_string(),
        module: large_module()?.into(),
        json: json!(["x".repeat(JSON_BYTES), 0]),
    };
    let mut wrong = Vec::new();
    let alone = LOADS.iter().map(std::slice::from_ref);
    for loads in iter::once(&[][..]).chain(alone).chain([&LOADS[..]]) {
        if let Err(error) = beside(&cluster, loads, strain.clone().put(loads)).await {
            eprintln!("  {error:#}");
            wrong.push(format!("{loads:?}: {error:#}"));
        }
        cluster.wait_ready(PATIENCE).await?;
        cluster.wait_level(DATABASE, LOAD_MAX).await?;
    }
    writer.close().await;
    cluster.stop().await?;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Load {
    /// A thousand calls, and behind them a query of 30 MiB.
    Flood,
    /// All rows of a table of 2 million, for four.
    Subscribers,
    /// 20 modules of 30 MiB.
    Publications,
    /// 1,000 calls over HTTP of 2 MiB.
    Json,
    /// An update of 30 MiB, as Brotli, for 100.
    Compressed,
}

const LOADS: [Load; 5] = [
    Load::Flood,
    Load::Subscribers,
    Load::Publications,
    Load::Json,
    Load::Compressed,
];

/// What gives names that were not used before.
static ROUND: AtomicU32 = AtomicU32::new(0);

/// What is asked, and where.
#[derive(Clone)]
struct Strain {
    addr: String,
    module: Bytes,
    json: Value,
}

impl Strain {
    /// All of these at the same time.
    async fn put(self, loads: &[Load]) -> Result<()> {
        if loads.is_empty() {
            sleep(NOTHING).await;
        }
        together(loads.iter().map(|load| self.clone().put_one(*load))).await
    }

    async fn put_one(self, load: Load) -> Result<()> {
        match load {
            Load::Flood => self.flood().await,
            Load::Subscribers => together((0..SUBSCRIBERS).map(|_| self.clone().subscribe())).await,
            Load::Publications => self.publish_all().await,
            Load::Json => self.call_all().await,
            Load::Compressed => self.compress().await,
        }
    }

    async fn flood(self) -> Result<()> {
        let client = Client::connect(&connect_to(&self.addr, DATABASE)?).await?;
        // Whether it is answered or closed: a node that has too much on its way does the latter.
        let _ = flood(client).await;
        Ok(())
    }

    async fn subscribe(self) -> Result<()> {
        let query = "SELECT * FROM counter WHERE name = 'large'";
        self.subscriber("None", query).await.map(drop)
    }

    /// A client with a subscription. A node that has too much on its way says so, and closes.
    async fn subscriber(&self, compression: &'static str, query: &str) -> Result<Thin> {
        let to = self.thin(compression)?;
        loop {
            let subscribed = async {
                let mut client = Thin::connect(&to).await?;
                client.subscribe(&[query], 1).await?;
                anyhow::Ok(client)
            };
            match subscribed.await {
                Ok(client) => return Ok(client),
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// It may be refused, for there are many.
    async fn publish(self, round: u32, n: usize, taken: Arc<AtomicU32>) -> Result<()> {
        let api = Api::new(self.addr);
        let api = api.with_token(api.new_token().await?);
        let path = format!("/v1/database/large-{round}-{n}");
        count(api.send(Method::PUT, &path, self.module).await, &taken);
        Ok(())
    }

    async fn publish_all(self) -> Result<()> {
        let (round, taken) = (ROUND.fetch_add(1, Ordering::Relaxed), Arc::default());
        let publish = |n| self.clone().publish(round, n, Arc::clone(&taken));
        together((0..PUBLICATIONS).map(publish)).await?;
        eprintln!(
            "  {} of {PUBLICATIONS} publications were taken",
            taken.load(Ordering::Relaxed)
        );
        Ok(())
    }

    /// They may be refused, for there are many.
    async fn call_json(self, taken: Arc<AtomicU32>) -> Result<()> {
        let api = Api::new(self.addr);
        let api = api.with_token(api.new_token().await?);
        let path = format!("/v1/database/{DATABASE}/call/add_many");
        for _ in 0..JSON_CALLS / JSON_AT_A_TIME {
            count(api.post_json(&path, &self.json).await, &taken);
        }
        Ok(())
    }

    async fn call_all(self) -> Result<()> {
        let taken = Arc::default();
        together((0..JSON_AT_A_TIME).map(|_| self.clone().call_json(Arc::clone(&taken)))).await?;
        eprintln!(
            "  {} of {JSON_CALLS} calls were taken",
            taken.load(Ordering::Relaxed)
        );
        Ok(())
    }

    async fn compress(self) -> Result<()> {
        // So that there is nothing when they subscribe.
        let name = digits(ROUND.fetch_add(1, Ordering::Relaxed), COMPRESSED_NAME_BYTES);
        let query = format!("SELECT * FROM counter WHERE name = '{name}'");
        let mut subscribers = Vec::new();
        for _ in 0..COMPRESSED {
            subscribers.push(self.subscriber("Brotli", &query).await?);
        }
        // A node that has too much on its way says so, and closes.
        let rows = many(&name, COMPRESSED_ROWS);
        while self.write(&rows).await.is_err() {
            sleep(RETRY_PAUSE).await;
        }
        let updated = subscribers.into_iter().map(|mut client| async move {
            let mut is_there = false;
            while !is_there {
                client.told(|told| is_there |= told == Told::Compressed).await?;
            }
            Ok(())
        });
        together(updated).await
    }

    async fn write(&self, rows: &Args) -> Result<()> {
        let mut writer = Client::connect(&connect_to(&self.addr, DATABASE)?).await?;
        let written = writer.call_and_wait("add_many", rows).await?;
        ensure!(written.result.is_ok(), "{:?}", written.result);
        Ok(())
    }

    fn thin(&self, compression: &'static str) -> Result<Connect> {
        Ok(Connect {
            wire: Wire::thin()?,
            compression,
            ..Connect::new(&self.addr, DATABASE)
        })
    }
}

async fn flood(mut client: Client) -> Result<()> {
    for _ in 0..FLOOD {
        client.call(ADD, &demo_module::add("flood", 1)).await?;
    }
    client.flush().await?;
    client.query(&"a ".repeat(LARGE / 2)).await?;
    for _ in 0..=FLOOD {
        client.event().await?;
    }
    Ok(())
}

/// Counts what was sent if it was taken.
fn count(sent: Result<Response>, taken: &AtomicU32) {
    let is_taken = sent.is_ok_and(|answer| answer.status.is_success());
    taken.fetch_add(is_taken.into(), Ordering::Relaxed);
}

/// Digits that a compressor has to work on.
fn digits(seed: u32, len: usize) -> String {
    let mut state = u64::from(seed) + 1;
    let digits = iter::repeat_with(|| {
        // Knuth's linear congruential generator (MMIX).
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (state >> 33) as u8 % 10)
    });
    digits.take(len).collect()
}

fn many(name: &str, rows: u32) -> Args {
    Args::default().str(name).raw(&rows.to_le_bytes())
}

/// A module with 30 MiB of data in it.
fn large_module() -> Result<Vec<u8>> {
    let mut module = BytesMut::from(poison_module::wasm()?.as_slice());
    // A custom section: its size in LEB128, the size of its name, the name.
    module.put_u8(0);
    let mut size = LARGE;
    while size > 0x7f {
        module.put_u8((size & 0x7f) as u8 | 0x80);
        size >>= 7;
    }
    module.put_u8(size as u8);
    module.put_slice(b"\x01x");
    module.put_bytes(7, LARGE - 2);
    Ok(module.to_vec())
}

async fn together(
    works: impl IntoIterator<Item = impl Future<Output = Result<()>> + Send + 'static>,
) -> Result<()> {
    let mut works: JoinSet<_> = works.into_iter().collect();
    while let Some(done) = timeout(LOAD_MAX, works.join_next()).await? {
        done??;
    }
    Ok(())
}

/// Does something while the node is pinged.
async fn beside(cluster: &Cluster, loads: &[Load], doing: impl Future<Output = Result<()>>) -> Result<()> {
    let before = terms(cluster).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let pings = ping(cluster.node(NODE as u64).client_addr().to_string(), stop.clone());
    let since = Instant::now();
    let done = doing.await;
    stop.store(true, Ordering::Relaxed);
    let mut times = pings.join().expect("the pings")?;
    times.sort();
    let median = times[times.len() / 2];
    eprintln!(
        "  {loads:?}: {:.1?}; {} pings, median {median:.1?}, 99 of 100 within {:.1?}, longest {:.1?}",
        since.elapsed(),
        times.len(),
        times[times.len() * 99 / 100],
        times[times.len() - 1]
    );
    done?;
    let after = terms(cluster).await?;
    ensure!(before == after, "the terms went from {before} to {after}");
    ensure!(median <= PING_MAX, "a ping takes {median:?}");
    Ok(())
}

/// The terms of all groups.
async fn terms(cluster: &Cluster) -> Result<Value> {
    let status: Value = cluster.node(1).admin().get("/cluster/status").await?;
    let groups = status["groups"].as_array().context("no groups")?;
    Ok(groups.iter().map(|it| it["term"].clone()).collect())
}

/// Pings a node until it is told to stop: how long each answer took. In a thread of its own, so that what the clients here
/// have to do does not count.
fn ping(addr: String, stop: Arc<AtomicBool>) -> JoinHandle<Result<Vec<Duration>>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (api, mut times) = (Api::new(addr), Vec::new());
            while times.is_empty() || !stop.load(Ordering::Relaxed) {
                let since = Instant::now();
                let answer = api.send(Method::GET, "/v1/ping", "").await?;
                ensure!(answer.status == StatusCode::OK, "{}", answer.text());
                times.push(since.elapsed());
                sleep(PING_PAUSE).await;
            }
            Ok(times)
        })
    })
}
