//! SQL that writes, against a plain server: the same answers, and the same rows afterwards.

use super::cluster::{self, Pair};
use super::sql::ask_of;
use super::{Client, SOON, fixture, publish, publish_module, request};
use rtdb_protocol::Subprotocol;
use serde_json::Value;
use std::net::SocketAddr;

const DATABASE: &str = "write";

/// What the owner writes, one after the other. Rows that fail natively use up numbers, here they don't: so none are generated
/// after those.
const STEPS: &[&str] = &[
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 0, 1, 5), ('b', 0, 2, 18446744073709551615)",
    "insert into \"dice\" (x, y, z, w) values ('it''s', 10, 25.5e1, 1e3), (7, 11, 3., 0x10)",
    "INSERT INTO secret (id, text) VALUES (0, ''), (0, '\u{1f600}'), (5, X'616')",
    "INSERT INTO ban (who) VALUES (0xc200d24aefb88d624063021dcb7602c95b4bb1161a565e066bc2352391bb7e3a)",
    "UPDATE dice SET face = 9, seed = 7 WHERE label = 'a' OR id = 10 AND face >= 200",
    "UPDATE dice SET id = 20 WHERE dice.id = 10",
    "UPDATE dice SET label = 'all', label = 'twice'",
    "UPDATE dice SET face = 1 WHERE false",
    "UPDATE account SET balance = 5 WHERE owner = :sender",
    "UPDATE account SET name = 'two', balance = 1e2",
    "UPDATE counter SET value = 3, name = 'x' WHERE id = 1",
    "UPDATE secret SET text = 'new' WHERE text = ''",
    "DELETE FROM secret WHERE id < 2",
    "DELETE FROM ban WHERE who <> :sender",
    "DELETE FROM ban",
    // What stands in comments is no statement.
    "/* /* */ SELECT ' */ DELETE FROM secret --'",
    "--\rDELETE\nUPDATE counter SET name = '--'",
    ";;; DELETE FROM dice WHERE id = 11;",
    "INSERT INTO dice (label, id, face, seed) VALUES ('c', 30, 0, 0), ('d', 31, 0, 0)",
    "UPDATE note SET text = 'new' WHERE text = 'a' AND serial > 0",
    "UPDATE note SET id = 0, serial = 0 WHERE text = 'new' AND id = 1",
    "UPDATE note SET serial = 340282366920938463463374607431768211455 WHERE id = 2",
    "DELETE FROM note WHERE text = 'b'",
];

/// The same with signs, which 1.2.0 has not yet.
const SIGNED: &[&str] = &[
    "INSERT INTO dice (label, id, face, seed) VALUES ('e', +32, -0, 0)",
    "UPDATE account SET balance = -5 WHERE owner = :sender",
    "UPDATE counter SET value = +3, name = 'y' WHERE id = 1 AND value > -9",
];

/// What fails, with the same words.
const REFUSED: &[&str] = &[
    "INSERT INTO dice VALUES ('a', 0, 1, 5)",
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 0, 1)",
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 0, 256, 1)",
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 0, 1.5, 1)",
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 0, true, 1)",
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 0, 1, 18446744073709551616)",
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 'x', 1, 1)",
    "INSERT INTO dice (label, id, face, seed) SELECT * FROM dice",
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 0, 1, 1 + 1)",
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 0, 1, NULL)",
    "INSERT INTO dice (label, id, face, seed) VALUES ('a', 0, 1, 1) RETURNING id",
    "INSERT INTO counter (id, name, value, at, by) VALUES (0, 'x', 1, '2024-01-01T00:00:00Z', 0x00)",
    "INSERT INTO counter (id, name, value, at, by) VALUES (0, 'x', 1, 5, 0x00)",
    "INSERT INTO ban (who) VALUES (0x07)",
    "INSERT INTO note (tags, author, at, id, text, serial) VALUES (1, 2, 3, 4, 5, 6)",
    "INSERT INTO nope (a) VALUES (1)",
    "UPDATE dice SET nope = 1",
    "UPDATE dice SET face = 256",
    "UPDATE dice SET face = 'x'",
    "UPDATE dice SET face = face + 1",
    "UPDATE dice SET face = 1 WHERE nope = 1",
    "UPDATE dice SET face = 1 WHERE dices.id = 1",
    "UPDATE dice SET face = 1 WHERE id = 'x'",
    "UPDATE dice SET face = 1 WHERE NOT id = 1",
    "UPDATE dice AS d SET face = 1",
    "UPDATE dice SET face = 1 FROM secret",
    "UPDATE nope SET a = 1",
    "UPDATE Dice SET face = 1",
    "DELETE FROM nope",
    "DELETE FROM dice AS d",
    "DELETE FROM dice WHERE face",
    "DELETE FROM dice WHERE id",
    "DELETE FROM dice USING secret",
    "DELETE FROM dice, secret",
    "DELETE FROM dice; DELETE FROM dice",
    "DELETE dice",
];

