//! A log in memory, and the real server.

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, Call, Connect, Delete, Disconnect, Owner, Publish};
use rtdb_consensus::{
    Follow, Generation, LogIndex, Origin, Outcome, Position, ReadError, ResolvedCommand, ResolvedEntry,
    Session,
};
use rtdb_determinism::Prepared;
use rtdb_determinism::header::CallHeader;
use rtdb_replica::{
    DatabaseId, Digest, Keys, LocalServer, Minted, Replica, ReplicaConfig, Report, ServerConfig,
    ServerLimits, Tokens,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) const DATABASE: DatabaseId = [0x42; 32];
pub(crate) const ORIGIN: Origin = Origin { node: 1, epoch: 1 };
/// No step of a test may take longer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// A log that grows when a test says so.
pub(crate) struct Log {
    generation: Generation,
    entries: Mutex<Vec<Arc<ResolvedEntry>>>,
    resolved: watch::Sender<LogIndex>,
    outcomes: Mutex<HashMap<u64, Vec<Outcome>>>,
    applied: watch::Sender<LogIndex>,
    seq: Mutex<u64>,
}

impl Log {
    pub(crate) fn new() -> Arc<Self> {
        Self::in_generation(0)
    }

    pub(crate) fn in_generation(generation: Generation) -> Arc<Self> {
        Arc::new(Self {
            generation,
            entries: Mutex::default(),
            resolved: watch::Sender::new(0),
            outcomes: Mutex::default(),
            applied: watch::Sender::new(0),
            seq: Mutex::new(0),
        })
    }

    /// Appends an entry; gives its commands' positions.
    pub(crate) fn append(&self, bodies: Vec<Body>) -> Vec<Position> {
        self.append_from(ORIGIN, bodies)
    }

    /// The same, from any node.
    pub(crate) fn append_from(&self, origin: Origin, bodies: Vec<Body>) -> Vec<Position> {
        let mut entries = self.entries.lock();
        let index = entries.len() as LogIndex + 1;
        let mut seq = self.seq.lock();
        let commands = bodies.into_iter().enumerate().map(|(place, body)| {
            *seq += 1;
            let position = Position::in_generation(self.generation, index, place);
            let session = match &body {
                Body::Disconnect(disconnect) => Some(Session {
                    id: disconnect.session,
                    origin: ORIGIN,
                    database: Bytes::copy_from_slice(&DATABASE),
                    sender: vec![7; 32].into(),
                    connection: vec![8; 16].into(),
                }),
                _ => None,
            };
            let timestamp_us = 1_700_000_000_000_000 + Position::new(index, place).0 as i64;
            ResolvedCommand {
                position,
                timestamp_us,
                origin,
                seq: *seq,
                command: body.into(),
                session,
            }
        });
        let entry = ResolvedEntry {
            index,
            commands: commands.collect(),
        };
        let positions = entry.commands.iter().map(|command| command.position).collect();
        entries.push(Arc::new(entry));
        drop(entries);
        self.resolved.send_replace(index);
        positions
    }

    /// Waits until everything so far is applied.
    pub(crate) async fn all_applied(&self) {
        let end = *self.resolved.borrow();
        let mut applied = self.applied.subscribe();
        let done = tokio::time::timeout(TIMEOUT, applied.wait_for(|applied| *applied >= end)).await;
        assert!(
            done.is_ok(),
            "applied only {} of {end} entries in time",
            *self.applied.borrow()
        );
    }

    /// Waits for a command that `is` says so of.
    pub(crate) async fn find(&self, is: impl Fn(&Body) -> bool) {
        let mut resolved = self.resolved.subscribe();
        let found = || {
            let entries = self.entries.lock();
            let mut commands = entries.iter().flat_map(|entry| &entry.commands);
            commands.any(|command| command.command.body.as_ref().is_some_and(&is))
        };
        while !found() {
            resolved.changed().await.unwrap();
        }
    }

