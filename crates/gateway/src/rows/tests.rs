use super::*;
use proptest::prelude::*;
use rtdb_protocol::server::{self, ServerMessage};

fn gauge() -> IntGauge {
    IntGauge::new("rows", "bytes").expect("a gauge")
}

/// What an update says, by way of its own bytes.
fn changes(subprotocol: Subprotocol, message: &[u8]) -> Changes {
    let payload = [&[0], message].concat();
    match server::split(subprotocol, payload.into()).next() {
        Some(Ok(ServerMessage::Update(update))) => update.changes().clone(),
        other => panic!("no update: {other:?}"),
    }
}

/// A client's rows, as an SDK keeps them: by set, table and bytes, with a count. Counts never fall below zero.
type Cache = BTreeMap<(u32, String, Vec<u8>), u32>;

fn play(cache: &mut Cache, changes: &Changes) {
    let key = |change: &server::Change, row: Bytes| {
        let set = change.query_set.unwrap_or(0);
        (set, change.table.to_string(), row.to_vec())
    };
    for change in changes.iter() {
        for row in change.inserts.iter() {
            *cache.entry(key(&change, row)).or_default() += 1;
        }
    }
    for change in changes.iter() {
        for row in change.deletes.iter() {
            let key = key(&change, row);
            let count = cache.get_mut(&key).expect("the client has the row");
            *count -= 1;
            if *count == 0 {
                cache.remove(&key);
            }
        }
    }
}

/// The update that leads from one cache to another.
fn step(subprotocol: Subprotocol, from: &Cache, to: &Cache) -> Bytes {
    let mut tables: BTreeMap<(u32, &str), TableDifference<'_>> = BTreeMap::new();
    let keys: std::collections::BTreeSet<_> = from.keys().chain(to.keys()).collect();
    for key @ (set, table, row) in keys {
        let difference = tables.entry((*set, table)).or_insert(TableDifference {
            query_set: *set,
            table,
            ..TableDifference::default()
        });
        let [before, after] = [from, to].map(|cache| cache.get(key).copied().unwrap_or(0));
        difference.inserts.extend((before..after).map(|_| &row[..]));
        difference.deletes.extend((after..before).map(|_| &row[..]));
    }
    put_difference(subprotocol, &tables.into_values().collect::<Vec<_>>())
}

fn cache(sets: u32) -> impl Strategy<Value = Cache> {
    let key = (0..sets, "[ab]", prop::collection::vec(0u8..3, 0..3));
    prop::collection::btree_map(key, 1u32..3, 0..12)
}

proptest! {
    /// Whatever the client was shown, whatever the new upstream tells, be it broken off on the way: the difference leads
    /// from the one to the other, and nothing comes twice.
    #[test]
    fn the_difference_leads_to_what_is_told(
        v1 in any::<bool>(),
        shown in prop::collection::vec(cache(3), 1..4),
        broken in cache(3),
        told in prop::collection::vec(cache(3), 1..4),
    ) {
        let subprotocol = if v1 { Subprotocol::V1 } else { Subprotocol::V2 };
        let flat = |cache: &Cache| match v1 {
            false => cache.clone(),
            true => cache.iter().filter(|(key, _)| key.0 == 0).map(|(key, count)| (key.clone(), *count)).collect(),
        };
        let total = gauge();
        let mut rows = Rows::new(total.clone());
        let mut client = Cache::new();
        for next in shown.iter().map(flat) {
            let message = step(subprotocol, &client, &next);
            prop_assert!(rows.apply(&changes(subprotocol, &message), Side::Shown));
            client = next;
        }
        let message = step(subprotocol, &Cache::new(), &flat(&broken));
        prop_assert!(rows.apply(&changes(subprotocol, &message), Side::Told));
        rows.forget_told();

        let mut server = Cache::new();
        for next in told.iter().map(flat) {
            let message = step(subprotocol, &server, &next);
            prop_assert!(rows.apply(&changes(subprotocol, &message), Side::Told));
            server = next;
        }
        match rows.show_told(subprotocol) {
            Some(message) => {
                let changes = changes(subprotocol, &message);
                for change in changes.iter() {
                    let inserts: Vec<_> = change.inserts.iter().collect();
                    prop_assert!(change.deletes.iter().all(|row| !inserts.contains(&row)));
                }
                play(&mut client, &changes);
            }
            None => prop_assert_eq!(&client, &server),
        }
        prop_assert_eq!(&client, &server);

        let cost: usize = server.keys().map(|(.., row)| cost(row)).sum();
        prop_assert_eq!(total.get(), cost as i64);
        rows.forget_told();
        prop_assert!(rows.show_told(subprotocol).is_some() != server.is_empty(), "an empty server takes all away");
        prop_assert_eq!(total.get(), 0);
    }
}

