//! A cluster of one: a log in memory, the real replica, the real SpacetimeDB, the gateway.

#![allow(unreachable_pub, reason = "a module of tests")]
#![allow(dead_code, reason = "each test uses a part of it")]

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, Owner};
use rtdb_consensus::{
    Applied, Command, Follow, LogIndex, NoReadIndex, NotProposed, Origin, Outcome, Pending, Position,
    Propose, ReadError, Refusal, Reply, ResolvedCommand, ResolvedEntry, Session, Unapplied,
};
use rtdb_gateway::{Catalog, ClientLimits, DatabaseRecord, Gateway, GatewayMetrics, OverReplica};
use rtdb_protocol::Subprotocol;
use rtdb_replica::{Keys, LocalServer, Replica, ReplicaConfig, ServerConfig, Tokens};
use spacetimedb_lib::{ConnectionId, Identity};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

/// The real server's program, if this machine has one.
pub fn server_program() -> Option<PathBuf> {
    let cached = ".cache/rafttimedb/spacetimedb-1.2.0/bin/spacetimedb-standalone";
    let named = std::env::var_os("SPACETIMEDB_BIN").map(PathBuf::from);
    let cached = std::env::var_os("HOME").map(|home| Path::new(&home).join(cached));
    named.into_iter().chain(cached).find(|program| program.exists())
}

const ORIGIN: Origin = Origin { node: 1, epoch: 1 };

/// A log whose every command is an entry, resolved at once.
pub struct MemoryLog {
    state: Mutex<LogState>,
    resolved: watch::Sender<LogIndex>,
}

#[derive(Default)]
struct LogState {
    entries: Vec<Arc<ResolvedEntry>>,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    sessions: HashMap<u64, Session>,
    /// The databases' births.
    databases: HashMap<Bytes, u64>,
}

impl LogState {
    /// What the log's rules say against a command.
    fn refusal(&self, body: &Body) -> Option<Refusal> {
        match body {
            Body::Delete(delete) => {
                let born = self.databases.get(&delete.database);
                let is_there = born.is_some_and(|born| *born < delete.before);
                (!is_there).then_some(Refusal::NoSuchDatabase)
            }
            Body::Connect(connect) => {
                let taken = |session: &Session| {
                    session.database == connect.database && session.connection == connect.connection
                };
                let is_taken = self.sessions.values().any(taken);
                is_taken.then_some(Refusal::ConnectionTaken)
            }
            _ => None,
        }
    }
}

impl MemoryLog {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            resolved: watch::Sender::new(0),
        })
    }
}

impl Propose for MemoryLog {
    fn submit(&self, command: Command) -> Result<Pending, NotProposed> {
        let mut state = self.state.lock();
        let index = state.entries.len() as u64 + 1;
        let position = Position::new(index, 0);
        let timestamp_us = 1_700_000_000_000_000 + index as i64;
        let (done, pending) = Pending::new();
        if let Some(refusal) = command.body.as_ref().and_then(|body| state.refusal(body)) {
            let _ = done.send(Err(Unapplied::Refused(refusal)));
            return Ok(pending);
        }
        let mut session = None;
        match command.body.as_ref().expect("a body") {
            Body::Connect(connect) => {
                let (database, sender) = (connect.database.clone(), connect.sender.clone());
                let connection = connect.connection.clone();
                let new = Session {
                    id: position.0,
                    origin: ORIGIN,
                    database,
                    sender,
                    connection,
                };
                state.sessions.insert(position.0, new);
            }
            Body::Publish(publish) => {
                state.databases.insert(publish.database.clone(), publish.born);
            }
            Body::Delete(delete) => {
                state.databases.remove(&delete.database);
                state
                    .sessions
                    .retain(|_, session| session.database != delete.database);
            }
            Body::Disconnect(disconnect) => session = state.sessions.remove(&disconnect.session),
            _ => {}
        }
        state.waiting.insert(index, done);
        let command = ResolvedCommand {
            position,
            timestamp_us,
            origin: ORIGIN,
            seq: index,
            command,
            session,
        };
        state.entries.push(Arc::new(ResolvedEntry {
            index,
            commands: vec![command],
        }));
        self.resolved.send_replace(index);
        Ok(pending)
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn read_index(&self) -> BoxFuture<'_, Result<LogIndex, NoReadIndex>> {
        let last = self.state.lock().entries.len() as u64;
        std::future::ready(Ok(last)).boxed()
    }
}

