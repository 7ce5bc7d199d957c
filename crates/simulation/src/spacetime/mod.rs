//! A node's SpacetimeDB, with the bad habits of the real one: it answers before what it has done is durable, and may lose the
//! last of it, or all; it dies with answers unsent; it hangs, has troubles of its own, and does not take every module.

pub mod database;
mod line;

use self::database::{Database, Undo};
use crate::module::number;
use crate::truth::Truth;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use rtdb_consensus::command::Owner;
use rtdb_determinism::Successes;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::reply::Outcome;
use rtdb_replica::server::{HttpError, ServerState, Version};
use rtdb_replica::{AdminError, Connecting, DatabaseId, Line, LineError, Server};
use rtdb_runtime::{Instant, sim, sleep, timeout};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The number of a server's tasks is that of its node, and this.
const TASKS: u32 = 1_000;
/// The longest that a request is on its way, or its answer.
const WAY_MAX: Duration = Duration::from_micros(300);
/// The longest that a module takes until it runs.
const COMPILE_MAX: Duration = Duration::from_millis(100);
/// How often it is looked whether a server that hangs goes on.
const LOOK: Duration = Duration::from_millis(20);
/// The longest that a server is down that has died.
const DOWN_MAX: Duration = Duration::from_millis(700);
/// One commit of so many makes all before it durable.
const SYNC_ONE_OF: u64 = 20;

/// What a server loses that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// Commits that are not durable: some of the last.
    Last,
    /// All databases.
    Everything,
}

#[derive(Default)]
struct State {
    life: u64,
    is_up: bool,
    hangs: bool,
    is_troubled: bool,
    databases: BTreeMap<DatabaseId, Database>,
    /// The commits that are not durable, the last one last.
    journal: Vec<(DatabaseId, Commit)>,
    /// The files of databases that it has forgotten: the next one that is created gets them.
    forgotten: Vec<Database>,
}

/// What may be lost.
enum Commit {
    Call(Undo),
    Created,
    Deleted(Database),
}

struct Shared {
    node: u64,
    /// Where it is written down what it does.
    truth: Option<Arc<Truth>>,
    subprotocol: Subprotocol,
    state: Mutex<State>,
    report: watch::Sender<ServerState>,
}

/// A server. Clones are the same.
#[derive(Clone)]
pub struct SpacetimeDb(Arc<Shared>);

impl SpacetimeDb {
    /// The one of a node; it is down. One that nobody writes down makes nothing durable before it dies.
    pub fn new(node: u64, subprotocol: Subprotocol, truth: Option<Arc<Truth>>) -> Self {
        Self(Arc::new(Shared {
            node,
            truth,
            subprotocol,
            state: Mutex::default(),
            report: watch::Sender::new(ServerState::Starting),
        }))
    }

    /// What its tasks are known by.
    fn task(&self) -> u32 {
        TASKS + self.0.node as u32
    }

    /// Starts it, unless it runs.
    pub fn start(&self) {
        let mut state = self.0.state.lock();
        if !state.is_up {
            (state.is_up, state.life) = (true, state.life + 1);
            drop(state);
            self.0.report.send_replace(ServerState::Up);
        }
    }

    /// It dies, and loses what came after a position.
    pub fn die_at(&self, index: u64) {
        {
            let mut state = self.0.state.lock();
            let state = &mut *state;
            let is_later = |database: &Database| database.state.is_some_and(|state| state.index > index);
            while let Some((id, _)) = state.journal.last()
                && state.databases.get(id).is_some_and(is_later)
                && let Some((id, commit)) = state.journal.pop()
            {
                state.revert(id, commit);
            }
        }
        self.die(Loss::Nothing);
    }

