//! A gateway over fakes: a log that applies what it is told to, a catalog with one database, no SpacetimeDB.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(unreachable_pub, reason = "a module of tests")]

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, CallKey, Owner};
use rtdb_consensus::{
    Applied, Command, NoReadIndex, NotProposed, Outcome, Pending, Position, Propose, Reply,
};
use rtdb_determinism::Module;
use rtdb_gateway::{
    Catalog, Claims, ClientLimits, DatabaseRecord, FirstCall, Gateway, GatewayMetrics, Local, LocalDatabase,
    SetAside, TokenError, Tokens,
};
use rtdb_protocol::Subprotocol;
use spacetimedb_lib::db::raw_def::v9::{Lifecycle, RawModuleDefV9Builder, TableAccess};
use spacetimedb_lib::{Identity, RawModuleDef, bsatn};
use spacetimedb_sats::{AlgebraicType, ProductType};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// Waits until something is so.
pub async fn until(what: &str, is: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// Where its module was published.
pub const PUBLISHED: Position = Position(65_536);

/// The database's name.
pub const NAME: &str = "counter";

pub fn identity_of(user: &str) -> Identity {
    Identity::from_claims("test", user)
}

fn claims_of(user: &str) -> Claims {
    Claims {
        identity: identity_of(user),
        issuer: "test".into(),
        subject: user.into(),
        expires: false,
        payload: format!(r#"{{"iss":"test","sub":"{user}"}}"#),
    }
}

type Answer = Box<dyn Fn(&Body) -> Option<Outcome> + Send + Sync>;

/// A log that applies at once. What `answer` gives no outcome for is done.
pub struct FakeLog {
    pub commands: Mutex<Vec<Body>>,
    pub answer: Mutex<Answer>,
    pub full: AtomicBool,
    /// Whether somebody can say how far it is committed.
    pub has_leader: AtomicBool,
    /// Nothing has an outcome while this is set; see [`FakeLog::release`].
    pub holds: AtomicBool,
    /// The same for the ends of sessions alone.
    pub holds_ends: AtomicBool,
    held: Mutex<Vec<(oneshot::Sender<Outcome>, Outcome)>>,
    /// What it knows of calls with keys.
    pub known: Mutex<Option<Outcome>>,
    /// How long ago they were made, in microseconds.
    pub age_us: AtomicI64,
}

impl FakeLog {
    fn new() -> Arc<Self> {
        let answer: Answer = Box::new(|_| None);
        Arc::new(Self {
            commands: Mutex::default(),
            answer: Mutex::new(answer),
            full: AtomicBool::new(false),
            has_leader: AtomicBool::new(true),
            holds: AtomicBool::new(false),
            holds_ends: AtomicBool::new(false),
            held: Mutex::default(),
            known: Mutex::default(),
            age_us: AtomicI64::new(0),
        })
    }

    pub fn answer(&self, answer: impl Fn(&Body) -> Option<Outcome> + Send + Sync + 'static) {
        *self.answer.lock() = Box::new(answer);
    }

    /// Tells the outcomes that were held.
    pub fn release(&self) {
        self.holds.store(false, Ordering::Relaxed);
        self.holds_ends.store(false, Ordering::Relaxed);
        for (done, outcome) in self.held.lock().drain(..) {
            let _ = done.send(outcome);
        }
    }

    /// The kinds of commands proposed so far.
    pub fn kinds(&self) -> Vec<&'static str> {
        let kind = |body: &Body| match body {
            Body::Call(_) => "call",
            Body::Connect(_) => "connect",
            Body::Disconnect(command) if command.refused => "disconnect refused",
            Body::Disconnect(_) => "disconnect",
            Body::Publish(_) => "publish",
            Body::Delete(_) => "delete",
            Body::SetNames(_) => "names",
            Body::EndDatabase(_) => "end",
            Body::Write(_) => "write",
            Body::Outcomes(it) if !it.wanted.is_empty() => "asked",
            _ => "other",
        };
        self.commands.lock().iter().map(kind).collect()
    }

    /// Waits until a command of that kind has been proposed.
    pub async fn wait_for(&self, kind: &str) {
        for _ in 0..500 {
            if self.kinds().contains(&kind) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no {kind} was proposed: {:?}", self.kinds());
    }
}

impl Propose for FakeLog {
    fn submit(&self, command: Command) -> Result<Pending, NotProposed> {
        if self.full.load(Ordering::Relaxed) {
            return Err(NotProposed::Overloaded { count: 1, bytes: 1 });
        }
        let body = command.body.expect("a body");
        let mut commands = self.commands.lock();
        let position = Position(commands.len() as u64 + 1);
        let reply = match &body {
            Body::Call(_) => Reply::Call {
                return_value: Default::default(),
                execution_us: 11,
                energy: 22,
            },
            Body::Write(_) => Reply::Rows {
                inserted: 1,
                deleted: 2,
                updated: 3,
            },
            Body::Publish(_) => Reply::Published { created: true },
            _ => Reply::Done,
        };
        let outcome = (self.answer.lock())(&body).unwrap_or(Ok(Applied {
            position,
            timestamp_us: 5,
            reply,
        }));
        let is_end = matches!(&body, Body::Disconnect(command) if !command.refused);
        let is_held = is_end && self.holds_ends.load(Ordering::Relaxed);
        commands.push(body);
        let (done, pending) = Pending::new();
        match is_held || self.holds.load(Ordering::Relaxed) {
            true => self.held.lock().push((done, outcome)),
            false => done.send(outcome).expect("somebody waits"),
        }
        Ok(pending)
    }

    /// There are as many entries as commands.
    fn read_index(&self) -> BoxFuture<'_, Result<u64, NoReadIndex>> {
        let index = match self.has_leader.load(Ordering::Relaxed) {
            true => Ok(self.commands.lock().len() as u64),
            false => Err(NoReadIndex),
        };
        std::future::ready(index).boxed()
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        async {
            while self.full.load(Ordering::Relaxed) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        .boxed()
    }
}

struct FakeCatalog {
    log: Arc<FakeLog>,
    ready: bool,
    ends: bool,
    takes_claims: bool,
    /// How often it is still asked before all nodes have said what they know of.
    unheard: AtomicU32,
    mixed_processors: bool,
    mixed_servers: bool,
    locked: bool,
}

impl FakeCatalog {
    fn record(&self) -> DatabaseRecord {
        let owner = Owner {
            identity: identity_of("owner").to_byte_array().to_vec().into(),
            issuer: "test".into(),
            subject: "owner".into(),
        };
        DatabaseRecord {
            identity: identity_of("database"),
            owner,
            names: vec![NAME.into()],
            shard: 0,
            locked: self.locked,
            born: 7,
        }
    }
}

impl Catalog for FakeCatalog {
    fn ready(&self) -> bool {
        self.ready
    }

    fn judges(&self) -> bool {
        true
    }

    fn migrates(&self) -> bool {
        true
    }

    fn ends(&self) -> bool {
        self.ends
    }

    fn writes(&self) -> bool {
        true
    }

    fn runs_procedures(&self) -> bool {
        true
    }

    fn has_mixed_processors(&self) -> bool {
        self.mixed_processors
    }

    fn has_mixed_servers(&self) -> bool {
        self.mixed_servers
    }

    fn takes_claims(&self) -> bool {
        self.takes_claims
    }

    fn by_identity(&self, identity: &Identity) -> Option<DatabaseRecord> {
        Some(self.record()).filter(|record| record.identity == *identity)
    }

    fn owned_by(&self, owner: &Identity) -> Vec<DatabaseRecord> {
        let owned = Some(self.record()).filter(|record| record.is_owned_by(owner));
        owned.into_iter().collect()
    }

    fn identity(&self, name: &str) -> Option<Identity> {
        (name == NAME).then(|| identity_of("database"))
    }

    fn clients(&self, _: &Identity) -> Vec<rtdb_gateway::Client> {
        Vec::new()
    }

    fn has_heard_all(&self) -> bool {
        let asked = self.unheard.load(Ordering::Relaxed);
        self.unheard.store(asked.saturating_sub(1), Ordering::Relaxed);
        asked == 0
    }

    fn calls_at_once(&self) -> bool {
        self.unheard.load(Ordering::Relaxed) == 0
    }

    fn takes_keys(&self) -> bool {
        true
    }

    fn keyed(&self, _: &Identity, key: &CallKey) -> Option<FirstCall> {
        let commands = self.log.commands.lock();
        let keys = commands.iter().map(|body| match body {
            Body::Call(call) => call.key.as_ref(),
            Body::Write(write) => write.key.as_ref(),
            _ => None,
        });
        let mut keys = keys.enumerate().filter_map(|(place, of)| Some((place, of?)));
        let (place, first) = keys.find(|(_, of)| of.sender == key.sender && of.key == key.key)?;
        Some(FirstCall {
            position: Position(place as u64 + 1),
            timestamp_us: rtdb_runtime::wall_us() as i64 - self.log.age_us.load(Ordering::Relaxed),
            is_same: first == key,
            outcome: self.log.known.lock().clone(),
        })
    }
}

struct FakeLocal {
    module: Arc<Module>,
    newest: Subprotocol,
    plans_updates: bool,
    deleted: Arc<watch::Sender<u64>>,
    applied: Arc<watch::Sender<u64>>,
}

impl Local for FakeLocal {
    fn address(&self) -> Option<String> {
        None
    }

    fn newest_subprotocol(&self) -> Subprotocol {
        self.newest
    }

    fn database(&self, identity: &Identity) -> Option<LocalDatabase> {
        (*identity == identity_of("database")).then(|| LocalDatabase {
            module: self.module.clone(),
            program: spacetimedb_lib::hash_bytes("program"),
            position: PUBLISHED,
            reads_claims: false,
        })
    }

    fn publications(&self, _: &Identity) -> Option<tokio::sync::watch::Receiver<u64>> {
        None
    }

    fn plans_updates(&self) -> bool {
        self.plans_updates
    }

    fn until_broken(&self, _: &Identity, _: u64) -> futures::future::BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn set_aside(&self, _: &Identity) -> Option<SetAside> {
        None
    }

    fn until_set_aside(&self, _: &Identity) -> futures::future::BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn until_deleted(&self, _: &Identity) -> futures::future::BoxFuture<'static, ()> {
        let mut deleted = self.deleted.subscribe();
        let before = *deleted.borrow();
        Box::pin(async move {
            let _ = deleted.wait_for(|deleted| *deleted > before).await;
        })
    }

    fn views(&self, _: &Identity) -> Option<Arc<rtdb_replica::Views>> {
        None
    }

    fn procedures(&self, _: &Identity) -> Option<Arc<rtdb_replica::Procedures>> {
        None
    }

    fn became(
        &self,
        _: &Identity,
        _: &Identity,
        _: spacetimedb_lib::ConnectionId,
        _: u32,
    ) -> rtdb_replica::Became {
        rtdb_replica::Became::Forgotten
    }

    fn caught_up(&self, _: &Identity, index: u64) -> futures::future::BoxFuture<'static, ()> {
        let mut applied = self.applied.subscribe();
        Box::pin(async move {
            let _ = applied.wait_for(|applied| *applied >= index).await;
        })
    }

    fn tokens(&self) -> Option<Arc<dyn Tokens>> {
        Some(Arc::new(FakeTokens))
    }
}

