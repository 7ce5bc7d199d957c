//! SQL that writes values of all types, and tables of all kinds, against a plain server.

use super::cluster::{self, Pair};
use super::sql::ask_of;
use super::{Client, json, publish_module};
use rtdb_protocol::Subprotocol;
use rtdb_testkit::tables_module;
use spacetimedb_lib::db::raw_def::v9::{RawModuleDefV9Builder, TableAccess, btree, direct, hash};
use spacetimedb_lib::db::raw_def::v10::RawModuleDefV10Builder;
use spacetimedb_lib::{Identity, RawModuleDef};
use spacetimedb_sats::{AlgebraicType, ProductType};
use std::net::SocketAddr;

/// Columns, and values that both take or refuse alike.
fn columns() -> Vec<(&'static str, AlgebraicType, &'static [&'static str])> {
    const INTEGERS: &[&str] = &[
        "0",
        "128",
        "256",
        "65536",
        "4294967296",
        "9223372036854775808",
        "18446744073709551616",
        "340282366920938463463374607431768211455",
        "57896044618658097711785492504343953926634992332820282019728792003956564819968",
        "115792089237316195423570985008687907853269984665640564039457584007913129639935",
        "115792089237316195423570985008687907853269984665640564039457584007913129639936",
        "1E2",
        "120e-1",
        "1.5",
        "0.0",
        "0x10",
        "'5'",
        ".5e1",
        "5L",
    ];
    const FLOATS: &[&str] = &[
        "0",
        "1",
        "0.1",
        "0.3",
        ".7",
        "5.",
        "1e23",
        "7e22",
        "123e25",
        "1.5e300",
        "1e308",
        "1.7976931348623157e308",
        "1.8e308",
        "1e400",
        "1e-400",
        "4.9e-324",
        "3.4028235e38",
        "3.5e38",
        "123456789.123456789",
        "16777217",
        "33554433e3",
        "9007199254740993",
        "90071992547409930e-1",
        "0.0",
        "0x10",
        "'1.5'",
        "false",
        "2e0",
        "100000000000000000000000e1",
    ];
    const WORDS: &[&str] = &[
        "''",
        "'a'",
        "'it''s'",
        "5",
        "1e2",
        "true",
        "0xaf",
        "X'61'",
        "'\u{1f600}'",
        "'\\'",
        "'\n'",
    ];
    const BYTES: &[&str] = &[
        "0x", "0x0", "0x00", "0xaF", "0x0aF", "X'0b'", "X'xy'", "5", "50", "'aa'", "true", "1e2", "1.5",
    ];
    const IDENTITIES: &[&str] = &[
        "0xc200d24aefb88d624063021dcb7602c95b4bb1161a565e066bc2352391bb7e3a",
        "0xC200D24AEFB88D624063021DCB7602C95B4BB1161A565E066BC2352391BB7E3A",
        "0x00",
        "7",
        "0xc200d24aefb88d624063021dcb7602c9",
        "'c200d24aefb88d624063021dcb7602c95b4bb1161a565e066bc2352391bb7e3a'",
        ":sender",
        "true",
        "1111111111111111111111111111111111111111111111111111111111111111",
        "0x0000000000000000000000000000000000000000000000000000000000000007",
    ];
    const CONNECTIONS: &[&str] = &[
        "0xc200d24aefb88d624063021dcb7602c9",
        "0x7",
        "7",
        "11111111111111111111111111111111",
        "'00'",
        "true",
        "0x00000000000000000000000000000007",
    ];
    const OTHERS: &[&str] = &[
        "0",
        "1",
        "'2024-01-01T00:00:00Z'",
        "2024",
        "0x01",
        "true",
        "''",
        "()",
        "NULL",
        "1e3",
    ];
    use AlgebraicType as A;
    vec![
        ("b1", A::Bool, &["true", "false", "TRUE", "1", "'true'", "0x01"]),
        ("i8", A::I8, INTEGERS),
        ("u8", A::U8, INTEGERS),
        ("i16", A::I16, INTEGERS),
        ("u16", A::U16, INTEGERS),
        ("i32", A::I32, INTEGERS),
        ("u32", A::U32, INTEGERS),
        ("i64", A::I64, INTEGERS),
        ("u64", A::U64, INTEGERS),
        ("i128", A::I128, INTEGERS),
        ("u128", A::U128, INTEGERS),
        ("i256", A::I256, INTEGERS),
        ("u256", A::U256, INTEGERS),
        ("f32", A::F32, FLOATS),
        ("f64", A::F64, FLOATS),
        ("string", A::String, WORDS),
        ("bytes", A::bytes(), BYTES),
        ("identity", A::identity(), IDENTITIES),
        ("connection", A::connection_id(), CONNECTIONS),
        ("timestamp", A::timestamp(), OTHERS),
        ("duration", A::time_duration(), OTHERS),
        ("option", A::option(A::U32), OTHERS),
        ("numbers", A::array(A::U32), OTHERS),
        ("signed", A::array(A::I8), BYTES),
        ("unit", A::unit(), OTHERS),
    ]
}

fn module() -> RawModuleDef {
    let mut def = RawModuleDefV9Builder::new();
    for (name, ty, _) in columns() {
        let row = ProductType::from([("a", AlgebraicType::U8), ("v", ty)]);
        def.build_table_with_new_type(format!("t_{name}"), row, true)
            .with_access(TableAccess::Public)
            .finish();
    }
    let row = || {
        ProductType::from([
            ("id", AlgebraicType::U64),
            ("name", AlgebraicType::String),
            ("n", AlgebraicType::U32),
        ])
    };
    def.build_table_with_new_type("keyed", row(), true)
        .with_auto_inc_primary_key(0)
        .with_index(btree(0), "id")
        .with_unique_constraint(1)
        .with_index(btree(1), "name")
        .finish();
    def.build_table_with_new_type("straight", row(), true)
        .with_unique_constraint(2)
        .with_index(direct(2), "n")
        .finish();
    def.build_table_with_new_type("counted", row(), true)
        .with_column_sequence(0)
        .with_index(btree([1, 2]), "both")
        .finish();
    def.build_table_with_new_type("OddName", ProductType::from([("a", AlgebraicType::U8)]), true)
        .finish();
    // Rules are not for the owner.
    def.add_row_level_security("SELECT * FROM t_identity WHERE v = :sender");
    def.add_reducer("nothing", ProductType::unit(), None);
    RawModuleDef::V9(def.finish())
}

/// Answers of both.
struct Both<'a> {
    pair: &'a Pair,
    owner: &'a str,
    differences: Vec<String>,
}