    /// Whether the log's rules know the database at its end.
    pub(crate) fn exists(&self) -> bool {
        let entries = self.entries.lock();
        let mut commands = entries.iter().flat_map(|entry| &entry.commands).rev();
        let last = commands.find_map(|command| match command.command.body {
            Some(Body::Publish(_)) => Some(true),
            Some(Body::Delete(_)) => Some(false),
            _ => None,
        });
        last.unwrap_or(false)
    }

    pub(crate) fn end(&self) -> LogIndex {
        *self.resolved.borrow()
    }

    pub(crate) fn applied_now(&self) -> LogIndex {
        *self.applied.borrow()
    }

    /// Forgets how far the replica was, as for another replica.
    pub(crate) fn forget_applied(&self) {
        self.applied.send_replace(0);
    }

    /// The outcomes told for the command at a position.
    pub(crate) fn outcomes(&self, position: Position) -> Vec<Outcome> {
        let entries = self.entries.lock();
        let entry = &entries[position.index() as usize - 1];
        let seq = entry.commands[position.command()].seq;
        self.outcomes.lock().get(&seq).cloned().unwrap_or_default()
    }

    /// The one outcome told for the command at a position.
    pub(crate) fn outcome(&self, position: Position) -> Outcome {
        let mut outcomes = self.outcomes(position);
        assert_eq!(outcomes.len(), 1, "outcomes of {position}: {outcomes:?}");
        outcomes.remove(0)
    }
}

impl Follow for Log {
    fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.resolved.subscribe()
    }

    fn read(
        &self,
        from: LogIndex,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>> {
        let entries = self.entries.lock();
        let rest = entries.get(from as usize - 1..).unwrap_or_default();
        let count = (bytes_max / 64).clamp(1, 100);
        let read = rest.iter().take(count).cloned().collect();
        Box::pin(std::future::ready(Ok(read)))
    }

    fn complete(&self, origin: Origin, seq: u64, outcome: Outcome) {
        // Others' commands are passed over.
        if origin != ORIGIN {
            return;
        }
        self.outcomes.lock().entry(seq).or_default().push(outcome);
    }

    fn applied(&self, index: LogIndex) {
        self.applied.send_replace(index);
    }
}

/// The real server's program; `None` says so and skips the test.
pub(crate) fn program() -> Option<PathBuf> {
    let cached = || {
        let home = std::env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache/rafttimedb/spacetimedb-1.2.0/bin/spacetimedb-standalone"))
    };
    let program = std::env::var_os("SPACETIMEDB_BIN")
        .map(PathBuf::from)
        .or_else(cached);
    let program = program.filter(|program| program.exists());
    if program.is_none() {
        eprintln!("skipped: no SpacetimeDB server; set SPACETIMEDB_BIN");
    }
    program
}

/// The demo module, prepared.
pub(crate) fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules/counter-1x/counter-1x.wasm");
        rtdb_determinism::prepare(&std::fs::read(path).unwrap()).unwrap()
    })
}

/// A node's replica with its server.
pub(crate) struct Node {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) keys: Keys,
    pub(crate) tokens: Tokens,
    pub(crate) owner: Owner,
    pub(crate) server: LocalServer,
    pub(crate) program: PathBuf,
    pub(crate) call_time_max: Duration,
}

impl Node {
    pub(crate) async fn start(program: PathBuf) -> Self {
        Self::limited(program, ServerLimits::default()).await
    }

    /// With a server that may do less.
    pub(crate) async fn limited(program: PathBuf, limits: ServerLimits) -> Self {
        // What the replica says is shown with a test that fails.
        let shown = tracing_subscriber::fmt()
            .with_env_filter("info,rtdb_replica=debug")
            .with_test_writer();
        let _ = shown.try_init();
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::generate().unwrap();
        let tokens = Tokens::new(&keys).unwrap();
        let Minted { identity, .. } = tokens.mint("localhost", "owner", None).unwrap();
        let owner = Owner {
            identity: Bytes::copy_from_slice(&identity),
            issuer: "localhost".into(),
            subject: "owner".into(),
        };
        let server = start_limited(&program, folder.path(), &keys, limits).await;
        Self {
            folder,
            keys,
            tokens,
            owner,
            server,
            program,
            call_time_max: TIMEOUT,
        }
    }

