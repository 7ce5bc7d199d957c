//! What the log decides, and what becomes of it in whatever order servers, replicas and the log come.

use crate::publish::{counters, with_module};
use crate::support::{DATABASE, Log, Node, ORIGIN, add, call, delete, program};
use bytes::Bytes;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, Failed, Judgement, Poison, PoisonStep, Skipped, Stuck};
use rtdb_consensus::{Origin, Position};
use rtdb_replica::{Phase, Quarantine, Replica, Report};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const OTHER: Origin = Origin { node: 2, epoch: 1 };

/// A cluster with the resolver's rule: what is said of a database that the log has deleted is refused.
struct Rules {
    log: Arc<Log>,
    /// What another node says first of the next publication.
    word: Mutex<Option<Result<(), String>>>,
    /// Whether the other node says of each trap that it has it too.
    confirms: AtomicBool,
    /// Proposals are taken, and lost: as of a node that is killed before they are committed.
    mute: AtomicBool,
    majority: usize,
}

impl Rules {
    fn new(log: &Arc<Log>, majority: usize) -> Arc<Self> {
        Arc::new(Self {
            log: log.clone(),
            word: Mutex::default(),
            confirms: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            majority,
        })
    }
}

impl Report for Rules {
    fn report(&self, body: Body) -> bool {
        if self.mute.load(Ordering::SeqCst) || !self.log.exists() {
            return true;
        }
        match &body {
            Body::Judgement(judgement) => {
                if let Some(word) = self.word.lock().take() {
                    let theirs = Judgement {
                        refusal: word.err(),
                        ..judgement.clone()
                    };
                    self.log.append_from(OTHER, vec![Body::Judgement(theirs)]);
                }
            }
            Body::Trapped(trapped) if self.confirms.load(Ordering::SeqCst) => {
                self.log.append_from(OTHER, vec![Body::Trapped(trapped.clone())]);
            }
            _ => {}
        }
        self.log.append(vec![body]);
        true
    }

    fn majority(&self) -> Option<usize> {
        Some(self.majority)
    }

    fn wants(&self, _: rtdb_consensus::Position) -> bool {
        false
    }
}

fn poison(position: Position, step: PoisonStep) -> Body {
    Body::Poison(Poison {
        database: Bytes::copy_from_slice(&DATABASE),
        position: position.0,
        step: Some(step),
    })
}

fn judgement(position: Position, refusal: Option<&str>) -> Body {
    Body::Judgement(Judgement {
        database: Bytes::copy_from_slice(&DATABASE),
        position: position.0,
        refusal: refusal.map(str::to_owned),
        breaks: false,
    })
}

fn broken(node: &Node, clear: bool) -> Body {
    with_module(node.publish(clear), b"\0asm\x01\0\0\0".to_vec())
}

async fn told_within(log: &Log, position: Position, seconds: u64) -> bool {
    let told = async {
        while log.outcomes(position).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(seconds), told)
        .await
        .is_ok()
}

/// What a replica has that makes everything anew from the same log, on a server of its own.
async fn anew(log: &Arc<Log>, node: &Node) -> Option<Vec<String>> {
    let mut other = Node::start(node.program.clone()).await;
    other.owner = node.owner.clone();
    log.forget_applied();
    let rules = Rules::new(log, 1);
    let replica = other.reporting(log, rules);
    log.all_applied().await;
    let held = held(&other, &replica).await;
    replica.stop().await;
    other.server.stop().await;
    held
}

