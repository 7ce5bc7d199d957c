//! Prepared modules on a real SpacetimeDB 1.2.0, found by `$SPACETIMEDB_BIN`; without it the tests do nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rtdb_determinism::{
    Claims, DISCONNECT, IDENTIFY, Module, Options, REFRESH, REFRESH_ALL, SKIPPED, original_schema, prepare,
    prepare_with, view_key, view_pause,
};
use serde_json::{Value, json};
use spacetimedb_lib::Identity;
use spacetimedb_lib::db::raw_def::v9::RawRowLevelSecurityDefV9;
use spacetimedb_sats::AlgebraicType;

use crate::fixtures::{prepared, wasm};
use crate::generated::product;
use crate::jwt::asking;
use crate::raw_module::{nested, numbered};
use crate::taken::unique;

const START_MAX: Duration = Duration::from_secs(60);
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// A server of our own, killed in the end.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) token: String,
}

impl Server {
    pub(crate) fn start(bin: &str, data: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|it| it.local_addr())
            .expect("a free port")
            .port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(bin)
            .args(["start", "--listen-addr", &address, "--data-dir"])
            .arg(data.join("data"))
            .arg("--jwt-pub-key-path")
            .arg(data.join("key.pub"))
            .arg("--jwt-priv-key-path")
            .arg(data.join("key"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let server = Self {
            child,
            address,
            token: String::new(),
        };
        let deadline = Instant::now() + START_MAX;
        while !server
            .try_request("GET", "/v1/ping", "")
            .is_ok_and(|(status, _)| status == 200)
        {
            assert!(Instant::now() < deadline, "the server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    pub(crate) fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token.unwrap_or_else(|| {
            let identity: Value =
                serde_json::from_str(&self.request("POST", "/v1/identity", "").1).expect("JSON");
            identity["token"].as_str().expect("a token").to_owned()
        });
        self
    }

    fn try_request(
        &self,
        method: &str,
        path: &str,
        body: impl AsRef<[u8]>,
    ) -> std::io::Result<(u16, String)> {
        let body = body.as_ref();
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(REQUEST_MAX))?;
        let authorization = match self.token.as_str() {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let (address, len) = (&self.address, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\n{authorization}Connection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n"
        )?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or(std::io::ErrorKind::InvalidData)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body.to_owned()))
    }

    fn request(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> (u16, String) {
        self.try_request(method, path, body).expect("the server answers")
    }

    pub(crate) fn publish(&self, database: &str, wasm: &[u8]) {
        let (status, answer) = self.request("PUT", &format!("/v1/database/{database}"), wasm);
        assert_eq!(status, 200, "{answer}");
    }

    pub(crate) fn call(&self, reducer: &str, index: u64, own: Value) -> (u16, String) {
        let mut args = vec![
            json!("0x07"),
            json!(9),
            json!(index * 1_000),
            json!(index),
            json!(7),
        ];
        args.extend(own.as_array().expect("arguments").iter().cloned());
        self.request(
            "POST",
            &format!("/v1/database/prepared/call/{reducer}"),
            Value::from(args).to_string(),
        )
    }

    /// Makes a call that may be applied already.
    fn call_again(&self, reducer: &str, index: u64, own: Value) {
        let answer = self.call(reducer, index, own);
        assert!(answer.0 == 200 || answer == skipped(), "{answer:?}");
    }

    fn rows(&self, table: &str) -> Value {
        self.sql(&format!("SELECT * FROM {table}"))
    }

    fn sql(&self, query: &str) -> Value {
        let (status, answer) = self.request("POST", "/v1/database/prepared/sql", query);
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).expect("JSON")[0]["rows"].clone()
    }

    fn schema(&self, database: &str) -> Value {
        let (status, answer) = self.request("GET", &format!("/v1/database/{database}/schema?version=9"), "");
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).expect("JSON")
    }
}

