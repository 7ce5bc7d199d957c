//! Prepared modules on the fake host.

use rtdb_determinism::Successes;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{DISCONNECT, LOAD, MARK, SKIPPED};
use spacetimedb_lib::bsatn;

use crate::fixtures::{NAMES, prepared};
use crate::host::{Failure, FakeHost};

const SECOND_US: i64 = 1_000_000;

fn header(index: u64) -> CallHeader {
    let mut connection = [0; 16];
    connection[0] = 9;
    CallHeader {
        sender: [7; 32],
        connection,
        timestamp_us: index as i64 * SECOND_US,
        index,
        session: 0,
    }
}

fn in_session(index: u64, session: u64) -> CallHeader {
    CallHeader {
        session,
        ..header(index)
    }
}

fn args<T: spacetimedb_lib::ser::Serialize>(args: &T) -> Vec<u8> {
    bsatn::to_vec(args).expect("the arguments encode")
}

fn add(host: &mut FakeHost, index: u64, name: &str) -> Result<(), Failure> {
    host.call("add", header(index), &args(&(name, 1_i64)))
}

fn each_fixture(test: impl Fn(&[u8])) {
    for name in NAMES {
        test(&prepared(name).wasm);
    }
}

/// The ids in a table whose first column is a `u64` key.
fn ids(host: &FakeHost, table: &str) -> Vec<u64> {
    let rows = host.db.rows(table);
    let mut ids: Vec<_> = rows
        .iter()
        .map(|row| u64::from_le_bytes(row[..8].try_into().unwrap()))
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_call_is_applied_exactly_once() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        add(&mut host, 5, "a").unwrap();
        for index in [5, 4, 0] {
            let skipped = Err(Failure::Failed(SKIPPED.to_owned()));
            assert_eq!(add(&mut host, index, "again"), skipped);
            assert_eq!(host.call(DISCONNECT, header(index), &[]), Ok(()));
        }
        add(&mut host, 6, "b").unwrap();
        assert_eq!(ids(&host, "counter"), [1, 2]);
        assert_eq!(host.state().0, 6);
    });
}

#[test]
fn what_succeeds_is_counted_once() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        add(&mut host, 5 << 16, "a").unwrap();
        add(&mut host, 5 << 16 | 1, "").unwrap_err();
        add(&mut host, 5 << 16, "again").unwrap_err();
        add(&mut host, u64::MAX, "b").unwrap();
        let mut counted = Successes::default();
        counted.add(5 << 16);
        counted.add(u64::MAX);
        let row = host.db.rows("rtdb_state").remove(0);
        let mut columns = [0; Successes::COLUMNS.len()];
        for (column, bytes) in columns.iter_mut().zip(row[25..].chunks_exact(16)) {
            *column = u128::from_le_bytes(bytes.try_into().unwrap());
        }
        assert_eq!(Successes::from_columns(columns), counted);
    });
}

#[test]
fn caller_and_time_come_from_the_header() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        add(&mut host, 3, "a").unwrap();
        let row = host.db.rows("counter").remove(0);
        assert_eq!(row[row.len() - 32..], [7; 32]);
        let at = row.len() - 40;
        assert_eq!(row[at..at + 8], (3 * SECOND_US).to_le_bytes());
    });
}