/// Waits until the database is set aside.
async fn aside(replica: &Replica) {
    let is_aside = || matches!(replica.progress().databases[0].phase, Phase::Quarantined(_));
    while !is_aside() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn held(node: &Node, replica: &Replica) -> Option<Vec<String>> {
    replica.database(&DATABASE)?;
    Some(counters(node, replica).await)
}

/// A clear that one node has applied and an operator skips, since another one is stuck at it.
#[tokio::test(flavor = "multi_thread")]
async fn a_clear_that_is_skipped_leaves_what_was_before() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.reporting(&log, Rules::new(&log, 1));
    let calls = log.append(vec![node.publish(false), add("a", 1, 0), node.publish(true)]);
    assert!(told_within(&log, calls[2], 60).await);
    log.append(vec![poison(calls[2], PoisonStep::Skipped(Skipped {}))]);
    let last = log.append(vec![add("b", 1, 0)]);
    assert!(told_within(&log, last[0], 60).await);
    log.all_applied().await;
    let here = (
        held(&node, &replica).await,
        log.outcome(last[0]).map_err(|e| e.to_string()),
    );
    replica.stop().await;
    let there = anew(&log, &node).await;
    assert_eq!(here.0, there, "{:?}", here.1);
    node.server.stop().await;
}

/// The first publication has failed by decision while another one waited behind it; then the node is started anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_creation_hides_no_later_one() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.reporting(&log, Rules::new(&log, 1));
    // The decision comes before the replica has got to the publication: as it is stuck at it.
    let calls = log.append(vec![node.publish(false), node.publish(false)]);
    log.append(vec![poison(calls[0], PoisonStep::Failed(Failed::default()))]);
    log.append(vec![add("a", 1, 0)]);
    log.all_applied().await;
    let before = held(&node, &replica).await;
    assert_eq!(before, Some(vec![r#"["a"]"#.to_owned()]));
    replica.stop().await;
    log.forget_applied();
    let replica = node.reporting(&log, Rules::new(&log, 1));
    let last = log.append(vec![add("b", 1, 0)]);
    log.all_applied().await;
    assert!(told_within(&log, last[0], 20).await, "{:?}", replica.progress());
    let outcome = log.outcome(last[0]);
    assert!(outcome.is_ok(), "{outcome:?}; {:?}", replica.progress().databases);
    replica.stop().await;
    node.server.stop().await;
}

/// The node is killed when its server has the publication, and before its word of it is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_restarted_node_acknowledges_holds() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let rules = Rules::new(&log, 2);
    rules.mute.store(true, Ordering::SeqCst);
    let replica = node.reporting(&log, rules.clone());
    let first = log.append(vec![node.publish(false)])[0];
    loop {
        let state = replica.admin().state(&node.owner, &DATABASE).await;
        if matches!(state, Ok(Some(state)) if state.module == first.0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    replica.stop().await;
    assert!(log.outcomes(first).is_empty());
    rules.mute.store(false, Ordering::SeqCst);
    log.forget_applied();
    let replica = node.reporting(&log, rules.clone());
    let acknowledged = log.append(vec![add("a", 1, 0)])[0];
    let early = told_within(&log, acknowledged, 10).await;
    let outcome = log.outcomes(acknowledged);
    // Another node refuses it: its word is the first in the log.
    log.append_from(OTHER, vec![judgement(first, Some("no disk"))]);
    let last = log.append(vec![add("b", 1, 0)])[0];
    assert!(told_within(&log, last, 60).await);
    let held = held(&node, &replica).await;
    replica.stop().await;
    node.server.stop().await;
    assert!(
        !early || held.is_some(),
        "told {outcome:?}, and then the write was gone: {held:?}"
    );
}

/// The owner publishes, and deletes the database before the publication is decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_behind_a_publication_is_carried_out() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.reporting(&log, Rules::new(&log, 1));
    let first = log.append(vec![node.publish(false)])[0];
    assert!(told_within(&log, first, 60).await);
    let calls = log.append(vec![node.publish(false), delete()]);
    let told = told_within(&log, calls[1], 60).await;
    let phase = replica.progress().databases.first().map(|it| it.phase.clone());
    assert!(
        told,
        "after a minute the deletion is not done: {phase:?}, {} of {} applied, publication told: {:?}",
        log.applied_now(),
        log.end(),
        log.outcomes(calls[0])
    );
    replica.stop().await;
    node.server.stop().await;
}

/// A promise not to try a call stands in the log; the database was deleted since.
#[tokio::test(flavor = "multi_thread")]
async fn a_promise_about_a_deleted_database_keeps_nobody() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let calls = log.append(vec![node.publish(false), add("a", 1, 0)]);
    log.append_from(
        ORIGIN,
        vec![poison(calls[1], PoisonStep::Stuck(Stuck { attempts: 3 }))],
    );
    let gone = log.append(vec![delete()])[0];
    let replica = node.reporting(&log, Rules::new(&log, 1));
    let told = told_within(&log, gone, 30).await;
    assert!(
        told,
        "{:?}, {} of {} applied",
        replica.progress().databases,
        log.applied_now(),
        log.end()
    );
    replica.stop().await;
    node.server.stop().await;
}

/// A database that is set aside meets a clear that is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_clear_makes_no_absent_database_of_one_that_is_set_aside() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.reporting(&log, Rules::new(&log, 1));
    let calls = log.append(vec![node.publish(false), add("a", 1, 0)]);
    assert!(told_within(&log, calls[1], 60).await);
    replica.set_aside(&DATABASE, Quarantine::Outvoted("test".into()));
    aside(&replica).await;
    let clear = log.append(vec![broken(&node, true)])[0];
    assert!(told_within(&log, clear, 60).await);
    let call = log.append(vec![add("b", 1, 0)])[0];
    assert!(told_within(&log, call, 60).await);
    // And an update of what the others still have.
    let update = log.append(vec![node.publish(false), add("c", 1, 0)]);
    assert!(told_within(&log, update[1], 60).await);
    log.all_applied().await;
    let (outcome, here) = (log.outcome(call), held(&node, &replica).await);
    let words = (log.outcome(update[0]), log.outcome(update[1]));
    let aside = replica.quarantine(&DATABASE).unwrap().borrow().clone();
    replica.stop().await;
    let there = anew(&log, &node).await;
    node.server.stop().await;
    assert!(
        aside.is_some() || here == there,
        "not set aside; holds {here:?}, others {there:?}; call told {outcome:?}; then {words:?}"
    );
}