impl Server {
    /// Stops the server in order: nothing is lost.
    fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let told = Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .expect("kill runs");
        assert!(told.success());
        self.child.wait().expect("the server ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ids of a table whose rows are `[id, ...]`.
fn ids(rows: &Value) -> Vec<u64> {
    let mut ids: Vec<_> = rows
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row[0].as_u64().expect("an id"))
        .collect();
    ids.sort_unstable();
    ids
}

/// The answer to a call that is passed over.
fn skipped() -> (u16, String) {
    (530, SKIPPED.to_owned())
}

/// The server's program.
pub(crate) fn program() -> Option<String> {
    let bin = std::env::var("SPACETIMEDB_BIN").ok();
    if bin.is_none() {
        eprintln!("skipped: SPACETIMEDB_BIN is not set");
    }
    bin
}

pub(crate) fn is_2x(bin: &str) -> bool {
    let version = Command::new(bin).arg("--version").output().expect("a version");
    String::from_utf8_lossy(&version.stdout).contains("version 2.")
}

#[test]
fn a_prepared_module_runs_on_a_real_server_and_outlives_its_kill() {
    let Some(bin) = program() else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let fixture = if is_2x(&bin) { "counter-2x" } else { "counter-1x" };
    let prepared = prepared(fixture);
    let server = Server::start(&bin, data.path()).with_token(None);
    server.publish("prepared", &prepared.wasm);
    server.publish("plain", &wasm(fixture));

    let module = Module::from_def(&prepared.original_def).expect("the definition is readable");
    assert_eq!(
        original_schema(server.schema("prepared"), &module),
        server.schema("plain")
    );

    assert_eq!(server.call("init", 1, json!([])).0, 200);
    for index in 2..6 {
        assert_eq!(server.call("add", index, json!(["name", index])).0, 200);
    }
    assert_eq!(server.call("add", 3, json!(["again", 0])), skipped());
    let (status, answer) = server.call("fail", 6, json!(["the reason"]));
    assert_eq!((status, answer.as_str()), (530, "the reason"));
    assert_eq!(server.call("explode", 7, json!([])).0, 530);
    assert_eq!(server.call("roll", 8, json!(["label"])).0, 200);
    assert_eq!(
        server.call("write_note", 9, json!(["text", ["a", "bc"], true])).0,
        200
    );
    assert_eq!(ids(&server.rows("counter")), [1, 2, 3, 4, 5]);
    let added = server
        .rows("counter")
        .as_array()
        .expect("rows")
        .iter()
        .find(|row| row[0] == 2)
        .cloned();
    assert_eq!(added, Some(json!([2, "name", 2, [2_000], ["0x7"]])));
    assert_eq!(server.rows("rtdb_session"), json!([[7, 9]]));
    let state = server.rows("rtdb_state");
    assert_eq!((&state[0][1], &state[0][3]), (&json!(9), &json!(1)));

    // The server loses its last commits when it is killed: what is resent is applied once, with the same ids.
    let token = server.token.clone();
    std::thread::sleep(Duration::from_millis(200));
    drop(server);
    let server = Server::start(&bin, data.path()).with_token(Some(token));
    let recovered = server.rows("rtdb_state")[0][1].as_u64().expect("an index");
    assert!(recovered <= 9);
    for index in 2..6 {
        server.call_again("add", index, json!(["name", index]));
    }
    server.call_again("roll", 8, json!(["label"]));
    server.call_again("write_note", 9, json!(["text", ["a", "bc"], true]));
    assert_eq!(server.rows("rtdb_state"), state);
    assert_eq!(server.call("add", 10, json!(["after", 0])).0, 200);
    assert_eq!(ids(&server.rows("counter")), [1, 2, 3, 4, 5, 6]);
}

/// Two servers with the same calls, of which one is started anew now and then.
#[test]
fn two_real_servers_agree_whatever_their_instances_remember() {
    const CALLS: u64 = 400;
    let Some(bin) = program() else { return };
    let fixture = if is_2x(&bin) { "stateful-2x" } else { "stateful-1x" };
    let wasm = prepared(fixture).wasm;
    let data = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let mut servers = [0, 1].map(|nth| {
        let server = Server::start(&bin, data[nth].path()).with_token(None);
        server.publish("prepared", &wasm);
        server
    });
    let mut random = 1_u64;
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            json!([random >> 61, random >> 40])
        })
        .collect();
    for (index, call) in (1..).zip(&calls) {
        let answers = servers
            .each_ref()
            .map(|server| server.call("stir", index, call.clone()));
        assert_eq!(answers[0].0, answers[1].0, "{call}");
        if index % (CALLS / 4) == 0 {
            let (path, token) = (data[1].path(), servers[1].token.clone());
            servers[1].stop();
            servers[1] = Server::start(&bin, path).with_token(Some(token));
            // It may have lost its last commits.
            let applied = servers[1].rows("rtdb_state")[0][1].as_u64().expect("an index");
            for lost in applied + 1..=index {
                servers[1].call("stir", lost, calls[lost as usize - 1].clone());
            }
        }
    }
    for table in ["seen", "wide", "rtdb_state"] {
        let [one, two] = servers.each_ref().map(|server| {
            let mut rows: Vec<_> = server.rows(table).as_array().expect("rows").clone();
            rows.sort_by_key(Value::to_string);
            rows
        });
        assert!(
            !one.is_empty() && one == two,
            "{table}: {} and {} rows",
            one.len(),
            two.len()
        );
    }
}