/// The token of `bob` is `good-bob`.
struct FakeTokens;

impl Tokens for FakeTokens {
    fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        match token.split_once('-') {
            Some(("good", user)) => Ok(claims_of(user)),
            Some(("foreign", user)) => Err(TokenError::Foreign(claims_of(user))),
            Some(("expired", _)) => Err(TokenError::Expired),
            _ => Err(TokenError::Malformed("InvalidToken".to_owned())),
        }
    }

    fn fresh(&self) -> Option<(Claims, String)> {
        Some((claims_of("fresh"), "good-fresh".into()))
    }

    fn mint(&self, claims: &Claims) -> Option<String> {
        Some(format!("good-{}", claims.subject))
    }
}

/// A module with `add(n: u64)`, and, if asked for, a `client_connected`.
pub fn module(lifecycle: bool) -> Module {
    let mut def = RawModuleDefV9Builder::new();
    def.add_reducer("add", ProductType::from([("n", AlgebraicType::U64)]), None);
    def.build_table_with_new_type("counter", ProductType::from([("n", AlgebraicType::U64)]), true)
        .with_access(TableAccess::Public)
        .finish();
    if lifecycle {
        def.add_reducer("hello", ProductType::unit(), Some(Lifecycle::OnConnect));
    }
    let def = bsatn::to_vec(&RawModuleDef::V9(def.finish())).expect("a definition");
    Module::from_def(&def).expect("a module")
}

