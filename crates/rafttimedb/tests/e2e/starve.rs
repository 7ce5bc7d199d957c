//! Clients that ask for all that a node has: others are served, and no leader is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, BytesMut};
use http::{Method, StatusCode};
use rtdb_testkit::Api;
use rtdb_testkit::client::{Args, Client, Connect, Event, Wire};
use rtdb_testkit::poison_module;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{DATABASE, PATIENCE, Scene, run};

/// Bytes of what is large: SpacetimeDB takes messages of 32 MiB.
const LARGE: usize = 30 << 20;

/// Rows of the large table, and how many are made by one call.
const ROWS: u32 = 400_000;
const ROWS_A_CALL: u32 = 20_000;

/// How often the node is pinged.
const PAUSE: Duration = Duration::from_millis(20);

/// Pings a node until it is told to stop: how long each answer took. In a thread of its own, so that what the clients here
/// have to do does not count.
fn ping(addr: String, stop: Arc<AtomicBool>) -> JoinHandle<Result<Vec<Duration>>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (api, mut times) = (Api::new(addr), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let since = Instant::now();
                let answer = api.send(Method::GET, "/v1/ping", "").await?;
                ensure!(answer.status == StatusCode::OK, "{}", answer.text());
                times.push(since.elapsed());
                sleep(PAUSE).await;
            }
            Ok(times)
        })
    })
}

/// Who leads the shard, and since when.
async fn leadership(scene: &Scene) -> Result<Value> {
    let status: Value = scene.cluster.node(1).admin().get("/cluster/status").await?;
    let groups = status["groups"].as_array().context("no groups")?;
    Ok(groups.iter().map(|it| it["term"].clone()).collect())
}

/// Does something while the node is pinged, and no election may happen.
async fn beside(scene: &Scene, what: &str, doing: impl Future<Output = Result<()>>) -> Result<()> {
    let before = leadership(scene).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let pings = ping(scene.cluster.node(2).client_addr().to_owned(), stop.clone());
    let since = Instant::now();
    let done = doing.await;
    stop.store(true, Ordering::Relaxed);
    let mut times = pings.join().expect("the pings")?;
    times.sort();
    eprintln!(
        "{what}: {:?}; {} pings, median {:?}, 99 of 100 within {:?}, longest {:?}",
        since.elapsed(),
        times.len(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1]
    );
    done.with_context(|| what.to_owned())?;
    let after = leadership(scene).await?;
    ensure!(before == after, "{what}: the terms went from {before} to {after}");
    Ok(())
}

/// A thousand calls, and behind them a query of 30 MiB.
async fn flood(addr: String) -> Result<()> {
    let to = Connect {
        wire: Wire::usual()?,
        ..Connect::new(addr, DATABASE)
    };
    let mut client = Client::connect(&to).await?;
    for _ in 0..1_000 {
        client.call("add", &Args::default().str("flood").i64(1)).await?;
    }
    client.flush().await?;
    client.query(&"a ".repeat(LARGE / 2)).await?;
    // Whether it is answered or closed.
    for _ in 0..=1_000 {
        if client.event().await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn subscribe(addr: String) -> Result<()> {
    let to = Connect {
        wire: Wire::usual()?,
        ..Connect::new(addr, DATABASE)
    };
    let mut client = Client::connect(&to).await?;
    client.subscribe(&["SELECT * FROM counter"], 1).await?;
    loop {
        if let Event::Subscribed { .. } = client.event().await? {
            return Ok(());
        }
    }
}

/// A module with 30 MiB of data in it.
fn large_module() -> Result<Vec<u8>> {
    let mut module = BytesMut::from(poison_module::wasm()?.as_slice());
    // A custom section: its size, the size of its name, the name.
    module.put_u8(0);
    let mut size = LARGE;
    loop {
        let byte = (size & 0x7f) as u8;
        size >>= 7;
        module.put_u8(if size == 0 { byte } else { byte | 0x80 });
        if size == 0 {
            break;
        }
    }
    module.put_u8(1);
    module.put_u8(b'x');
    module.put_bytes(7, LARGE - 2);
    Ok(module.to_vec())
}

async fn publish(api: Api, module: Vec<u8>, name: String) -> Result<()> {
    let api = api.with_token(api.new_token().await?);
    // It may be refused, for there are many.
    let _ = api
        .send(Method::PUT, &format!("/v1/database/{name}"), module)
        .await;
    Ok(())
}

async fn all(
    works: impl IntoIterator<Item = impl Future<Output = Result<()>> + Send + 'static>,
) -> Result<()> {
    let mut works: JoinSet<_> = works.into_iter().collect();
    while let Some(done) = timeout(2 * PATIENCE, works.join_next()).await? {
        done??;
    }
    Ok(())
}

/// Prints what `/v1/ping` takes beside each, for people to look at.
#[test]
#[ignore = "takes minutes"]
fn large_requests_starve_nobody() {
    run(async {
        let scene = Scene::start(3).await?;
        let addr = scene.cluster.node(2).client_addr().to_owned();
        beside(&scene, "nothing", async {
            sleep(Duration::from_secs(3)).await;
            Ok(())
        })
        .await?;
        beside(&scene, "1,000 calls and a query of 30 MiB", flood(addr.clone())).await?;
        let mut client = Client::connect(&Connect::new(addr.clone(), DATABASE)).await?;
        for n in 0..ROWS / ROWS_A_CALL {
            let args = Args::default()
                .str(&format!("row {n}"))
                .raw(&ROWS_A_CALL.to_le_bytes());
            client.call_and_wait("add_many", &args).await?;
        }
        let four = (0..4).map(|_| subscribe(addr.clone()));
        beside(&scene, "four subscribers of a large table", all(four)).await?;
        let module = large_module()?;
        let api = scene.cluster.node(2).api();
        let twenty = (0..20).map(|n| publish(api.clone(), module.clone(), format!("large-{n}")));
        beside(&scene, "20 publications of 30 MiB", all(twenty)).await?;
        scene.end().await
    });
}
