//! Rows that change by `rtdb_apply`.

use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{APPLY, RowChanges, SKIPPED, TAKEN, encode_changes, takes_rows};
use spacetimedb_lib::bsatn;

use crate::host::{Failure, FakeHost};
use crate::raw_module::numbered;
use crate::taken::unique;

/// The tables of the module, and behind them the first of ours.
const ROWS: u32 = 0;
const LEFT: u32 = 1;
const HIDDEN: u32 = 2;

fn header(index: u64) -> CallHeader {
    CallHeader {
        index,
        ..CallHeader::default()
    }
}

fn row(id: u64, other: u64) -> Vec<u8> {
    bsatn::to_vec(&(id, other)).unwrap()
}

fn blob(bytes: usize) -> Vec<u8> {
    bsatn::to_vec(&vec![7_u8; bytes]).unwrap()
}

/// A database whose table `rows` has two columns: one generated and unique, and a unique one.
fn hosts() -> [FakeHost; 2] {
    let wasm = numbered(2, &[0], |def| unique(def, &[0, 1], false));
    assert!(takes_rows(&wasm));
    [4096, 500].map(|first_id| FakeHost::new(&wasm, first_id))
}

fn apply(host: &mut FakeHost, index: u64, changes: &[RowChanges<Vec<u8>>]) -> Result<(), Failure> {
    host.call(APPLY, header(index), &encode_changes(changes))
}

fn changes(table: u32, deleted: &[Vec<u8>], inserted: &[Vec<u8>]) -> RowChanges<Vec<u8>> {
    RowChanges {
        table,
        deleted: deleted.to_vec(),
        inserted: inserted.to_vec(),
    }
}

#[test]
fn rows_go_and_come_as_by_the_modules_own_writes() {
    let mut digests = Vec::new();
    for mut host in hosts() {
        host.call("insert", header(1), &row(0, 10)).unwrap();
        let inserted = [row(0, 20), row(7, 30), row(0, 40)];
        apply(&mut host, 2, &[changes(ROWS, &[], &inserted)]).unwrap();
        assert_eq!(
            host.db.rows("rows"),
            [row(1, 10), row(2, 20), row(3, 40), row(7, 30)]
        );
        // A key moves to another row, and a row comes to where another went.
        let moved = changes(
            ROWS,
            &[row(1, 10), row(2, 20), row(7, 30)],
            &[row(2, 10), row(7, 20)],
        );
        apply(&mut host, 3, &[moved, changes(LEFT, &[], &[blob(3)])]).unwrap();
        assert_eq!(host.db.rows("rows"), [row(2, 10), row(3, 40), row(7, 20)]);
        assert!(host.db.rows("left").contains(&blob(3)));
        apply(&mut host, 4, &[]).unwrap();
        // The module goes on from there.
        host.call("insert", header(5), &row(0, 50)).unwrap();
        assert!(host.db.rows("rows").contains(&row(4, 50)));
        let (index, digest, _) = host.state();
        assert_eq!(index, 5);
        digests.push(digest);
        assert_eq!(host.instances, 1);
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn each_change_counts() {
    let digest = |what: &[RowChanges<Vec<u8>>]| {
        let [mut host, _] = hosts();
        apply(&mut host, 1, &[changes(ROWS, &[], &[row(1, 1), row(2, 2)])]).unwrap();
        apply(&mut host, 2, what).unwrap();
        host.state().1
    };
    let digests = [
        digest(&[]),
        digest(&[changes(ROWS, &[row(1, 1)], &[])]),
        digest(&[changes(ROWS, &[row(2, 2)], &[])]),
        digest(&[changes(ROWS, &[row(1, 1)], &[row(1, 1)])]),
        digest(&[changes(ROWS, &[], &[row(3, 3)])]),
    ];
    for (at, one) in digests.iter().enumerate() {
        assert!(!digests[..at].contains(one), "{at}");
    }
}

#[test]
fn a_unique_value_that_is_taken_takes_all_of_it_back() {
    let [mut host, _] = hosts();
    apply(&mut host, 1, &[changes(ROWS, &[], &[row(5, 50), row(6, 60)])]).unwrap();
    let before = (host.state(), host.db.rows("rows"));
    let taken = Err(Failure::Failed(TAKEN.into()));
    for bad in [
        changes(ROWS, &[], &[row(7, 70), row(5, 51)]),
        changes(ROWS, &[], &[row(0, 60)]),
        changes(ROWS, &[row(5, 50)], &[row(6, 50)]),
    ] {
        assert_eq!(apply(&mut host, 2, &[changes(LEFT, &[], &[blob(9)]), bad]), taken);
        assert_eq!((host.state(), host.db.rows("rows")), before);
    }
    assert!(host.db.rows("left").is_empty());
    // The failed ones have used no numbers up.
    apply(&mut host, 3, &[changes(ROWS, &[], &[row(0, 1)])]).unwrap();
    assert!(host.db.rows("rows").contains(&row(1, 1)));
}

#[test]
fn what_is_applied_is_passed_over() {
    let [mut host, _] = hosts();
    apply(&mut host, 3, &[changes(ROWS, &[], &[row(5, 50)])]).unwrap();
    for index in [1, 3] {
        let skipped = Err(Failure::Failed(SKIPPED.into()));
        assert_eq!(
            apply(&mut host, index, &[changes(ROWS, &[row(5, 50)], &[])]),
            skipped
        );
    }
    assert_eq!(host.db.rows("rows"), [row(5, 50)]);
}

#[test]
fn rows_that_are_not_there_and_tables_that_are_not_the_modules_trap() {
    let [mut host, _] = hosts();
    apply(&mut host, 1, &[changes(ROWS, &[], &[row(5, 50)])]).unwrap();
    for bad in [
        changes(ROWS, &[row(5, 50), row(5, 51)], &[]),
        changes(HIDDEN, &[], &[vec![0; 200]]),
        changes(u32::MAX - 1, &[], &[row(1, 1)]),
        changes(u32::MAX, &[], &[row(1, 1)]),
    ] {
        assert_eq!(
            apply(&mut host, 2, std::slice::from_ref(&bad)),
            Err(Failure::Trapped),
            "{bad:?}"
        );
    }
    let mut cut = encode_changes(&[changes(ROWS, &[], &[row(6, 60)])]);
    cut.pop();
    assert_eq!(host.call(APPLY, header(2), &cut), Err(Failure::Trapped));
    assert_eq!(host.db.rows("rows"), [row(5, 50)]);
}

#[test]
fn long_rows_leave_nothing_in_the_modules_memory() {
    let mut hosts = hosts();
    for host in &mut hosts {
        apply(host, 1, &[changes(LEFT, &[], &[blob(1 << 20), blob(3)])]).unwrap();
        apply(host, 2, &[changes(LEFT, &[blob(1 << 20)], &[])]).unwrap();
        assert_eq!(host.db.rows("left"), [blob(3)]);
    }
    let [warm, cold] = &mut hosts;
    cold.restart();
    for host in [&mut *warm, &mut *cold] {
        host.call("insert", header(3), &row(0, 1)).unwrap();
    }
    assert_eq!(warm.state(), cold.state());
    assert_eq!(warm.db.rows("left"), cold.db.rows("left"));
}