    /// It dies, and is started again after a while.
    pub fn die(&self, loss: Loss) {
        sim::kill(self.task());
        let mut state = self.0.state.lock();
        let state = &mut *state;
        match loss {
            Loss::Nothing => {}
            Loss::Last => {
                let kept = sim::draw(state.journal.len() as u64 + 1) as usize;
                let lost = state.journal.split_off(kept);
                rtdb_runtime::reached("commits of servers lost");
                for (id, commit) in lost.into_iter().rev() {
                    state.revert(id, commit);
                }
            }
            Loss::Everything => {
                state.databases.clear();
                state.forgotten.clear();
            }
        }
        // The disk has the rest.
        state.journal.clear();
        (state.is_up, state.hangs, state.is_troubled) = (false, false, false);
        let life = state.life;
        self.0.report.send_replace(ServerState::Down {
            since: Instant::now(),
            error: "it has died".to_owned(),
        });
        let server = self.clone();
        drop(sim::spawn_on(0, async move {
            sleep(sim::up_to(DOWN_MAX)).await;
            let is_old = server.0.state.lock().life == life;
            if is_old {
                server.start();
            }
        }));
    }

    /// It stops answering, or goes on.
    pub fn hang(&self, hangs: bool) {
        self.0.state.lock().hangs = hangs;
    }

    /// It answers requests with errors, or goes on.
    pub fn trouble(&self, is_troubled: bool) {
        self.0.state.lock().is_troubled = is_troubled;
    }

    /// What it holds of a database.
    pub fn database(&self, id: &[u8]) -> Option<Database> {
        let id = DatabaseId::try_from(id).ok()?;
        self.0.state.lock().databases.get(&id).cloned()
    }

    /// Waits while it hangs.
    async fn pace(&self) {
        while self.0.state.lock().hangs {
            sleep(LOOK).await;
        }
    }

    /// Makes a call; `None` if there is no such database.
    fn call(&self, id: &DatabaseId, reducer: &str, args: &[u8]) -> Option<Outcome> {
        let mut state = self.0.state.lock();
        let state = &mut *state;
        let database = state.databases.get_mut(id)?;
        let (outcome, undo) = database.call(reducer, args);
        if let Some(truth) = &self.0.truth {
            truth.ran(self.0.node, id, reducer, args, &outcome, database);
        }
        state.commit(*id, undo.map(Commit::Call), self.0.truth.is_some());
        Some(outcome)
    }

    /// Whether the life goes on that a request was made in.
    fn lives(&self, life: u64) -> Result<(), AdminError> {
        let state = self.0.state.lock();
        match state.is_up && state.life == life {
            true => Ok(()),
            false => Err(AdminError::Http(HttpError::NoAnswer("it has died".to_owned()))),
        }
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        owner: &Owner,
    ) -> Result<Bytes, AdminError> {
        let life = self.life();
        self.lives(life)?;
        sleep(sim::up_to(WAY_MAX)).await;
        if method == Method::PUT {
            sleep(sim::up_to(COMPILE_MAX)).await;
        }
        self.pace().await;
        self.lives(life)?;
        let answer = {
            let mut state = self.0.state.lock();
            match state.is_troubled {
                true => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, "internal error")),
                false => state.handle(&method, path, &body, owner, self.0.truth.is_some()),
            }
        };
        sleep(sim::up_to(WAY_MAX)).await;
        self.lives(life)?;
        answer
    }
}

fn refused(status: StatusCode, text: &str) -> AdminError {
    let text = text.to_owned();
    AdminError::Refused { status, text }
}

impl State {
    /// Takes the last commit back.
    fn revert(&mut self, id: DatabaseId, commit: Commit) {
        match commit {
            Commit::Call(undo) => {
                if let Some(database) = self.databases.get_mut(&id) {
                    database.revert(undo);
                }
            }
            Commit::Created => {
                rtdb_runtime::reached("databases that servers forgot");
                self.forgotten.extend(self.databases.remove(&id));
            }
            Commit::Deleted(database) => {
                rtdb_runtime::reached("databases that came back");
                self.databases.insert(id, database);
            }
        }
    }

    fn commit(&mut self, id: DatabaseId, commit: Option<Commit>, syncs: bool) {
        self.journal.extend(commit.map(|commit| (id, commit)));
        if syncs && sim::draw(SYNC_ONE_OF) == 0 {
            self.journal.clear();
        }
    }

