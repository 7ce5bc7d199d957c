//! Everything a module can do, from clients on all nodes: the replicas must be the same in every row.

use std::collections::{BTreeMap, HashSet, VecDeque};

use anyhow::{Context, Result, bail, ensure};
use rtdb_testkit::client::{Args, Client, Connect, Event, Reply};
use rtdb_testkit::cluster::Dump;
use rtdb_testkit::{demo_module, sql};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{DATABASE, PATIENCE, Scene, run};

/// Clients, a third of them on each node.
const ACTORS: u32 = 9;

/// Calls each of them makes: 20,000 together.
const CALLS: i64 = 2_223;

/// Calls of one connection, after which the client connects again.
const CONNECTION_CALLS: i64 = 450;

/// Calls in flight.
const WINDOW: usize = 32;

/// Rows of one `add_many`.
const MANY: usize = 3;

/// What a call may be answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Success,
    Error(&'static str),
    AnyError,
    /// It depends on what others did before.
    Either,
}

/// One client's doings, and how many of its calls succeeded, by reducer.
struct Actor {
    number: u32,
    addr: String,
    subscribed: bool,
    succeeded: BTreeMap<&'static str, usize>,
}

impl Actor {
    fn name(&self) -> String {
        format!("actor {}", self.number)
    }

    fn make(&self, call: i64) -> (&'static str, Args, Expect) {
        let name = self.name();
        // Rows that are there early on, of whomever.
        let id = (1 + call.unsigned_abs() * 7919 % 500).to_le_bytes();
        match (call, call % 20) {
            (1, _) => ("open_account", Args::new().str(&name), Expect::Success),
            (2, _) => ("open_account", Args::new().str(&name), Expect::AnyError),
            (_, 13) if call % 200 == 13 => ("explode", Args::new(), Expect::AnyError),
            (_, 0) => (
                "fail",
                Args::new().str("as you wish"),
                Expect::Error("as you wish"),
            ),
            (_, 3..=5) => ("roll", Args::new().str(&name), Expect::Success),
            (_, 6) => {
                let tags = Args::new().str(&name).raw(&2u32.to_le_bytes()).str("a").str("bc");
                ("write_note", tags.raw(&[1]), Expect::Success)
            }
            (_, 7) => ("deposit", Args::new().i64(call), Expect::Success),
            // Negative, to tell it from what `add` wrote.
            (_, 8) => ("set", Args::new().raw(&id).i64(-call), Expect::Either),
            (_, 9) => ("remove", Args::new().raw(&id), Expect::Either),
            (_, 10) => ("keep_secret", Args::new().str(&name), Expect::Success),
            (_, 11) => {
                let many = u32::try_from(MANY).expect("small").to_le_bytes();
                ("add_many", Args::new().str("many").raw(&many), Expect::Success)
            }
            _ => ("add", demo_module::add(&name, call), Expect::Success),
        }
    }

    async fn act(mut self) -> Result<Self> {
        let mut to = Connect::new(self.addr.clone(), DATABASE);
        let mut call = 0;
        while call < CALLS {
            let mut client = Client::connect(&to).await?;
            to = to.with_token(client.hello().token.clone());
            if self.subscribed {
                client
                    .subscribe(&["SELECT * FROM counter", "SELECT * FROM dice"], 1)
                    .await?;
            }
            let last = (call + CONNECTION_CALLS).min(CALLS);
            let mut in_flight = VecDeque::new();
            while call < last || !in_flight.is_empty() {
                while call < last && in_flight.len() < WINDOW {
                    call += 1;
                    let (reducer, args, expect) = self.make(call);
                    in_flight.push_back((client.call(reducer, &args).await?, reducer, expect));
                }
                client.flush().await?;
                match timeout(PATIENCE, client.event()).await?? {
                    Event::Reply(reply) => {
                        let (request_id, reducer, expect) =
                            in_flight.pop_front().context("an answer to no call")?;
                        ensure!(reply.answers(request_id), "answers out of order: {reply:?}");
                        self.answered(reducer, expect, &reply)?;
                    }
                    Event::Update(_) | Event::Subscribed { .. } if self.subscribed => {}
                    other => bail!("unexpected: {other:?}"),
                }
            }
            client.close().await;
        }
        Ok(self)
    }