impl Both<'_> {
    async fn ask(&self, address: SocketAddr, database: &str, text: &str) -> (u16, String) {
        let (status, body) = ask_of(database, address, self.owner, text).await;
        let body = body.replace("],,", "],");
        let sorted = serde_json::from_str::<serde_json::Value>(&body).map(|mut answer| {
            if let Some(serde_json::Value::Array(rows)) = answer.pointer_mut("/0/rows") {
                rows.sort_by_key(serde_json::Value::to_string);
            }
            answer.to_string()
        });
        (status, sorted.unwrap_or(body))
    }

    async fn same(&mut self, database: &str, text: &str) -> u16 {
        let plain = self.ask(self.pair.plain, database, text).await;
        let gateway = self.ask(self.pair.gateway, database, text).await;
        let is_violation =
            |(status, body): &(u16, String)| *status == 400 && body.contains("nique constraint violation");
        if plain != gateway && !(is_violation(&plain) && is_violation(&gateway)) {
            self.differences
                .push(format!("{text}:\n    {plain:?}\n    {gateway:?}"));
        }
        plain.0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_all_types_are_written_as_natively() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    let owner = pair.tokens.fresh().expect("a token").token;
    let wasm = tables_module::wasm(&module()).expect("a module");
    publish_module(&pair, wasm, "types", &owner).await;
    let mut both = Both {
        pair: &pair,
        owner: &owner,
        differences: Vec::new(),
    };
    let has_signs = pair.newest > Subprotocol::V1;
    for (name, _, values) in columns() {
        let negative = values.iter().map(|value| format!("-{value}"));
        let negative = negative.filter(|value| has_signs && value.contains(char::is_numeric));
        let values: Vec<_> = values
            .iter()
            .map(|value| (*value).to_owned())
            .chain(negative)
            .collect();
        for (at, value) in values.iter().enumerate() {
            let insert = format!("INSERT INTO t_{name} (a, v) VALUES ({at}, {value})");
            both.same("types", &insert).await;
        }
        let all = format!("SELECT * FROM t_{name}");
        both.same("types", &all).await;
        let [plain, gateway] =
            [pair.plain, pair.gateway].map(|address| json::rows(address, "types", &owner, &all));
        let (plain, gateway) = (plain.await, gateway.await);
        if plain != gateway {
            both.differences
                .push(format!("{all}, in JSON:\n    {plain:?}\n    {gateway:?}"));
        }
        for value in &values {
            both.same("types", &format!("DELETE FROM t_{name} WHERE v = {value}"))
                .await;
        }
    }
    let newer = NEWER.iter().filter(|_| has_signs);
    for text in KINDS.iter().chain(newer) {
        both.same("types", text).await;
        for table in ["keyed", "straight", "counted", "\"OddName\""] {
            both.same("types", &format!("SELECT * FROM {table}")).await;
        }
    }
    rules_are_for_others(&mut both).await;
    if has_signs {
        let wasm = tables_module::wasm(&events()).expect("a module");
        publish_module(&pair, wasm, "events", &owner).await;
        events_are_seen(&pair, &owner).await;
        for text in EVENTS {
            both.same("events", text).await;
            for table in ["happened", "once", "snake_case", "SnakeCase", "hashed", "marked"] {
                both.same("events", &format!("SELECT * FROM {table}")).await;
            }
        }
    }
    let differences = both.differences.join("\n");
    pair.stop().await;
    assert!(differences.is_empty(), "{differences}");
}

