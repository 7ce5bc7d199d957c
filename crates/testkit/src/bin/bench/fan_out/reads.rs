//! Queries of one moment: over WebSocket and over HTTP, of one row and of many.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use http::Method;
use rtdb_testkit::client::{Args, Client, Connect, Thin, Told, Wire};
use rtdb_testkit::{Api, demo_module};
use serde::Serialize;

use super::{Effort, line, notes};
use crate::cpu::{Cost, write_costs};
use crate::measure::connect_to;
use crate::sides::{Rounds, Sides};

/// Its module has no reducers for clients that come and go, which each SQL over HTTP would run on 2.x.
const DATABASE: &str = "reads";
const ROWS: u32 = 1_000;

/// Clients that ask at the same time, each one question at a time.
const CLIENTS: usize = 4;

/// Questions of each client that are not counted.
const WARM_UP: u64 = 20;

const QUERIES: [(&str, &str); 2] = [
    ("one row", "SELECT * FROM keyed WHERE id = 7"),
    ("1,000 rows", "SELECT * FROM keyed"),
];

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Reads {
    kinds: Vec<Kind>,
    wrong: Vec<String>,
}

/// One kind of question.
#[derive(Clone, Debug, Serialize)]
struct Kind {
    name: String,
    queries_per_s: [f64; 2],
    /// Of a query.
    costs: [Cost; 2],
}

pub(super) async fn measure(sides: &Sides, effort: Effort) -> Result<Reads> {
    let apis = sides.publish_module(DATABASE, demo_module::walks()?).await?;
    let addrs = sides.addrs();
    for addr in &addrs {
        let mut client = Client::connect(&connect_to(addr, DATABASE)?).await?;
        let filled = client
            .call_and_wait("fill", &Args::new().raw(&ROWS.to_le_bytes()))
            .await?;
        ensure!(filled.result.is_ok(), "no rows: {filled:?}");
        client.close().await;
    }
    let processes = sides.processes()?;
    let mut reads = Reads::default();
    let time = effort.time / 3;
    for (rows, query) in QUERIES {
        for way in ["one-off query", "HTTP SQL"] {
            let (mut rounds, mut costs) = (Rounds::default(), [Vec::new(), Vec::new()]);
            for _ in 0..effort.rounds {
                for side in [0, 1] {
                    if rounds.goes_on(side) {
                        let spent = processes[side].spent()?;
                        let answers = match way {
                            "HTTP SQL" => over_http(&apis[side], query, time).await,
                            _ => one_off(&addrs[side], query, time).await,
                        };
                        if let Ok((_, answers)) = answers {
                            costs[side].push(processes[side].spent()?.per_call(&spent, answers));
                        }
                        rounds.add(side, answers.map(|(rate, _)| rate));
                    }
                }
            }
            let medians = rounds.medians();
            eprintln!("  {way} of {rows}: {medians:.0?} a second");
            reads.kinds.push(Kind {
                name: format!("{way}, {rows}, per s"),
                queries_per_s: medians,
                costs: costs.map(|costs| Cost::mean(&costs)),
            });
            reads.wrong.extend(rounds.wrong());
        }
    }
    Ok(reads)
}

async fn one_off(addr: &str, query: &'static str, time: Duration) -> Result<(f64, u64)> {
    let to = Connect {
        wire: Wire::thin()?,
        ..Connect::new(addr, DATABASE)
    };
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Thin::connect(&to).await?);
    }
    together(clients, time, async |thin: &mut Thin| {
        thin.query(query).await?;
        let mut answer = None;
        while answer.is_none() {
            thin.told(|told| match told {
                Told::QueryReply { ok } => answer = Some(ok),
                Told::Update | Told::Reply { .. } | Told::Subscribed | Told::Hello | Told::Compressed => {}
            })
            .await?;
        }
        ensure!(answer == Some(true), "refused: {query}");
        Ok(())
    })
    .await
}

async fn over_http(api: &Api, query: &'static str, time: Duration) -> Result<(f64, u64)> {
    let clients = vec![api.clone(); CLIENTS];
    together(clients, time, async |api: &mut Api| {
        let path = format!("/v1/database/{DATABASE}/sql");
        api.expect(Method::POST, &path, query).await.map(drop)
    })
    .await
}

/// Answers a second of all clients together, each of whom asks as soon as it has its answer; and all answers.
#[expect(clippy::cast_precision_loss, reason = "a count of answers is far below 2^52")]
async fn together<C>(
    clients: Vec<C>,
    time: Duration,
    ask: impl AsyncFn(&mut C) -> Result<()>,
) -> Result<(f64, u64)> {
    let ask = &ask;
    let client = async |mut client: C| {
        for _ in 0..WARM_UP {
            ask(&mut client).await?;
        }
        let (start, mut answers) = (Instant::now(), 0_u64);
        while start.elapsed() < time {
            ask(&mut client).await?;
            answers += 1;
        }
        let rate = answers as f64 / start.elapsed().as_secs_f64();
        anyhow::Ok((rate, answers + WARM_UP))
    };
    let each = try_join_all(clients.into_iter().map(client)).await?;
    Ok(each
        .iter()
        .fold((0.0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
}

impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in &self.kinds {
            line(f, &kind.name, kind.queries_per_s, "0.95")?;
            write_costs(f, "a query", &kind.costs)?;
        }
        notes(f, &self.wrong)
    }
}
