//! A node's SpacetimeDB, with the bad habits of the real one: it answers before what it has done is durable, and may lose the
//! last of it, or all; it dies with answers unsent; it hangs, has troubles of its own, and does not take every module.

pub mod database;
mod line;
mod message;
pub mod query;
mod subscribers;

use self::database::{Database, Undo};
use self::line::Called;
use self::query::Query;
use self::subscribers::{Cause, Connection};
use crate::module::{number, owner};
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
use spacetimedb_lib::{Hash, hash_bytes};
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
/// How it is asked for the module that runs.
const PROGRAM: &[u8] = b"SELECT program_hash FROM st_module";

/// What a server loses that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// What is not durable: some of the last commits of each database, and of those that were made or deleted.
    Last,
    /// So many commits of each database.
    Commits(usize),
    /// Which databases were made and deleted, and nothing of what they hold.
    Catalog,
    /// All databases.
    Everything,
}

#[derive(Default)]
struct State {
    life: u64,
    is_up: bool,
    hangs: bool,
    is_troubled: bool,
    databases: BTreeMap<DatabaseId, Files>,
    /// What has become of databases and is not durable, the last one last.
    catalog: Vec<(DatabaseId, Change)>,
    /// The files of databases that it has forgotten: the next one that is created gets them.
    forgotten: Vec<Files>,
    /// Who is connected, by number.
    connections: BTreeMap<u64, Connection>,
    last_connection: u64,
}

/// A database, which has a log of its own.
struct Files {
    database: Database,
    /// The commits that are not durable, the last one last.
    journal: Vec<Undo>,
}

/// What becomes of databases.
enum Change {
    Created,
    Deleted(Box<Files>),
}

impl Files {
    /// Loses the commits behind so many.
    fn keep(&mut self, commits: usize) {
        while self.journal.len() > commits
            && let Some(undo) = self.journal.pop()
        {
            self.database.revert(undo);
        }
    }

    fn commit(&mut self, undo: Option<Undo>, syncs: bool) {
        self.journal.extend(undo);
        if syncs && sim::draw(SYNC_ONE_OF) == 0 {
            self.journal.clear();
        }
    }
}

struct Shared {
    node: u64,
    /// Where it is written down what it does.
    truth: Option<Arc<Truth>>,
    subprotocol: Subprotocol,
    state: Mutex<State>,
    report: watch::Sender<ServerState>,
    /// How often all connections were broken.
    breaks: watch::Sender<u64>,
    /// Whether it is somebody else's: nobody knows its lives.
    is_external: bool,
}

/// A server. Clones are the same.
#[derive(Clone)]
pub struct SpacetimeDb(Arc<Shared>);