/// What fails because of rows that are there: the words differ.
const TAKEN: &[&str] = &[
    "INSERT INTO dice (label, id, face, seed) VALUES ('e', 40, 0, 0), ('f', 30, 1, 1)",
    "UPDATE dice SET id = 30",
    "UPDATE dice SET id = 31 WHERE id = 30",
];

/// What is read of each table to see what there is.
const TABLES: &[&str] = &[
    "SELECT * FROM dice",
    "SELECT * FROM secret",
    "SELECT * FROM ban",
    "SELECT name, balance FROM account",
    "SELECT id, name, value FROM counter",
    "SELECT id, text, serial, tags FROM note",
];

/// An answer, with the rows in order.
async fn ask(database: &str, address: SocketAddr, token: &str, text: &str) -> (u16, Value) {
    let (status, body) = ask_of(database, address, token, text).await;
    let Ok(mut answer) = serde_json::from_str::<Value>(&body.replace("],,", "],")) else {
        return (status, body.into());
    };
    if let Some(Value::Array(rows)) = answer.pointer_mut("/0/rows") {
        rows.sort_by_key(Value::to_string);
    }
    (status, answer)
}

/// The same question to both: the same answer.
async fn same(database: &str, pair: &Pair, token: &str, text: &str) -> (u16, Value) {
    let plain = ask(database, pair.plain, token, text).await;
    let gateway = ask(database, pair.gateway, token, text).await;
    assert_eq!(plain, gateway, "{text}");
    plain
}

