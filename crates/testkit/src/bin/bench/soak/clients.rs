//! The kinds of clients that a node meets: orderly ones, and those that pass by, stall, flood, and send garbage.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use rtdb_testkit::Api;
use rtdb_testkit::client::{Args, Client, Connect, Thin, Told, Wire};
use rtdb_testkit::demo_module::TABLE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::measure::connect_to;

/// Clients of each kind at every node.
const STEADY: usize = 20;
const PASSING: usize = 4;
const STALLING: usize = 2;
const FLOODING: usize = 1;
const GARBAGE: usize = 2;

/// A steady client calls so often, and waits so long for an answer.
const CALL_PERIOD: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long one is deaf that stalls.
const DEAF: Duration = Duration::from_secs(60);

/// Calls of a flood, and the pause after it: as many as fill all that a node keeps of calls within a few minutes.
const FLOOD: u64 = 1_000;
const FLOOD_PAUSE: Duration = Duration::from_secs(2);

/// Between two bits of garbage, and how long an answer to one may take.
const GARBAGE_PAUSE: Duration = Duration::from_millis(200);
const GARBAGE_MAX: Duration = Duration::from_secs(10);

/// After something has gone wrong.
const PAUSE: Duration = Duration::from_millis(200);

/// Where they all go.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) addrs: Vec<String>,
    pub(super) database: String,
    /// Ids of the rows that there are.
    pub(super) rows: Vec<u64>,
}

/// Clients that run until they are stopped.
#[derive(Debug)]
pub(super) struct Clients {
    running: JoinSet<()>,
    seen: Arc<Seen>,
}

/// What has been done so far.
#[derive(Debug, Default)]
struct Seen {
    calls: AtomicU64,
    lost: AtomicU64,
    passed: AtomicU64,
    stalled: AtomicU64,
    floods: AtomicU64,
    garbage: AtomicU64,
}

/// The same, at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    /// Calls of orderly clients that were answered.
    calls: u64,
    /// Connections of orderly clients that have broken.
    pub(super) lost: u64,
    passed: u64,
    stalled: u64,
    floods: u64,
    garbage: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} orderly calls, {} orderly connections lost; {} came and went, {} stalled, {} flooded, {} sent garbage",
            self.calls, self.lost, self.passed, self.stalled, self.floods, self.garbage
        )
    }
}

impl Clients {
    pub(super) fn start(scene: &Scene) -> Self {
        let mut clients = Self {
            running: JoinSet::new(),
            seen: Arc::default(),
        };
        for addr in &scene.addrs {
            for number in 0..STEADY + PASSING + STALLING + FLOODING + GARBAGE {
                let one = One {
                    addr: addr.clone(),
                    scene: scene.clone(),
                    seen: Arc::clone(&clients.seen),
                    dice: Dice(number as u64 + 1),
                };
                clients.running.spawn(one.run(number));
            }
        }
        clients
    }

    pub(super) fn counts(&self) -> Counts {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let seen = &self.seen;
        Counts {
            calls: count(&seen.calls),
            lost: count(&seen.lost),
            passed: count(&seen.passed),
            stalled: count(&seen.stalled),
            floods: count(&seen.floods),
            garbage: count(&seen.garbage),
        }
    }

    pub(super) async fn stop(mut self) -> Counts {
        let counts = self.counts();
        self.running.shutdown().await;
        counts
    }
}

/// One client of any kind.
struct One {
    addr: String,
    scene: Scene,
    seen: Arc<Seen>,
    dice: Dice,
}

impl One {
    async fn run(mut self, number: usize) {
        loop {
            let (done, count) = match number {
                n if n < STEADY => (self.steady().await, &self.seen.lost),
                n if n < STEADY + PASSING => (self.pass().await, &self.seen.passed),
                n if n < STEADY + PASSING + STALLING => (self.stall().await, &self.seen.stalled),
                n if n < STEADY + PASSING + STALLING + FLOODING => (self.flood().await, &self.seen.floods),
                _ => (self.garbage().await, &self.seen.garbage),
            };
            count.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = done {
                // Only the orderly can expect to be served to the end.
                if number < STEADY {
                    eprintln!("    an orderly client: {error:#}");
                }
                sleep(PAUSE).await;
            }
        }
    }

    async fn subscribed(&self) -> Result<Thin> {
        let to = Connect {
            wire: Wire::thin()?,
            parameters: "&light=true".into(),
            ..Connect::new(&self.addr, &self.scene.database)
        };
        let mut thin = Thin::connect(&to).await?;
        let query = format!("SELECT * FROM {TABLE}");
        thin.subscribe(&[&query], 1).await?;
        Ok(thin)
    }

