//! SQL of all kinds: what is read is the same as natively, what is refused writes nothing, and nothing hidden shows.

use super::cluster::{self, Pair};
use super::{Client, SOON, fixture, publish, publish_module, request};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::sql::{self, Language, SQL_DEPTH_MAX};
use serde_json::Value;

const DATABASE: &str = "sql";

/// What both answer alike, word for word.
const SAME: &[&str] = &[
    "SELECT id, name, value FROM counter",
    "select/**/id,name c FROM counter -- all\n;;",
    "SELECT c.id FROM counter AS c WHERE c.name = 'first' OR c.value >= -2 AND c.id <> 0x0f",
    "SELECT \"c\".\"id\" FROM \"counter\" \"c\" WHERE (\"c\".id<3) and ((c.value!=7))",
    "SELECT c.id FROM counter 'c' WHERE c.name = 'it''s' OR c.name = '\u{1f600}' OR c.name = '--' OR c.name = '/*'",
    "SELECT COUNT(*) AS n FROM counter",
    "SELECT count ( * ) n FROM counter WHERE name='first'",
    "SELECT name FROM counter LIMIT 1",
    "SELECT a.id, b.name FROM counter a JOIN counter b ON a.id = b.id WHERE a.value < 2",
    "SELECT a.id FROM counter a INNER JOIN counter b ON a.id = b.id JOIN secret s ON s.id = a.id",
    "SELECT a.id FROM counter a CROSS JOIN secret s LIMIT 3",
    "SELECT * FROM secret",
    "SELECT secret.* FROM secret WHERE text = 'x\\' OR text = '\"' OR text = ''",
    "SELECT name, balance FROM account WHERE owner = :sender",
    "SELECT name FROM account WHERE owner = : \"sender\"",
    "SELECT name FROM account WHERE owner = 0xc200d24aefb88d624063021dcb7602c95b4bb1161a565e066bc2352391bb7e3a",
    "SELECT name FROM account WHERE owner = X'C200D24AEFB88D624063021DCB7602C95B4BB1161A565E066BC2352391BB7E3A'",
    "SELECT name FROM account WHERE balance = 1e3 OR balance = +5 OR balance = 10L",
    "SELECT id FROM counter WHERE true",
    "SELECT id FROM counter WHERE id = 1 = true",
    "SHOW row_limit",
    "show nothing_of_that_name",
    // What SpacetimeDB has not.
    "",
    " \n-- nothing",
    "SELEC * FROM counter",
    "SELECT * FROM",
    "SELECT * FROM nope",
    "SELECT * FROM \"Counter\"",
    "SELECT * FROM counter WHERE nope = 1",
    "SELECT * FROM counter WHERE id = 'x'",
    "SELECT * FROM counter, secret",
    "SELECT * FROM a.b.c",
    "SELECT * FROM *",
    "SELECT 1",
    "SELECT id + 1 FROM counter",
    "SELECT id",
    "SELECT *, id FROM counter",
    "SELECT COUNT(*) FROM counter",
    "SELECT COUNT(id) AS n FROM counter",
    "SELECT SUM(id) FROM counter",
    "SELECT id FROM counter ORDER BY id",
    "SELECT id FROM counter GROUP BY id",
    "SELECT DISTINCT id FROM counter",
    "SELECT id FROM counter WHERE NOT id = 1",
    "SELECT id FROM counter WHERE id = NULL",
    "SELECT id FROM counter WHERE id IN (1, 2)",
    "SELECT id FROM counter WHERE id IS NULL",
    "SELECT id FROM counter WHERE id + 1 = 2",
    "SELECT id FROM counter WHERE name = E'x\\n'",
    "SELECT id FROM counter WHERE name = $$x$$",
    "SELECT id FROM counter WHERE name = $tag$x$tag$",
    "SELECT id FROM counter WHERE name = N'x'",
    "SELECT id FROM counter WHERE id = $1",
    "SELECT id FROM counter WHERE id = :receiver",
    "SELECT id FROM counter WHERE name = 'open",
    "SELECT id FROM \"counter",
    "SELECT id FROM `counter`",
    "SELECT id FROM [counter]",
    "/* open SELECT * FROM counter",
    "\u{feff}SELECT id FROM counter",
    "SELECT\u{a0}id FROM counter",
    "SELECT id FROM counter\0",
    "SELECT id FROM counter; SELECT id FROM counter",
    "SELECT id FROM counter LEFT JOIN secret ON counter.id = secret.id",
    "SELECT id FROM counter WHERE id = 1 UNION SELECT id FROM secret",
    "TRUNCATE TABLE counter",
    "EXPLAIN SELECT * FROM counter",
    "DROP TABLE counter",
];