#[test]
fn two_servers_agree_whatever_their_ids_and_restarts() {
    each_fixture(|wasm| {
        let mut hosts = [FakeHost::new(wasm, 4096), FakeHost::new(wasm, 70_000)];
        for (nth, host) in hosts.iter_mut().enumerate() {
            host.call("init", header(1), &[]).unwrap();
            host.call("connected", in_session(2, 2), &[]).unwrap();
            for index in 3..20 {
                if nth == 1 && index % 5 == 0 {
                    host.restart();
                }
                add(host, index * 10, "a").unwrap();
                host.call("roll", header(index * 10 + 1), &args(&"label"))
                    .unwrap();
                let tags = vec!["x".to_owned(); (index % 3) as usize];
                host.call(
                    "write_note",
                    header(index * 10 + 2),
                    &args(&("text", tags, index % 2 == 0)),
                )
                .unwrap();
                host.call("fail", header(index * 10 + 3), &args(&"no"))
                    .unwrap_err();
            }
            host.call("add_many", header(500), &args(&("many", 30_u32)))
                .unwrap();
            host.call("set", header(501), &args(&(2_u64, 5_i64))).unwrap();
            host.call("remove", header(502), &args(&3_u64)).unwrap();
            host.call("open_account", header(503), &args(&"bob")).unwrap();
            host.call("open_account", header(504), &args(&"bob")).unwrap_err();
            host.call("deposit", header(505), &args(&12_i64)).unwrap();
        }
        let [one, two] = &hosts;
        assert!(two.instances > one.instances);
        for table in &one.db.tables {
            assert_eq!(
                one.db.rows(&table.name),
                two.db.rows(&table.name),
                "{}",
                table.name
            );
        }
        assert_eq!(one.state(), two.state());
        assert_eq!(one.db.rows("note").len(), 17);
        let seeds: std::collections::HashSet<_> = one
            .db
            .rows("dice")
            .into_iter()
            .map(|row| row[row.len() - 8..].to_vec())
            .collect();
        assert_eq!(seeds.len(), 17, "random numbers differ from call to call");
    });
}

#[test]
fn a_differing_row_shows_in_the_digest() {
    each_fixture(|wasm| {
        let digest = |name: &str, value: i64| {
            let mut host = FakeHost::new(wasm, 4096);
            host.call("add", header(1), &args(&(name, value))).unwrap();
            host.state().1
        };
        let all = [digest("a", 1), digest("a", 2), digest("b", 1), digest("ab", 1)];
        let distinct: std::collections::HashSet<_> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(digest("a", 1), all[0]);
    });
}

#[test]
fn deletes_and_updates_show_in_the_digest() {
    each_fixture(|wasm| {
        let after = |reducer: &str, own: &[u8]| {
            let mut host = FakeHost::new(wasm, 4096);
            add(&mut host, 1, "a").unwrap();
            add(&mut host, 2, "a").unwrap();
            host.call(reducer, header(3), own).unwrap();
            host.state().1
        };
        let all = [
            after(MARK, &args(&false)),
            after("remove", &args(&1_u64)),
            after("remove", &args(&2_u64)),
            after("set", &args(&(1_u64, 8_i64))),
            after("set", &args(&(2_u64, 8_i64))),
        ];
        assert_eq!(
            all.iter().collect::<std::collections::HashSet<_>>().len(),
            all.len()
        );
    });
}

#[test]
fn a_failed_call_leaves_nothing() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        add(&mut host, 1, "a").unwrap();
        let before = host.state();
        let failed = host.call("fail", in_session(2, 1), &args(&"the reason"));
        assert_eq!(failed, Err(Failure::Failed("the reason".into())));
        assert_eq!((host.state(), host.receipts()), (before, vec![]));
        // Nor is the id that it took gone.
        add(&mut host, 3, "b").unwrap();
        assert_eq!(ids(&host, "counter"), [1, 2]);
    });
}

#[test]
fn a_call_after_a_trap_goes_on_in_a_new_instance() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        add(&mut host, 1, "a").unwrap();
        assert_eq!(host.call("explode", header(2), &[]), Err(Failure::Trapped));
        add(&mut host, 3, "b").unwrap();
        assert_eq!((ids(&host, "counter"), host.instances), (vec![1, 2], 2));
    });
}

#[test]
fn numbers_go_on_after_failures_and_in_new_instances() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        // The very first number is taken by a call that fails.
        host.call("fail", header(1), &args(&"no")).unwrap_err();
        add(&mut host, 2, "a").unwrap();
        host.call("fail", header(3), &args(&"no")).unwrap_err();
        add(&mut host, 4, "b").unwrap();
        host.call("explode", header(5), &[]).unwrap_err();
        add(&mut host, 6, "c").unwrap();
        host.restart();
        host.call("fail", header(7), &args(&"no")).unwrap_err();
        add(&mut host, 8, "d").unwrap();
        assert_eq!((ids(&host, "counter"), host.instances), (vec![1, 2, 3, 4], 3));
    });
}

