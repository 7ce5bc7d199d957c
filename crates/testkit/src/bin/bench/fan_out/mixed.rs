//! Clients as in a game: each with some queries, shared or its own, and each calling a few times a second.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use rtdb_testkit::Api;
use rtdb_testkit::client::{Args, Client, Connect, Thin, Told, Wire};
use rtdb_testkit::demo_module::{self, ADD, TABLE, add};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{interval_at, timeout_at};

use super::{Effort, line, notes};
use crate::cpu::{Cost, write_costs};
use crate::latencies::Latencies;
use crate::measure::connect_to;
use crate::sides::{Rounds, SIDES, Sides};

const DATABASE: &str = "mixed";
const CLIENTS: usize = 500;

/// The shared queries are of rooms: a client looks into one, or into two.
const ROOMS: usize = 25;

/// Each client calls so often.
const PERIOD: Duration = Duration::from_millis(200);

/// A client that waits for this many answers makes no more calls.
const UNANSWERED_MAX: usize = 25;

/// How long answers and updates are waited for at the end.
const SETTLE: Duration = Duration::from_secs(1);

/// Connections being opened at the same time.
const OPENING_MAX: usize = 32;

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Mixed {
    calls_per_s: [f64; 2],
    updates_per_s: [f64; 2],
    p50_ms: [f64; 2],
    p99_ms: [f64; 2],
    /// Of a call and its updates.
    costs: [Cost; 2],
    wrong: Vec<String>,
}

pub(super) async fn measure(sides: &Sides, effort: Effort) -> Result<Mixed> {
    let apis = sides.publish(DATABASE).await?;
    let mut crowds = Vec::new();
    for (addr, api) in sides.addrs().iter().zip(&apis) {
        crowds.push(players(addr, api).await?);
    }
    let (processes, mut costs) = (sides.processes()?, [Vec::new(), Vec::new()]);
    let mut figures: [Rounds; 4] = Default::default();
    for _ in 0..effort.rounds {
        for (side, crowd) in crowds.iter_mut().enumerate() {
            if !figures[0].goes_on(side) {
                continue;
            }
            let spent = processes[side].spent()?;
            match play(crowd, effort.time).await {
                Ok((answered, values)) => {
                    costs[side].push(processes[side].spent()?.per_call(&spent, answered));
                    for (rounds, value) in figures.iter_mut().zip(values) {
                        rounds.add(side, Ok(value));
                    }
                }
                Err(error) => figures[0].add(side, Err(error)),
            }
        }
    }
    let [calls_per_s, updates_per_s, p50_ms, p99_ms] = [0, 1, 2, 3].map(|n| figures[n].medians());
    for (side, name) in SIDES.iter().enumerate() {
        eprintln!(
            "  mixed load, {name}: {:.0} calls/s and {:.0} updates/s, p50 {:.1} ms, p99 {:.1} ms",
            calls_per_s[side], updates_per_s[side], p50_ms[side], p99_ms[side]
        );
    }
    Ok(Mixed {
        calls_per_s,
        updates_per_s,
        p50_ms,
        p99_ms,
        costs: costs.map(|costs| Cost::mean(&costs)),
        wrong: figures[0].wrong(),
    })
}

/// A client and the row that it changes.
struct Player {
    thin: Thin,
    row: u64,
}