/// What would write, natively.
const WRITES: &[&str] = &[
    "DELETE FROM counter",
    "delete/**/from counter where id = 1",
    "UPDATE counter SET value = 666",
    "INSERT INTO secret VALUES (9, 'x')",
    "SET row_limit = 5",
    "SET row_limit TO 5",
    "/* /* */ SELECT ' */ DELETE FROM counter --'",
    "/*/**/SELECT * FROM counter;*/ DELETE FROM counter",
    "--\rDELETE\nDELETE FROM counter",
    "--SELECT *\nDELETE FROM counter",
    "-- '\nUPDATE counter SET name = '--'",
    ";;; DELETE FROM counter;",
    "DELETE FROM counter; -- SELECT",
    "\"SELECT\"; DELETE FROM counter",
    "SELECT 1; DELETE FROM counter",
    "DELETE FROM counter; DELETE FROM counter",
    "UPDATE rtdb_state SET digest = 1",
    "DELETE FROM st_client",
];

/// What would write, natively, and does not here.
const REFUSED: &[&str] = &[
    "INSERT INTO secret VALUES (9, 'x')",
    "SET row_limit = 5",
    "SET row_limit TO 5",
    "\"SELECT\"; DELETE FROM counter",
    "SELECT 1; DELETE FROM counter",
    "DELETE FROM counter; DELETE FROM counter",
    "UPDATE rtdb_state SET digest = 1",
    "DELETE FROM st_client",
];

/// What names a hidden table, in each spelling.
const HIDDEN: &[&str] = &[
    "SELECT * FROM rtdb_session",
    "SELECT * FROM \"rtdb_session\"",
    "SELECT * FROM/*'*/ rtdb_session",
    "SELECT * FROM -- '\n rtdb_session",
    "SELECT * FROM/*/*'*/ */rtdb_session--'",
    "SELECT x.* FROM rtdb_state x",
    "SELECT x.* FROM rtdb_state 'x'",
    "SELECT s.* FROM counter c JOIN rtdb_claims s ON s.session = c.id",
    "SELECT s.* FROM counter c CROSS JOIN /*\"*/ rtdb_sequence s",
    "SELECT * FROM st_connection_credentials",
    "SELECT * FROM st_Client",
    "SELECT * FROM \"ST_TABLE\"",
    "SELECT St_Client.* FROM/*'*/St_Client",
];

