use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// What a text is sent on as.
fn sent(text: &str) -> String {
    match parse(text, Language::Sql) {
        Ok(Statement::Query(query)) => query.text,
        Ok(Statement::Show(text)) => text,
        Ok(Statement::Write(write)) => shown(&write),
        Ok(Statement::Set) => "(SET)".into(),
        Err(error) => format!("! {error}"),
    }
}

/// What a statement writes.
fn shown(Write { table, change }: &Write) -> String {
    let literal = |literal: &Literal| match literal {
        Literal::Bool(value) => value.to_string(),
        Literal::Text(text) => format!("{text:?}"),
        Literal::Number(number) => number.clone(),
        Literal::Hex(digits) => format!("x{digits}"),
    };
    match change {
        Change::Insert { columns, rows } => {
            let rows = rows
                .iter()
                .map(|row| row.iter().map(literal).collect::<Vec<_>>().join(" "));
            format!(
                "(INSERT {table} {columns}: {})",
                rows.collect::<Vec<_>>().join(" | ")
            )
        }
        Change::Update { assignments, rows } => {
            let assignments = assignments
                .iter()
                .map(|(column, value)| format!("{column}={}", literal(value)));
            let assignments = assignments.collect::<Vec<_>>().join(" ");
            format!("(UPDATE {table} {assignments}: {})", rows.text())
        }
        Change::Delete { rows } => format!("(DELETE {table}: {})", rows.text()),
    }
}

