//! A client that numbers its calls, keeps a window of them in flight, and goes on at another node if its own dies.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::client::{Args, Client, Connect, Event, Reply, Wire};
use crate::demo_module::{ADD, TABLE, add};
use crate::history::{Call, Fate, History};

/// A connection with calls in flight and no answer for this long is given up as if it had broken.
const STALL_MAX: Duration = Duration::from_secs(30);

/// How long to wait before another attempt to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// What a client does.
#[derive(Clone, Debug)]
pub struct Load {
    /// Distinguishes its rows from other clients'.
    pub client: u32,
    /// The nodes, in the order it tries them from `first` on.
    pub addrs: Vec<String>,
    /// The node it begins with, from 0.
    pub first: usize,
    /// The database's name.
    pub database: String,
    /// Its subprotocol.
    pub wire: Wire,
    /// Calls in flight at most.
    pub window: usize,
    /// Every so many calls, one that the module refuses; 0 for none.
    pub invalid_every: i64,
    /// Subscribes to its own rows, and expects each answer to bring the row that the call added.
    pub subscribed: bool,
    /// What it calls.
    pub work: Work,
}

/// What a call of a client does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// It adds a row.
    #[default]
    Add,
    /// It changes a row in place, the client's own.
    Deposit,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "adding rows",
            Self::Deposit => "changing a row each",
        })
    }
}

/// Seen from outside while clients run.
#[derive(Debug, Default)]
pub struct Progress {
    /// Calls answered with success, by all clients.
    pub acknowledged: AtomicU64,
}

/// Runs until `stop` is true and every call in flight has its answer.
pub async fn run(load: Load, progress: Arc<Progress>, stop: watch::Receiver<bool>) -> Result<History> {
    let history = History {
        home: load.first,
        ..History::default()
    };
    let mut runner = Runner {
        at: load.first,
        load,
        progress,
        stop,
        token: None,
        name: String::new(),
        number: 0,
        in_flight: VecDeque::new(),
        last_answer: Instant::now(),
        history,
    };
    while !runner.stopping() {
        let Ok(client) = runner.connect().await else {
            runner.at += 1;
            sleep(RECONNECT_PAUSE).await;
            continue;
        };
        // A broken connection is what this client is made for; what was wrong with an answer is in the history.
        if let Err(error) = runner.converse(client).await {
            runner.history.ends.push(format!("{error:#}"));
            runner.history.reconnects += 1;
            runner.at += 1;
        }
        // Never sent again: nobody knows whether they were applied.
        runner.in_flight.clear();
    }
    Ok(runner.history)
}

struct Runner {
    load: Load,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
    at: usize,
    token: Option<String>,
    /// Of the connection.
    name: String,
    number: i64,
    in_flight: VecDeque<InFlight>,
    last_answer: Instant,
    history: History,
}

struct InFlight {
    request_id: u32,
    /// Where it is in the history.
    call: usize,
    sent: Instant,
}

impl Runner {
    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    async fn connect(&mut self) -> Result<Client> {
        let addr = self.load.addrs[self.at % self.load.addrs.len()].clone();
        let mut to = Connect::new(addr, &self.load.database);
        to.wire = self.load.wire;
        to.token.clone_from(&self.token);
        let mut client = Client::connect(&to).await?;
        self.token = Some(client.hello().token.clone());
        self.name = format!("c{}-{}", self.load.client, self.history.reconnects);
        if self.load.subscribed {
            client
                .subscribe(
                    &[&format!("SELECT * FROM {TABLE} WHERE name = '{}'", self.name)],
                    1,
                )
                .await?;
            match timeout(STALL_MAX, client.event()).await?? {
                Event::Subscribed { .. } => {}
                other => bail!("not subscribed but {other:?}"),
            }
        }
        if self.load.work == Work::Deposit {
            // Refused if it has one from an earlier connection.
            client
                .call_and_wait("open_account", &Args::new().str(&self.name))
                .await?;
        }
        if self.history.calls.is_empty() {
            self.last_answer = Instant::now();
        }
        Ok(client)
    }

    async fn converse(&mut self, mut client: Client) -> Result<()> {
        loop {
            if !self.stopping() {
                self.fill(&mut client).await?;
            } else if self.in_flight.is_empty() {
                client.close().await;
                return Ok(());
            }
            let event = timeout(STALL_MAX, client.event()).await??;
            self.handle(event)?;
            while let Some(event) = client.event_now() {
                self.handle(event?)?;
            }
        }
    }

    async fn fill(&mut self, client: &mut Client) -> Result<()> {
        while self.in_flight.len() < self.load.window {
            self.number += 1;
            let invalid = self.load.invalid_every > 0 && self.number % self.load.invalid_every == 0;
            let name = if invalid { "" } else { &self.name };
            // In the books before it is sent: what fails after this may have gone out.
            let call = Call {
                name: self.name.clone(),
                number: self.number,
                invalid,
                fate: Fate::Unknown,
            };
            self.history.calls.push(call);
            let request_id = match self.load.work {
                Work::Add => client.call(ADD, &add(name, self.number)).await?,
                Work::Deposit => client.call("deposit", &Args::new().i64(1)).await?,
            };
            let call = self.history.calls.len() - 1;
            self.in_flight.push_back(InFlight {
                request_id,
                call,
                sent: Instant::now(),
            });
        }
        client.flush().await
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Reply(reply) => self.answered(reply),
            Event::Update(_) if !self.load.subscribed => bail!("an update without a subscription"),
            Event::Update(tables) => {
                // After the node's SpacetimeDB has died, what it did not tell comes in one update.
                self.history.rows_apart += tables.iter().map(|table| table.inserts.len()).sum::<usize>();
                Ok(())
            }
            other => bail!("unexpected: {other:?}"),
        }
    }

    fn answered(&mut self, reply: Reply) -> Result<()> {
        let Some(expected) = self.in_flight.pop_front() else {
            bail!("an answer to no call")
        };
        let in_order = reply.answers(expected.request_id);
        if !in_order {
            self.history.wrong.push(format!(
                "answer {} before {}",
                reply.request_id, expected.request_id
            ));
        }
        ensure!(in_order, "answers out of order");
        let now = Instant::now();
        self.history.longest_gap = self.history.longest_gap.max(now - self.last_answer);
        self.last_answer = now;
        self.history.latencies.push(now - expected.sent);
        let call = &mut self.history.calls[expected.call];
        match reply.result {
            Ok(committed) => {
                call.fate = Fate::Acknowledged;
                self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
                let rows: usize = committed.tables.iter().map(|table| table.inserts.len()).sum();
                if rows == 0 && self.load.subscribed {
                    self.history.rows_missing += 1;
                } else if rows != usize::from(self.load.subscribed) {
                    self.history
                        .wrong
                        .push(format!("call {} was answered with {rows} rows", call.number));
                }
            }
            Err(message) => {
                call.fate = Fate::Refused;
                if !call.invalid {
                    self.history
                        .wrong
                        .push(format!("call {} failed: {message}", call.number));
                }
            }
        }
        Ok(())
    }
}