#[test]
fn more_columns_than_a_row_of_state_has_room_for_count_on_on_a_real_server() {
    // The last one is never generated.
    const COLUMNS: usize = 21;
    let Some(bin) = program() else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&bin, data.path()).with_token(None);
    let module = |generated: std::ops::Range<u16>| {
        let generated: Vec<_> = generated.collect();
        numbered(COLUMNS as u16, &generated, |_| {})
    };
    // The given numbers in the given columns, the call's index in the others.
    let row = |index: u64, numbers: &[(std::ops::Range<usize>, u64)]| {
        let mut row = [index; COLUMNS];
        numbers
            .iter()
            .for_each(|(columns, number)| row[columns.clone()].fill(*number));
        json!(row)
    };
    let insert = |server: &Server, index: u64, zeros: std::ops::Range<usize>| {
        let (status, answer) = server.call("insert", index, row(index, &[(zeros, 0)]));
        assert_eq!(status, 200, "{answer}");
    };

    server.publish("prepared", &module(0..10));
    insert(&server, 1, 0..10);
    insert(&server, 2, 7..9);
    server.publish("prepared", &module(0..20));
    insert(&server, 3, 0..20);
    for (reducer, index) in [("fail", 4), ("explode", 5)] {
        assert_eq!(server.call(reducer, index, row(index, &[(5..20, 0)])).0, 530);
    }
    insert(&server, 6, 5..20);
    insert(&server, 7, 0..3);

    std::thread::sleep(Duration::from_millis(200));
    let token = server.token.clone();
    drop(server);
    let server = Server::start(&bin, data.path()).with_token(Some(token));
    // What was lost with the server is sent again, and changes nothing where it was not.
    for (index, zeros) in [(1, 0..10), (2, 7..9), (3, 0..20), (6, 5..20), (7, 0..3)] {
        server.call_again("insert", index, row(index, &[(zeros, 0)]));
    }
    insert(&server, 8, 6..12);
    let mut rows: Vec<_> = server.rows("rows").as_array().expect("rows").clone();
    rows.sort_by_key(|row| row[COLUMNS - 1].as_u64());
    let expected = [
        row(1, &[(0..10, 1)]),
        row(2, &[(7..9, 2)]),
        row(3, &[(0..7, 2), (7..9, 3), (9..10, 2), (10..20, 1)]),
        row(6, &[(5..7, 3), (7..9, 4), (9..10, 3), (10..20, 2)]),
        row(7, &[(0..3, 3)]),
        row(8, &[(6..7, 4), (7..9, 5), (9..10, 4), (10..12, 3)]),
    ];
    assert_eq!(rows, expected);
    assert_eq!(ids(&server.rows("rtdb_sequence")), [0]);
}