    fn set(&mut self) -> Args {
        let row = self.dice.below(self.scene.rows.len() as u64);
        let row = self.scene.rows[usize::try_from(row).unwrap_or_default()];
        Args::new()
            .raw(&row.to_le_bytes())
            .i64(i64::from(self.dice.byte()))
    }

    /// Looks on, and calls now and then; it ends only with its connection.
    async fn steady(&mut self) -> Result<()> {
        let mut thin = self.subscribed().await?;
        loop {
            thin.call("set", &self.set()).await?;
            let next = Instant::now() + CALL_PERIOD;
            let answered = timeout(ANSWER_MAX, answer(&mut thin)).await?;
            ensure!(answered?, "a call has failed");
            self.seen.calls.fetch_add(1, Ordering::Relaxed);
            while Instant::now() < next {
                // What comes in the meantime is read.
                if let Ok(told) = tokio::time::timeout_at(next, thin.told(|_| {})).await {
                    told?;
                }
            }
        }
    }

    /// Comes, calls a little, and leaves, politely or not.
    async fn pass(&mut self) -> Result<()> {
        if self.dice.byte() < 128 {
            let mut client = Client::connect(&connect_to(&self.addr, &self.scene.database)?).await?;
            let _ = client.call_and_wait("set", &self.set()).await?;
            client.close().await;
        } else {
            let mut thin = self.subscribed().await?;
            for _ in 0..self.dice.below(5) {
                thin.call("set", &self.set()).await?;
            }
        }
        sleep(Duration::from_millis(self.dice.below(500))).await;
        Ok(())
    }

    /// Subscribes, and reads nothing.
    async fn stall(&mut self) -> Result<()> {
        let thin = self.subscribed().await?;
        sleep(DEAF).await;
        drop(thin);
        Ok(())
    }

    /// Sends many calls before it reads; sometimes it leaves without.
    async fn flood(&mut self) -> Result<()> {
        let mut thin = self.subscribed().await?;
        timeout(ANSWER_MAX, async {
            for _ in 0..FLOOD {
                thin.call("set", &self.set()).await?;
            }
            anyhow::Ok(())
        })
        .await??;
        if self.dice.byte() < 200 {
            let mut answers = 0;
            while answers < FLOOD {
                let told = thin.told(|told| answers += u64::from(matches!(told, Told::Reply { .. })));
                timeout(ANSWER_MAX, told).await??;
            }
        }
        drop(thin);
        sleep(FLOOD_PAUSE).await;
        Ok(())
    }

    /// One bit of what nobody should send.
    async fn garbage(&mut self) -> Result<()> {
        sleep(GARBAGE_PAUSE).await;
        let junk = self.dice.bytes(2_000);
        let kind = self.dice.below(8);
        let _ = timeout(GARBAGE_MAX, self.send_garbage(kind, junk)).await?;
        Ok(())
    }

    async fn send_garbage(&mut self, kind: u64, junk: Vec<u8>) -> Result<()> {
        let api = Api::new(&self.addr);
        let database = format!("/v1/database/{}", self.scene.database);
        match kind {
            0 => {
                let mut stream = TcpStream::connect(&self.addr).await?;
                stream.write_all(&junk).await?;
                let _ = stream.read(&mut [0; 100]).await?;
            }
            // The head of a request, and no more of it for a while.
            1 => {
                let mut stream = TcpStream::connect(&self.addr).await?;
                stream.write_all(b"GET /v1/ping HTTP/1.1\r\nHost: ").await?;
                sleep(GARBAGE_MAX / 2).await;
            }
            2 => {
                api.send(Method::POST, &format!("{database}/call/set"), junk)
                    .await?;
            }
            3 => {
                api.send(Method::POST, &format!("{database}/sql"), junk).await?;
            }
            4 => {
                api.send(Method::PUT, "/v1/database/junk", junk).await?;
            }
            5 => {
                let path = format!("/v1/database/{}/subscribe", hex::encode(&junk[..20]));
                api.send(Method::GET, &path, "").await?;
            }
            _ => {
                let mut client = Client::connect(&connect_to(&self.addr, &self.scene.database)?).await?;
                match kind {
                    6 => client.send_raw(Bytes::from(junk)).await?,
                    _ => client.send_text(&hex::encode(junk)).await?,
                }
                client.closed().await;
            }
        }
        Ok(())
    }
}

/// The next answer, and whether the call succeeded.
async fn answer(thin: &mut Thin) -> Result<bool> {
    let mut answer = None;
    while answer.is_none() {
        thin.told(|told| {
            if let Told::Reply { ok } = told {
                answer = Some(ok);
            }
        })
        .await?;
    }
    Ok(answer == Some(true))
}

/// Numbers that look as if by chance, the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[2]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}