/// Each sees of a table with a rule what the rule leaves, and its owner all.
async fn rules_are_for_others(both: &mut Both<'_>) {
    let other = both.pair.tokens.fresh().expect("a token").token;
    let claims = both.pair.tokens.verify(&other).expect("a good token");
    let identity = Identity::from_byte_array(claims.identity).to_hex();
    for (a, v) in [(1, identity.to_string()), (2, "0".repeat(64))] {
        let insert = format!("INSERT INTO t_identity (a, v) VALUES ({a}, 0x{v})");
        assert_eq!(both.same("types", &insert).await, 200);
    }
    let mut seen = Vec::new();
    for address in [both.pair.plain, both.pair.gateway] {
        let mut shown = Vec::new();
        for token in [&other, both.owner] {
            for query in ["SELECT a FROM t_identity", "SELECT COUNT(*) AS n FROM t_identity"] {
                let (status, body) = ask_of("types", address, token, query).await;
                let answer: serde_json::Value =
                    serde_json::from_str(&body.replace("],,", "],")).expect("JSON");
                shown.push(format!("{status} {}", answer[0]["rows"]));
            }
            let mut client = Client::connect(address, "types", both.pair.newest, token).await;
            client.sees().await;
            client.subscribe(&["SELECT * FROM t_identity"], 1, 1).await;
            shown.push(client.sees().await);
            client.query("SELECT * FROM t_identity", 2).await;
            shown.push(client.sees().await);
        }
        seen.push(shown);
    }
    assert!(seen[0][0].ends_with("[[1]]"), "{:?}", seen[0]);
    assert_eq!(seen[0], seen[1]);
    both.same("types", "DELETE FROM t_identity").await;
}

/// Who subscribes to a table of events is told of each, once: v1 does not know of them.
async fn events_are_seen(pair: &Pair, owner: &str) {
    for subprotocol in Subprotocol::ALL {
        let mut seen = Vec::new();
        for address in [pair.plain, pair.gateway] {
            let mut shown = Vec::new();
            let mut client = Client::connect(address, "events", subprotocol, owner).await;
            client.sees().await;
            client
                .subscribe(&["SELECT * FROM happened WHERE text = 'seen'"], 1, 1)
                .await;
            shown.push(client.sees().await);
            for text in ["unseen", "seen", "seen"] {
                let insert =
                    format!("INSERT INTO happened (theKind, text) VALUES (1, '{text}'), (2, '{text}')");
                assert_eq!(ask_of("events", address, owner, &insert).await.0, 200);
            }
            if subprotocol > Subprotocol::V1 {
                shown.push(format!("{:?}", client.next().await));
                shown.push(format!("{:?}", client.next().await));
            }
            seen.push(shown);
        }
        assert_eq!(seen[0], seen[1], "{subprotocol}");
    }
}