/// A trap whose answer is held when the database is deleted, and nothing else happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_answer_is_told_though_the_database_is_gone() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.reporting(&log, Rules::new(&log, 2));
    let first = log.append(vec![node.publish(false)])[0];
    assert!(told_within(&log, first, 60).await);
    let calls = log.append(vec![call("explode", &[], 0), delete()]);
    assert!(told_within(&log, calls[1], 60).await);
    let told = told_within(&log, calls[0], 60).await;
    replica.stop().await;
    node.server.stop().await;
    assert!(told, "the caller still waits after 60 s");
}

const STRANGER: [u8; 32] = [0x99; 32];

fn of_stranger(body: Body) -> Body {
    let database = Bytes::copy_from_slice(&STRANGER);
    match body {
        Body::Publish(mut it) => {
            it.database = database;
            Body::Publish(it)
        }
        Body::Call(mut it) => {
            it.database = database;
            Body::Call(it)
        }
        other => other,
    }
}

/// A stranger's call kills the server again and again while somebody else's database is being created.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_poison_is_not_blamed_on_a_publication() {
    let Some(program) = program() else { return };
    let limits = rtdb_replica::ServerLimits {
        memory_max: Some(700 << 20),
        ..Default::default()
    };
    let node = Node::limited(program, limits).await;
    let log = Log::new();
    let replica = node.reporting(&log, Rules::new(&log, 1));
    let first = log.append(vec![of_stranger(crate::poison::publish(&node))])[0];
    assert!(told_within(&log, first, 60).await);
    let eat = of_stranger(call(rtdb_testkit::poison_module::EAT, &[], 0));
    let victim = log.append(vec![eat, heavy(&node)])[1];
    let mut seen = Vec::new();
    for _ in 0..600 {
        for database in replica.progress().databases {
            let said = format!("{:02x} {:?}", database.identity[0], database.phase);
            if matches!(database.phase, Phase::Stuck { .. }) && !seen.contains(&said) {
                seen.push(said);
            }
        }
        if seen.iter().any(|said| said.starts_with("99")) && !log.outcomes(victim).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let outcome = log.outcomes(victim);
    replica.stop().await;
    node.server.stop().await;
    assert!(
        !seen.iter().any(|said| said.starts_with("42")),
        "{seen:?}; publication told {outcome:?}"
    );
    assert!(!outcome.is_empty(), "{seen:?}");
}