#[test]
fn views_run_in_refreshes_alone_on_a_real_server() {
    let Some(bin) = program() else { return };
    if !is_2x(&bin) {
        eprintln!("skipped: a server of 1.x has no views");
        return;
    }
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&bin, data.path());
    let caller: Value = serde_json::from_str(&server.request("POST", "/v1/identity", "").1).expect("JSON");
    let identity = caller["identity"].as_str().expect("an identity");
    let identity = Identity::from_hex(identity).expect("an identity").to_byte_array();
    let server = server.with_token(caller["token"].as_str().map(str::to_owned));
    let prepared = prepared("views-2x");
    server.publish("prepared", &prepared.wasm);
    let module = Module::from_def(&prepared.original_def).expect("the definition is readable");
    let key = |name: &str| {
        let view = module
            .views()
            .iter()
            .find(|view| view.name == name)
            .expect("the view");
        view_key(view.id, (!view.anonymous).then_some(identity))
    };
    let refresh = |key: u64| server.call(REFRESH, 0, json!([key])).0;

    let call = |reducer: &str, index, own| assert_eq!(server.call(reducer, index, own).0, 200, "{reducer}");
    call("join", 1, json!(["a"]));
    // The caller is no player: natively this would make every later call fail that touches players.
    assert_eq!(server.rows("my_player"), json!([]));
    for view in ["team", "notes", "my_score", "broken"] {
        assert_eq!(server.rows(view), json!([]), "{view}");
    }
    call("write", 2, json!(["hello"]));
    call("score", 3, json!([5]));
    assert_ne!(refresh(REFRESH_ALL), 200);
    assert_eq!(refresh(key("team")), 200);
    assert_eq!(server.rows("team")[0][2], json!(5));
    assert_ne!(refresh(key("my_player")), 200);
    assert_eq!(refresh(view_pause(key("my_player"))), 200);
    assert_eq!(refresh(REFRESH_ALL), 200);
    assert_eq!(server.rows("notes")[0][1], json!("hello"));
    assert_eq!(server.rows("broken").as_array().map(Vec::len), Some(1));

    // Calls leave the rows as they are, whatever a view would do.
    call("score", 4, json!([1]));
    call("switch_on", 5, json!([2]));
    call("score", 6, json!([1]));
    assert_eq!(server.rows("team")[0][2], json!(5));
    assert_eq!(server.rows("broken").as_array().map(Vec::len), Some(1));
    assert_eq!(refresh(key("team")), 200);
    assert_eq!(server.rows("team")[0][2], json!(7));
    assert_ne!(refresh(REFRESH_ALL), 200);
    assert_eq!(server.rows("rtdb_state")[0][1], json!(6));

    // Many rows, and large ones, are left as they are, too.
    for index in 7..40 {
        call("write", index, json!(["x".repeat(10_000)]));
    }
    assert_eq!(refresh(view_pause(key("broken"))), 200);
    assert_eq!(refresh(REFRESH_ALL), 200);
    assert_eq!(server.rows("notes").as_array().map(Vec::len), Some(34));
    call("write", 40, json!(["last"]));
    assert_eq!(server.rows("notes").as_array().map(Vec::len), Some(34));
    assert_eq!(refresh(REFRESH_ALL), 200);
    assert_eq!(server.rows("notes").as_array().map(Vec::len), Some(35));

    // Another version of the module finds them so.
    server.publish("prepared", &prepared.wasm);
    call("score", 41, json!([1]));
    assert_eq!(refresh(REFRESH_ALL), 200);
}

#[test]
fn a_view_that_never_ends_is_ended_by_its_own_code() {
    let Some(bin) = program() else { return };
    if !is_2x(&bin) {
        eprintln!("skipped: a server of 1.x has no views");
        return;
    }
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&bin, data.path()).with_token(None);
    let options = Options {
        call_units_max: 500_000_000,
        ..Options::default()
    };
    let prepared = prepare_with(&wasm("views-2x"), &options).expect("the fixture can be prepared");
    server.publish("prepared", &prepared.wasm);
    let module = Module::from_def(&prepared.original_def).expect("the definition is readable");
    let key = |name: &str| {
        let mut views = module.views().iter();
        let view = views.find(|view| view.name == name).expect("the view");
        view_key(view.id, None)
    };
    let refresh = |key: u64| server.call(REFRESH, 0, json!([key])).0;
    for view in ["stuck", "team"] {
        assert_eq!(server.rows(view), json!([]), "{view}");
    }
    assert_eq!(refresh(REFRESH_ALL), 200);
    for (index, reducer, own) in [(1, "join", json!(["a"])), (2, "switch_on", json!([1]))] {
        assert_eq!(server.call(reducer, index, own).0, 200, "{reducer}");
    }
    assert_ne!(refresh(key("stuck")), 200);
    assert_ne!(refresh(REFRESH_ALL), 200);
    assert_eq!(refresh(key("team")), 200);
    assert_eq!(server.rows("team").as_array().map(Vec::len), Some(1));
    let (status, log) = server.request("GET", "/v1/database/prepared/logs", "");
    assert!(status == 200 && log.contains("this ran for too long"), "{log}");
}