impl Follow for MemoryLog {
    fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.resolved.subscribe()
    }

    fn read(&self, from: LogIndex, _: usize) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>> {
        let entries = &self.state.lock().entries;
        let from = (from.max(1) as usize - 1).min(entries.len());
        let entries = entries[from..].iter().take(64).cloned().collect();
        async { Ok(entries) }.boxed()
    }

    fn complete(&self, _: Origin, seq: u64, outcome: Outcome) {
        if let Some(done) = self.state.lock().waiting.remove(&seq) {
            let _ = done.send(outcome);
        }
    }

    fn applied(&self, _: LogIndex) {}
}

/// The meta group: a catalog that applies at once.
pub struct MemoryMeta {
    databases: Mutex<Vec<DatabaseRecord>>,
    names: Mutex<Vec<(String, Identity)>>,
    births: AtomicU64,
    shard: Arc<MemoryLog>,
}

impl MemoryMeta {
    fn new(shard: Arc<MemoryLog>) -> Self {
        Self {
            databases: Mutex::default(),
            names: Mutex::default(),
            births: AtomicU64::default(),
            shard,
        }
    }
}

impl Propose for MemoryMeta {
    fn submit(&self, command: Command) -> Result<Pending, NotProposed> {
        let (done, pending) = Pending::new();
        let mut reply = Reply::Done;
        let identity = |bytes: &Bytes| {
            Identity::from_byte_array(<[u8; 32]>::try_from(bytes.as_ref()).expect("32 bytes"))
        };
        let mut databases = self.databases.lock();
        let mut names = self.names.lock();
        match command.body {
            Some(Body::RegisterDatabase(register)) => {
                let new = identity(&register.database);
                let known = names
                    .iter()
                    .find(|(name, _)| !name.is_empty() && *name == register.name);
                let identity = known.map_or(new, |(_, identity)| *identity);
                if known.is_none() && !register.name.is_empty() {
                    names.push((register.name.clone(), identity));
                }
                let owner: Owner = register.owner.expect("an owner");
                let born = self.births.fetch_add(1, Ordering::Relaxed) + 1;
                databases.push(DatabaseRecord {
                    identity,
                    owner,
                    names: names
                        .iter()
                        .filter(|(_, of)| *of == identity)
                        .map(|(name, _)| name.clone())
                        .collect(),
                    shard: 0,
                    locked: false,
                    born,
                });
                reply = Reply::Database {
                    identity: identity.to_byte_array().to_vec().into(),
                    created: true,
                    born,
                };
            }
            Some(Body::EndDatabase(end)) => databases.retain(|it| it.identity != identity(&end.database)),
            Some(Body::SetLock(set)) => {
                let of = identity(&set.database);
                for database in databases.iter_mut().filter(|it| it.identity == of) {
                    database.locked = set.locked;
                }
            }
            Some(Body::SetNames(set)) => {
                let of = identity(&set.database);
                names.retain(|(_, identity)| *identity != of);
                names.extend(set.names.iter().map(|name| (name.clone(), of)));
                for database in databases.iter_mut().filter(|it| it.identity == of) {
                    database.names = set.names.clone();
                }
            }
            _ => {}
        }
        done.send(Ok(Applied {
            position: Position(1),
            timestamp_us: 1,
            reply,
        }))
        .expect("somebody waits");
        Ok(pending)
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn read_index(&self) -> BoxFuture<'_, Result<LogIndex, NoReadIndex>> {
        std::future::ready(Err(NoReadIndex)).boxed()
    }
}

impl Catalog for MemoryMeta {
    fn ready(&self) -> bool {
        true
    }

    fn judges(&self) -> bool {
        true
    }

    fn migrates(&self) -> bool {
        true
    }

    fn ends(&self) -> bool {
        true
    }

    fn writes(&self) -> bool {
        true
    }

    fn runs_procedures(&self) -> bool {
        true
    }

    fn calls_at_once(&self) -> bool {
        false
    }

    fn takes_keys(&self) -> bool {
        false
    }