/// On 1.2.0: a call that ran out of energy stands before a publication, and the server loses everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_out_of_energy_is_passed_when_all_is_made_again() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let rules = Rules::new(&log, 1);
    let replica = node.reporting(&log, rules.clone());
    let nothing = || call(rtdb_testkit::poison_module::NOTHING, &[], 0);
    let drain = || call(rtdb_testkit::poison_module::DRAIN, &[], 0);
    let calls = log.append(vec![
        crate::poison::publish(&node),
        nothing(),
        drain(),
        crate::poison::publish(&node),
        nothing(),
    ]);
    assert!(told_within(&log, calls[4], 60).await);
    replica.admin().delete(&node.owner, &DATABASE).await.unwrap();
    let last = log.append(vec![nothing()])[0];
    let told = told_within(&log, last, 100).await;
    let phase = replica.progress().databases[0].phase.clone();
    replica.stop().await;
    node.server.stop().await;
    assert!(told, "after 100 s the call behind it is not told: {phase:?}");
}

/// This node's server dies of a publication; another node has refused it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_frees_a_node_that_is_stuck_at_the_publication() {
    let Some(program) = program() else { return };
    let limits = rtdb_replica::ServerLimits {
        memory_max: Some(700 << 20),
        ..Default::default()
    };
    let node = Node::limited(program, limits).await;
    let log = Log::new();
    let replica = node.reporting(&log, Rules::new(&log, 2));
    let first = log.append(vec![crate::poison::publish(&node)])[0];
    assert!(told_within(&log, first, 60).await);
    let deadly = with_module(
        crate::poison::publish(&node),
        rtdb_testkit::poison_module::eats_when_loaded().unwrap(),
    );
    let calls = log.append(vec![deadly, call(rtdb_testkit::poison_module::NOTHING, &[], 0)]);
    let is_stuck = || matches!(replica.progress().databases[0].phase, Phase::Stuck { .. });
    for _ in 0..1200 {
        if is_stuck() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_stuck());
    log.append_from(OTHER, vec![judgement(calls[0], Some("it takes all memory"))]);
    let told = told_within(&log, calls[1], 60).await;
    let phase = replica.progress().databases[0].phase.clone();
    replica.stop().await;
    node.server.stop().await;
    assert!(told, "{phase:?}");
}

/// The demo module with so much in it that it takes a while to compile.
fn heavy(node: &Node) -> Body {
    use walrus::ir::{BinaryOp, Value};
    let mut module = walrus::Module::from_buffer(&crate::support::prepared().wasm).unwrap();
    for count in 0..3000_i32 {
        let mut function = walrus::FunctionBuilder::new(
            &mut module.types,
            &[walrus::ValType::I32],
            &[walrus::ValType::I32],
        );
        let local = module.locals.add(walrus::ValType::I32);
        let mut body = function.func_body();
        body.local_get(local);
        for step in 0..200_i32 {
            body.const_(Value::I32(step ^ count))
                .binop(BinaryOp::I32Mul)
                .local_get(local)
                .binop(BinaryOp::I32Xor);
        }
        let function = function.finish(vec![local], &mut module.funcs);
        module.exports.add(&format!("heavy{count}"), function);
    }
    let wasm = module.emit_wasm();
    with_module(node.publish(false), wasm)
}
