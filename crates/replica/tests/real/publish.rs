//! Publications that fail, and whose fault that is.

use crate::support::{
    DATABASE, Log, Node, TIMEOUT, add, bsatn, call, delete, prepared, program, start_server,
};
use rtdb_consensus::command::Body;
use rtdb_consensus::{Position, Refusal, Reply, Unapplied};
use rtdb_replica::{Phase, Replica};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walrus::{ExportItem, FunctionBuilder};

/// A module whose reducers trap, the hidden ones too: no gateway lets it pass.
pub(crate) fn trapping(node: &Node, clear: bool) -> Body {
    let mut module = walrus::Module::from_buffer(&prepared().wasm).unwrap();
    let export = module
        .exports
        .iter()
        .find(|export| export.name == "__call_reducer__")
        .unwrap();
    let ExportItem::Function(original) = export.item else {
        panic!("not a function")
    };
    let ty = module.types.get(module.funcs.get(original).ty());
    let (params, results) = (ty.params().to_vec(), ty.results().to_vec());
    let mut function = FunctionBuilder::new(&mut module.types, &params, &results);
    function.func_body().unreachable();
    let args = params.iter().map(|ty| module.locals.add(*ty)).collect();
    let function = function.finish(args, &mut module.funcs);
    module.exports.remove("__call_reducer__").unwrap();
    module.exports.add("__call_reducer__", function);
    with_module(node.publish(clear), module.emit_wasm())
}

pub(crate) fn with_module(body: Body, module: Vec<u8>) -> Body {
    match body {
        Body::Publish(mut publish) => {
            publish.module = module.into();
            Body::Publish(publish)
        }
        other => other,
    }
}

pub(crate) fn is_refused(log: &Log, position: Position) -> bool {
    matches!(log.outcome(position), Err(Unapplied::Refused(Refusal::Module(_))))
}