    fn answered(&mut self, reducer: &'static str, expect: Expect, reply: &Reply) -> Result<()> {
        let as_expected = match (&reply.result, expect) {
            (Ok(_), Expect::Success | Expect::Either) | (Err(_), Expect::AnyError | Expect::Either) => true,
            (Err(message), Expect::Error(expected)) => message == expected,
            _ => false,
        };
        ensure!(as_expected, "{reducer} was answered with {:?}", reply.result);
        if let Ok(committed) = &reply.result {
            *self.succeeded.entry(reducer).or_default() += 1;
            let rows = committed.tables.iter().map(|table| table.inserts.len());
            if self.subscribed && reducer == "add" {
                ensure!(rows.sum::<usize>() == 1, "add without its row: {committed:?}");
            }
        }
        Ok(())
    }
}

#[test]
fn every_row_is_the_same_on_all_three_servers() {
    run(async {
        let scene = Scene::start(3).await?;
        let addrs = scene.cluster.client_addrs();
        let mut actors = JoinSet::new();
        for number in 0..ACTORS {
            let actor = Actor {
                number,
                addr: addrs[number as usize % addrs.len()].clone(),
                subscribed: number as usize / addrs.len() == 1,
                succeeded: BTreeMap::new(),
            };
            actors.spawn(actor.act());
        }
        let mut succeeded: BTreeMap<&str, usize> = BTreeMap::new();
        while let Some(actor) = actors.join_next().await {
            for (reducer, count) in actor??.succeeded {
                *succeeded.entry(reducer).or_default() += count;
            }
        }
        let dump = scene.identical().await?;
        let count = |reducer| succeeded.get(reducer).copied().unwrap_or(0);
        let added = 1 + count("add") + MANY * count("add_many") - count("remove");
        let expected = [
            ("counter", added),
            ("dice", count("roll")),
            ("account", ACTORS as usize),
            ("note", count("write_note")),
            ("secret", count("keep_secret")),
            ("presence", 0),
        ];
        for (table, rows) in expected {
            ensure!(rows_of(&dump, table)? == rows, "{table}: not {rows} rows");
        }
        in_order(&scene).await?;
        random(&scene, count("roll")).await?;
        scene.end().await
    });
}

fn rows_of(dump: &Dump, table: &str) -> Result<usize> {
    let table = dump
        .iter()
        .find(|(name, _)| name == table)
        .context("no such table")?;
    Ok(table.1.len())
}

/// What each client added stands in the order of its calls.
async fn in_order(scene: &Scene) -> Result<()> {
    let (server, database) = scene.server(2).await?;
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    for row in demo_module::rows(&server, &database).await? {
        if row.name.starts_with("actor") && row.value > 0 {
            let before = newest.insert(row.name.clone(), row.value).unwrap_or(0);
            ensure!(before < row.value, "{row:?} stands behind {before}");
        }
    }
    ensure!(newest.len() == ACTORS as usize, "rows of {newest:?} alone");
    Ok(())
}

/// `ctx.rng()` gives each call other values, though the same ones everywhere.
async fn random(scene: &Scene, rolls: usize) -> Result<()> {
    let (server, database) = scene.server(3).await?;
    let dice = sql::select(&server, &database, "SELECT seed FROM dice").await?;
    let seeds: HashSet<String> = dice
        .column("seed")?
        .into_iter()
        .map(ToString::to_string)
        .collect();
    ensure!(seeds.len() == rolls, "{} seeds of {rolls} rolls", seeds.len());
    Ok(())
}