    pub(crate) fn replica(&self, log: &Arc<Log>) -> Replica {
        Replica::start(self.config(None), log.clone())
    }

    /// One that has something to report.
    pub(crate) fn reporting(&self, log: &Arc<Log>, reports: Arc<dyn Report>) -> Replica {
        Replica::start(self.config(Some(reports)), log.clone())
    }

    pub(crate) fn config(&self, reports: Option<Arc<dyn Report>>) -> ReplicaConfig {
        ReplicaConfig {
            server: self.server.named(self.tokens.clone()),
            call_time_max: self.call_time_max,
            damage_wait: Duration::from_secs(5),
            node: ORIGIN.node,
            reports,
        }
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> Option<i32> {
        let pid = std::fs::read_to_string(self.folder.path().join("spacetimedb/pid")).ok()?;
        pid.trim().parse().ok()
    }

    /// Kills the server, without giving it a chance to write anything.
    pub(crate) fn kill_server(&self) {
        if let Some(pid) = self.pid() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }

    pub(crate) fn publish(&self, clear: bool) -> Body {
        Body::Publish(Publish {
            database: Bytes::copy_from_slice(&DATABASE),
            owner: Some(self.owner.clone()),
            names: Vec::new(),
            module: prepared().wasm.clone().into(),
            original_def: prepared().original_def.clone().into(),
            clear,
            judged: true,
            ..Publish::default()
        })
    }

    /// The rows of a query, each as JSON.
    pub(crate) async fn rows(&self, replica: &Replica, query: &str) -> Vec<String> {
        let tables = replica.admin().sql(&self.owner, &DATABASE, query).await.unwrap();
        tables[0]
            .rows
            .iter()
            .map(|row| serde_json::to_string(row).unwrap())
            .collect()
    }
}

/// The digest of all that has been applied.
pub(crate) async fn digest(replica: &Replica) -> Option<Digest> {
    let read = async {
        loop {
            match &replica.progress().databases[..] {
                [database, ..] if !database.digest_is_old => return database.digest,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(TIMEOUT, read)
        .await
        .expect("the digest is read")
}

pub(crate) async fn start_server(program: &Path, folder: &Path, keys: &Keys) -> LocalServer {
    start_limited(program, folder, keys, ServerLimits::default()).await
}

async fn start_limited(program: &Path, folder: &Path, keys: &Keys, limits: ServerLimits) -> LocalServer {
    let config = ServerConfig::Managed {
        program: program.to_owned(),
        data_dir: folder.to_owned(),
        limits,
    };
    let server = LocalServer::start(config, keys).await.unwrap();
    tokio::time::timeout(TIMEOUT, server.up()).await.unwrap();
    server
}

pub(crate) fn add(name: &str, value: i64, session: u64) -> Body {
    let own = [bsatn(name), value.to_le_bytes().to_vec()].concat();
    call("add", &own, session)
}

pub(crate) fn call(reducer: &str, own: &[u8], session: u64) -> Body {
    let header = CallHeader {
        sender: [7; 32],
        connection: [8; 16],
        session,
        ..CallHeader::default()
    };
    Body::Call(Call {
        database: Bytes::copy_from_slice(&DATABASE),
        session,
        reducer: reducer.to_owned(),
        args: [&header.encode(), own].concat().into(),
        request_id: 77,
        claims: String::new(),
        key: None,
    })
}

pub(crate) fn connect() -> Body {
    let database = Bytes::copy_from_slice(&DATABASE);
    Body::Connect(Connect {
        database,
        sender: vec![7; 32].into(),
        connection: vec![8; 16].into(),
        claims: String::new(),
        unique: false,
    })
}

pub(crate) fn disconnect(session: Position) -> Body {
    Body::Disconnect(Disconnect {
        session: session.0,
        refused: false,
    })
}

pub(crate) fn delete() -> Body {
    Body::Delete(Delete {
        database: Bytes::copy_from_slice(&DATABASE),
        before: 0,
    })
}

pub(crate) fn bsatn(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}
