//! Procedures on the fake host: what their transactions do is done on other hosts as by a reducer.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;

use proptest::prelude::*;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{
    CONFLICT, Module, OUTBOX, Options, REPLAY, SETTLE, SKIPPED, Transaction, TransactionVerdict,
    prepare_with, replay_args, runs_procedures, settle_args,
};
use spacetimedb_lib::bsatn;
use spacetimedb_sats::{AlgebraicType, SumValue, product};

use crate::database::Database;
use crate::fixtures::{prepared, wasm};
use crate::host::{Failure, FakeHost, Meanwhile};
use crate::immediate;

pub(crate) const MODULE: &str = "procedures-2x";
const VERDICT: &str = "rtdb_verdict";
pub(crate) const RUN: u64 = 77;

pub(crate) fn header(index: u64) -> CallHeader {
    CallHeader {
        timestamp_us: 1_000 * index as i64,
        index,
        ..CallHeader::default()
    }
}

/// Prepared once: that takes long.
fn module() -> &'static [u8] {
    static MODULE: OnceLock<Vec<u8>> = OnceLock::new();
    MODULE.get_or_init(|| {
        immediate::prepare(&wasm(self::MODULE))
            .expect("the fixture can be prepared")
            .wasm
    })
}

pub(crate) fn host() -> FakeHost {
    assert!(runs_procedures(module()));
    let mut host = FakeHost::new(module(), 4096);
    host.call("rtdb_mark", header(1), &[1]).unwrap();
    host
}

/// The variants of `Op`, as the module has them.
#[derive(Clone, Debug)]
enum Op {
    Put {
        id: u64,
        key: i32,
        team: u8,
        text: String,
    },
    Change {
        key: i32,
        team: u8,
        text: String,
    },
    Remove(i32),
    Disband(u8),
    Write(String),
    Erase(String),
    EraseAll,
    Ping(u8),
    Soon(String),
}

impl Op {
    fn value(&self) -> SumValue {
        match self.clone() {
            Op::Put { id, key, team, text } => SumValue::new(0, product![id, key, team, text]),
            Op::Change { key, team, text } => SumValue::new(1, product![0_u64, key, team, text]),
            Op::Remove(key) => SumValue::new(2, key),
            Op::Disband(team) => SumValue::new(3, team),
            Op::Write(text) => SumValue::new(4, text),
            Op::Erase(text) => SumValue::new(5, text),
            Op::EraseAll => SumValue::new(6, product![]),
            Op::Ping(n) => SumValue::new(7, n),
            Op::Soon(text) => SumValue::new(8, text),
        }
    }
}

fn put(key: i32, team: u8) -> Op {
    Op::Put {
        id: 0,
        key,
        team,
        text: format!("of {team}"),
    }
}

fn args(ops: &[Op]) -> Vec<u8> {
    let mut args = (ops.len() as u32).to_le_bytes().to_vec();
    for op in ops {
        args.extend(bsatn::to_vec(&op.value()).unwrap());
    }
    args
}

/// What others do: the rest of the cluster, which has the log.
pub(crate) struct Log {
    /// The node that the procedure runs on, while it sleeps.
    here: FakeHost,
    /// Another one.
    pub(crate) there: FakeHost,
    pub(crate) next: u64,
    /// How often another call comes first, and which.
    pub(crate) conflicts: u32,
    pub(crate) between: (&'static str, Vec<u8>),
    looks: u32,
    pub(crate) sleeps: u32,
}

impl Log {
    pub(crate) fn new(host: &FakeHost) -> Rc<RefCell<Self>> {
        let mut there = FakeHost::new(module(), 70_000);
        there.db = host.db.clone();
        Rc::new(RefCell::new(Self {
            here: host.twin(),
            there,
            next: host.state().0 + 1,
            conflicts: 0,
            between: ("reduce", args(&[Op::Write("between".into())])),
            looks: 0,
            sleeps: 0,
        }))
    }

    fn each(&mut self, reducer: &str, own: &[u8]) -> Result<(), Failure> {
        let index = self.next;
        self.next += 1;
        let done = [&mut self.here, &mut self.there].map(|host| host.call(reducer, header(index), own));
        let [here, there] = done;
        assert_eq!(here, there);
        here
    }

    fn meanwhile(&mut self, db: Database) -> Database {
        self.sleeps += 1;
        self.here.db = db;
        if let Some(row) = self.here.db.rows(OUTBOX).first() {
            self.looks += 1;
            // The first time it is looked too early.
            if self.looks.is_multiple_of(2) {
                self.settle(&row.clone());
            }
        }
        self.here.db.clone()
    }