/// What both answer alike about SpacetimeDB's own tables, but for numbers that it gives. (It knows no `nowhere` there.)
const SYSTEM: &[&str] = &[
    "SELECT table_name, table_type, table_access, table_primary_key FROM st_table",
    "SELECT t.table_name n FROM \"st_table\" 't' WHERE table_id > 4000 AND (table_type = 'user' OR table_id = 0)",
    "SELECT COUNT(*) AS n FROM st_table",
    "SELECT COUNT(*) AS n FROM st_table WHERE table_name >= 'rt' AND table_name < 'ru'",
    "SELECT table_name FROM st_table WHERE table_name = 'rtdb_state' OR true",
    "SELECT table_name FROM st_table WHERE table_name = 'rtdb_state'",
    "SELECT COUNT(*) AS n FROM st_table WHERE table_name = 'rtdb_state'",
    "SELECT table_type FROM st_table WHERE table_type = 'user' LIMIT 1",
    "SELECT table_name FROM st_table LIMIT 0",
    "SELECT table_name FROM st_table AS true WHERE table_type = 'user'",
    "SELECT col_name FROM st_column AS \"left.join\" WHERE col_pos = 1 AND \"left.join\".col_pos = 1",
    "SELECT col_pos, col_name, col_type FROM st_column",
    "SELECT COUNT(*) AS n FROM st_column",
    "SELECT * FROM st_column WHERE table_id = 1 AND col_name <> 'x' LIMIT 2",
    "SELECT index_name, index_algorithm FROM st_index",
    "SELECT COUNT(*) AS n FROM st_index",
    "SELECT constraint_name, constraint_data FROM st_constraint",
    "SELECT COUNT(*) AS n FROM st_constraint",
    "SELECT sql FROM st_row_level_security",
    "SELECT * FROM st_var",
    "SELECT COUNT(*) AS n FROM st_event_table",
    "SELECT * FROM st_table_accessor",
    "SELECT * FROM st_column_accessor",
    "SELECT * FROM st_index_accessor",
    "SELECT view_name, is_public, is_anonymous FROM st_view",
    "SELECT col_pos, col_name FROM st_view_column",
    "SELECT * FROM st_view_param",
    "SELECT identity FROM st_client",
    "SELECT identity a, identity b FROM st_client LIMIT 5",
    "SELECT COUNT(*) AS n FROM st_client",
    "SELECT COUNT(*) AS n FROM st_client LIMIT 0",
    "SELECT identity AS \"rows\"\":[]\" FROM st_client",
    // What SpacetimeDB has not.
    "SELECT nope FROM st_table",
    "SELECT nope.table_id FROM st_column",
    "SELECT st_column.table_id FROM st_column x",
    "SELECT * FROM st_column WHERE nope = 1",
    "SELECT * FROM st_column WHERE col_pos = 'x'",
    "SELECT col_pos, col_pos FROM st_column",
    "SELECT nope FROM st_client",
    "SELECT identity, identity FROM st_client",
    "SELECT * FROM st_nothing",
];

/// What is not served, since it would show what is hidden, or not what is so natively.
const NOT_SERVED: &[&str] = &[
    "SELECT * FROM st_module",
    "SELECT program_hash FROM st_module",
    "SELECT * FROM st_sequence",
    "SELECT COUNT(*) AS n FROM st_scheduled",
    "SELECT * FROM st_client WHERE connection_id = 1",
    "SELECT * FROM st_index rtdb_described",
    "SELECT rtdb_described.* FROM st_index",
    "SELECT t.* FROM st_table t JOIN st_table u ON t.table_id = u.table_id",
    "SELECT c.* FROM counter c JOIN st_table t ON t.table_id = c.id",
];

/// A body without the time that it took.
fn plainly(body: &str) -> String {
    match body.split_once("\"total_duration_micros\":") {
        Some((before, after)) => [before, after.trim_start_matches(|c: char| c.is_ascii_digit())].concat(),
        None => body.to_owned(),
    }
}

async fn ask(address: std::net::SocketAddr, token: &str, text: &str) -> (u16, String) {
    ask_of(DATABASE, address, token, text).await
}