    fn keyed(&self, _: &Identity, _: &rtdb_consensus::command::CallKey) -> Option<rtdb_gateway::FirstCall> {
        None
    }

    fn has_mixed_processors(&self) -> bool {
        false
    }

    fn has_mixed_servers(&self) -> bool {
        false
    }

    fn takes_claims(&self) -> bool {
        true
    }

    fn by_identity(&self, identity: &Identity) -> Option<DatabaseRecord> {
        self.databases
            .lock()
            .iter()
            .find(|database| database.identity == *identity)
            .cloned()
    }

    fn owned_by(&self, owner: &Identity) -> Vec<DatabaseRecord> {
        let databases = self.databases.lock();
        let owned = databases.iter().filter(|record| record.is_owned_by(owner));
        owned.cloned().collect()
    }

    fn identity(&self, name: &str) -> Option<Identity> {
        let names = self.names.lock();
        names
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, identity)| *identity)
    }

    fn clients(&self, database: &Identity) -> Vec<rtdb_gateway::Client> {
        let state = self.shard.state.lock();
        let mut sessions: Vec<_> = state.sessions.values().collect();
        sessions.retain(|session| session.database == database.to_byte_array().as_slice());
        sessions.sort_by_key(|session| session.id);
        let client = |session: &&Session| rtdb_gateway::Client {
            identity: Identity::from_byte_array((*session.sender).try_into().expect("32 bytes")),
            connection: ConnectionId::from_le_byte_array((*session.connection).try_into().expect("16 bytes")),
        };
        sessions.iter().map(client).collect()
    }
}

/// Two servers with the same key: one plain, and one behind the gateway.
pub struct Pair {
    pub plain: SocketAddr,
    pub gateway: SocketAddr,
    pub handle: Gateway,
    pub tokens: Tokens,
    pub metrics: GatewayMetrics,
    /// The newest subprotocol that the servers speak.
    pub newest: Subprotocol,
    pub replica: Arc<Replica>,
    servers: [LocalServer; 2],
    _data: tempfile::TempDir,
}

impl Pair {
    pub async fn start(program: PathBuf) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let keys = Keys::generate().expect("keys");
        let tokens = Tokens::new(&keys).expect("tokens");
        let start = async |name: &str| {
            let data_dir = data.path().join(name);
            std::fs::create_dir_all(&data_dir).expect("a folder");
            let config = ServerConfig::Managed {
                program: program.clone(),
                data_dir,
                limits: rtdb_replica::ServerLimits::default(),
            };
            let server = LocalServer::start(config, &keys).await.expect("a server");
            server.up().await;
            server
        };
        let servers = [start("plain").await, start("node").await];
        let log = MemoryLog::new();
        let config = ReplicaConfig {
            server: servers[1].named(tokens.clone()),
            call_time_max: std::time::Duration::from_secs(120),
            damage_wait: std::time::Duration::from_secs(180),
            node: 1,
            reports: None,
        };
        let replica = Arc::new(Replica::start(config, log.clone()));
        let local = OverReplica::new(replica.clone(), servers[1].clone(), tokens.clone());
        let meta = Arc::new(MemoryMeta::new(log.clone()));
        let metrics = GatewayMetrics::new().expect("metrics");
        let gateway = Gateway::new(
            log,
            meta.clone(),
            meta,
            Arc::new(local),
            metrics.clone(),
            ClientLimits::default(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let handle = gateway.clone();
        tokio::spawn(async move { gateway.serve(listener).await });
        let plain = servers[0].authority().parse().expect("an address");
        Self {
            plain,
            gateway: address,
            handle,
            tokens,
            metrics,
            newest: servers[0].newest_subprotocol(),
            replica,
            servers,
            _data: data,
        }
    }

    /// Kills the gateway's server as `kill -9` does. It is started again.
    pub fn kill_server(&self) {
        let pid = self._data.path().join("node/spacetimedb/pid");
        let pid = std::fs::read_to_string(pid).expect("the server's process id");
        let killed = std::process::Command::new("kill")
            .args(["-9", pid.trim()])
            .status();
        assert!(killed.expect("kill").success());
    }

    pub async fn stop(self) {
        self.replica.stop().await;
        for server in &self.servers {
            server.stop().await;
        }
    }
}