/// What is written to tables of all kinds.
const KINDS: &[&str] = &[
    "INSERT INTO keyed (id, name, n) VALUES (0, 'a', 1), (0, 'b', 1)",
    "INSERT INTO keyed (id, name, n) VALUES (1, 'a', 1)",
    "INSERT INTO keyed (id, name, n) VALUES (10, 'c', 1), (10, 'c', 1)",
    "INSERT INTO keyed (id, name, n) VALUES (11, 'a', 1)",
    "UPDATE keyed SET id = 0 WHERE name = 'b'",
    "UPDATE keyed SET n = 1",
    "UPDATE keyed SET name = 'a' WHERE name = 'a'",
    "UPDATE keyed SET name = 'a', n = 4",
    "DELETE FROM keyed WHERE id = 1 OR id = 1",
    "DELETE FROM keyed WHERE n >= 0 AND name <> 'zz'",
    "INSERT INTO straight (id, name, n) VALUES (0, 'a', 0), (0, 'b', 70000), (0, 'c', 3)",
    "UPDATE straight SET n = 5 WHERE n = 70000",
    "DELETE FROM straight WHERE n > 2",
    "INSERT INTO counted (id, name, n) VALUES (0, 'a', 0), (0, 'a', 0), (7, 'a', 0), (7, 'a', 0)",
    "INSERT INTO counted (id, name, n) VALUES (7, 'a', 0)",
    "UPDATE counted SET name = 'b' WHERE name = 'a' AND n = 0",
    "UPDATE counted SET id = 7",
    "DELETE FROM counted WHERE name = 'b' AND n < 1",
    "INSERT INTO \"OddName\" (a) VALUES (1), (1), (2)",
    "UPDATE \"OddName\" SET \"a\" = 2",
    "DELETE FROM \"OddName\" WHERE \"OddName\".\"a\" = 2",
    "INSERT INTO keyed (id, id, id) VALUES (100, 'dup', 1)",
    "INSERT INTO keyed (a, b, c) VALUES (101, 'x', 1)",
    "UPDATE keyed SET n = 3, n = 'x'",
    "UPDATE keyed SET",
    "UPDATE keyed",
    "INSERT INTO keyed DEFAULT VALUES",
    "INSERT keyed (id, name, n) VALUES (103, 'z', 1)",
    "INSERT INTO TABLE keyed (id, name, n) VALUES (104, 'w', 1)",
    "INSERT OR REPLACE INTO keyed (id, name, n) VALUES (104, 'w', 1)",
    "INSERT INTO keyed (id, name, n) VALUES (104, 'w', 1) ON CONFLICT DO NOTHING",
    "INSERT INTO keyed (id, name, n) VALUES ROW(105, 'v', 1)",
    "INSERT INTO keyed (id, name, n) VALUES (107, 't', 1) LIMIT 1",
    "INSERT INTO keyed (id, name, n) VALUES (107, 't', 1) ORDER BY 1",
    "INSERT INTO keyed (id, name, n) VALUES ((108), 's', 1)",
    "INSERT INTO keyed (id, name, n) VALUES (:sender, 's', 1)",
    "INSERT INTO keyed (id, name, n) VALUES ()",
    "INSERT INTO keyed () VALUES (109, 'r', 1)",
    "INSERT INTO keyed (id, name, n) VALUES (110, q, 1)",
    "INSERT INTO keyed (id, name, n) VALUES (110, \"q\", 1)",
    "INSERT INTO KEYED (id, name, n) VALUES (111, 'q', 1)",
    "UPDATE keyed SET ID = 5",
    "UPDATE ONLY keyed SET n = 5",
    "UPDATE keyed SET n = :sender",
    "UPDATE keyed SET n = (5)",
    "UPDATE keyed SET n = 5 LIMIT 1",
    "UPDATE keyed SET n = 5 WHERE keyed.id = keyed.id",
    "UPDATE keyed SET n = 5 WHERE 1 = id",
    "UPDATE keyed SET n = 5 WHERE 'a' = name AND :sender = id",
    "DELETE FROM keyed LIMIT 1",
    "DELETE FROM keyed ORDER BY id",
    "DELETE FROM keyed WHERE id IN (1)",
    "DELETE FROM keyed WHERE id BETWEEN 1 AND 2",
    "DELETE FROM keyed WHERE (id = 100)",
    "DELETE keyed FROM keyed",
    "DELETE FROM keyed k WHERE k.id = 1",
    "DELETE FROM ONLY keyed",
    "DELETE FROM keyed RETURNING *",
    "TRUNCATE keyed",
    "MERGE INTO keyed USING counted ON keyed.id = counted.id WHEN MATCHED THEN DELETE",
];

/// What 1.2.0 says in other words, or has not.
const NEWER: &[&str] = &[
    "INSERT INTO public.keyed (id, name, n) VALUES (102, 'y', 1)",
    "DELETE FROM public.keyed",
    "UPDATE a.b.keyed SET n = 1",
    "UPDATE keyed SET keyed.n = 3",
    "UPDATE keyed SET a.b.n = 3",
    "UPDATE keyed SET n = - 5",
];