pub(crate) async fn counters(node: &Node, replica: &Replica) -> Vec<String> {
    let query = "SELECT name FROM counter WHERE name != 'init'";
    let mut rows = node.rows(replica, query).await;
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_takes_no_mark_is_refused_and_stops_nothing() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let mut replica = node.replica(&log);

    let first = log.append(vec![trapping(&node, false), add("a", 1, 0)]);
    log.all_applied().await;
    assert!(is_refused(&log, first[0]));
    assert_eq!(
        log.outcome(first[1]),
        Err(Unapplied::Refused(Refusal::NoSuchDatabase))
    );

    let second = log.append(vec![
        node.publish(false),
        add("b", 1, 0),
        trapping(&node, false),
        add("c", 1, 0),
    ]);
    log.all_applied().await;
    assert!(is_refused(&log, second[2]));
    assert!(log.outcome(second[3]).is_ok());
    assert_eq!(counters(&node, &replica).await, [r#"["b"]"#, r#"["c"]"#]);

    let cleared = log.append(vec![trapping(&node, true), add("d", 1, 0)]);
    log.all_applied().await;
    assert!(is_refused(&log, cleared[0]));
    assert!(log.outcome(cleared[1]).is_ok());
    assert_eq!(
        counters(&node, &replica).await,
        [r#"["b"]"#, r#"["c"]"#, r#"["d"]"#]
    );

    // Such an entry does no more harm if it is the last one, and met again after each restart.
    let trap = log.append(vec![trapping(&node, false)]);
    log.all_applied().await;
    assert!(is_refused(&log, trap[0]));
    for _ in 0..2 {
        assert!(replica.fatal().borrow().is_none());
        replica.stop().await;
        log.forget_applied();
        replica = node.replica(&log);
        log.all_applied().await;
    }
    assert_eq!(
        counters(&node, &replica).await,
        [r#"["b"]"#, r#"["c"]"#, r#"["d"]"#]
    );
    let last = log.append(vec![node.publish(false), node.publish(true), add("e", 1, 0)]);
    log.all_applied().await;
    assert!(log.outcome(last[0]).is_ok());
    assert_eq!(
        log.outcome(last[1]).unwrap().reply,
        Reply::Published { created: false }
    );
    assert_eq!(counters(&node, &replica).await, [r#"["e"]"#]);
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clear_that_the_server_refuses_removes_nothing() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let broken = with_module(node.publish(true), b"\0asm\x01\0\0\0".to_vec());
    let positions = log.append(vec![node.publish(false), add("a", 1, 0), broken, add("b", 1, 0)]);
    log.all_applied().await;
    assert!(is_refused(&log, positions[2]));
    assert!(log.outcome(positions[3]).is_ok());
    assert_eq!(counters(&node, &replica).await, [r#"["a"]"#, r#"["b"]"#]);
    assert_eq!(replica.database(&DATABASE).unwrap().position, positions[0]);
    replica.stop().await;
    node.server.stop().await;
}

/// Waits until the replica has been told so more than once, and has tried again each time.
pub(crate) async fn tried_again(replica: &Replica, words: &str, times: usize) {
    let deadline = Instant::now() + TIMEOUT;
    let (mut seen, mut before) = (0, false);
    while seen < times {
        assert!(Instant::now() < deadline, "tried again only {seen} times");
        let databases = replica.progress().databases;
        let phase = databases.first().map(|database| &database.phase);
        let now = matches!(phase, Some(Phase::Retrying(why)) if why.contains(words));
        seen += usize::from(now && !before);
        before = now;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The folder of the server's databases, with a file in its place: it can't make any.
struct Blocked {
    folder: std::path::PathBuf,
    aside: std::path::PathBuf,
}

impl Blocked {
    fn new(node: &Node) -> Self {
        let data = node.folder.path().join("spacetimedb/data");
        let (folder, aside) = (data.join("replicas"), data.join("replicas-aside"));
        fs::create_dir_all(&folder).unwrap();
        fs::rename(&folder, &aside).unwrap();
        fs::write(&folder, b"").unwrap();
        Self { folder, aside }
    }

    fn lift(self) {
        fs::remove_file(&self.folder).unwrap();
        fs::rename(&self.aside, &self.folder).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_troubles_of_its_own_is_waited_for() {
    let Some(program) = program() else { return };
    let mut node = Node::start(program).await;
    let log: Arc<Log> = Log::new();
    let replica = node.replica(&log);
    let blocked = Blocked::new(&node);
    let first = log.append(vec![node.publish(false), add("a", 1, 0)]);
    // More often than any node had patience for.
    tried_again(&replica, "os error", 8).await;
    assert_eq!(log.outcomes(first[0]), []);
    blocked.lift();
    log.all_applied().await;
    assert_eq!(
        log.outcome(first[0]).unwrap().reply,
        Reply::Published { created: true }
    );
    assert_eq!(counters(&node, &replica).await, [r#"["a"]"#]);

    // A database that can't be opened for now is not made again.
    let replicas = |node: &Node| {
        let folder = node.folder.path().join("spacetimedb/data/replicas");
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|it| it.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    // 1.2.0 forgets databases that it was told of just before its end, even one in good order.
    let mut replica = replica;
    let mut before = Vec::new();
    while before != replicas(&node) {
        before = replicas(&node);
        replica.stop().await;
        node.server.stop().await;
        node.server = start_server(&node.program, node.folder.path(), &node.keys).await;
        log.forget_applied();
        replica = node.replica(&log);
        log.all_applied().await;
    }
    replica.stop().await;
    node.server.stop().await;
    let blocked = Blocked::new(&node);
    node.server = start_server(&node.program, node.folder.path(), &node.keys).await;
    log.forget_applied();
    let replica = node.replica(&log);
    tried_again(&replica, "os error", 8).await;
    blocked.lift();
    let second = log.append(vec![add("b", 1, 0)]);
    log.all_applied().await;
    assert!(log.outcome(second[0]).is_ok());
    assert_eq!(counters(&node, &replica).await, [r#"["a"]"#, r#"["b"]"#]);
    assert_eq!(replicas(&node), before);
    assert!(replica.fatal().borrow().is_none());
    replica.stop().await;
    node.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_behind_a_publication_is_not_waited_for() {
    let Some(program) = program() else { return };
    let node = Node::start(program).await;
    let log: Arc<Log> = Log::new();
    let replica = node.replica(&log);
    let blocked = Blocked::new(&node);
    let first = log.append(vec![node.publish(false), add("a", 1, 0)]);
    tried_again(&replica, "os error", 2).await;
    let gone = log.append(vec![delete()]);
    log.all_applied().await;
    // Other nodes may have published it and made the call, before the deletion.
    for lost in first {
        assert!(matches!(log.outcome(lost), Err(Unapplied::Unknown { .. })));
    }
    assert!(log.outcome(gone[0]).is_ok());
    blocked.lift();
    let again = log.append(vec![node.publish(false), add("b", 1, 0)]);
    log.all_applied().await;
    assert!(log.outcome(again[1]).is_ok());
    assert_eq!(counters(&node, &replica).await, [r#"["b"]"#]);
    replica.stop().await;
    node.server.stop().await;
}

/// With a module that was built from SpacetimeDB's own C++ bindings, which can't be kept here: `RTDB_CPP_MODULE` names it
/// (see `languages.rs` in `determinism`), and `SPACETIMEDB_BIN` a server of 2.x.
#[tokio::test(flavor = "multi_thread")]
async fn a_module_of_cpp_runs() {
    let (Some(program), Some(path)) = (program(), std::env::var_os("RTDB_CPP_MODULE")) else {
        return;
    };
    let node = Node::start(program).await;
    let log = Log::new();
    let replica = node.replica(&log);
    let prepared = rtdb_determinism::prepare(&fs::read(path).unwrap()).unwrap();
    let cpp = |clear| match node.publish(clear) {
        Body::Publish(mut publish) => {
            publish.module = prepared.wasm.clone().into();
            publish.original_def = prepared.original_def.clone().into();
            Body::Publish(publish)
        }
        other => other,
    };
    let mut positions = log.append(vec![cpp(false)]);
    for _ in 0..10 {
        positions.extend(log.append(vec![
            call("add", &bsatn("hello"), 0),
            call("recite", &[], 0),
            call("exhaust", &[], 0),
        ]));
        log.all_applied().await;
        node.kill_server();
    }
    positions.extend(log.append(vec![cpp(false), call("add", &bsatn("last"), 0)]));
    log.all_applied().await;
    for position in positions {
        assert!(log.outcome(position).is_ok(), "{:?}", log.outcome(position));
    }
    let rows = node.rows(&replica, "SELECT id FROM entry WHERE calls = 1").await;
    assert_eq!(rows.len(), 1 + 30 + 1);
    let refused = log.append(vec![call("refuse", &[], 0)]);
    log.all_applied().await;
    assert_eq!(log.outcome(refused[0]).unwrap_err().to_string(), "as told");
    replica.stop().await;
    node.server.stop().await;
}