#[test]
fn numbers_that_are_taken_stop_no_real_server() {
    let Some(bin) = program() else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&bin, data.path()).with_token(None);
    for (ty, taken, next) in [(AlgebraicType::U64, 400, 401), (AlgebraicType::U8, 254, 255)] {
        let row = product(vec![ty, AlgebraicType::U64]);
        let module = numbered(2, &[0], |def| {
            let reference = def.tables[0].product_type_ref;
            def.typespace[reference] = AlgebraicType::Product(row.clone());
            def.reducers
                .iter_mut()
                .for_each(|reducer| reducer.params = row.clone());
            unique(def, &[0], false);
        });
        server.publish("prepared?clear=true", &module);
        for index in 1..=taken {
            assert_eq!(server.call("insert", index, json!([index, index])).0, 200);
        }
        // Calls that fail leave the number where it was.
        for (reducer, index) in [("fail", taken + 1), ("explode", taken + 2)] {
            assert_eq!(server.call(reducer, index, json!([0, index])).0, 530);
        }
        let answer = server.call("insert", taken + 3, json!([0, 0]));
        assert_eq!(answer.0, 200, "{answer:?}");
        assert_eq!(ids(&server.rows("rows")), (1..=next).collect::<Vec<_>>());
    }
    // 0 is a number, too; then all are taken.
    assert_eq!(server.call("insert", 300, json!([0, 0])).0, 200);
    assert_eq!(server.call("insert", 301, json!([0, 0])).0, 530);
    assert_eq!(ids(&server.rows("rows")), (0..=255).collect::<Vec<_>>());
}

/// A module that asks for its callers' claims, on the server as it is and prepared: it sees the same.
#[test]
fn what_tokens_say_is_seen_as_natively() {
    let Some(bin) = program() else { return };
    if !is_2x(&bin) {
        return eprintln!("skipped: SpacetimeDB 1.x has no claims");
    }
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&bin, data.path()).with_token(None);
    server.publish("plain", &asking());
    server.publish("prepared", &prepare(&asking()).expect("it can be prepared").wasm);
    let said = |database: &str| {
        let sql = format!("/v1/database/{database}/sql");
        let (status, answer) = server.request("POST", &sql, "SELECT * FROM said");
        assert_eq!(status, 200, "{answer}");
        let rows = serde_json::from_str::<Value>(&answer).expect("JSON")[0]["rows"].clone();
        let row = rows
            .as_array()
            .and_then(|rows| rows.last())
            .expect("a row")
            .clone();
        let digits = row[0]
            .as_str()
            .expect("bytes")
            .trim_start_matches("0x")
            .to_owned();
        let pairs = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| str::from_utf8(pair).expect("hex"));
        pairs
            .map(|pair| u8::from_str_radix(pair, 16).expect("hex"))
            .collect::<Vec<_>>()
    };
    let (status, answer) = server.request("POST", "/v1/database/plain/call/own", "[]");
    assert_eq!(status, 200, "{answer}");
    let claims = String::from_utf8(said("plain")).expect("text");
    assert!(claims.contains("\"iss\":\"localhost\""), "{claims}");

    // The session's, then without a session.
    for (index, session) in [(1, 7), (2, 0)] {
        let call = |reducer: &str, own: &[Value]| {
            let header = [json!("0x07"), json!(9), json!(1), json!(index), json!(session)];
            let path = format!("/v1/database/prepared/call/{reducer}");
            server.request("POST", &path, Value::from([&header, own].concat()).to_string())
        };
        assert_eq!(call(IDENTIFY, &[json!(claims)]).0, 200);
        let (status, answer) = call("own", &[]);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(said("prepared"), claims.as_bytes());
    }
}

/// `numbered` with two columns, the first one generated, as the version before `rtdb_claims` has prepared it.
const BEFORE: &[u8] = include_bytes!("before.wasm");

#[test]
fn a_module_that_an_earlier_version_has_prepared_is_updated() {
    let Some(bin) = program() else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&bin, data.path()).with_token(None);
    assert_eq!(Claims::of(BEFORE), Claims::Ignored);
    server.publish("prepared", BEFORE);
    for index in [1, 2, 2] {
        assert_eq!(server.call("insert", index, json!([0, index])).0, 200);
    }
    server.publish("prepared", &numbered(2, &[0], |_| {}));
    assert_eq!(server.call("insert", 2, json!([0, 2])), skipped());
    assert_eq!(server.call("insert", 3, json!([0, 3])).0, 200);
    assert_eq!(ids(&server.rows("rows")), [1, 2, 3]);
    assert_eq!(server.call(IDENTIFY, 4, json!(["{}"])).0, 200);
    assert_eq!(server.rows("rtdb_claims"), json!([[7, 4, "{}"]]));
    assert_eq!(server.call(DISCONNECT, 4, json!([])).0, 200);
    assert_eq!(server.rows("rtdb_claims"), json!([]));
}