async fn same_rows(database: &str, pair: &Pair, owner: &str, tables: &[&str]) {
    for text in tables {
        assert_eq!(same(database, pair, owner, text).await.0, 200, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_writes_by_sql_as_natively() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    let owner = pair.tokens.fresh().expect("a token").token;
    let other = pair.tokens.fresh().expect("a token").token;
    publish(&pair, DATABASE, &owner).await;
    for address in [pair.plain, pair.gateway] {
        for (reducer, args) in [
            ("set", "[1, 0]"),
            ("open_account", r#"["one"]"#),
            ("write_note", r#"["a", ["x", ""], true]"#),
            ("write_note", r#"["b", [], false]"#),
            ("write_note", r#"["a", [], false]"#),
        ] {
            let call = format!("POST /v1/database/{DATABASE}/call/{reducer}");
            assert_eq!(request(address, &call, &owner, args.as_bytes()).await.0, 200);
        }
    }
    let mut watching = Vec::new();
    for address in [pair.plain, pair.gateway] {
        let mut client = Client::connect(address, DATABASE, pair.newest, &other).await;
        client.sees().await;
        client.subscribe(&["SELECT * FROM dice"], 3, 3).await;
        client.sees().await;
        watching.push(client);
    }
    let signed = SIGNED.iter().filter(|_| pair.newest > Subprotocol::V1);
    for text in STEPS.iter().chain(signed) {
        let (status, answer) = same(DATABASE, &pair, &owner, text).await;
        assert_eq!(status, 200, "{text}: {answer}");
        same_rows(DATABASE, &pair, &owner, TABLES).await;
        // Who looks on sees the same of it: only 1.2.0 tells whose it is.
        let changed = ["inserted", "deleted", "updated"].map(|what| {
            answer
                .pointer(&format!("/0/stats/rows_{what}"))
                .and_then(Value::as_u64)
        });
        if text.to_lowercase().contains(" dice") && changed.iter().flatten().sum::<u64>() > 0 {
            let mut seen = Vec::new();
            for client in &mut watching {
                let next = tokio::time::timeout(SOON, client.sees()).await.expect("in time");
                let rows = next.split_once("[").map(|(_, rows)| rows.to_owned());
                seen.push(rows.expect("rows"));
            }
            assert_eq!(seen[0], seen[1], "{text}");
        }
    }
    for text in REFUSED {
        let (status, answer) = same(DATABASE, &pair, &owner, text).await;
        assert_eq!(status, 400, "{text}: {answer}");
    }
    for text in TAKEN {
        for address in [pair.plain, pair.gateway] {
            let (status, answer) = ask(DATABASE, address, &owner, text).await;
            assert!(
                status == 400 && answer.to_string().contains("nique constraint violation"),
                "{text}: {status} {answer}"
            );
        }
    }
    // Nobody else writes, nor hears of what is private.
    let public = STEPS
        .iter()
        .filter(|text| !text.to_lowercase().contains("secret"));
    for text in public.clone().chain(REFUSED) {
        assert_eq!(same(DATABASE, &pair, &other, text).await.0, 400, "{text}");
    }
    assert_eq!(same(DATABASE, &pair, &other, "DELETE FROM secret").await.0, 400);
    same_rows(DATABASE, &pair, &owner, TABLES).await;
    // Our own tables are none, and the server's are not written to.
    let (_, nowhere) = ask(DATABASE, pair.gateway, &owner, "DELETE FROM nowhere").await;
    for table in ["rtdb_state", "rtdb_session", "RTDB_claims"] {
        let (status, answer) = ask(DATABASE, pair.gateway, &owner, &format!("DELETE FROM {table}")).await;
        let answer = answer.to_string().replace(table, "nowhere");
        assert_eq!((status, answer), (400, nowhere.to_string()), "{table}");
    }
    for text in [
        "DELETE FROM st_client",
        "UPDATE st_table SET table_name = 'x'",
        "SET row_limit = 5",
    ] {
        let (status, answer) = ask(DATABASE, pair.gateway, &owner, text).await;
        assert_eq!(status, 501, "{text}: {answer}");
    }
    // The module goes on with its own numbers.
    for address in [pair.plain, pair.gateway] {
        let call = format!("POST /v1/database/{DATABASE}/call/roll");
        assert_eq!(request(address, &call, &owner, br#"["z"]"#).await.0, 200);
    }
    let _ = same(DATABASE, &pair, &owner, "SELECT COUNT(*) AS n FROM dice").await;
    nothing_unique(&pair, &owner).await;
    if pair.newest > Subprotocol::V1 {
        views(&pair, &owner).await;
    }
    pair.stop().await;
}

/// Rows that are there do not come again.
async fn nothing_unique(pair: &Pair, owner: &str) {
    let module = match pair.newest {
        Subprotocol::V1 => "walks-1x",
        Subprotocol::V2 | Subprotocol::V3 => "walks-2x",
    };
    publish_module(pair, fixture(module), "loose", owner).await;
    for text in [
        "INSERT INTO loose (text, team, value) VALUES ('a', 1, 0.1), ('a', 1, 1e-1), ('b', 2, 16777217)",
        "INSERT INTO loose (text, team, value) VALUES ('a', 1, .1), ('c', 3, 3.5)",
        "INSERT INTO loose (text, team, value) VALUES ('c', 3, 35e-1)",
        "UPDATE loose SET text = 'a', team = 1 WHERE value < 1 OR text = 'c'",
        "UPDATE loose SET value = 2.5",
        "DELETE FROM loose WHERE team = 2 AND value = 2.5",
        "INSERT INTO pair (b, text, a) VALUES (1, 2, 3)",
        "DELETE FROM pair",
        "DELETE FROM loose",
    ] {
        let (status, answer) = same("loose", pair, owner, text).await;
        assert!(status == 200 || text.contains("pair"), "{text}: {answer}");
        same_rows(
            "loose",
            pair,
            owner,
            &["SELECT * FROM loose", "SELECT * FROM pair"],
        )
        .await;
    }
}

/// Views follow what is written, and are not written to.
async fn views(pair: &Pair, owner: &str) {
    publish_module(pair, fixture("views-2x"), "views", owner).await;
    let note = "INSERT INTO note (id, text) VALUES (0, 'x'), (0, 'y')";
    assert_eq!(same("views", pair, owner, note).await.0, 200);
    same_rows(
        "views",
        pair,
        owner,
        &["SELECT * FROM notes", "SELECT * FROM my_score"],
    )
    .await;
    for text in [
        "DELETE FROM notes",
        "UPDATE my_score SET score = 1",
        "INSERT INTO team (a) VALUES (1)",
        "INSERT INTO player (identity, name, score, team) VALUES (0xff, 'x', 1, 1)",
    ] {
        assert_eq!(same("views", pair, owner, text).await.0, 400, "{text}");
    }
}