/// Two rows for each client, its own and a neighbour's, and the clients with their queries: two of a client's three are
/// shared for every other one, and one for the rest, so that half of all are.
async fn players(addr: &str, api: &Api) -> Result<Vec<Player>> {
    let mut writer = Client::connect(&connect_to(addr, DATABASE)?).await?;
    for row in 0..2 * CLIENTS {
        let reply = writer
            .call_and_wait(ADD, &add(&format!("room-{}", row % ROOMS), 0))
            .await?;
        ensure!(reply.result.is_ok(), "a row was not added: {reply:?}");
    }
    writer.close().await;
    let rows = demo_module::rows(api, DATABASE).await?;
    ensure!(rows.len() == 2 * CLIENTS, "{} rows", rows.len());
    let to = Connect {
        wire: Wire::thin()?,
        // So that a v1 client can tell answers and updates apart.
        parameters: "&light=true".into(),
        ..Connect::new(addr, DATABASE)
    };
    let join = async |client: usize| {
        let room = |room: usize| format!("SELECT * FROM {TABLE} WHERE name = 'room-{}'", room % ROOMS);
        let own = |row: usize| format!("SELECT * FROM {TABLE} WHERE id = {}", rows[row].id);
        let third = match client % 2 {
            0 => room(client + 1),
            _ => own(CLIENTS + client),
        };
        let mut thin = Thin::connect(&to).await?;
        for (set, query) in (1..).zip([room(client), own(client), third]) {
            thin.subscribe(&[&query], set).await?;
        }
        anyhow::Ok(Player {
            thin,
            row: rows[client].id,
        })
    };
    let joining = stream::iter(0..CLIENTS).map(join).buffered(OPENING_MAX);
    joining.try_collect().await
}

/// What all players count together.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
    updates: AtomicU64,
    latencies: Latencies,
}

/// Calls answered; and those and the updates seen a second, and how long calls took: p50 and p99 in ms.
#[expect(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
async fn play(players: &mut Vec<Player>, time: Duration) -> Result<(u64, [f64; 4])> {
    let tally = Arc::new(Tally::default());
    let start = Instant::now();
    let mut playing = JoinSet::new();
    for (place, player) in players.drain(..).enumerate() {
        let first = start + PERIOD * place as u32 / CLIENTS as u32;
        playing.spawn(one(player, first, start + time, Arc::clone(&tally)));
    }
    while let Some(player) = playing.join_next().await {
        players.push(player??);
    }
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    ensure!(count(&tally.failed) == 0, "{} calls failed", count(&tally.failed));
    let took = Latencies::take([&tally.latencies]);
    let per_s = |counted: &AtomicU64| count(counted) as f64 / time.as_secs_f64();
    let values = [
        per_s(&tally.answered),
        per_s(&tally.updates),
        took.ms(0.5),
        took.ms(0.99),
    ];
    Ok((count(&tally.answered), values))
}

async fn one(mut player: Player, first: Instant, end: Instant, tally: Arc<Tally>) -> Result<Player> {
    let mut ticks = interval_at(first.into(), PERIOD);
    let mut unanswered: VecDeque<Instant> = VecDeque::new();
    let mut value = 0;
    loop {
        tokio::select! {
            due = ticks.tick(), if Instant::now() < end => {
                if due.into_std() < end && unanswered.len() < UNANSWERED_MAX {
                    value += 1;
                    unanswered.push_back(due.into_std());
                    let args = Args::new().raw(&player.row.to_le_bytes()).i64(value);
                    player.thin.call("set", &args).await?;
                }
            }
            told = timeout_at((end + SETTLE).into(), player.thin.told(|told| match told {
                Told::Update => {
                    tally.updates.fetch_add(1, Ordering::Relaxed);
                }
                Told::Reply { ok } => {
                    let answers = if ok { &tally.answered } else { &tally.failed };
                    answers.fetch_add(1, Ordering::Relaxed);
                    if let Some(due) = unanswered.pop_front() {
                        tally.latencies.add(due.elapsed());
                    }
                }
                Told::Subscribed | Told::QueryReply { .. } | Told::Hello | Told::Compressed => {}
            })) => match told {
                Ok(told) => told?,
                Err(_) => return Ok(player),
            }
        }
    }
}

impl fmt::Display for Mixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "mixed load: calls/s answered", self.calls_per_s, "0.90")?;
        line(f, "  updates/s delivered", self.updates_per_s, "0.90")?;
        line(f, "  a call, ms", self.p50_ms, "")?;
        line(f, "    the 99th of a hundred, ms", self.p99_ms, "")?;
        write_costs(f, "a call with its updates", &self.costs)?;
        notes(f, &self.wrong)
    }
}