impl SpacetimeDb {
    /// The one of a node; it is down. One that nobody writes down makes nothing durable before it dies.
    pub fn new(node: u64, subprotocol: Subprotocol, is_external: bool, truth: Option<Arc<Truth>>) -> Self {
        Self(Arc::new(Shared {
            node,
            truth,
            breaks: watch::Sender::new(0),
            is_external,
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
        for files in self.0.state.lock().databases.values_mut() {
            while files.database.state.is_some_and(|state| state.index > index) && !files.journal.is_empty() {
                files.keep(files.journal.len() - 1);
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
                rtdb_runtime::reached("commits of servers lost");
                let kept = sim::draw(state.catalog.len() as u64 + 1) as usize;
                state.forget(kept);
                for files in state.files() {
                    files.keep(sim::draw(files.journal.len() as u64 + 1) as usize);
                }
            }
            Loss::Commits(count) => {
                for files in state.files() {
                    files.keep(files.journal.len().saturating_sub(count));
                }
            }
            Loss::Catalog => state.forget(0),
            Loss::Everything => {
                state.databases.clear();
                state.forgotten.clear();
            }
        }
        // The disk has the rest.
        state.catalog.clear();
        state.files().for_each(|files| files.journal.clear());
        state.connections.clear();
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

    /// All connections to it break. Of what was sent on them it makes some calls all the same.
    pub fn break_lines(&self) {
        self.0.breaks.send_modify(|breaks| *breaks += 1);
    }

    fn breaks(&self) -> watch::Receiver<u64> {
        self.0.breaks.subscribe()
    }

    /// What it holds of a database.
    pub fn database(&self, id: &[u8]) -> Option<Database> {
        let id = DatabaseId::try_from(id).ok()?;
        let state = self.0.state.lock();
        Some(state.databases.get(&id)?.database.clone())
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
        let files = state.databases.get_mut(id)?;
        let (outcome, undo) = files.database.call(reducer, args);
        let hears = |connection: &&Connection| connection.database == *id && !connection.sets.is_empty();
        let mut connections = state.connections.values().filter(hears).peekable();
        if let Some(undo) = &undo
            && connections.peek().is_some()
        {
            let changes = files.database.changes(undo);
            let cause = Cause {
                reducer,
                args,
                sender: owner().identity.as_ref().try_into().unwrap_or_default(),
            };
            connections.for_each(|connection| connection.hear(&changes, Some(&cause)));
        }
        if let Some(truth) = &self.0.truth {
            let removed = undo.as_ref().and_then(Database::removed);
            truth.ran(
                self.0.node,
                id,
                (reducer, args),
                &outcome,
                removed,
                &files.database,
            );
        }
        files.commit(undo, self.0.truth.is_some());
        Some(outcome)
    }

    /// Whether a database is there for who connects to it.
    async fn is_reached(&self, database: &DatabaseId) -> bool {
        sleep(sim::up_to(WAY_MAX)).await;
        let state = self.0.state.lock();
        state.is_up && state.databases.contains_key(database)
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
        let life = self.0.state.lock().life;
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
    /// All that it has on disk.
    fn files(&mut self) -> impl Iterator<Item = &mut Files> {
        self.databases.values_mut().chain(&mut self.forgotten)
    }

    /// Loses what has become of databases, but for so much of it. What they hold is on disk for all that.
    fn forget(&mut self, kept: usize) {
        while self.catalog.len() > kept
            && let Some((id, change)) = self.catalog.pop()
        {
            match change {
                Change::Created => {
                    rtdb_runtime::reached("databases that servers forgot");
                    self.forgotten.extend(self.databases.remove(&id));
                }
                Change::Deleted(files) => {
                    rtdb_runtime::reached("databases that came back");
                    self.databases.insert(id, *files);
                }
            }
        }
    }

    fn change(&mut self, id: DatabaseId, change: Change, syncs: bool) {
        self.catalog.push((id, change));
        if syncs && sim::draw(SYNC_ONE_OF) == 0 {
            self.catalog.clear();
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
        let is_owners = |files: &Files| files.database.owner == owner.identity;
        if self.databases.get(&id).is_some_and(|it| !is_owners(it)) {
            return Err(refused(StatusCode::BAD_REQUEST, "not the owner"));
        }
        match (method, rest.split('?').next().unwrap_or_default()) {
            (&Method::PUT, "") => {
                // Those who are connected may hang on what was there before, whether the module is taken or not.
                let is_deaf = syncs && sim::draw(2) == 0;
                let connections = self.connections.values_mut();
                connections
                    .filter(|connection| connection.database == id)
                    .for_each(|connection| connection.is_deaf |= is_deaf);
                let module =
                    number(body).map_err(|text| refused(StatusCode::INTERNAL_SERVER_ERROR, &text))?;
                let program = hash_bytes(body).data;
                match self.databases.get_mut(&id) {
                    Some(files) => {
                        let undo = files.database.update(module, program);
                        files.commit(Some(undo), syncs);
                    }
                    None => {
                        // Those that are there already run what they have.
                        let new = || Files {
                            database: Database::new(owner.identity.clone(), module, program),
                            journal: Vec::new(),
                        };
                        let mut files = self.forgotten.pop().unwrap_or_else(new);
                        files.database.owner = owner.identity.clone();
                        self.databases.insert(id, files);
                        self.change(id, Change::Created, syncs);
                    }
                }
                Ok(Bytes::new())
            }
            (&Method::DELETE, "") => {
                let files = self.databases.remove(&id).ok_or(AdminError::NoSuchDatabase)?;
                self.connections.retain(|_, connection| connection.database != id);
                self.change(id, Change::Deleted(Box::new(files)), syncs);
                Ok(Bytes::new())
            }
            (&Method::POST, "/sql") => {
                let files = self.databases.get(&id).ok_or(AdminError::NoSuchDatabase)?;
                match body {
                    b"SELECT * FROM rtdb_state" => return Ok(state_row(&files.database).into()),
                    PROGRAM => return Ok(program_row(&files.database).into()),
                    _ => {}
                }
                let query = Query::parse(&String::from_utf8_lossy(body));
                let query = query.map_err(|why| refused(StatusCode::BAD_REQUEST, &why))?;
                assert!(query.counts, "no other query is known");
                let count = files.database.rows_of(&query).len();
                Ok(format!(r#"[{{"schema":{{"elements":[]}},"rows":[[{count}]]}}]"#).into())
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

/// Of `st_module` what it is asked for.
fn program_row(database: &Database) -> String {
    let program = Hash::from_byte_array(database.program).to_u256();
    format!(
        r#"[{{"schema":{{"elements":[{{"name":{{"some":"program_hash"}}}}]}},"rows":[["{program:#x}"]]}}]"#
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

    fn connect<'a>(
        &'a self,
        owner: &'a Owner,
        database: &'a DatabaseId,
        _bytes_max: usize,
    ) -> Connecting<'a> {
        async move {
            if !self.is_reached(database).await {
                return Err(LineError::Ended);
            }
            let subprotocol = self.0.subprotocol;
            let sender = owner.identity.as_ref().try_into().unwrap_or_default();
            let line: Box<dyn Line> = Box::new(Called(self.open(sender, *database, subprotocol, false)));
            Ok((subprotocol, line))
        }
        .boxed()
    }

    fn state(&self) -> watch::Receiver<ServerState> {
        self.0.report.subscribe()
    }

    fn version(&self) -> Option<Version> {
        Some(Version::new(match self.0.subprotocol {
            Subprotocol::V1 => "1.2.0",
            Subprotocol::V2 => "2.0.0",
            Subprotocol::V3 => "2.8.3",
        }))
    }

    fn life(&self) -> u64 {
        match self.0.is_external {
            true => 0,
            false => self.0.state.lock().life,
        }
    }

    fn end_life(&self, life: u64, why: String) -> bool {
        if self.0.is_external {
            return false;
        }
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