#[test]
fn what_an_instance_remembers_does_not_outlive_a_restored_database() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        add(&mut host, 1, "a").unwrap();
        let earlier = host.db.clone();
        add(&mut host, 2, "b").unwrap();
        host.db = earlier;
        add(&mut host, 2, "b").unwrap();
        add(&mut host, 3, "c").unwrap();
        assert_eq!(ids(&host, "counter"), [1, 2, 3]);
    });
}

#[test]
fn sessions_get_receipts() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        host.call("connected", in_session(1, 1), &[]).unwrap();
        host.call("add", in_session(2, 1), &args(&("a", 1_i64))).unwrap();
        host.call("add", in_session(3, 2), &args(&("a", 1_i64))).unwrap();
        host.call("add", header(4), &args(&("a", 1_i64))).unwrap();
        assert_eq!(host.receipts(), [(1, 2), (2, 3)]);
        host.call("disconnected", in_session(5, 1), &[]).unwrap();
        assert_eq!(
            (host.receipts(), host.db.rows("presence").len()),
            (vec![(2, 3)], 0)
        );
        host.call(DISCONNECT, in_session(6, 2), &[]).unwrap();
        host.call(DISCONNECT, in_session(7, 2), &[]).unwrap();
        assert_eq!((host.receipts(), host.state().0), (vec![], 7));
    });
}

#[test]
fn a_banned_client_is_refused() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        host.call("ban_identity", header(1), &[7; 32]).unwrap();
        let refused = host.call("connected", in_session(2, 2), &[]);
        assert_eq!(refused, Err(Failure::Failed("you are banned".into())));
        host.call("lift_ban", header(3), &[7; 32]).unwrap();
        host.call("connected", in_session(4, 4), &[]).unwrap();
    });
}

#[test]
fn marks_and_init_record_the_running_module() {
    each_fixture(|wasm| {
        let mut host = FakeHost::new(wasm, 4096);
        host.call("init", header(1), &[]).unwrap();
        assert_eq!((host.state().0, host.state().2), (1, 1));
        host.call(MARK, header(2), &args(&false)).unwrap();
        assert_eq!((host.state().0, host.state().2), (2, 1));
        host.call(MARK, header(3), &args(&true)).unwrap();
        host.call(MARK, header(3), &args(&true)).unwrap();
        assert_eq!((host.state().0, host.state().2), (3, 3));
    });
}

#[test]
fn loaded_rows_are_as_they_were() {
    each_fixture(|wasm| {
        let mut from = FakeHost::new(wasm, 4096);
        from.call("add_many", in_session(1, 1), &args(&("x".repeat(500), 300_u32)))
            .unwrap();
        from.call("write_note", header(2), &args(&("text", vec!["tag"], true)))
            .unwrap();

        let mut to = FakeHost::new(wasm, 4096);
        let mut tables: Vec<_> = from.db.tables.iter().map(|table| table.name.clone()).collect();
        tables.sort_by_key(|name| name == "rtdb_state");
        for table in &tables {
            to.call(LOAD, header(0), &args(&(table.as_str(), from.db.rows(table))))
                .unwrap();
        }
        for table in &tables {
            assert_eq!(from.db.rows(table), to.db.rows(table));
        }
        for host in [&mut from, &mut to] {
            host.call("add", header(3), &args(&("next", 1_i64))).unwrap();
        }
        assert_eq!(from.state(), to.state());
        assert_eq!(ids(&to, "counter").last(), Some(&301));
        // Only an empty database is loaded.
        assert_eq!(
            to.call(LOAD, header(9), &args(&("ban", vec![vec![1_u8; 32]]))),
            Err(Failure::Trapped)
        );
    });
}
