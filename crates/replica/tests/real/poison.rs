//! Calls that the server does not survive, does not finish, or says nothing of.

use crate::support::{DATABASE, Log, Node, TIMEOUT, call, digest, program, start_server};
use bytes::Bytes;
use rtdb_consensus::command::{Body, Failed, Poison, PoisonStep, Publish, Skipped};
use rtdb_consensus::{Position, Unapplied};
use rtdb_determinism::{Options, Prepared};
use rtdb_replica::{Phase, Replica, Report, ServerLimits};
use rtdb_testkit::poison_module::{self, DRAIN, EAT, ENDLESS, FAIL, FILL, NOTHING};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Its calls go on until the server ends them, or is ended.
fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| metered(u64::MAX))
}

/// The module whose calls may use so many units.
fn metered(call_units_max: u64) -> Prepared {
    let options = Options {
        call_units_max,
        ..Options::default()
    };
    rtdb_determinism::prepare_with(&poison_module::wasm().unwrap(), &options).unwrap()
}

pub(crate) fn publish(node: &Node) -> Body {
    publish_module(node, prepared())
}

fn publish_module(node: &Node, prepared: &Prepared) -> Body {
    Body::Publish(Publish {
        database: Bytes::copy_from_slice(&DATABASE),
        owner: Some(node.owner.clone()),
        names: Vec::new(),
        module: prepared.wasm.clone().into(),
        original_def: prepared.original_def.clone().into(),
        clear: false,
        judged: true,
        ..Publish::default()
    })
}

fn nothing() -> Body {
    call(NOTHING, &[], 0)
}

fn fail() -> Body {
    call(FAIL, &[], 0)
}

fn fill(times: u32) -> Body {
    call(FILL, &times.to_le_bytes(), 0)
}