/// A gateway that listens.
pub struct Fixture {
    pub gateway: Gateway,
    pub address: SocketAddr,
    pub log: Arc<FakeLog>,
    pub meta: Arc<FakeLog>,
    pub metrics: GatewayMetrics,
    /// How often the database was deleted, as sessions hear of it: there is another one at once.
    pub deleted: Arc<watch::Sender<u64>>,
    /// Up to which entry the local server has the database.
    pub applied: Arc<watch::Sender<u64>>,
}

pub struct Settings {
    pub ready: bool,
    pub ends: bool,
    pub takes_claims: bool,
    /// How often the catalog is asked before all nodes have said what they know of.
    pub unheard: u32,
    pub mixed_processors: bool,
    pub mixed_servers: bool,
    pub locked: bool,
    pub plans_updates: bool,
    pub lifecycle: bool,
    pub newest: Subprotocol,
    pub limits: ClientLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ready: true,
            ends: true,
            takes_claims: true,
            unheard: 0,
            mixed_processors: false,
            mixed_servers: false,
            locked: false,
            plans_updates: true,
            lifecycle: false,
            newest: Subprotocol::V3,
            limits: ClientLimits::default(),
        }
    }
}

impl Fixture {
    pub async fn start(settings: Settings) -> Self {
        let (log, meta) = (FakeLog::new(), FakeLog::new());
        let metrics = GatewayMetrics::new().expect("metrics");
        let deleted = Arc::new(watch::Sender::new(0));
        let applied = Arc::new(watch::Sender::new(0));
        let local = FakeLocal {
            deleted: deleted.clone(),
            applied: applied.clone(),
            module: Arc::new(module(settings.lifecycle)),
            newest: settings.newest,
            plans_updates: settings.plans_updates,
        };
        let catalog = Arc::new(FakeCatalog {
            log: log.clone(),
            ready: settings.ready,
            ends: settings.ends,
            takes_claims: settings.takes_claims,
            unheard: AtomicU32::new(settings.unheard),
            mixed_processors: settings.mixed_processors,
            mixed_servers: settings.mixed_servers,
            locked: settings.locked,
        });
        let gateway = Gateway::new(
            log.clone(),
            meta.clone(),
            catalog,
            Arc::new(local),
            metrics.clone(),
            settings.limits,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = gateway.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        Self {
            gateway,
            address,
            log,
            meta,
            metrics,
            deleted,
            applied,
        }
    }

    /// Sends a request; the answer's status, head and body.
    pub async fn request(&self, request: &str, headers: &str, body: &[u8]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        let length = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("written");
        stream.write_all(body).await.expect("written");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    pub async fn get(&self, path: &str) -> (u16, String, String) {
        self.request(&format!("GET {path}"), "", b"").await
    }

    /// Calls a reducer with JSON arguments, as `bob`.
    pub async fn call(&self, reducer: &str, args: &str) -> (u16, String, String) {
        let request = format!("POST /v1/database/{NAME}/call/{reducer}");
        self.request(
            &request,
            "authorization: Bearer good-bob\r\ncontent-type: application/json\r\n",
            args.as_bytes(),
        )
        .await
    }
}