#[test]
fn a_row_that_comes_and_leaves_in_one_update_is_not_kept() {
    let mut rows = Rows::new(gauge());
    let update = put_difference(
        Subprotocol::V1,
        &[
            TableDifference {
                table: "a",
                deletes: vec![b"row"],
                ..TableDifference::default()
            },
            TableDifference {
                table: "a",
                inserts: vec![b"row"],
                ..TableDifference::default()
            },
        ],
    );
    assert!(rows.apply(&changes(Subprotocol::V1, &update), Side::Shown));
    assert_eq!(rows.show_told(Subprotocol::V1), None);
}

#[test]
fn the_limits_hold_and_what_is_dropped_is_given_back() {
    let total = gauge();
    let mut rows = Rows::new(total.clone());
    let row = vec![7; ROWS_BYTES_MAX];
    let update = put_difference(
        Subprotocol::V2,
        &[TableDifference {
            query_set: 1,
            table: "a",
            inserts: vec![&row],
            ..TableDifference::default()
        }],
    );
    assert!(!rows.apply(&changes(Subprotocol::V2, &update), Side::Shown));
    rows.forget(1);
    assert_eq!(total.get(), 0);
    total.set(ROWS_TOTAL_BYTES_MAX as i64);
    let small = put_difference(
        Subprotocol::V2,
        &[TableDifference {
            query_set: 1,
            table: "a",
            inserts: vec![b"x"],
            ..TableDifference::default()
        }],
    );
    assert!(!rows.apply(&changes(Subprotocol::V2, &small), Side::Shown));
    drop(rows);
    assert_eq!(total.get(), ROWS_TOTAL_BYTES_MAX as i64);
}

/// A table of so many rows of 16 bytes.
fn many(rows: u64) -> Changes {
    let rows: Vec<Vec<u8>> = (0..rows).map(|n| n.to_le_bytes().repeat(2)).collect();
    let table = TableDifference {
        query_set: 1,
        table: "t",
        inserts: rows.iter().map(|row| &row[..]).collect(),
        ..TableDifference::default()
    };
    changes(Subprotocol::V2, &put_difference(Subprotocol::V2, &[table]))
}

#[test]
fn nothing_is_copied_of_what_can_not_be_kept() {
    let mut rows = Rows::new(gauge());
    let most = (ROWS_BYTES_MAX / (16 + ROW_OVERHEAD_BYTES)) as u64;
    assert!(!rows.apply(&many(most + 1), Side::Shown));
    assert_eq!(rows.bytes(), 0);
    assert!(rows.apply(&many(most / 2), Side::Shown));
    assert!(rows.apply(&many(most), Side::Shown), "half of them are there");
    let before = rows.bytes();
    let table = TableDifference {
        query_set: 2,
        table: "t",
        inserts: vec![&[7; 1024]; 1000],
        ..TableDifference::default()
    };
    let copies = changes(Subprotocol::V2, &put_difference(Subprotocol::V2, &[table]));
    assert!(!rows.apply(&copies, Side::Shown));
    assert!(
        rows.bytes() <= before + cost(&[7; 1024]),
        "it ends at the first that does not fit"
    );
}