/// Tables of events, and of names that are converted.
fn events() -> RawModuleDef {
    let mut def = RawModuleDefV10Builder::new();
    let row = || ProductType::from([("theKind", AlgebraicType::U8), ("text", AlgebraicType::String)]);
    def.build_table_with_new_type("happened", row(), true)
        .with_access(TableAccess::Public)
        .with_event(true)
        .finish();
    def.build_table_with_new_type("once", row(), true)
        .with_access(TableAccess::Public)
        .with_event(true)
        .with_unique_constraint(0)
        .with_index(btree(0), "once_kind", "once_kind")
        .finish();
    def.build_table_with_new_type("SnakeCase", row(), true)
        .with_access(TableAccess::Public)
        .finish();
    let marked = ProductType::from([("a", AlgebraicType::U8), ("v", AlgebraicType::uuid())]);
    def.build_table_with_new_type("marked", marked, true)
        .with_unique_constraint(1)
        .with_index(btree(1), "marked_v", "marked_v")
        .finish();
    def.build_table_with_new_type("hashed", row(), true)
        .with_column_sequence(0)
        .with_unique_constraint(0)
        .with_index(hash(0), "hashed_kind", "hashed_kind")
        .with_unique_constraint(1)
        .with_index(hash(1), "hashed_text", "hashed_text")
        .finish();
    def.add_reducer("nothing", ProductType::unit());
    RawModuleDef::V10(def.finish())
}

const EVENTS: &[&str] = &[
    "INSERT INTO marked (a, v) VALUES (1, '67e55044-10b1-426f-9247-bb680e5fe0c8')",
    "INSERT INTO marked (a, v) VALUES (2, '67E5504410B1426F9247BB680E5FE0C8')",
    "INSERT INTO marked (a, v) VALUES (3, '01890f0e-8a2b-7c3d-8e4f-5a6b7c8d9e0f'), (4, '00000000-0000-0000-0000-000000000000')",
    "INSERT INTO marked (a, v) VALUES (5, 0x67e5504410b1426f9247bb680e5fe0c9)",
    "INSERT INTO marked (a, v) VALUES (6, 138104325386443654116943438110437736392)",
    "INSERT INTO marked (a, v) VALUES (7, 'none')",
    "INSERT INTO marked (a, v) VALUES (8, NULL)",
    "SELECT * FROM marked WHERE v = '67e55044-10b1-426f-9247-bb680e5fe0c8'",
    "SELECT * FROM marked WHERE v > '01890f0e-8a2b-7c3d-8e4f-5a6b7c8d9e0f'",
    "UPDATE marked SET v = '67e55044-10b1-426f-9247-bb680e5fe0c8' WHERE a = 4",
    "UPDATE marked SET v = 'ffffffff-ffff-ffff-ffff-ffffffffffff' WHERE a = 4",
    "DELETE FROM marked WHERE v = '01890f0e-8a2b-7c3d-8e4f-5a6b7c8d9e0f'",
    "INSERT INTO happened (theKind, text) VALUES (1, 'a')",
    "INSERT INTO happened (theKind, text) VALUES (1, 'a'), (1, 'a'), (2, 'b')",
    "UPDATE happened SET text = 'x'",
    "DELETE FROM happened",
    "INSERT INTO once (theKind, text) VALUES (1, 'a'), (1, 'b')",
    "INSERT INTO once (theKind, text) VALUES (1, 'a')",
    "INSERT INTO once (theKind, text) VALUES (1, 'b'), (1, 'b')",
    "DELETE FROM once WHERE theKind = 1",
    "INSERT INTO SnakeCase (theKind, text) VALUES (1, 'a')",
    "INSERT INTO snake_case (theKind, text) VALUES (1, 'b')",
    "INSERT INTO snake_case (the_kind, text) VALUES (2, 'b')",
    "UPDATE snake_case SET theKind = 3 WHERE the_kind = 1",
    "UPDATE snake_case SET the_kind = 4 WHERE theKind = 3",
    "UPDATE SnakeCase SET the_kind = 5",
    "UPDATE SnakeCase SET the_kind = 5 WHERE SnakeCase.the_kind = 4",
    "UPDATE snake_case SET theKind = 6 WHERE snake_case.theKind = 5",
    "DELETE FROM SnakeCase WHERE text = 'a'",
    "DELETE FROM snake_case",
    "INSERT INTO hashed (the_kind, text) VALUES (0, 'a'), (0, 'b'), (9, 'c')",
    "INSERT INTO hashed (the_kind, text) VALUES (9, 'c')",
    "INSERT INTO hashed (the_kind, text) VALUES (9, 'd')",
    "UPDATE hashed SET the_kind = 0 WHERE text = 'c'",
    "UPDATE hashed SET text = 'a' WHERE the_kind = 2",
    "UPDATE hashed SET text = 'z', the_kind = 200 WHERE the_kind = 2",
    "DELETE FROM hashed WHERE text = 'z' OR the_kind = 1",
];
