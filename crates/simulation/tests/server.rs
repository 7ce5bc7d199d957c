//! The model of a server is what the real one is: the same scripts on both have the same answers, and leave the same rows.
//! `$SPACETIMEDB_BIN`, or the one that `cargo xtask server` caches; without one this says so and is skipped.

#[path = "server/watch.rs"]
mod watch;

use bytes::{Bytes, BytesMut};
use http::Method;
use rtdb_consensus::command::Owner;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{DISCONNECT, MARK, Prepared, Successes};
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::{self, AppliedCall, ServerMessage};
use rtdb_protocol::{Subprotocol, client};
use rtdb_replica::{
    Admin, AdminError, DatabaseId, DatabaseState, Keys, Line, LocalServer, Server, ServerConfig,
    ServerLimits, Tokens,
};
use rtdb_runtime::sim::{self, Rng};
use rtdb_simulation::module::{self, ADD, FAIL, REMOVE, TRAP};
use rtdb_simulation::spacetime::SpacetimeDb;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use watch::{Door, Heard, Watch, Watchers};

const DATABASE: DatabaseId = [7; 32];
const TIME_MAX: Duration = Duration::from_secs(60);
const SEED: u64 = 1;
const STEPS: usize = 36;
/// After each so many steps the server is killed: each time it takes longer to come back.
const KILL_EACH: usize = 12;
/// How often a server is killed at most until it has kept a new database.
const ATTEMPTS_MAX: u32 = 10;

/// One step of a script: who begins to watch or ends that, and what happens then.
#[derive(Clone, Debug)]
struct Step {
    watch: Vec<Watch>,
    does: Does,
}

#[derive(Clone, Debug)]
enum Does {
    /// Calls that are made at once.
    Calls(Vec<Call>),
    Update,
    /// The server is killed.
    Kill,
}

#[derive(Clone, Debug)]
struct Call {
    reducer: &'static str,
    index: u64,
    session: u64,
    name: String,
    value: i64,
}

/// What is seen of a step.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    answers: Vec<Result<(), String>>,
    state: Option<(u64, u64, Successes)>,
    rows: Vec<(u64, String, i64)>,
    /// What each of those who watch has heard.
    heard: Vec<Vec<Heard>>,
}

fn script(seed: u64, newest: Subprotocol) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut index = 100;
    let mut number = 0;
    let mut does = |rng: &mut Rng, place| match rng.below(10) {
        _ if place % KILL_EACH == KILL_EACH - 1 => Does::Kill,
        0 => Does::Update,
        _ => {
            let count = 1 + rng.below(20);
            let call = |_| {
                number += 1;
                index += rng.below(4);
                Call {
                    reducer: [ADD, ADD, ADD, ADD, FAIL, TRAP, MARK, DISCONNECT, REMOVE, REMOVE]
                        [rng.below(10) as usize],
                    // Some come late, or again.
                    index: index - rng.below(2) * rng.below(3),
                    session: rng.below(3),
                    name: format!("name {number}"),
                    value: rng.below(3) as i64,
                }
            };
            Does::Calls((0..count).map(call).collect())
        }
    };
    let mut watched = watch::Watched::default();
    let mut step = |place| {
        let watch = watched.draw(&mut rng, newest);
        let does = does(&mut rng, place);
        if !matches!(does, Does::Calls(_)) {
            watched = watch::Watched::default();
        }
        Step { watch, does }
    };
    (0..STEPS).map(&mut step).collect()
}

/// A server, and what is known of the one behind it.
struct Subject {
    server: Arc<dyn Server>,
    admin: Admin,
    owner: Owner,
    module: Bytes,
    door: Door,
}

impl Subject {
    fn new(server: Arc<dyn Server>, owner: Owner, module: Bytes, door: Door) -> Self {
        Self {
            admin: Admin::new(server.clone(), TIME_MAX),
            server,
            owner,
            module,
            door,
        }
    }

    async fn request(&self, method: Method) -> Result<Bytes, AdminError> {
        let path = format!(
            "/v1/database/{}",
            spacetimedb_lib::Identity::from_byte_array(DATABASE).to_hex()
        );
        let body = if method == Method::PUT {
            self.module.clone()
        } else {
            Bytes::new()
        };
        self.server.ask(&self.owner, method, path, body, TIME_MAX).await
    }

    async fn publish(&self) {
        self.request(Method::PUT).await.expect("the module is taken");
    }

