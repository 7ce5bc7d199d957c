//! What the server says in a module's place: the outcome is what the log says.

use crate::publish::{counters, is_refused, tried_again, with_module};
use crate::support::{DATABASE, Log, Node, TIMEOUT, add, call, program};
use bytes::Bytes;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, Judgement, Trapped};
use rtdb_consensus::{Origin, Position, Refusal, Unapplied};
use rtdb_replica::{Phase, Quarantine, Report};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Another node of the cluster.
const OTHER: Origin = Origin { node: 2, epoch: 1 };

/// A cluster of which another node is the first to say what it makes of a publication.
pub(crate) struct Others {
    log: Arc<Log>,
    /// What it says of the next publication.
    word: Mutex<Option<Result<bool, String>>>,
    /// Publications that were spoken of: what is not heard soon is said again.
    known: Mutex<BTreeSet<u64>>,
    majority: usize,
}

impl Others {
    pub(crate) fn new(log: &Arc<Log>, majority: usize) -> Arc<Self> {
        Arc::new(Self {
            log: log.clone(),
            word: Mutex::default(),
            known: Mutex::default(),
            majority,
        })
    }

    fn say(&self, word: Result<(), &str>) {
        *self.word.lock() = Some(word.map(|()| false).map_err(str::to_owned));
    }

    pub(crate) fn say_that_it_breaks(&self, breaks: bool) {
        *self.word.lock() = Some(Ok(breaks));
    }
}