/// Where the database is, once the server is there to say.
async fn index(node: &Node, replica: &Replica) -> Position {
    let asked = async {
        loop {
            node.server.up().await;
            match replica.admin().state(&node.owner, &DATABASE).await {
                Ok(state) => return Position(state.unwrap().index),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(TIMEOUT, asked).await.unwrap()
}

/// Waits until a command is given up.
pub(crate) async fn stuck(replica: &Replica) -> Phase {
    let phase = || replica.progress().databases[0].phase.clone();
    let stuck = async {
        while !matches!(phase(), Phase::Stuck { .. }) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(TIMEOUT, stuck).await.is_ok();
    assert!(in_time, "{:?}", phase());
    phase()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_runs_out_of_energy_has_failed_and_the_others_go_on() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![publish(&node)]);
    log.all_applied().await;
    let pid = node.pid();

    let drain = || call(DRAIN, &[], 0);
    // Followed by a success, by a failure, by another such call, and by nothing.
    for (bodies, succeed) in [
        (vec![nothing(), drain(), nothing(), nothing()], vec![0, 2, 3]),
        (vec![nothing(), drain(), fail(), drain()], vec![0]),
        (vec![drain(), drain(), nothing()], vec![2]),
        (vec![drain()], vec![]),
    ] {
        let calls = log.append(bodies);
        log.all_applied().await;
        for (place, call) in calls.iter().enumerate() {
            match log.outcome(*call) {
                Ok(_) => assert!(succeed.contains(&place), "{place} succeeded"),
                Err(Unapplied::Reducer { message, .. }) => {
                    assert!(!succeed.contains(&place), "{place} failed: {message}");
                }
                Err(other) => panic!("{place}: {other}"),
            }
        }
        let last = log.append(vec![nothing()])[0];
        log.all_applied().await;
        assert_eq!(index(&node, &replica).await, last);
    }
    assert!(replica.fatal().borrow().is_none());
    assert_eq!(node.pid(), pid, "the server went on");
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_within_its_limit_is_waited_for() {
    let Some(program) = program() else { return };
    let limits = ServerLimits {
        idle_hang_max: Duration::from_secs(1),
        ..ServerLimits::default()
    };
    let node = Node::limited(program, limits).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![publish(&node)]);
    log.all_applied().await;
    let (pid, start) = (node.pid(), std::time::Instant::now());
    // Doubled until it takes longer than it takes to be suspected of having run out of energy.
    let mut times = 500;
    while start.elapsed() < Duration::from_secs(20) {
        let calls = log.append(vec![fill(times), nothing()]);
        log.all_applied().await;
        assert!(calls.iter().all(|call| log.outcome(*call).is_ok()));
        times *= 2;
    }
    let status = replica.progress();
    assert_eq!((status.databases[0].overlong_calls, node.pid()), (0, pid));
    replica.stop().await;
    node.server.stop().await;
}

/// Little enough for a test.
const UNITS_MAX: u64 = 100_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_never_end_are_ended_by_their_own_code() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![publish_module(&node, &metered(UNITS_MAX)), nothing()]);
    log.all_applied().await;
    let pid = node.pid();
    let endless = ENDLESS.map(|reducer| call(reducer, &[], 0));
    for endless in endless.into_iter().chain([fill(u32::MAX)]) {
        let calls = log.append(vec![nothing(), endless, nothing()]);
        log.all_applied().await;
        assert!(log.outcome(calls[0]).is_ok() && log.outcome(calls[2]).is_ok());
        assert!(
            matches!(log.outcome(calls[1]), Err(Unapplied::Reducer { .. })),
            "{:?}",
            log.outcome(calls[1])
        );
        assert_eq!(index(&node, &replica).await, calls[2]);
    }
    let status = replica.progress();
    assert_eq!((status.databases[0].overlong_calls, node.pid()), (0, pid));
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_too_long_ends_with_its_server_and_is_given_up() {
    let Some(program) = program() else { return };
    let mut node = Node::start(program).await;
    node.call_time_max = Duration::from_secs(2);
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![publish(&node), nothing()]);
    log.all_applied().await;
    let pid = node.pid();
    let calls = log.append(vec![nothing(), fill(u32::MAX), nothing()]);
    let phase = stuck(&replica).await;
    assert!(
        matches!(phase, Phase::Stuck { position, attempts: 3 } if position == calls[1]),
        "{phase:?}"
    );
    assert_eq!(replica.progress().databases[0].overlong_calls, 3);
    assert!(log.outcome(calls[0]).is_ok());
    assert!(log.outcomes(calls[1]).is_empty() && log.outcomes(calls[2]).is_empty());
    assert_eq!(index(&node, &replica).await, calls[0]);
    assert_ne!(node.pid(), pid);
    assert!(replica.fatal().borrow().is_none());
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_all_memory_is_given_up_and_the_server_dies_alone() {
    let Some(program) = program() else { return };
    let limits = ServerLimits {
        memory_max: Some(700 << 20),
        ..ServerLimits::default()
    };
    let node = Node::limited(program, limits).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![publish(&node), nothing()]);
    log.all_applied().await;
    let calls = log.append(vec![nothing(), call(EAT, &[], 0), nothing()]);
    let phase = stuck(&replica).await;
    assert!(
        matches!(phase, Phase::Stuck { position, attempts: 3 } if position == calls[1]),
        "{phase:?}"
    );
    // The server is there for the others.
    tokio::time::timeout(TIMEOUT, node.server.up()).await.unwrap();
    assert_eq!(index(&node, &replica).await, calls[0]);
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_killed_and_started_again() {
    let Some(program) = program() else { return };
    let limits = ServerLimits {
        idle_hang_max: Duration::from_secs(1),
        ..ServerLimits::default()
    };
    let node = Node::limited(program, limits).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![publish(&node), nothing()]);
    log.all_applied().await;
    let pid = node.pid().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    // Its threads stop one by one: until all have, it may answer.
    tokio::time::timeout(TIMEOUT, async {
        while !is_stopped(pid) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let calls = log.append(vec![nothing(), nothing()]);
    log.all_applied().await;
    assert!(calls.iter().all(|call| log.outcome(*call).is_ok()));
    assert_ne!(node.pid(), Some(pid));
    replica.stop().await;
    node.server.stop().await;
}

/// Whether all threads of a process are stopped.
fn is_stopped(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut stats = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")));
    // The state follows the name, which is in brackets.
    stats
        .all(|stat| stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))))
}

fn poison(position: Position, step: PoisonStep) -> Body {
    Body::Poison(Poison {
        database: Bytes::copy_from_slice(&DATABASE),
        position: position.0,
        step: Some(step),
    })
}

fn failed(position: Position) -> Body {
    poison(position, PoisonStep::Failed(Failed::default()))
}

/// Takes what a replica reports into the log.
struct ToLog(Arc<Log>);

impl Report for ToLog {
    fn report(&self, body: Body) -> bool {
        self.0.append(vec![body]);
        true
    }

    fn majority(&self) -> Option<usize> {
        Some(1)
    }