/// `views-2x` as the version has prepared it that did not show `rtdb_now` to anybody.
const BEFORE_10: &[u8] = include_bytes!("before_10.wasm");

#[test]
fn a_module_with_views_that_an_earlier_version_has_prepared_is_updated() {
    let Some(bin) = program().filter(|bin| is_2x(bin)) else {
        eprintln!("skipped: a server of 1.x has no views");
        return;
    };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&bin, data.path()).with_token(None);
    let call = |reducer: &str, index, own| assert_eq!(server.call(reducer, index, own).0, 200, "{reducer}");
    let refresh = || assert_eq!(server.call(REFRESH, 0, json!([REFRESH_ALL])).0, 200);
    let score = || server.rows("team")[0][2].clone();
    server.publish("prepared", BEFORE_10);
    call("join", 1, json!(["a"]));
    assert_eq!(server.rows("team"), json!([]));
    refresh();
    let now = prepared("views-2x").wasm;
    // There and back: nodes of both versions may publish for a while.
    for (index, module) in [(2, now.as_slice()), (3, BEFORE_10), (4, &now)] {
        server.publish("prepared", module);
        call("score", index, json!([1]));
        refresh();
        assert_eq!(score(), json!(index - 1));
    }
}

/// A list of lists, and so on, as deep as the server's JSON goes.
#[test]
fn a_column_behind_deep_ones_is_numbered_on_a_real_server() {
    const LISTS: u32 = 40;
    let Some(bin) = program() else { return };
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&bin, data.path()).with_token(None);
    server.publish("prepared", &nested(LISTS));
    let deep = (0..LISTS).fold(json!(7), |inner, _| json!([[inner]]));
    for index in [1, 2] {
        assert_eq!(server.call("insert", index, json!([deep, 0])).0, 200);
    }
    let numbers = server.sql("SELECT c1 FROM rows");
    assert!(
        numbers == json!([[1], [2]]) || numbers == json!([[2], [1]]),
        "{numbers}"
    );
}

/// Rules of row-level security that are as long, and as deep, as they may be.
#[test]
fn the_longest_rules_end_no_real_server() {
    let Some(bin) = program() else { return };
    let long =
        |start: &str, more: &str, times: usize, end: &str| format!("{start}{}{end}", more.repeat(times));
    let rules = [
        long("SELECT * FROM rows WHERE c0 = 1", " AND c0 = 1", 180, ""),
        long("SELECT * FROM rows WHERE c0 = 1", " OR c0 = 1", 200, ""),
        long("SELECT * FROM rows WHERE c0 = ", "- ", 64, "1"),
        long("SELECT * FROM rows WHERE c0 = ", "+-", 32, "1"),
        long("SELECT * FROM rows WHERE ", "NOT ", 64, "c0 = 1"),
        long("SELECT * FROM rows WHERE ", "(", 64, "c0 = 1"),
        long("SELECT * FROM rows WHERE c0 = ", "CASE ", 400, "1"),
        long("SELECT * FROM rows WHERE c0 = ", "INTERVAL ", 220, "1"),
        long(
            "SELECT rows.* FROM rows ",
            "JOIN left ON rows.c0 = left.c0 ",
            60,
            "",
        ),
        long("SELECT * FROM rows", " UNION SELECT * FROM rows", 80, ""),
        long("SELECT * FROM rows WHERE c0 = ", "EXISTS ", 280, "1"),
        long("SELECT * FROM rows WHERE c0 = c0", "[c0", 650, ""),
        long("EXPLAIN ", "EXPLAIN ", 250, "SELECT 1"),
        long("SELECT c0::int", "[]", 1_000, " FROM rows"),
    ];
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&bin, data.path()).with_token(None);
    for (nth, rule) in rules.iter().enumerate() {
        let module = numbered(1, &[], |def| {
            def.row_level_security.push(RawRowLevelSecurityDefV9 {
                sql: rule.as_str().into(),
            });
        });
        // It is taken or refused, but there is an answer.
        let answer = server.try_request("PUT", &format!("/v1/database/rule{nth}"), module);
        assert!(answer.is_ok(), "{rule}: {answer:?}");
    }
    server.publish("prepared", &numbered(1, &[], |_| {}));
}
