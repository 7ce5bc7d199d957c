//! Clients: they connect, call, several calls at a time, go on at another node when theirs is gone, and write down what they
//! are told.

use crate::cluster::Cluster;
use crate::module::{self, ADD, ADDS, BURN, DATABASE, FAIL, TRAP};
use crate::repeat::draw_key;
use crate::truth::{DELETION, END, SESSION};
use rtdb_consensus::command::{Body, Call, Connect, Delete, Disconnect};
use rtdb_consensus::{Command, Outcome, Pending, Propose, Unapplied};
use rtdb_runtime::{Instant, sim, sleep};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Calls that one has under way at most.
const WINDOW: u64 = 6;

/// The longest time between two bursts of calls.
const PAUSE_MAX: Duration = Duration::from_millis(80);

/// A call by its name. What it does is drawn: most insert a row.
pub fn draw_call(session: u64, name: &str) -> (String, Command) {
    let reducer = draw_outcome();
    let name = format!("{}{name}", if reducer == ADD { ADDS } else { "" });
    let command = call(session, reducer, &name);
    (name, command)
}

/// A reducer: most insert a row.
pub fn draw_outcome() -> &'static str {
    match sim::draw(200) {
        0..10 => FAIL,
        10..14 => TRAP,
        14 => BURN,
        _ => ADD,
    }
}

/// A call of a reducer.
pub fn call(session: u64, reducer: &str, name: &str) -> Command {
    Body::Call(Call {
        database: DATABASE,
        session,
        reducer: reducer.to_owned(),
        args: module::args(session, name),
        ..Call::default()
    })
    .into()
}

/// A client.
pub struct Client {
    /// Its number.
    pub id: u64,
    /// All of it.
    pub cluster: Arc<Cluster>,
    /// Nothing new is to be asked for.
    pub is_over: Arc<AtomicBool>,
}

/// An identity that is a name.
fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(32, 0);
    bytes
}

/// What is under way.
struct UnderWay {
    name: String,
    pending: Pending,
    node: u64,
    since: Instant,
}

impl Client {
    /// Calls until it is over.
    pub async fn run(self) {
        let nodes: Vec<u64> = self.cluster.nodes().collect();
        let (mut number, mut moves, mut session) = (0, 0, None);
        let mut node = nodes[self.id as usize % nodes.len()];
        while !self.is_over.load(Ordering::Relaxed) {
            sleep(sim::up_to(PAUSE_MAX)).await;
            // A client whose node is gone goes to another one, as somebody else.
            if self.cluster.manager(node).is_none() || sim::draw(200) == 0 {
                node = nodes[sim::draw(nodes.len() as u64) as usize];
                (moves, session) = (moves + 1, None);
                continue;
            }
            if sim::draw(10) == 0 {
                number += 1;
                session = self.come_or_go(node, number, session).await;
            }
            let mut under_way = Vec::new();
            for _ in 0..1 + sim::draw(WINDOW) {
                number += 1;
                let within = session.filter(|_| sim::draw(2) == 0);
                let name = format!("call {}/{number}", self.id);
                let (name, command) = draw_call(within.unwrap_or(0), &name);
                let command = draw_key(command, &name);
                let keyed = command.key().is_some().then(|| command.clone());
                let asked = self.submit(node, name.clone(), command);
                // What is sent again may take effect later than what was asked for after it.
                if asked.is_some() && keyed.is_none() {
                    self.cluster.truth.asked(self.id, moves, &name);
                }
                under_way.extend(asked.map(|asked| (asked, keyed)));
            }
            for (asked, keyed) in under_way {
                let name = asked.name.clone();
                let outcome = self.wait(asked).await;
                let is_unknown = matches!(outcome, Err(Unapplied::Unknown { .. }));
                if let Some(command) = keyed.filter(|_| is_unknown || sim::draw(4) == 0) {
                    self.repeat(&nodes, &name, &command).await;
                }
            }
        }
    }

    /// Begins a session, or ends the one that there is.
    async fn come_or_go(&self, node: u64, number: u64, session: Option<u64>) -> Option<u64> {
        if let Some(session) = session {
            let body = Body::Disconnect(Disconnect {
                session,
                refused: false,
            });
            let asked = self.submit(node, format!("{END}{session}"), body.into())?;
            // The cluster may have ended it before.
            let _ = self.wait(asked).await;
            return None;
        }
        let name = format!("{SESSION}{}/{number}", self.id);
        let body = Body::Connect(Connect {
            database: DATABASE,
            sender: padded(&name).into(),
            connection: ((u128::from(self.id) << 64) | u128::from(number))
                .to_le_bytes()
                .to_vec()
                .into(),
            ..Connect::default()
        });
        let asked = self.submit(node, name, body.into())?;
        let outcome = self.wait(asked).await;
        outcome.ok().map(|applied| applied.position.0)
    }

    fn submit(&self, node: u64, name: String, command: Command) -> Option<UnderWay> {
        let manager = self.cluster.manager(node)?;
        let pending = manager.shard().submit(command).ok()?;
        let since = sim::true_now();
        Some(UnderWay {
            name,
            pending,
            node,
            since,
        })
    }

    async fn wait(&self, asked: UnderWay) -> Outcome {
        let UnderWay {
            name,
            pending,
            node,
            since,
        } = asked;
        let outcome = pending.await;
        let is_undisturbed = self.cluster.is_undisturbed(node, &outcome, since);
        self.cluster.truth.told(self.id, &name, &outcome, is_undisturbed);
        outcome
    }
}

impl Client {
    /// Has the database end, or begin.
    async fn anew(&self, node: u64, name: String, body: Body) {
        self.cluster.disturb_all(ANEW_MAX);
        if let Some(asked) = self.submit(node, name, body.into()) {
            let _ = self.wait(asked).await;
        }
        self.cluster.disturb_all(Duration::ZERO);
    }
}

/// How long it takes, where nothing else is wrong, until the database has ended or begun.
const ANEW_MAX: Duration = Duration::from_secs(20);

/// Who publishes modules.
pub struct Publisher(pub Client);

/// The longest time between two publications.
const PUBLISH_PAUSE_MAX: Duration = Duration::from_secs(20);

impl Publisher {
    /// Publishes until it is over.
    pub async fn run(self) {
        let client = self.0;
        let nodes: Vec<u64> = client.cluster.nodes().collect();
        // Those before were to found the database.
        for number in 1_000.. {
            sleep(sim::up_to(PUBLISH_PAUSE_MAX)).await;
            if client.is_over.load(Ordering::Relaxed) {
                return;
            }
            let node = nodes[sim::draw(nodes.len() as u64) as usize];
            if sim::draw(4) == 0 {
                let delete = Body::Delete(Delete {
                    database: DATABASE,
                    ..Delete::default()
                });
                client.cluster.truth.deletes();
                client.anew(node, format!("{DELETION}{number}"), delete).await;
                sleep(sim::up_to(PAUSE_MAX * 4)).await;
            }
            let publish = module::publish(number, sim::draw(4) == 0, sim::draw(4) == 0);
            let name = String::from_utf8_lossy(&publish.module).into_owned();
            client.anew(node, name, Body::Publish(publish)).await;
        }
    }
}