    fn handle(
        &mut self,
        method: &Method,
        path: &str,
        body: &[u8],
        owner: &Owner,
        syncs: bool,
    ) -> Result<Bytes, AdminError> {
        let path = path.strip_prefix("/v1/database/").unwrap_or_default();
        let (hex, rest) = path.split_at_checked(64).unwrap_or_default();
        let id = spacetimedb_lib::Identity::from_hex(hex).map_err(|_| AdminError::NoSuchDatabase)?;
        let id = id.to_byte_array();
        let is_owners = |database: &Database| database.owner == owner.identity;
        if self.databases.get(&id).is_some_and(|it| !is_owners(it)) {
            return Err(refused(StatusCode::BAD_REQUEST, "not the owner"));
        }
        match (method, rest.split('?').next().unwrap_or_default()) {
            (&Method::PUT, "") => {
                let module =
                    number(body).map_err(|text| refused(StatusCode::INTERNAL_SERVER_ERROR, &text))?;
                match self.databases.get_mut(&id) {
                    Some(database) => {
                        let undo = database.update(module);
                        self.commit(id, Some(Commit::Call(undo)), syncs);
                    }
                    None => {
                        let new = || Database::new(owner.identity.clone(), module);
                        let mut database = self.forgotten.pop().unwrap_or_else(new);
                        (database.owner, database.module) = (owner.identity.clone(), module);
                        self.databases.insert(id, database);
                        self.commit(id, Some(Commit::Created), syncs);
                    }
                }
                Ok(Bytes::new())
            }
            (&Method::DELETE, "") => {
                let database = self.databases.remove(&id).ok_or(AdminError::NoSuchDatabase)?;
                self.commit(id, Some(Commit::Deleted(database)), syncs);
                Ok(Bytes::new())
            }
            (&Method::POST, "/sql") => {
                let database = self.databases.get(&id).ok_or(AdminError::NoSuchDatabase)?;
                assert_eq!(body, b"SELECT * FROM rtdb_state", "no other query is known");
                Ok(state_row(database).into())
            }
            // There are no plans.
            (&Method::POST, "/pre_publish") => Err(AdminError::NoSuchDatabase),
            _ => panic!("{method} {rest} is not known"),
        }
    }
}

/// `rtdb_state` as the server gives it.
fn state_row(database: &Database) -> String {
    let names = ["index", "digest", "module"]
        .into_iter()
        .chain(Successes::COLUMNS);
    let elements: Vec<String> = names
        .map(|name| format!(r#"{{"name":{{"some":"{name}"}}}}"#))
        .collect();
    let row = database.state.map_or_else(String::new, |state| {
        let [low, high] = state.successes.columns();
        format!("[{},{},{},{low},{high}]", state.index, state.digest, state.module)
    });
    format!(
        r#"[{{"schema":{{"elements":[{}]}},"rows":[{row}]}}]"#,
        elements.join(",")
    )
}

impl Server for SpacetimeDb {
    fn ask<'a>(
        &'a self,
        owner: &'a Owner,
        method: Method,
        path: String,
        body: Bytes,
        max: Duration,
    ) -> BoxFuture<'a, Result<Bytes, AdminError>> {
        async move {
            let answer = self.answer(method, &path, body, owner);
            let answer = timeout(max, answer).await;
            answer.unwrap_or(Err(AdminError::Http(HttpError::Timeout(max))))
        }
        .boxed()
    }

    fn connect<'a>(&'a self, owner: &'a Owner, database: &'a DatabaseId) -> Connecting<'a> {
        async move {
            sleep(sim::up_to(WAY_MAX)).await;
            let is_there = {
                let state = self.0.state.lock();
                state.is_up && state.databases.contains_key(database)
            };
            if !is_there {
                return Err(LineError::Ended);
            }
            let line: Box<dyn Line> = Box::new(self.open(owner, *database, self.0.subprotocol));
            Ok((self.0.subprotocol, line))
        }
        .boxed()
    }

    fn state(&self) -> watch::Receiver<ServerState> {
        self.0.report.subscribe()
    }

    fn version(&self) -> Option<Version> {
        None
    }

    fn life(&self) -> u64 {
        self.0.state.lock().life
    }

    fn end_life(&self, life: u64, why: String) -> bool {
        if self.life() == life {
            sim::note(
                || format!("the server of node {} is ended: {why}", self.0.node),
                [self.0.node, 9, 0],
            );
            rtdb_runtime::reached("servers that were ended");
            self.die(Loss::Last);
        }
        true
    }
}