    fn settle(&mut self, row: &[u8]) {
        let Transaction {
            run,
            seq,
            base,
            operations,
        } = Transaction::decode(row).unwrap();
        assert_eq!(run, RUN);
        if self.conflicts > 0 {
            self.conflicts -= 1;
            let (reducer, args) = self.between.clone();
            self.each(reducer, &args).unwrap();
        }
        let verdict = match self.each(REPLAY, &replay_args(base, operations)) {
            Ok(()) => TransactionVerdict::Committed,
            Err(why) => {
                assert_eq!(why, Failure::Failed(CONFLICT.into()));
                TransactionVerdict::Conflict
            }
        };
        let settle = settle_args(run, seq, verdict);
        self.here.call(SETTLE, header(0), &settle).unwrap();
        assert!(self.here.db.rows(OUTBOX).is_empty());
    }
}

fn meanwhile(log: &Rc<RefCell<Log>>) -> Meanwhile {
    let log = log.clone();
    Box::new(move |db| log.borrow_mut().meanwhile(db))
}

pub(crate) fn run(
    host: &mut FakeHost,
    log: &Rc<RefCell<Log>>,
    name: &str,
    args: &[u8],
) -> Result<Vec<u8>, Failure> {
    let returned = host.procedure(name, header(RUN), args, meanwhile(log));
    let over = settle_args(RUN, 0, TransactionVerdict::Over);
    host.call(SETTLE, header(0), &over).unwrap();
    assert!(host.db.rows(VERDICT).is_empty() && host.db.rows(OUTBOX).is_empty());
    returned
}

/// All rows but those of the node's own tables.
pub(crate) fn rows(host: &FakeHost) -> Vec<(String, Vec<Vec<u8>>)> {
    let tables = host.db.tables.iter().map(|table| table.name.clone());
    let tables = tables.filter(|name| name != OUTBOX && name != VERDICT);
    tables
        .map(|name| {
            let mut rows = host.db.rows(&name);
            rows.sort();
            (name, rows)
        })
        .collect()
}

fn op() -> impl Strategy<Value = Op> {
    let (key, team) = (0_i32..6, 0_u8..3);
    let text = prop::sample::select(vec!["", "a", "some longer text"]).prop_map(str::to_owned);
    prop_oneof![
        4 => (0_u64..12, key.clone(), team.clone(), text.clone())
            .prop_map(|(id, key, team, text)| Op::Put { id: id.saturating_sub(6), key, team, text }),
        2 => (key.clone(), team.clone(), text.clone()).prop_map(|(key, team, text)| Op::Change { key, team, text }),
        1 => key.prop_map(Op::Remove),
        1 => team.prop_map(Op::Disband),
        2 => text.clone().prop_map(Op::Write),
        1 => text.prop_map(Op::Erase),
        1 => Just(Op::EraseAll),
        1 => any::<u8>().prop_map(Op::Ping),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A reducer that does the same leaves the same rows, numbers and digest, and the procedure has seen the same.
    #[test]
    fn transactions_are_done_everywhere_as_by_a_reducer(
        transactions in prop::collection::vec((prop::collection::vec(op(), 0..12), any::<bool>()), 1..6),
    ) {
        let mut host = host();
        let mut model = FakeHost::new(module(), 500);
        model.db = host.db.clone();
        for (ops, restart) in &transactions {
            if *restart {
                host.restart();
            }
            let log = Log::new(&host);
            let next = log.borrow().next;
            let count = run(&mut host, &log, "run", &args(ops)).unwrap();
            let log = log.borrow();
            if log.next > next {
                model.call("reduce", header(next), &args(ops)).unwrap();
            }
            prop_assert_eq!(count, (model.db.rows("item").len() as u64).to_le_bytes());
            prop_assert_eq!(rows(&host), rows(&model));
            prop_assert_eq!(rows(&log.there), rows(&model));
        }
    }
}

#[test]
fn nothing_is_committed_where_it_runs_before_it_is_everywhere() {
    let mut host = host();
    let before = rows(&host);
    let log = Log::new(&host);
    let (kept, first) = (log.clone(), before.clone());
    let check: Meanwhile = Box::new(move |db| {
        let mut seen = kept.borrow().here.twin();
        seen.db = db.clone();
        assert_eq!(rows(&seen), first);
        db
    });
    let mut until = 3;
    let mut check = check;
    let log_then = log.clone();
    let both: Meanwhile = Box::new(move |db| {
        until -= 1;
        match until {
            1.. => check(db),
            _ => log_then.borrow_mut().meanwhile(db),
        }
    });
    host.procedure("run", header(RUN), &args(&[put(1, 1), put(2, 1)]), both)
        .unwrap();
    assert_ne!(rows(&host), before);
    assert_eq!(rows(&host), rows(&log.borrow().there));
}

#[test]
fn a_conflict_runs_it_once_more_and_a_second_one_ends_it() {
    let mut one = host();
    let log = Log::new(&one);
    log.borrow_mut().conflicts = 1;
    let count = run(&mut one, &log, "run", &args(&[put(1, 1)])).unwrap();
    assert_eq!(count, 1_u64.to_le_bytes());
    assert_eq!(one.db.rows("item").len(), 1);
    assert_eq!(rows(&one), rows(&log.borrow().there));

    let mut two = host();
    let log = Log::new(&two);
    log.borrow_mut().conflicts = 2;
    assert_eq!(
        run(&mut two, &log, "run", &args(&[put(1, 1)])),
        Err(Failure::Trapped)
    );
    assert!(two.db.rows("item").is_empty());
    assert_eq!(two.db.rows("note").len(), 1);
}

#[test]
fn a_procedure_sees_what_its_transactions_have_done_and_others_between() {
    let mut host = host();
    let log = Log::new(&host);
    let twice = [
        args(&[put(1, 1)]),
        5_u64.to_le_bytes().to_vec(),
        args(&[put(2, 1)]),
    ]
    .concat();
    assert_eq!(
        run(&mut host, &log, "run_twice", &twice).unwrap(),
        2_u64.to_le_bytes()
    );
    assert_eq!(rows(&host), rows(&log.borrow().there));
    // The reducers go on from there.
    let index = log.borrow().next;
    host.call("reduce", header(index), &args(&[put(3, 1)])).unwrap();
    let ids: Vec<_> = host.db.rows("item").iter().map(|row| row[0]).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn what_a_transaction_wants_called_right_after_is_called_everywhere() {
    let mut host = host();
    let log = Log::new(&host);
    let ops = [put(1, 1), Op::Soon("soon".into()), Op::Soon("later".into())];
    run(&mut host, &log, "run", &args(&ops)).unwrap();
    let asked = immediate::asked(&host);
    let calls: Vec<_> = asked
        .iter()
        .map(|it| (it.reducer.as_str(), &it.args[4..]))
        .collect();
    assert_eq!(calls, [("write", &b"soon"[..]), ("write", b"later")]);
    let mut log = log.borrow_mut();
    // By the log's time, whatever this node's clock says.
    let at_us = header(log.next - 1).timestamp_us;
    assert!(at_us > 0 && asked.iter().all(|it| it.at_us == at_us));
    assert_eq!(rows(&host), rows(&log.there));
    for host in [&mut host, &mut log.there] {
        immediate::make(host, 50, &asked[0]).unwrap();
        assert_eq!(host.db.rows("note").len(), 1);
    }
    assert_eq!(rows(&host), rows(&log.there));
}

#[test]
fn what_is_rolled_back_or_only_reads_asks_nobody() {
    let mut host = host();
    let before = host.db.rows("rtdb_state");
    let log = Log::new(&host);
    let rolled_back = run(
        &mut host,
        &log,
        "roll_back",
        &args(&[put(1, 1), Op::Write("x".into())]),
    )
    .unwrap();
    let failed: Result<u64, String> = Err("there were 1".into());
    assert_eq!(rolled_back, bsatn::to_vec(&failed).unwrap());
    assert_eq!(run(&mut host, &log, "count", &[]).unwrap(), 0_u64.to_le_bytes());
    assert_eq!(log.borrow().sleeps, 0);
    assert_eq!(host.db.rows("rtdb_state"), before);
    assert!(host.db.rows("item").is_empty());
}

#[test]
fn a_panic_takes_its_transaction_along_and_leaves_the_one_before() {
    let mut host = host();
    let log = Log::new(&host);
    assert_eq!(
        run(&mut host, &log, "explode", &args(&[put(1, 1)])),
        Err(Failure::Trapped)
    );
    assert_eq!(host.db.rows("item").len(), 1);
    assert_eq!(rows(&host), rows(&log.borrow().there));
    // The next one finds a new instance.
    let log = Log::new(&host);
    assert_eq!(
        run(&mut host, &log, "run", &args(&[put(2, 1)])).unwrap(),
        2_u64.to_le_bytes()
    );
}

#[test]
fn sleeping_with_a_transaction_open_traps() {
    let mut host = host();
    let log = Log::new(&host);
    assert_eq!(run(&mut host, &log, "hold", &[]), Err(Failure::Trapped));
    assert_eq!(log.borrow().sleeps, 0);
}

#[test]
fn a_transaction_writes_so_much_and_no_more() {
    let mut host = host();
    let log = Log::new(&host);
    let write = |mib: usize| Op::Write("x".repeat(mib << 20));
    let half = [write(10), write(11)];
    run(&mut host, &log, "run", &args(&half)).unwrap();
    assert_eq!(rows(&host), rows(&log.borrow().there));
    let all = [write(12), write(13)];
    assert_eq!(run(&mut host, &log, "run", &args(&all)), Err(Failure::Trapped));
    // What it has taken of the memory is not seen.
    let count = run(&mut host, &log, "run", &args(&[put(1, 1)])).unwrap();
    assert_eq!(count, 1_u64.to_le_bytes());
    assert_eq!(rows(&host), rows(&log.borrow().there));
}

#[test]
fn one_whose_node_is_gone_traps() {
    let mut one = host();
    let nobody: Meanwhile = Box::new(|db| db);
    let ended = one.procedure("run", header(RUN), &args(&[put(1, 1)]), nobody);
    assert_eq!(ended, Err(Failure::Trapped));
    assert!(one.db.rows("item").is_empty());

    let mut two = host();
    let mut other = two.twin();
    let lost: Meanwhile = Box::new(move |db| {
        other.db = db;
        let settle = |verdict| settle_args(RUN, 1, verdict);
        other
            .call(SETTLE, header(0), &settle(TransactionVerdict::Lost))
            .unwrap();
        other.db.clone()
    });
    let ended = two.procedure("run", header(RUN), &args(&[put(1, 1)]), lost);
    assert_eq!(ended, Err(Failure::Trapped));
    assert_eq!(two.db.rows(VERDICT).len(), 1);
    two.call(SETTLE, header(0), &settle_args(0, 0, TransactionVerdict::Over))
        .unwrap();
    assert!(two.db.rows(VERDICT).is_empty());
}

#[test]
fn a_verdict_on_another_transaction_is_none() {
    let mut host = host();
    let log = Log::new(&host);
    let mut other = host.twin();
    let (mut asked, kept) = (0, log.clone());
    let wrong: Meanwhile = Box::new(move |db| {
        asked += 1;
        if asked > 2 {
            return kept.borrow_mut().meanwhile(db);
        }
        other.db = db;
        let row = other.db.rows(OUTBOX).remove(0);
        let outbox = other.db.clone();
        let (run, seq) = [(RUN + 1, 1), (RUN, 0)][asked - 1];
        let settle = settle_args(run, seq, TransactionVerdict::Committed);
        other.call(SETTLE, header(0), &settle).unwrap();
        let mut db = other.db.clone();
        // What the other run's verdict has not touched.
        for (table, before) in db.tables.iter_mut().zip(outbox.tables) {
            if table.name == OUTBOX {
                table.rows = before.rows;
            }
        }
        assert_eq!(db.rows(OUTBOX), [row]);
        db
    });
    host.procedure("run", header(RUN), &args(&[put(1, 1)]), wrong)
        .unwrap();
    assert_eq!(rows(&host), rows(&log.borrow().there));
}

#[test]
fn what_does_not_go_as_it_did_traps() {
    let mut host = host();
    let log = Log::new(&host);
    let (kept, row) = (log.clone(), Rc::new(RefCell::new(Vec::new())));
    let keep = row.clone();
    let note: Meanwhile = Box::new(move |db| {
        keep.replace(db.rows(OUTBOX).remove(0));
        kept.borrow_mut().meanwhile(db)
    });
    let ops = [
        put(1, 1),
        put(2, 1),
        Op::Disband(1),
        Op::EraseAll,
        Op::Write("x".into()),
    ];
    host.procedure("run", header(RUN), &args(&ops), note).unwrap();
    let row = row.borrow().clone();
    let transaction = Transaction::decode(&row).unwrap();
    let mut fresh = host.twin();
    fresh.db = self::host().db;
    let operations = transaction.operations;
    for cut in 1..operations.len() {
        let mut twin = fresh.twin();
        let replay = replay_args(transaction.base, &operations[..operations.len() - cut]);
        let done = twin.call(REPLAY, header(2), &replay);
        // It may end behind any record, and else it traps.
        assert!(matches!(done, Ok(()) | Err(Failure::Trapped)), "{cut}: {done:?}");
    }
    let mut other = operations.to_vec();
    // What the first function returned.
    other[4] = 12;
    let replay = replay_args(transaction.base, &other);
    assert_eq!(
        fresh.twin().call(REPLAY, header(2), &replay),
        Err(Failure::Trapped)
    );
    // Positions that are applied are passed over.
    let replay = replay_args(transaction.base, operations);
    assert_eq!(
        fresh.call(REPLAY, header(1), &replay),
        Err(Failure::Failed(SKIPPED.into()))
    );
    fresh.call(REPLAY, header(2), &replay).unwrap();
    assert_eq!(rows(&fresh), rows(&host));
}

#[test]
fn procedures_are_known_and_have_no_header_for_clients() {
    let module = Module::from_def(&prepared(MODULE).original_def).unwrap();
    let run = module.procedure("run").unwrap();
    assert_eq!(
        (run.params.elements.len(), &run.returns, run.private),
        (1, &AlgebraicType::U64, false)
    );
    assert!(module.procedure("reduce").is_none() && module.reducer("run").is_none());
    assert!(
        module
            .procedures()
            .iter()
            .zip(0..)
            .all(|(procedure, id)| procedure.id == id)
    );
    assert!(!runs_procedures(&wasm(MODULE)));
    assert!(!runs_procedures(&prepared("views-2x").wasm));
}

/// What a call may use where procedures run for long.
const UNITS: u64 = 10_000_000;

/// A host whose procedures may use no more than [`UNITS`] before they wait.
fn limited() -> FakeHost {
    static MODULE: OnceLock<Vec<u8>> = OnceLock::new();
    let module = MODULE.get_or_init(|| {
        let options = Options {
            calls_at_once: true,
            call_units_max: UNITS,
            ..Options::default()
        };
        prepare_with(&wasm(self::MODULE), &options)
            .expect("the fixture can be prepared")
            .wasm
    });
    let mut host = FakeHost::new(module, 4096);
    host.call("rtdb_mark", header(1), &[1]).unwrap();
    host
}

#[test]
fn one_that_never_ends_lets_others_go_first_until_it_is_ended() {
    let mut host = limited();
    let log = Log::new(&host);
    assert_eq!(run(&mut host, &log, "spin", &[]), Err(Failure::Trapped));
    let sleeps = log.borrow().sleeps;
    assert!((900..=1_000).contains(&sleeps), "{sleeps}");
    // The database goes on meanwhile: here with a call each time.
    let log = Log::new(&host);
    let kept = log.clone();
    let busy: Meanwhile = Box::new(move |db| {
        let mut log = kept.borrow_mut();
        log.here.db = db;
        log.each("reduce", &args(&[])).unwrap();
        log.here.db.clone()
    });
    let ended = host.procedure("spin", header(RUN), &[], busy);
    assert_eq!(ended, Err(Failure::Trapped));
    assert_eq!(u64::from(sleeps) + 1, host.state().0);
}

#[test]
fn a_transaction_that_never_ends_is_ended_sooner() {
    let mut host = limited();
    let log = Log::new(&host);
    assert_eq!(run(&mut host, &log, "spin_within", &[]), Err(Failure::Trapped));
    // To begin costs more than a piece of so few units.
    assert_eq!(log.borrow().sleeps, 1);
    // Not all that can be used before a wait can be used within.
    let ops = vec![put(1, 1); 100];
    assert_eq!(run(&mut host, &log, "run", &args(&ops)), Err(Failure::Trapped));
    run(&mut host, &log, "run", &args(&ops[..20])).unwrap();
    assert_eq!(rows(&host), rows(&log.borrow().there));
}

/// However short each of its transactions is.
#[test]
fn transactions_without_end_let_others_go_first() {
    for rounds in [0_u64, 100, 10_000] {
        let mut host = limited();
        let log = Log::new(&host);
        let ended = run(&mut host, &log, "look_on", &rounds.to_le_bytes());
        assert_eq!(ended, Err(Failure::Trapped));
        let sleeps = log.borrow().sleeps;
        // A long one has used many pieces when it is over.
        assert!(sleeps >= 10, "{rounds}: {sleeps}");
    }
}

#[test]
fn who_waits_now_and_then_lives_on() {
    let mut host = limited();
    let log = Log::new(&host);
    let args = |times: u32, rounds: u64| [&times.to_le_bytes()[..], &rounds.to_le_bytes()].concat();
    run(&mut host, &log, "toil_on", &args(50, 100_000)).unwrap();
    // All of them together are more than one may have.
    assert!(log.borrow().sleeps > 2_000, "{}", log.borrow().sleeps);
    let at_once = run(&mut host, &log, "toil_on", &args(1, 5_000_000));
    assert_eq!(at_once, Err(Failure::Trapped));
}
