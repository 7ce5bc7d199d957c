//! What a module reads does not depend on where rows happen to stand: two servers that are killed and started again at
//! different times, and get the same calls of a module that lets the first row it reads decide what it writes, have the
//! same rows: also when the module is replaced meanwhile, and when one of them begins with a snapshot (2.x makes one with
//! each segment of its log).

#![allow(clippy::unwrap_used, reason = "a test's failure is a panic")]

use std::time::Duration;

use rtdb_determinism::header::CallHeader;
use rtdb_testkit::client::{Args, Client, Connect, Wire};
use rtdb_testkit::demo_module::{another_build, walks};
use rtdb_testkit::server::{PlainServer, binary, major};
use rtdb_testkit::sql;
use tempfile::TempDir;
use tokio::time::timeout;

const DATABASE: &str = "walks";

/// Calls with each seed.
const CALLS: usize = 1_500;

/// How often a server is killed: once in so many calls.
const KILLED_EVERY: u64 = 200;

/// How often the module is replaced: once in so many calls.
const UPDATED_EVERY: u64 = 400;

/// How long a segment of a server's log is that makes snapshots. A server that is started at a snapshot has its rows in
/// another order than one that has made each change.
const SEGMENT_BYTES: usize = 128 << 10;

/// How long a test may take.
const TEST_MAX: Duration = Duration::from_secs(240);

/// Random, but the same again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }
}

/// A call: a reducer, a seed, and a number of changes.
type Call = (&'static str, u64, u32);

fn call(dice: &mut Dice) -> Call {
    let reducer = match dice.below(100) {
        0 => "explode",
        1..=4 => "fail",
        _ => "step",
    };
    // Enough rows of one key that SpacetimeDB 2.x keeps them in a hash set.
    match dice.below(150) {
        0 => ("flood", dice.below(u64::MAX), 400),
        _ => (reducer, dice.below(u64::MAX), dice.below(8) as u32),
    }
}

/// A server that has been called so often.
struct Replica {
    folder: TempDir,
    server: PlainServer,
    token: String,
    client: Client,
    called: usize,
    config: String,
}

impl Replica {
    async fn start(wasm: &[u8], snapshots: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = match snapshots && major().unwrap() >= 2 {
            true => format!("[commitlog]\nmax-segment-size = {SEGMENT_BYTES}\n"),
            false => String::new(),
        };
        let server = PlainServer::configured(&binary().unwrap(), folder.path(), &config)
            .await
            .unwrap();
        let token = server.api().new_token().await.unwrap();
        let owner = server.api().with_token(&token);
        owner.publish(DATABASE, wasm.to_vec()).await.unwrap();
        let client = connect(&server, &token).await;
        Self {
            folder,
            server,
            token,
            client,
            called: 0,
            config,
        }
    }

    /// Replaces the module.
    async fn update(&mut self, wasm: Vec<u8>) {
        let owner = self.server.api().with_token(&self.token);
        owner.publish(DATABASE, wasm).await.unwrap();
        self.client = connect(&self.server, &self.token).await;
    }

    /// Kills the server, and starts it with what it had on disk. It may have lost that its module was replaced.
    async fn restart(self, wasm: Vec<u8>) -> Self {
        self.server.kill().await.unwrap();
        let server = PlainServer::configured(&binary().unwrap(), self.folder.path(), &self.config)
            .await
            .unwrap();
        let api = server.api().with_token(&self.token);
        api.publish(DATABASE, wasm).await.unwrap();
        let state = sql::select(&api, DATABASE, "SELECT index FROM rtdb_state").await;
        let state = state.unwrap();
        let index = state.column("index").unwrap().first().and_then(|it| it.as_u64());
        let client = connect(&server, &self.token).await;
        Self {
            server,
            client,
            called: index.unwrap_or(0) as usize,
            ..self
        }
    }

    /// Makes whatever calls it has not made yet; says what came of the last one.
    async fn catch_up(&mut self, calls: &[Call]) -> Result<(), String> {
        let mut last = Ok(());
        while let Some(&(reducer, seed, changes)) = calls.get(self.called) {
            self.called += 1;
            let header = CallHeader {
                sender: self.client.hello().identity,
                connection: [7; 16],
                timestamp_us: self.called as i64,
                index: self.called as u64,
                session: 1,
            };
            let args = Args::new().raw(&header.encode());
            let args = args.raw(&seed.to_le_bytes()).raw(&changes.to_le_bytes());
            let reply = self.client.call_and_wait(reducer, &args).await.unwrap();
            last = reply.result.map(drop);
        }
        last
    }

    async fn dump(&self) -> Vec<(String, Vec<String>)> {
        let api = self.server.api().with_token(&self.token);
        sql::dump(&api, DATABASE).await.unwrap()
    }
}

async fn connect(server: &PlainServer, token: &str) -> Client {
    let to = Connect {
        wire: Wire::usual().unwrap(),
        ..Connect::new(server.addr(), DATABASE)
    };
    Client::connect(&to.with_token(token)).await.unwrap()
}

async fn two_servers_stay_the_same(seed: u64) {
    let wasm = rtdb_determinism::prepare(&walks().unwrap()).unwrap().wasm;
    let mut replicas = [
        Replica::start(&wasm, true).await,
        Replica::start(&wasm, false).await,
    ];
    let (mut dice, mut calls) = (Dice(seed), Vec::new());
    let mut build = 0;
    while calls.len() < CALLS {
        calls.push(call(&mut dice));
        let mut outcomes = Vec::new();
        for replica in &mut replicas {
            outcomes.push(replica.catch_up(&calls).await);
        }
        assert_eq!(
            outcomes[0].is_ok(),
            outcomes[1].is_ok(),
            "{:?}: {outcomes:?}",
            calls.last()
        );
        if dice.below(UPDATED_EVERY) == 0 {
            build += 1;
            for replica in &mut replicas {
                replica.update(another_build(&wasm, build)).await;
            }
        }
        let killed = dice.below(2 * KILLED_EVERY);
        if killed < 2 || calls.len() == CALLS {
            let [one, other] = replicas;
            assert_eq!(
                one.dump().await,
                other.dump().await,
                "after {} calls",
                calls.len()
            );
            replicas = match killed {
                0 => [one.restart(another_build(&wasm, build)).await, other],
                _ => [one, other.restart(another_build(&wasm, build)).await],
            };
        }
    }
    // What was lost with the last kill is done again.
    for replica in &mut replicas {
        let _ = replica.catch_up(&calls).await;
    }
    let [one, other] = replicas;
    let rows = one.dump().await;
    assert_eq!(rows, other.dump().await);
    let count = |table: &str| {
        rows.iter()
            .find(|(name, _)| name == table)
            .map(|(_, rows)| rows.len())
    };
    assert!(
        count("loose") > Some(500) && count("keyed") > Some(50),
        "there is something to read"
    );
}

#[tokio::test]
async fn rows_come_in_the_same_order_on_servers_that_were_killed() {
    timeout(TEST_MAX, two_servers_stay_the_same(1)).await.unwrap();
}

#[tokio::test]
async fn rows_come_in_the_same_order_with_another_script() {
    timeout(TEST_MAX, two_servers_stay_the_same(2)).await.unwrap();
}