    fn wants(&self, _: rtdb_consensus::Position) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_has_failed_by_decision_is_passed_over_and_stays_so() {
    let Some(program) = program() else { return };
    let mut node = Node::start(program).await;
    node.call_time_max = Duration::from_secs(2);
    let log = Log::new();
    let replica = node.reporting(&log, Arc::new(ToLog(log.clone())));
    log.append(vec![publish(&node), nothing()]);
    log.all_applied().await;
    let calls = log.append(vec![nothing(), fill(u32::MAX), fail(), nothing()]);
    stuck(&replica).await;
    // Its report stands in the log.
    let report = tokio::time::timeout(
        TIMEOUT,
        log.find(|body| match body {
            Body::Poison(Poison {
                position,
                step: Some(PoisonStep::Stuck(stuck)),
                ..
            }) => *position == calls[1].0 && stuck.attempts == 3,
            _ => false,
        }),
    );
    report.await.unwrap();
    assert_eq!(index(&node, &replica).await, calls[0]);
    let pid = node.pid();
    let decision = log.append(vec![failed(calls[1]), nothing()]);
    log.all_applied().await;
    let Err(Unapplied::Reducer { message, .. }) = log.outcome(calls[1]) else {
        panic!("{:?}", log.outcome(calls[1]));
    };
    assert_eq!(message, "this call stopped SpacetimeDB on every node");
    assert!(log.outcome(calls[0]).is_ok() && log.outcome(calls[2]).is_err() && log.outcome(calls[3]).is_ok());
    assert!(log.outcome(decision[1]).is_ok());
    assert_eq!((index(&node, &replica).await, node.pid()), (decision[1], pid));
    let before = digest(&replica).await;
    replica.stop().await;

    // Another life goes on from there; another server gets to the same from the log alone.
    log.forget_applied();
    let replica = node.replica(&log);
    log.all_applied().await;
    assert_eq!(digest(&replica).await, before);
    replica.stop().await;
    node.server.stop().await;
    std::fs::remove_dir_all(node.folder.path().join("spacetimedb/data")).unwrap();
    node.server = start_server(&node.program, node.folder.path(), &node.keys).await;
    log.forget_applied();
    let replica = node.replica(&log);
    log.all_applied().await;
    assert_eq!(digest(&replica).await, before);
    assert_eq!(
        replica.progress().databases[0].overlong_calls,
        0,
        "it was not tried"
    );
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_applied_what_was_skipped_makes_its_database_again() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![publish(&node), nothing()]);
    log.all_applied().await;
    let state = async || {
        replica
            .admin()
            .state(&node.owner, &DATABASE)
            .await
            .unwrap()
            .unwrap()
    };
    let before = state().await;
    let calls = log.append(vec![nothing(), nothing()]);
    log.all_applied().await;
    let skipped = log.append(vec![poison(calls[0], PoisonStep::Skipped(Skipped {})), nothing()]);
    log.all_applied().await;
    let after = state().await;
    assert_eq!(after.index, skipped[1].0);
    let made = [calls[0].0, calls[1].0, skipped[0].0, skipped[1].0];
    let missing = before.successes.failures(&made, after.successes).unwrap();
    assert!(
        missing.contains(&calls[0].0) && !missing.contains(&calls[1].0),
        "{missing:?}"
    );
    assert!(!missing.contains(&skipped[1].0), "{missing:?}");
    assert!(log.outcome(calls[0]).is_ok(), "told before it was skipped");
    replica.stop().await;

    // The database says itself that it was done.
    let applied = node.pid();
    log.forget_applied();
    let replica = node.replica(&log);
    log.append(vec![nothing()]);
    log.all_applied().await;
    assert_eq!(node.pid(), applied);
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_stops_the_server_has_failed_by_decision() {
    let Some(program) = program() else { return };
    let limits = ServerLimits {
        memory_max: Some(700 << 20),
        ..ServerLimits::default()
    };
    let node = Node::limited(program, limits).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let deadly = |clear| match publish(&node) {
        Body::Publish(mut publish) => {
            publish.module = poison_module::eats_when_loaded().unwrap().into();
            publish.clear = clear;
            Body::Publish(publish)
        }
        other => other,
    };
    log.append(vec![publish(&node), nothing()]);
    log.all_applied().await;
    for clear in [false, true] {
        let calls = log.append(vec![nothing(), deadly(clear), nothing()]);
        let phase = stuck(&replica).await;
        assert!(
            matches!(phase, Phase::Stuck { position, .. } if position == calls[1]),
            "{phase:?}"
        );
        log.append(vec![failed(calls[1])]);
        log.all_applied().await;
        assert!(log.outcome(calls[0]).is_ok() && log.outcome(calls[2]).is_ok());
        let Err(Unapplied::Refused(refusal)) = log.outcome(calls[1]) else {
            panic!("{:?}", log.outcome(calls[1]));
        };
        assert_eq!(refusal.to_string(), "this call stopped SpacetimeDB on every node");
        let last = log.append(vec![nothing()])[0];
        log.all_applied().await;
        assert_eq!(index(&node, &replica).await, last);
    }
    replica.stop().await;
    node.server.stop().await;
}
