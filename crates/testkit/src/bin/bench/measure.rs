//! The single measurements.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rtdb_determinism::header::CallHeader;
use rtdb_testkit::client::{Args, Client, Connect, Event, Wire};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::demo_module::{self, ADD, add};
use rtdb_testkit::server::PlainServer;
use rtdb_testkit::{Node, load};
use tokio::time::sleep;

use crate::calls::Load;
use crate::figures::Figures;

/// Before memory is looked at, what was only needed for opening connections is given back.
const QUIET: Duration = Duration::from_secs(1);

/// Calls, or syncs, whose median is taken.
pub(crate) const SAMPLES: usize = 2000;

/// Calls in a round of the comparison of a plain and a prepared module.
const ROUND: usize = 5_000;

/// Calls whose median is taken for each way of reading rows.
const READING_ROUNDS: usize = 15;

/// Idle connections being opened at the same time.
const OPENING_MAX: usize = 64;

/// Open files that are needed besides the idle connections.
const OTHER_FILES: u64 = 1_000;

/// Files that a node keeps free for each of its clients.
const FILES_OF_A_CLIENT: u64 = 3;

/// A new identity, speaking what today's SDKs speak with this server.
pub(crate) fn connect_to(addr: &str, database: &str) -> Result<Connect> {
    let wire = Wire::usual()?;
    Ok(Connect {
        wire,
        ..Connect::new(addr, database)
    })
}

/// Clients spread over `addrs`.
pub(crate) fn clients(addrs: &[String], database: &str, load: &Load) -> Result<Clients> {
    let wire = Wire::usual()?;
    Ok(Clients::start((0..load.connections).map(|client| load::Load {
        client,
        addrs: addrs.to_vec(),
        first: client as usize % addrs.len(),
        database: database.to_string(),
        wire,
        window: load.window,
        invalid_every: 0,
        subscribed: false,
        work: load.work,
    })))
}

/// The median time of so many calls with nothing else going on, in ms.
pub(crate) async fn latency_p50(addr: &str, database: &str, calls: usize) -> Result<f64> {
    let mut client = Client::connect(&connect_to(addr, database)?).await?;
    let mut times = Vec::with_capacity(calls);
    for value in 0..calls {
        let args = add("latency", i64::try_from(value)?);
        let sent = Instant::now();
        let reply = client.call_and_wait(ADD, &args).await?;
        times.push(sent.elapsed());
        ensure!(reply.result.is_ok(), "a call failed: {reply:?}");
    }
    client.close().await;
    Ok(median_ms(times))
}

/// The median time of an append of 256 bytes and its `fdatasync`, in ms.
pub(crate) fn fdatasync_p50(path: &Path) -> Result<f64> {
    let mut file = File::create(path)?;
    let mut times = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let started = Instant::now();
        file.write_all(&[7; 256])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    Ok(median_ms(times))
}

pub(crate) fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .copied()
        .unwrap_or_default()
        .as_secs_f64()
        * 1e3
}

/// Call rate of the prepared module as a part of the plain one's, on the same plain server.
///
/// On one connection, since the calls' indexes must arrive in their order; in short turns of as many calls, so that both
/// see the same machine and have as many rows.
/// No receipts are asked for: a client that has subscribed to nothing needs none.
pub(crate) async fn prepared_ratio(server: &PlainServer, load: &Load) -> Result<f64> {
    let mut pair = Pair::publish(server, "ratio", &demo_module::wasm()?).await?;
    let initialised = pair.prepared.call_and_wait("init", &pair.headers.next()).await?;
    ensure!(initialised.result.is_ok(), "init: {initialised:?}");
    let (mut plain_times, mut prepared_times) = (Vec::new(), Vec::new());
    let started = Instant::now();
    while plain_times.is_empty() || started.elapsed() < load.seconds {
        plain_times.push(pipelined(&mut pair.plain, load.window, || add("ratio", 1)).await?);
        let headers = &mut pair.headers;
        let args = || headers.next().str("ratio").i64(1);
        prepared_times.push(pipelined(&mut pair.prepared, load.window, args).await?);
    }
    Ok(median_ms(plain_times) / median_ms(prepared_times))
}

/// A way of reading rows: the reducer of `walks-1x` that does it, how many rows there are, and how often it reads in one
/// call, so that it is the reading that takes the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) reducer: &'static str,
    pub(crate) rows: u32,
    pub(crate) times: u32,
}