impl Report for Others {
    fn report(&self, body: Body) -> bool {
        if let Body::Judgement(judgement) = &body
            && self.known.lock().insert(judgement.position)
            && let Some(word) = self.word.lock().take()
        {
            let theirs = Judgement {
                breaks: word == Ok(true),
                refusal: word.err(),
                ..judgement.clone()
            };
            self.log.append_from(OTHER, vec![Body::Judgement(theirs)]);
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

/// Waits until the outcome of a command has been told.
pub(crate) async fn told(log: &Log, position: Position) {
    let told = async {
        while log.outcomes(position).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, told).await.expect("it is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_another_node_has_refused_first_is_refused_here() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let others = Others::new(&log, 2);
    let mut replica = node.reporting(&log, others.clone());

    // Nothing is there before.
    others.say(Err("no disk"));
    let first = log.append(vec![node.publish(false)]);
    told(&log, first[0]).await;
    let refused = Err(Unapplied::Refused(Refusal::Module("no disk".into())));
    assert_eq!(log.outcome(first[0]), refused);
    assert_eq!(replica.admin().state(&node.owner, &DATABASE).await.ok(), None);

    let good = log.append(vec![node.publish(false), add("a", 1, 0)]);
    told(&log, good[1]).await;
    // This node has it in place already when it hears that the others refuse it.
    for clear in [false, true] {
        others.say(Err("no disk"));
        let again = log.append(vec![node.publish(clear), add("b", 1, 0)]);
        told(&log, again[1]).await;
        assert_eq!(log.outcome(again[0]), refused, "clear: {clear}");
        assert!(log.outcome(again[1]).is_ok());
    }
    let rows = [r#"["a"]"#, r#"["b"]"#, r#"["b"]"#];
    assert_eq!(counters(&node, &replica).await, rows);
    for _ in 0..2 {
        assert_eq!(replica.database(&DATABASE).unwrap().position, good[0]);
        let state = replica.admin().state(&node.owner, &DATABASE).await.unwrap();
        assert_eq!(state.unwrap().module, good[0].0);
        replica.stop().await;
        log.forget_applied();
        replica = node.reporting(&log, others.clone());
        log.all_applied().await;
    }
    assert_eq!(counters(&node, &replica).await, rows);
    // Nor is it told otherwise to a replica that makes everything anew.
    replica.admin().delete(&node.owner, &DATABASE).await.unwrap();
    replica.stop().await;
    log.forget_applied();
    replica = node.reporting(&log, others.clone());
    log.all_applied().await;
    assert_eq!(counters(&node, &replica).await, rows);
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_the_others_run_is_never_left_out_in_silence() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let others = Others::new(&log, 2);
    let replica = node.reporting(&log, others.clone());
    let broken = || with_module(node.publish(false), b"\0asm\x01\0\0\0".to_vec());
    let good = log.append(vec![node.publish(false), broken(), add("a", 1, 0)]);
    told(&log, good[2]).await;
    assert!(is_refused(&log, good[1]), "nobody takes it");

    others.say(Ok(()));
    let taken = log.append(vec![broken(), add("b", 1, 0)]);
    // Some attempts are too short to be seen.
    tried_again(&replica, "does not take a module", 1).await;
    assert!(log.outcomes(taken[0]).is_empty() && log.outcomes(taken[1]).is_empty());
    assert!(replica.fatal().borrow().is_none());
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_told_once_a_majority_has_it() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.reporting(&log, Others::new(&log, 2));
    let calls = log.append(vec![
        node.publish(false),
        call("explode", &[], 0),
        call("explode", &[], 0),
        add("a", 1, 0),
    ]);
    let is_said =
        |body: &Body| matches!(body, Body::Trapped(trapped) if trapped.positions.contains(&calls[2].0));
    tokio::time::timeout(TIMEOUT, log.find(is_said))
        .await
        .expect("it is said");
    told(&log, calls[3]).await;
    assert!(log.outcomes(calls[1]).is_empty() && log.outcomes(calls[2]).is_empty());
    let theirs = Body::Trapped(Trapped {
        database: Bytes::copy_from_slice(&DATABASE),
        positions: vec![calls[1].0],
    });
    log.append_from(OTHER, vec![theirs]);
    told(&log, calls[1]).await;
    let outcome = log.outcome(calls[1]);
    assert!(matches!(outcome, Err(Unapplied::Reducer { .. })), "{outcome:?}");
    // The others have not said the same of the second one, and in the end it turns out that this node is wrong.
    assert!(log.outcomes(calls[2]).is_empty());
    replica.set_aside(&DATABASE, Quarantine::Outvoted("the others differ".into()));
    told(&log, calls[2]).await;
    assert!(matches!(log.outcome(calls[2]), Err(Unapplied::Unknown { .. })));
    replica.stop().await;
    node.server.stop().await;
}

/// The log takes back that the replica differs, before anybody has done anything about it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_takes_back_is_applied_again() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    log.append(vec![node.publish(false), add("a", 1, 0)]);
    log.all_applied().await;
    let aside = replica.quarantine(&DATABASE).unwrap();
    let why = || Quarantine::Outvoted("the others differ".into());
    // At once, and once the applier has heard of it.
    replica.set_aside(&DATABASE, why());
    replica.acquit(&DATABASE, log.end());
    assert_eq!(*aside.borrow(), None);
    replica.set_aside(&DATABASE, why());
    while !matches!(replica.progress().databases[0].phase, Phase::Quarantined(_)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let missed = log.append(vec![add("b", 1, 0)]);
    told(&log, missed[0]).await;
    assert!(matches!(log.outcome(missed[0]), Err(Unapplied::Unknown { .. })));
    log.all_applied().await;
    // It may have been made right further on.
    replica.acquit(&DATABASE, log.end() + 1);
    assert_eq!(*aside.borrow(), Some(why()));
    replica.acquit(&DATABASE, log.end());
    let call = log.append(vec![add("c", 1, 0)]);
    told(&log, call[0]).await;
    assert!(log.outcome(call[0]).is_ok());
    // Whenever the applier hears of it, what stands behind it is applied and told.
    for round in 0..40 {
        replica.set_aside(&DATABASE, why());
        tokio::time::sleep(Duration::from_micros(round * 50)).await;
        log.all_applied().await;
        replica.acquit(&DATABASE, log.end());
        let call = log.append(vec![add("d", 1, 0)]);
        told(&log, call[0]).await;
        assert!(log.outcome(call[0]).is_ok(), "round {round}");
    }
    let rows = node
        .rows(&replica, "SELECT name FROM counter WHERE name != 'init'")
        .await;
    assert_eq!(rows.len(), 43, "{rows:?}");
    // What the server itself has is not for the log to say.
    let why = Quarantine::Diverged("of another log".into());
    replica.set_aside(&DATABASE, why.clone());
    replica.acquit(&DATABASE, log.end());
    assert_eq!(*aside.borrow(), Some(why));
    replica.stop().await;
    node.server.stop().await;
}