    async fn state(&self) -> Option<DatabaseState> {
        match self.admin.state(&self.owner, &DATABASE).await {
            Ok(state) => state,
            Err(AdminError::NoSuchDatabase) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Makes calls at once, and waits for all answers.
    async fn calls(&self, calls: &[Call]) -> Vec<Result<(), String>> {
        let (subprotocol, mut line) = self
            .server
            .connect(&self.owner, &DATABASE, usize::MAX)
            .await
            .expect("a connection");
        receive(&mut line).await;
        for (number, call) in (1..).zip(calls) {
            let mut args = match call.reducer {
                MARK | DISCONNECT => [&module::args(call.session, "")[..72], &[0]].concat(),
                // The real one is told the number alone.
                REMOVE if matches!(self.door, Door::Real { .. }) => {
                    [&module::args(call.session, "")[..72], &call.value.to_le_bytes()].concat()
                }
                _ => [
                    &module::args(call.session, "")[..72],
                    &module::own_args(&call.name, call.value),
                ]
                .concat(),
            };
            let mut header = CallHeader::decode(&args).expect("a header");
            (header.index, header.timestamp_us) = (call.index, call.index as i64);
            args[..72].copy_from_slice(&header.encode());
            if call.reducer == DISCONNECT {
                args.truncate(72);
            }
            let mut frame = BytesMut::new();
            client::call_reducer(subprotocol, &mut frame, call.reducer, &[&args], number);
            poll_fn(|cx| line.poll_ready(cx)).await.expect("room");
            line.send(frame.freeze()).expect("it is sent");
        }
        poll_fn(|cx| line.poll_flush(cx)).await.expect("it is sent");
        let mut answers = Vec::new();
        while answers.len() < calls.len() {
            let payload = receive(&mut line).await;
            let messages = server::split(subprotocol, payload).map(|message| message.expect("a message"));
            answers.extend(messages.filter_map(ServerMessage::into_applied).map(told));
        }
        answers
    }
}

async fn receive(line: &mut Box<dyn Line>) -> Bytes {
    let received = rtdb_runtime::timeout(TIME_MAX, poll_fn(|cx| line.poll_receive(cx))).await;
    received.expect("an answer in time").expect("an answer")
}

fn told(answer: AppliedCall) -> Result<(), String> {
    match answer.outcome {
        Outcome::Ok { .. } => Ok(()),
        Outcome::Failed { message, .. } | Outcome::Internal(message) | Outcome::Rejected(message) => {
            // How a trap is told is the version's own affair, and is longer.
            let is_trap = message.contains("nstance encountered a fatal error");
            Err(if is_trap { "trapped".to_owned() } else { message })
        }
        Outcome::OutOfEnergy => Err("out of energy".to_owned()),
    }
}

/// What is behind a subject.
enum Kind {
    Real {
        local: LocalServer,
        pid: PathBuf,
    },
    /// It loses what the real one has lost when it was killed.
    Model {
        server: SpacetimeDb,
        real: Vec<Seen>,
    },
}

impl Kind {
    /// Makes the database. The real server may forget a new one when it is killed: so it is killed until it does not.
    async fn found(&self, subject: &Subject) {
        for attempt in 1..=ATTEMPTS_MAX {
            subject.publish().await;
            if subject.state().await.is_none() {
                let mark = Call {
                    reducer: MARK,
                    index: 1,
                    session: 0,
                    name: String::new(),
                    value: 0,
                };
                subject.calls(&[mark]).await;
            }
            if let Self::Model { .. } = self {
                return;
            }
            rtdb_runtime::sleep(Duration::from_millis(100) * attempt).await;
            self.kill(subject, 0).await;
            if subject.state().await.is_some() {
                return;
            }
        }
        panic!("the server forgets the database each time");
    }

    /// Kills the server in a step, and waits until it is back.
    async fn kill(&self, subject: &Subject, place: usize) {
        match self {
            Self::Real { local, pid } => {
                let life = local.life();
                let text = std::fs::read_to_string(pid).expect("a pid");
                let pid = nix::unistd::Pid::from_raw(text.trim().parse().expect("a number"));
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it lives");
                while local.life() == life {
                    rtdb_runtime::sleep(Duration::from_millis(5)).await;
                }
            }
            Self::Model { server, real } => server.die_at(
                real.get(place)
                    .and_then(|seen| seen.state)
                    .map_or(0, |(index, ..)| index),
            ),
        }
        subject.admin.up().await;
    }

    async fn rows(&self, subject: &Subject) -> Vec<(u64, String, i64)> {
        if let Self::Model { server, .. } = self {
            let rows = server.database(&DATABASE).expect("a database").rows.into_values();
            return rows.map(|row| (row.number, row.name, row.timestamp_us)).collect();
        }
        let query = "SELECT id, name, at FROM counter";
        let tables = subject
            .admin
            .sql(&subject.owner, &DATABASE, query)
            .await
            .expect("rows");
        let rows = tables[0].rows.iter().map(|row| {
            let number = |place: usize| {
                row[place]
                    .get()
                    .trim_matches(['[', ']'])
                    .parse::<i64>()
                    .expect("a number")
            };
            (
                number(0) as u64,
                row[1].get().trim_matches('"').to_owned(),
                number(2),
            )
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable();
        rows
    }
}

/// Plays a script.
async fn play(subject: Subject, script: Vec<Step>, kind: Kind) -> Vec<Seen> {
    let mut seen = Vec::new();
    kind.found(&subject).await;
    let mut watchers = Watchers::default();
    for (place, step) in script.iter().enumerate() {
        let mut answers = Vec::new();
        watchers.ask(&subject.door, &step.watch).await;
        let mut heard = watchers.hear().await;
        match &step.does {
            Does::Calls(calls) => answers = subject.calls(calls).await,
            Does::Update => subject.publish().await,
            Does::Kill => kind.kill(&subject, place).await,
        }
        match step.does {
            Does::Calls(_) => {
                let more = watchers.hear().await;
                heard
                    .iter_mut()
                    .zip(more)
                    .for_each(|(heard, more)| heard.extend(more));
            }
            Does::Update | Does::Kill => watchers = Watchers::default(),
        }
        let state = subject.state().await;
        seen.push(Seen {
            answers,
            state: state.map(|state| (state.index, state.module, state.successes)),
            rows: kind.rows(&subject).await,
            heard,
        });
    }
    seen
}

fn program() -> Option<PathBuf> {
    let cached = || {
        let home = std::env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache/rafttimedb/spacetimedb-1.2.0/bin/spacetimedb-standalone"))
    };
    let named = std::env::var_os("SPACETIMEDB_BIN").map(PathBuf::from);
    let program = named.or_else(cached).filter(|program| program.exists());
    if program.is_none() {
        eprintln!("skipped: no SpacetimeDB server; set SPACETIMEDB_BIN");
    }
    program
}

fn prepared() -> Prepared {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules/counter-1x/counter-1x.wasm");
    rtdb_determinism::prepare(&std::fs::read(path).expect("a module")).expect("it can be prepared")
}

#[tokio::test]
async fn the_model_does_as_the_server() {
    let Some(program) = program() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let keys = Keys::generate().expect("keys");
    let tokens = Tokens::new(&keys).expect("tokens");
    let owner = Owner {
        identity: Bytes::copy_from_slice(&tokens.mint("localhost", "owner", None).expect("a token").identity),
        issuer: "localhost".into(),
        subject: "owner".into(),
    };
    let config = ServerConfig::Managed {
        program,
        data_dir: folder.path().to_owned(),
        limits: ServerLimits::default(),
    };
    let local = LocalServer::start(config, &keys).await.expect("a server");
    local.up().await;
    let door = Door::Real {
        local: local.clone(),
        token: tokens.mint("localhost", "owner", None).expect("a token").token,
    };
    let server = local.named(tokens);
    let module = Bytes::from(prepared().wasm);
    let script = script(SEED, local.newest_subprotocol());
    let subject = Subject::new(server, owner, module, door);
    let kind = Kind::Real {
        local: local.clone(),
        pid: folder.path().join("spacetimedb/pid"),
    };
    let real = play(subject, script.clone(), kind).await;
    let model = modelled(local.newest_subprotocol(), script.clone(), real.clone());
    for (place, (real, model)) in real.iter().zip(&model).enumerate() {
        assert_eq!(real, model, "step {place}: {:?}", script[place]);
    }
    let updates = real.iter().flat_map(|seen| seen.heard.iter().flatten());
    let updates = updates.filter(|heard| heard.is_update()).count();
    assert!(updates > STEPS, "much was heard: {updates}");
    let calls = real.iter().map(|seen| seen.answers.len());
    assert!(calls.sum::<usize>() > STEPS, "much was called");
    local.stop().await;
}

/// The same script on the model. What the real server has lost when it was killed, it loses, too.
fn modelled(subprotocol: Subprotocol, script: Vec<Step>, real: Vec<Seen>) -> Vec<Seen> {
    let config = sim::Config {
        seed: SEED,
        ..sim::Config::default()
    };
    let run = || {
        sim::run(&config, async move {
            let server = SpacetimeDb::new(1, subprotocol, false, None);
            server.start();
            let module = module::publish(1, false, false).module;
            let door = Door::Model(server.clone(), subprotocol);
            let subject = Subject::new(Arc::new(server.clone()), module::owner(), module, door);
            play(subject, script, Kind::Model { server, real }).await
        })
    };
    // A thread of its own: here Tokio would count how often its channels are looked at.
    let ran = std::thread::scope(|scope| scope.spawn(run).join());
    let ran = ran.expect("it runs");
    ran.output.expect("the model plays on")
}