/// How fast the prepared module reads, as a part of how fast the plain one does, on the same plain server.
pub(crate) async fn reading_ratios(server: &PlainServer, readings: &[Reading]) -> Result<Vec<f64>> {
    let mut pair = Pair::publish(server, "reading", &demo_module::walks()?).await?;
    let (mut ratios, mut filled) = (Vec::new(), 0);
    for reading in readings {
        if reading.rows != filled {
            pair.call("fill", reading.rows).await?;
            filled = reading.rows;
        }
        let (mut plain, mut prepared) = (Vec::new(), Vec::new());
        for _ in 0..READING_ROUNDS {
            let times = pair.call(reading.reducer, reading.times).await?;
            plain.push(times[0]);
            prepared.push(times[1]);
        }
        ratios.push(median_ms(plain) / median_ms(prepared));
    }
    Ok(ratios)
}

/// A client of a plain module and one of the same module, prepared, on one plain server.
struct Pair {
    plain: Client,
    prepared: Client,
    headers: Headers,
}

impl Pair {
    async fn publish(server: &PlainServer, name: &str, wasm: &[u8]) -> Result<Self> {
        let (plain, prepared) = (format!("{name}-plain"), format!("{name}-prepared"));
        let owner = server.api().new_token().await?;
        let api = server.api().with_token(&owner);
        api.publish(&prepared, rtdb_determinism::prepare(wasm)?.wasm)
            .await?;
        api.publish(&plain, wasm.to_vec()).await?;
        let connect = async |database: &str| {
            Client::connect(&connect_to(server.addr(), database)?.with_token(&owner)).await
        };
        let (plain, prepared) = (connect(&plain).await?, connect(&prepared).await?);
        let headers = Headers::of(&prepared);
        Ok(Self {
            plain,
            prepared,
            headers,
        })
    }

    /// How long a call with a number takes, of the plain module and of the prepared one.
    async fn call(&mut self, reducer: &str, number: u32) -> Result<[Duration; 2]> {
        let number = number.to_le_bytes();
        let prepared = self.headers.next().raw(&number);
        Ok([
            timed(&mut self.plain, reducer, &Args::new().raw(&number)).await?,
            timed(&mut self.prepared, reducer, &prepared).await?,
        ])
    }
}

async fn timed(client: &mut Client, reducer: &str, args: &Args) -> Result<Duration> {
    let started = Instant::now();
    let reply = client.call_and_wait(reducer, args).await?;
    ensure!(reply.result.is_ok(), "{reducer}: {reply:?}");
    Ok(started.elapsed())
}

/// The headers of a prepared module's calls, one after the other.
struct Headers(CallHeader);

impl Headers {
    fn of(client: &Client) -> Self {
        Self(CallHeader {
            sender: client.hello().identity,
            connection: client.hello().connection,
            timestamp_us: 1,
            index: 1,
            session: 0,
        })
    }

    fn next(&mut self) -> Args {
        self.0.index += 1;
        self.0.timestamp_us += 1;
        Args::new().raw(&self.0.encode())
    }
}

/// How long [`ROUND`] calls take.
async fn pipelined(client: &mut Client, window: usize, mut args: impl FnMut() -> Args) -> Result<Duration> {
    let (started, mut sent, mut answered) = (Instant::now(), 0, 0);
    while answered < ROUND {
        while sent < ROUND && sent - answered < window {
            client.call(ADD, &args()).await?;
            sent += 1;
        }
        client.flush().await?;
        let mut event = Some(client.event().await);
        while let Some(answer) = event {
            match answer? {
                Event::Reply(reply) if reply.result.is_ok() => answered += 1,
                other => bail!("not acknowledged: {other:?}"),
            }
            event = client.event_now();
        }
    }
    Ok(started.elapsed())
}

/// As many open files as may be, for this program and what it starts from now on; how many that is.
pub(crate) fn raise_files() -> Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

/// What idle connections cost a node: its memory, and the latency of others' calls.
pub(crate) async fn idle_connections(
    figures: &mut Figures,
    node: &Node,
    database: &str,
    wanted: u32,
) -> Result<()> {
    let room = raise_files()?.saturating_sub(OTHER_FILES) / FILES_OF_A_CLIENT;
    let count = u64::from(wanted).min(room);
    let to = connect_to(node.client_addr(), database)?;
    let quiet_ms = latency_p50(node.client_addr(), database, SAMPLES).await?;
    let before = node.resident_kib()?;
    let opening = stream::iter(0..count)
        .map(|_| Client::connect(&to))
        .buffer_unordered(OPENING_MAX);
    let idle: Vec<Client> = opening.try_collect().await?;
    sleep(QUIET).await;
    figures.idle_connections = u32::try_from(idle.len())?;
    let grown = u32::try_from(node.resident_kib()?.saturating_sub(before))?;
    figures.idle_connection_kib = f64::from(grown) / f64::from(figures.idle_connections.max(1));
    figures.idle_latency_ratio = latency_p50(node.client_addr(), database, SAMPLES).await? / quiet_ms;
    Ok(())
}