/// The tables it names.
fn tables(text: &str) -> Vec<String> {
    let query = parse_query(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    query.tables.unwrap_or_else(|| vec!["*".into()])
}

#[test]
fn numbers_that_would_be_written_out_for_ever_are_refused() {
    for literal in [
        "1e1000001",
        "1.5E-99999999",
        "'-1e99999999'",
        "0x1e99999999",
        "X'1e99999999'",
        "9_9.e1000001",
    ] {
        for text in [
            format!("SELECT * FROM a WHERE x = {literal}"),
            format!("SELECT a.* FROM a JOIN b ON a.x = b.x WHERE b.y <> {literal}"),
        ] {
            assert!(parse_query(&text).is_err(), "{text}");
        }
        for text in ["DELETE FROM a WHERE x = ", "UPDATE a SET x = 1 WHERE y > "] {
            assert!(
                parse(&format!("{text}{literal}"), Language::Sql).is_err(),
                "{text}{literal}"
            );
        }
    }
    assert!(parse("SELECT * FROM a LIMIT 1e99999999", Language::Sql).is_err());
    for literal in [
        "1e1000000",
        "'1e99999999 '",
        "'e99999999x'",
        "1e99999999999999999999",
        "0xe9999999999999999999f",
    ] {
        let text = format!("SELECT * FROM a WHERE x = {literal}");
        assert!(parse_query(&text).is_ok(), "{text}");
    }
    let text = "INSERT INTO a (x) VALUES ('1e99999999')";
    assert!(parse(text, Language::Sql).is_ok());
}

#[test]
fn what_counts_a_query_s_rows() {
    let count = |text: &str| parse_query(text).expect(text).count();
    let all = "SELECT COUNT(*) AS n FROM";
    for (text, counts) in [
        ("SELECT * FROM a", Some("a")),
        (
            "SELECT a.* FROM a JOIN b ON a.id = b.id",
            Some("a JOIN b ON a.id = b.id"),
        ),
        ("SELECT * FROM a WHERE x = ' FROM '", Some("a WHERE x = ' FROM '")),
        ("SELECT \"a FROM b\".* FROM \"a FROM b\"", None),
        ("SELECT id FROM a", None),
        ("SELECT * FROM *", None),
    ] {
        assert_eq!(count(text), counts.map(|rest| format!("{all} {rest}")), "{text}");
    }
    assert!(
        parse_query("SELECT * FROM a WHERE x = :sender")
            .expect("a query")
            .names_sender()
    );
    assert!(
        !parse_query("SELECT * FROM a WHERE x = 1")
            .expect("a query")
            .names_sender()
    );
}

#[test]
fn queries_are_sent_on_as_they_were_understood() {
    for same in [
        "SELECT * FROM counter",
        "SELECT a.* FROM a JOIN b ON a.id = b.id WHERE b.x > 3 AND b.y <> 'it''s'",
        "SELECT id, name AS n FROM \"Player\" AS p CROSS JOIN q WHERE (p.id = 1 OR p.id = -2) AND p.on = true",
        "SELECT COUNT(*) AS n FROM a LIMIT 10",
        "SELECT * FROM a WHERE id = 0x00ff AND owner = :sender AND f >= +1.5e3 AND g <= .5",
        "SELECT * FROM ns.t WHERE ns.t.a = 1",
        "SELECT \"a\"\"b\".* FROM \"a\"\"b\" WHERE \"select\" < '\u{1f600}\\' AND ü = '\"'",
        "SHOW row_limit",
    ] {
        assert_eq!(sent(same), same);
    }
    for (text, expected) in [
        ("select*from a;", "SELECT * FROM a"),
        (
            " -- why\n /* so */ SELECT a /* b */ FROM/**/c d",
            "SELECT a FROM c AS d",
        ),
        (";;SELECT * FROM a INNER JOIN b;", "SELECT * FROM a JOIN b"),
        (
            "SELECT * FROM a 'x' WHERE x.b=X'0F' and b!=:  sender or b=1L",
            "SELECT * FROM a AS \"x\" WHERE x.b = 0x0F AND b <> :sender OR b = 1",
        ),
        ("SELECT Count(*) n FROM a", "SELECT COUNT(*) AS n FROM a"),
        ("show x", "SHOW x"),
    ] {
        assert_eq!(sent(text), expected);
    }
}

#[test]
fn the_rendering_is_read_as_the_text_was() {
    let dialect = PostgreSqlDialect {};
    for text in [
        "SELECT * FROM a WHERE a=1 or b=2 and c=3 or (d=4 and (e=5 or f=6)) and g<-7",
        "SELECT a, b c, \"d\"\"e\" FROM t x JOIN u ON x.a = u.b, v",
        "SELECT * FROM t WHERE a = '''' AND b = '''''' AND c = '\\''' AND d = '--' AND e = '/*'",
        "SELECT * FROM t WHERE a = b = c AND d = true AND e = FALSE",
    ] {
        let rendered = sent(text);
        assert_eq!(
            Parser::parse_sql(&dialect, text).map(|parsed| parsed[0].to_string()),
            Parser::parse_sql(&dialect, &rendered).map(|parsed| parsed[0].to_string()),
            "{rendered}"
        );
        assert_eq!(sent(&rendered), rendered);
    }
}

#[test]
fn nested_comments_do_not_smuggle_a_write() {
    // The comment ends at the second `*/`.
    assert_eq!(
        sent("/* /* */ SELECT ' */ DELETE FROM counter --'"),
        "(DELETE counter: SELECT * FROM counter)"
    );
    assert_eq!(
        sent("/*/**/ */ SELECT * FROM a --; DELETE FROM a"),
        "SELECT * FROM a"
    );
    assert!(sent("/* SELECT * FROM a").starts_with("! sql parser error: Unexpected EOF"));
}

#[test]
fn what_writes_is_known() {
    for (text, known) in [
        ("insert INTO a VALUES (1)", "(INSERT a 0: 1)"),
        (
            "INSERT INTO \"A\".b (x, \"Y\", z) VALUES (-1.5e3, 'it''s', true), (+0, X'0aF', 0x10)",
            "(INSERT A.b 3: -1.5e3 \"it's\" true | +0 x0aF x10)",
        ),
        ("UPDATE a SET b = 1", "(UPDATE a b=1: SELECT * FROM a)"),
        (
            "UPDATE \"A\" SET b = 'x', \"C\" = -1 WHERE \"A\".b<>2 AND (c=:sender)",
            "(UPDATE A b=\"x\" C=-1: SELECT * FROM \"A\" WHERE \"A\".b <> 2 AND (c = :sender))",
        ),
        (
            "DELETE FROM a WHERE b = 1",
            "(DELETE a: SELECT * FROM a WHERE b = 1)",
        ),
        ("SET row_limit TO 5", "(SET)"),
    ] {
        assert_eq!(sent(text), known);
    }
    for text in [
        "SELECT * FROM a; DELETE FROM a",
        "SELECT 1 -- x\n; UPDATE a SET b = 1",
        "DELETE FROM a; SELECT * FROM a",
    ] {
        assert_eq!(sent(text), "! Multiple SQL statements are not supported");
    }
    // What a query could write with.
    for text in [
        "WITH x AS (SELECT 1) INSERT INTO a VALUES (1)",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "SELECT * INTO b FROM a",
        "SELECT * FROM (UPDATE a SET b = 1)",
        "COPY a FROM 'file'",
        "TRUNCATE TABLE a",
        "EXPLAIN DELETE FROM a",
        "CREATE TABLE b AS SELECT * FROM a",
    ] {
        assert!(sent(text).starts_with("! Unsupported: "), "{}", sent(text));
    }
}

#[test]
fn errors_are_spacetimedbs_own() {
    for (text, error) in [
        (
            "SELEC * FROM a",
            "sql parser error: Expected an SQL statement, found: SELEC at Line: 1, Column 1",
        ),
        ("", "Empty SQL query"),
        (" -- nothing", "Empty SQL query"),
        (
            "SELECT * FROM a ORDER BY b",
            "Unsupported: SELECT * FROM a ORDER BY b",
        ),
        ("SELECT * FROM a WHERE NOT b", "Unsupported expression: NOT b"),
        (
            "SELECT * FROM a WHERE b = NULL",
            "Unsupported literal expression: NULL",
        ),
        (
            "SELECT * FROM a WHERE b + 1 = 2",
            "Unsupported binary operator: +",
        ),
        (
            "SELECT sum(b) AS c FROM a",
            "Unsupported aggregate function: sum(b)",
        ),
        (
            "SELECT sum(b) FROM a",
            "Aggregate expressions must have column aliases",
        ),
        (
            "SELECT * FROM a LEFT JOIN b ON a.c = b.c",
            "Non-inner joins are not supported",
        ),
        (
            "SELECT * FROM a WHERE b = E'x'",
            "Unsupported literal expression: E'x'",
        ),
        (
            "SELECT * FROM a WHERE b = $$x$$",
            "Unsupported literal expression: $$x$$",
        ),
        (
            "SELECT * FROM (SELECT * FROM b) AS c",
            "Unsupported: SELECT * FROM (SELECT * FROM b) AS c",
        ),
    ] {
        assert_eq!(sent(text), format!("! {error}"));
    }
    for (text, error) in [
        ("INSERT INTO a (b) VALUES (c)", "Unsupported INSERT value: c"),
        (
            "INSERT INTO a (b) VALUES (1 + 1)",
            "Unsupported INSERT value: 1 + 1",
        ),
        (
            "INSERT INTO a (b) VALUES (NULL)",
            "Unsupported literal expression: NULL",
        ),
        (
            "INSERT INTO a (b) SELECT * FROM c",
            "Unsupported INSERT expression: SELECT * FROM c",
        ),
        (
            "INSERT INTO a (b) VALUES (1) RETURNING b",
            "Unsupported: INSERT INTO a (b) VALUES (1) RETURNING b",
        ),
        (
            "UPDATE a SET b = b + 1",
            "Unsupported column/variable assignment expression: b + 1",
        ),
        ("UPDATE a SET b = 1 WHERE NOT c", "Unsupported expression: NOT c"),
        ("UPDATE a AS x SET b = 1", "Unsupported: UPDATE a AS x SET b = 1"),
        (
            "UPDATE a SET b = 1 FROM c WHERE a.b = c.b",
            "Unsupported: UPDATE a SET b = 1 FROM c WHERE a.b = c.b",
        ),
        (
            "DELETE FROM a AS x",
            "Unsupported table expression in DELETE: a AS x",
        ),
        ("DELETE FROM a, b", "Multi-table DELETE is not supported"),
        (
            "DELETE FROM a USING b WHERE a.c = b.c",
            "Unsupported: DELETE FROM a USING b WHERE a.c = b.c",
        ),
    ] {
        assert_eq!(sent(text), format!("! {error}"));
    }
    let error = |text| parse_query(text).expect_err("no query").to_string();
    assert_eq!(error("DELETE FROM a"), "Unsupported: Non-SELECT queries");
    assert_eq!(error(" "), "Empty SQL query");
    assert_eq!(
        error("SELECT a FROM b GROUP BY a"),
        "Unsupported SELECT: SELECT a FROM b GROUP BY a"
    );
}

#[test]
fn a_table_is_known_by_any_spelling() {
    for text in [
        "SELECT * FROM rtdb_session",
        "SELECT * FROM/*'*/ rtdb_session",
        "SELECT * FROM -- '\n rtdb_session",
        "select x.* from a join \"RTDB_session\" x on a.id = x.index",
        "SELECT * FROM a, st_Table",
        "SELECT * FROM x.rtdb_session",
        "SELECT * FROM \"x.rtdb_session\"",
        "SELECT * FROM rtdb_é",
    ] {
        let query = parse_query(text).expect("a query");
        assert!(query.hidden().is_some(), "{text}");
    }
    for text in [
        "SELECT * FROM my_rtdb_table WHERE name = 'rtdb_session'",
        "SELECT * FROM st_tables WHERE x = '/*' -- rtdb_session",
        "SELECT rtdb_a AS rtdb_b FROM a",
        "SELECT * FROM *",
    ] {
        assert_eq!(parse_query(text).expect("a query").hidden(), None, "{text}");
    }
    assert_eq!(
        tables("SELECT * FROM a JOIN \"B\" x ON x.c = a.c JOIN d.e"),
        ["a", "B", "d.e"]
    );
    assert_eq!(tables(" select\n* From * "), ["*"]);
    assert!(
        parse_query("SELECT * FROM my_player")
            .expect("a query")
            .reads("My_Player")
    );
    assert!(
        !parse_query("SELECT * FROM players")
            .expect("a query")
            .reads("player")
    );
}

/// What a query reads of SpacetimeDB's own tables.
fn system(text: &str) -> Option<System> {
    match parse(text, Language::Sql).expect(text) {
        Statement::Query(query) => query.system,
        _ => None,
    }
}

#[test]
fn the_server_leaves_out_what_is_hidden_in_its_own_tables() {
    for (text, shown) in [
        (
            "SELECT * FROM st_table",
            "SELECT \"st_table\".* FROM st_table \
             WHERE (\"st_table\".table_name < 'rtdb_' OR \"st_table\".table_name >= 'rtdb`')",
        ),
        (
            "SELECT table_id, t.table_name n FROM \"st_table\" 't' WHERE table_id > 1 OR table_id = 0 LIMIT 2",
            "SELECT \"t\".table_id, t.table_name AS n FROM \"st_table\" AS \"t\" \
             WHERE (\"t\".table_id > 1 OR \"t\".table_id = 0) \
             AND (\"t\".table_name < 'rtdb_' OR \"t\".table_name >= 'rtdb`') LIMIT 2",
        ),
        (
            "SELECT COUNT(*) AS n FROM st_column WHERE col_pos = 0",
            "SELECT COUNT(*) AS n FROM st_column \
             JOIN st_table AS rtdb_described ON \"st_column\".table_id = rtdb_described.table_id \
             WHERE (\"st_column\".col_pos = 0) \
             AND (rtdb_described.table_name < 'rtdb_' OR rtdb_described.table_name >= 'rtdb`')",
        ),
        (
            "SELECT * FROM st_index x LIMIT 1",
            "SELECT \"x\".* FROM st_index AS x JOIN st_table AS rtdb_described ON \"x\".table_id = rtdb_described.table_id \
             WHERE (rtdb_described.table_name < 'rtdb_' OR rtdb_described.table_name >= 'rtdb`') LIMIT 1",
        ),
        (
            "SELECT name FROM st_var WHERE name = 'x'",
            "SELECT \"st_var\".name FROM st_var WHERE (\"st_var\".name = 'x')",
        ),
        // An alias may be a word that begins something else.
        (
            "SELECT table_id FROM st_table AS true LIMIT 1",
            "SELECT \"true\".table_id FROM st_table AS true \
             WHERE (\"true\".table_name < 'rtdb_' OR \"true\".table_name >= 'rtdb`') LIMIT 1",
        ),
    ] {
        assert_eq!(system(text), Some(System::Shown(shown.into())), "{text}");
        // It is read back as one query, so that nothing of the client's has got out of its brackets.
        assert!(parse(shown, Language::Sql).is_ok(), "{shown}");
    }
    for (text, columns, limit) in [
        ("SELECT * FROM st_client", "SELECT * FROM st_client LIMIT 0", None),
        (
            "SELECT COUNT(*) n FROM st_client c LIMIT 7",
            "SELECT COUNT(*) AS n FROM st_client AS c LIMIT 0",
            Some(7),
        ),
    ] {
        let columns = columns.into();
        assert_eq!(system(text), Some(System::Clients { columns, limit }), "{text}");
    }
}

#[test]
fn no_query_on_its_own_tables_grows_beyond_what_the_server_takes() {
    let long = "x".repeat(SQL_BYTES_MAX / 2);
    let fill = |part: &str| part.repeat(SQL_BYTES_MAX / 2 / part.len() - 50);
    for text in [
        format!("SELECT {}a FROM st_table {long}", fill("a,")),
        format!("SELECT {}* FROM st_column {long}", fill("*,")),
        format!("SELECT * FROM st_index {long} WHERE {}a=1", fill("(a=1) OR ")),
        format!("SELECT * FROM st_index {long} WHERE ({}a)", fill("a=a=a=a) OR (")),
        format!(
            "SELECT * FROM st_view WHERE a = '{}'",
            "x".repeat(SQL_BYTES_MAX - 40)
        ),
        format!(
            "SELECT * FROM st_table WHERE a = '{}'",
            "x".repeat(SQL_BYTES_MAX - 41)
        ),
        format!("SELECT * FROM st_table {}", "x".repeat(SQL_BYTES_MAX - 30)),
    ] {
        assert!(text.len() <= SQL_BYTES_MAX);
        let since = Instant::now();
        if let Ok(Statement::Query(query)) = parse(&text, Language::Sql) {
            match query.system() {
                Some(System::Shown(shown)) => assert!(shown.len() <= SQL_BYTES_MAX, "{}", shown.len()),
                system => assert_eq!(system, None),
            }
        }
        assert!(since.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn other_queries_on_its_own_tables_are_not_for_clients() {
    for text in [
        "SELECT * FROM st_module",
        "SELECT * FROM st_sequence",
        "SELECT * FROM st_scheduled",
        "SELECT * FROM st_connection_credentials",
        "SELECT * FROM st_client WHERE connection_id = 1",
        "SELECT * FROM st_client LIMIT 1e1",
        "SELECT * FROM St_Table",
        "SELECT * FROM x.st_table",
        "SELECT t.* FROM st_table t JOIN st_column c ON t.table_id = c.table_id",
        "SELECT c.* FROM counter c JOIN st_table t ON t.table_id = c.id",
        "SELECT * FROM st_table, counter",
        "SELECT * FROM st_table, st_table t",
        "SELECT * FROM rtdb_state",
        // What the gateway calls the table that it reads with them.
        "SELECT * FROM st_column rtdb_described",
        "SELECT * FROM st_column \"rtdb_described\"",
        "SELECT rtdb_described.* FROM st_index",
        "SELECT * FROM st_index WHERE rtdb_described.table_name = 'counter'",
        "SELECT index_name, \"rtdb_described\".table_name FROM st_index",
    ] {
        let Ok(Statement::Query(query)) = parse(text, Language::Sql) else {
            panic!("{text}");
        };
        assert!(query.system().is_none() && query.hidden().is_some(), "{text}");
    }
    for text in [
        "SELECT * FROM counter",
        "SELECT 1 FROM st_tables",
        "SHOW row_limit",
    ] {
        assert!(parse(text, Language::Sql).map_or(true, |_| system(text).is_none()));
    }
    let query = parse_query("SELECT * FROM st_table").expect("a query");
    assert!(query.system().is_none() && query.hidden().is_some());
}

#[test]
fn the_prefix_of_what_is_hidden_ends_where_it_is_said_to() {
    let (first, end) = (
        hidden::HIDDEN_PREFIX.as_bytes(),
        hidden::HIDDEN_PREFIX_END.as_bytes(),
    );
    let (last, rest) = first.split_last().expect("a prefix");
    assert_eq!(end, [rest, &[last + 1]].concat());
}

#[test]
fn no_text_keeps_the_parser_long() {
    let fill = |part: &str| part.repeat(SQL_BYTES_MAX / part.len() - 1);
    let parts = [
        "(",
        "[",
        "{",
        "((",
        "NOT ",
        "- ",
        "!",
        "a!",
        "+",
        "a+",
        "a = 1 OR ",
        "a AND ",
        "::a",
        "a::b[]",
        "[]",
        " IS NULL",
        " COLLATE a",
        "INTERVAL ",
        "INTERVAL (",
        "INTERVAL 1 + ",
        "ARRAY<",
        "CAST(a AS ARRAY<",
        "CASE WHEN ",
        "a(",
        "a.",
        "FROM (",
        "FROM ((SELECT * ",
        "(SELECT * FROM (",
        "((UPDATE ",
        "EXISTS (",
        "EXISTS (VALUES (",
        "WITH a AS (",
        "UNION SELECT ",
        "UNION TABLE a ",
        "JOIN a ",
        "JOIN (",
        "a JOIN b ON c = d ",
        ", a",
        ",(",
        "'",
        "\"",
        "\"a\"",
        "''",
        "/*",
        "*/",
        "--",
        "$$",
        "E'\\",
        ";",
        "SELECT ",
        "EXPLAIN ",
        "PREPARE a AS ",
        "CREATE TABLE a (b ",
        "GRANT ",
        "0x",
        "1e",
        ".",
        "é",
        "\u{feff}",
        "\0",
        "TABLE(",
        "LATERAL (",
        "PIVOT(",
        "VALUES (",
        "OVER (",
        "OVER (ROWS INTERVAL ",
        "a IN (",
        "a BETWEEN ",
        "LIKE ",
        "ANY(",
        "AT TIME ZONE 'a' ",
        "GROUP BY (",
        "SET ",
        "UPDATE a SET b = ",
    ];
    let openings = [
        "",
        "SELECT INTERVAL ",
        "SELECT * FROM ((SELECT ",
        "SELECT ",
        "SELECT * FROM ",
        "SELECT * FROM a WHERE ",
        "SELECT * FROM a WHERE b = 1 ",
        "UPDATE ",
    ];
    for opening in openings {
        for part in parts {
            let text = format!("{opening}{}", fill(part));
            let text = text.get(..SQL_BYTES_MAX.min(text.len())).unwrap_or(&text);
            let short = text.get(..SHORT_BYTES_MAX).unwrap_or_default();
            for text in [short, text] {
                let since = Instant::now();
                let _ = parse(text, Language::Sql);
                let took = since.elapsed();
                assert!(took < Duration::from_secs(20), "{opening}{part}…: {took:?}");
            }
        }
    }
    let since = Instant::now();
    for part in ["(", "NOT ", "a = 1 OR "] {
        let error = parse(&part.repeat(30 << 20), Language::Sql).expect_err("too long");
        assert!(matches!(error, SqlError::TooLong(_)), "{error}");
    }
    assert!(since.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_long_query_stays_short_enough() {
    let terms = vec!["id=12"; 400].join(" OR ");
    let mut groups = format!("SELECT * FROM a WHERE ({terms})");
    while groups.len() + terms.len() < SQL_BYTES_MAX {
        groups = format!("{groups} OR ({terms})");
    }
    assert_eq!(sent(&groups), groups);
    let longer = sent(&format!("{groups}{groups}"));
    assert!(
        longer.starts_with("! SQL query exceeds maximum allowed length: \"SELECT"),
        "{longer}"
    );
}

#[test]
fn an_expression_may_be_so_deep_and_no_deeper() {
    let chain = |terms| format!("SELECT * FROM a WHERE {}", vec!["b = 1"; terms].join(" OR "));
    assert_eq!(sent(&chain(SQL_DEPTH_MAX - 1)), chain(SQL_DEPTH_MAX - 1));
    assert_eq!(sent(&chain(SQL_DEPTH_MAX)), format!("! {}", SqlError::TooDeep));
    let nested = |levels| {
        format!(
            "SELECT * FROM a WHERE {}b = 1{}",
            "(".repeat(levels),
            ")".repeat(levels)
        )
    };
    assert_eq!(sent(&nested(45)), nested(45));
    assert_eq!(sent(&nested(51)), "! sql parser error: recursion limit exceeded");
}

/// What texts are made of, with what tempts to read them in two ways.
fn pieces() -> impl Strategy<Value = String> {
    let pieces = [
        "SELECT ",
        "* ",
        "FROM ",
        "a ",
        "\"b\" ",
        "rtdb_session ",
        "t.",
        "AS ",
        "JOIN ",
        "ON ",
        "WHERE ",
        "x = ",
        "AND ",
        "OR ",
        "1 ",
        "-1 ",
        "0x0f ",
        "X'0F' ",
        "'it''s' ",
        "'' ",
        "\"\"\"\" ",
        ":sender ",
        "true ",
        "LIMIT ",
        "COUNT(*) ",
        ", ",
        "; ",
        "(",
        ") ",
        "'",
        "\"",
        "--",
        "\n",
        "/*",
        "*/",
        "/",
        "*",
        "-",
        "\\",
        "E'",
        "$$",
        "DELETE FROM a ",
        "é",
        "\0",
        "=",
        "<>",
        "END ",
    ];
    let piece = prop::sample::select(pieces.to_vec());
    prop_oneof![
        prop::collection::vec(piece.clone(), 0..16).prop_map(|pieces| pieces.concat()),
        prop::collection::vec(piece, 0..10)
            .prop_map(|pieces| format!("SELECT * FROM a WHERE x = {}", pieces.concat())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_sent_on_is_one_query_of_the_tables_that_it_names(text in pieces()) {
        if let Ok(query) = parse_query(&text) && query.tables.is_some() {
            let read = Parser::parse_sql(&PostgreSqlDialect {}, query.text());
            let read = read.expect("it is SQL");
            prop_assert!(matches!(&read[..], [ast::Statement::Query(_)]), "{}", query.text());
            prop_assert_eq!(parse_query(query.text()), Ok(query));
        }
    }

    /// A query of its own means the same rows as the statement's condition.
    #[test]
    fn the_rows_of_a_write_are_those_of_one_query_of_its_table(condition in pieces()) {
        let text = format!("DELETE FROM t WHERE {condition}");
        if let Ok(Statement::Write(Write { table, change: Change::Delete { rows } })) = parse(&text, Language::Sql) {
            prop_assert_eq!(table, "t");
            prop_assert_eq!(parse_query(rows.text()), Ok(rows));
        }
    }
}