pub(super) async fn ask_of(
    database: &str,
    address: std::net::SocketAddr,
    token: &str,
    text: &str,
) -> (u16, String) {
    let path = format!("POST /v1/database/{database}/sql");
    let (status, body) = request(address, &path, token, text.as_bytes()).await;
    (status, plainly(&body))
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_reads_as_natively_and_neither_writes_nor_shows_what_is_hidden() {
    let Some(program) = cluster::server_program() else {
        eprintln!("passed over: no SpacetimeDB on this machine (set SPACETIMEDB_BIN)");
        return;
    };
    let pair = Pair::start(program).await;
    let owner = pair.tokens.fresh().expect("a token").token;
    let banned = pair.tokens.fresh().expect("a token");
    let other = banned.token.clone();
    publish(&pair, DATABASE, &owner).await;
    for (reducer, args) in [
        ("set", "[1, 0]"),
        ("add", r#"["first", 1]"#),
        ("add", r#"["it's", -7]"#),
        ("keep_secret", r#"["x\\"]"#),
        ("open_account", r#"["one"]"#),
    ] {
        for address in [pair.plain, pair.gateway] {
            let call = format!("POST /v1/database/{DATABASE}/call/{reducer}");
            assert_eq!(request(address, &call, &owner, args.as_bytes()).await.0, 200);
        }
    }
    let deep = |terms| {
        format!(
            "SELECT id FROM counter WHERE {}",
            vec!["id = 1"; terms].join(" OR ")
        )
    };
    let (deep, too_deep) = (deep(SQL_DEPTH_MAX - 1), deep(SQL_DEPTH_MAX));
    let same = || SAME.iter().copied().chain([&*deep]);

    for token in [&owner, &other] {
        for text in same() {
            let (plain, gateway) = (
                ask(pair.plain, token, text).await,
                ask(pair.gateway, token, text).await,
            );
            assert_eq!(plain, gateway, "{text}");
        }
    }
    the_servers_own_tables(&pair, &owner, &other).await;
    let before = everything(&pair, &owner).await;
    for text in REFUSED.iter().copied().chain([&*too_deep]) {
        let (status, body) = ask(pair.gateway, &owner, text).await;
        assert!(status == 501 || status == 400, "{text}: {status} {body}");
    }
    let nowhere = ask(pair.plain, &owner, "SELECT * FROM nowhere").await;
    for text in HIDDEN {
        let (status, body) = ask(pair.gateway, &owner, text).await;
        let name = body.split('`').nth(1).unwrap_or_default();
        let lower = name.to_lowercase();
        assert!(
            lower.starts_with("rtdb_") || lower.starts_with("st_"),
            "{text}: {body}"
        );
        assert_eq!((status, body.replace(name, "nowhere")), nowhere, "{text}");
    }
    assert_eq!(everything(&pair, &owner).await, before);

    let mut differences = Vec::new();
    let subprotocols = Subprotocol::ALL.into_iter();
    for subprotocol in subprotocols.filter(|subprotocol| *subprotocol <= pair.newest) {
        let mut clients = [
            Client::connect(pair.plain, DATABASE, subprotocol, &owner).await,
            Client::connect(pair.gateway, DATABASE, subprotocol, &owner).await,
        ];
        for client in &mut clients {
            client.sees().await;
        }
        for (id, text) in (100..).zip(same()) {
            let mut seen = Vec::new();
            for client in &mut clients {
                client.query(text, id).await;
                let query = client.sees().await;
                client.subscribe(&[text], id, id).await;
                let subscribed = client.sees().await;
                // The server's errors show the query as it was sent on.
                let shown = match sql::parse(text, Language::Subscription) {
                    Ok(_) if subscribed.contains("true tag") => subscribed.rfind(" length"),
                    _ => None,
                };
                let subscribed = subscribed[..shown.unwrap_or(subscribed.len())].to_owned();
                seen.push((query, subscribed));
            }
            if seen[0] != seen[1] {
                differences.push(format!("{subprotocol} {text}\n  {:?}\n  {:?}", seen[0], seen[1]));
            }
        }
        let [_, mut client] = clients;
        client.query("SELECT * FROM nowhere", 1).await;
        let nowhere = client.sees().await;
        let system = SYSTEM.iter().filter(|text| text.contains(" st_"));
        for text in WRITES.iter().chain(HIDDEN).chain(NOT_SERVED).chain(system) {
            client.query(text, 1).await;
            let seen = client.sees().await;
            let length = |seen: &str| {
                seen.rsplit(' ')
                    .next()
                    .and_then(|length| length.parse::<usize>().ok())
            };
            assert!(
                length(&seen) <= length(&nowhere).map(|length| length + 200),
                "{text}: {seen}"
            );
            client.subscribe(&["SELECT * FROM secret", text], 2, 2).await;
            assert!(
                client.sees().await.contains("Some(2) true tag"),
                "{subprotocol} {text}"
            );
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(everything(&pair, &owner).await, before);
    sql_is_a_connection(&pair, &owner, &other, &banned.identity).await;
    pair.stop().await;
}

/// What the tables say in which SpacetimeDB describes the database.
async fn the_servers_own_tables(pair: &Pair, owner: &str, other: &str) {
    // One client of each, for all to see.
    let mut clients = Vec::new();
    for address in [pair.plain, pair.gateway] {
        let connection = "&connection_id=00000000000000000000000000000102";
        clients.push(Client::connect_with(address, DATABASE, pair.newest, owner, connection).await);
    }
    for client in &mut clients {
        client.sees().await;
    }
    for address in [pair.plain, pair.gateway] {
        let (_, body) = ask(address, other, "SELECT connection_id FROM st_client").await;
        assert!(body.contains("[258]"), "{body}");
    }
    // SpacetimeDB makes the indexes of a table in any order.
    let sorted = |(status, body): (u16, String)| {
        if status != 200 {
            return (status, Value::String(body));
        }
        // Without the time that it took it is no JSON.
        let mut answer: Value = serde_json::from_str(&body.replace(",,", ",")).expect("JSON");
        if let Some(Value::Array(rows)) = answer.pointer_mut("/0/rows") {
            rows.sort_by_key(Value::to_string);
        }
        (status, answer)
    };
    let mut databases = vec![DATABASE];
    if pair.newest > Subprotocol::V1 {
        databases.push("views");
        publish_module(pair, fixture("views-2x"), "views", owner).await;
    }
    for (database, token) in databases.iter().flat_map(|of| [(of, owner), (of, other)]) {
        for text in SYSTEM {
            let plain = ask_of(database, pair.plain, token, text).await;
            let gateway = ask_of(database, pair.gateway, token, text).await;
            assert!(!gateway.1.contains("rtdb"), "{text}: {}", gateway.1);
            assert_eq!(sorted(plain), sorted(gateway), "{database}: {text}");
        }
        for text in NOT_SERVED {
            let (status, body) = ask(pair.gateway, token, text).await;
            assert_eq!(status, 501, "{text}: {body}");
        }
    }
    // By its number a hidden table is as little there.
    for table in ["st_table", "st_column", "st_index", "st_constraint"] {
        let mut shown = 0;
        for id in 4_090..4_120 {
            let text = format!("SELECT * FROM {table} WHERE table_id = {id}");
            let (status, body) = ask(pair.gateway, other, &text).await;
            assert!(status == 200 && !body.contains("rtdb"), "{text}: {body}");
            shown += usize::from(!body.contains("\"rows\":[]"));
        }
        assert!(shown > 0, "{table}");
    }
}

/// What a write would change.
async fn everything(pair: &Pair, owner: &str) -> Vec<(u16, String)> {
    let mut all = Vec::new();
    for text in ["SELECT * FROM counter", "SELECT * FROM secret", "SHOW row_limit"] {
        all.push(ask(pair.gateway, owner, text).await);
    }
    all
}

/// Each request connects and disconnects, if it does natively; one who may not connect gets no rows.
async fn sql_is_a_connection(pair: &Pair, owner: &str, other: &str, banned: &[u8; 32]) {
    let who = "SELECT COUNT(*) AS n FROM presence";
    let connects = pair.newest > Subprotocol::V1;
    let alone = format!("\"rows\":[[{}]]", u8::from(connects));
    let both = [pair.plain, pair.gateway];
    // The clients of just now are gone a moment later.
    let comes = async |address, expected: &str| {
        let answered = async { while !ask(address, other, who).await.1.contains(expected) {} };
        let answered = tokio::time::timeout(SOON, answered).await;
        assert!(answered.is_ok(), "{address}: no {expected}");
    };
    for address in both {
        comes(address, &alone).await;
        let (_, again) = ask(address, other, who).await;
        assert!(again.contains(&alone), "{address}: {again}");
    }
    assert_eq!(
        ask(pair.plain, other, who).await,
        ask(pair.gateway, other, who).await
    );
    for address in both {
        let mut client = Client::connect(address, DATABASE, pair.newest, owner).await;
        client.sees().await;
        let seen = client.answered("ban_identity", banned, 1).await;
        assert!(seen.contains("Ok"), "{seen}");
    }
    for address in both {
        let expected = if connects { "you are banned" } else { &alone };
        comes(address, expected).await;
    }
    let plain = ask(pair.plain, other, who).await;
    assert_eq!(plain, ask(pair.gateway, other, who).await);
    assert_eq!(plain.0, if connects { 403 } else { 200 });
    // Nor does it hear what is wrong with the query.
    for text in [
        "SELEC",
        "SELECT * FROM nope",
        "DELETE FROM counter",
        "SELECT * FROM rtdb_state",
    ] {
        if connects {
            assert_eq!(ask(pair.plain, other, text).await, plain, "{text}");
            assert_eq!(ask(pair.gateway, other, text).await, plain, "{text}");
        }
    }
}
