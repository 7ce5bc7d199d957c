//! HTTP handlers on the fake host: they are asked and answer as natively, and their transactions are procedures'.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;

use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{
    ANSWER_BYTES_MAX, Answer, HANDLE, Module, OUTBOX, Options, Prepared, REPLAY, SETTLE, Transaction,
    TransactionVerdict, handle_args, prepare_with, replay_args, runs_procedures, settle_args,
};
use spacetimedb_lib::http::{Method, Request, Response, Version};

use crate::fixtures::{prepared, wasm};
use crate::host::{Failure, FakeHost, Meanwhile};

const RUN: u64 = 77;

fn module() -> &'static (Prepared, Module) {
    static MODULE: OnceLock<(Prepared, Module)> = OnceLock::new();
    MODULE.get_or_init(|| {
        let prepared = prepared("handlers-2x");
        let module = Module::from_def(&prepared.original_def).unwrap();
        (prepared, module)
    })
}

fn header(index: u64) -> CallHeader {
    CallHeader {
        index,
        ..CallHeader::default()
    }
}

/// The node that is asked, and another one.
struct Nodes {
    here: FakeHost,
    there: Rc<RefCell<FakeHost>>,
    /// How many transactions went through the log.
    committed: Rc<RefCell<u64>>,
}

impl Nodes {
    fn new() -> Self {
        Self::with(&module().0.wasm)
    }

    fn with(wasm: &[u8]) -> Self {
        assert!(runs_procedures(wasm));
        let [here, there] = [4_096, 70_000].map(|first_id| {
            let mut host = FakeHost::new(wasm, first_id);
            host.call("rtdb_mark", header(1), &[1]).unwrap();
            host
        });
        Self {
            here,
            there: Rc::new(RefCell::new(there)),
            committed: Rc::default(),
        }
    }

    /// The log, as far as a handler is concerned that waits.
    fn log(&self) -> Meanwhile {
        let (mut here, there, committed) = (self.here.twin(), self.there.clone(), self.committed.clone());
        Box::new(move |db| {
            here.db = db;
            if let Some(row) = here.db.rows(OUTBOX).first().cloned() {
                let transaction = Transaction::decode(&row).unwrap();
                *committed.borrow_mut() += 1;
                let index = here.state().0 + 1;
                let args = replay_args(transaction.base, transaction.operations);
                here.call(REPLAY, header(index), &args).unwrap();
                there.borrow_mut().call(REPLAY, header(index), &args).unwrap();
                let settle = settle_args(RUN, transaction.seq, TransactionVerdict::Committed);
                here.call(SETTLE, header(0), &settle).unwrap();
            }
            here.db.clone()
        })
    }

    fn run(&mut self, args: &[u8]) -> Result<Vec<u8>, Failure> {
        let log = self.log();
        let returned = self.here.procedure(HANDLE, header(RUN), args, log);
        let over = settle_args(RUN, 0, TransactionVerdict::Over);
        self.here.call(SETTLE, header(0), &over).unwrap();
        returned
    }

    /// The answer to a request: its head, and its body.
    fn ask(
        &mut self,
        method: &Method,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> Result<(Response, Vec<u8>), Failure> {
        let handler = module().1.handler(method, path).expect("there is a route");
        let request = Request {
            method: method.clone(),
            headers: [(Some("x-a".into()), b"1".to_vec().into())].into_iter().collect(),
            timeout: None,
            uri: format!("http://host/route{path}{query}"),
            version: Version::Http11,
        };
        let returned = self.run(&handle_args(&handler, &request, body).unwrap())?;
        match Answer::decode(&returned).unwrap() {
            Answer::Given { head, body_at } => Ok((head, returned[body_at..].to_vec())),
            Answer::OtherModule => panic!("it is the same module"),
        }
    }

    fn text(&mut self, method: &Method, path: &str, body: &[u8]) -> (u16, String) {
        let (head, body) = self.ask(method, path, "", body).unwrap();
        (head.code, String::from_utf8(body).unwrap())
    }

    fn assert_same(&self) {
        let there = self.there.borrow();
        assert_eq!(self.here.db.rows("item"), there.db.rows("item"));
        assert_eq!(self.here.state(), there.state());
    }
}

#[test]
fn a_route_is_found_letter_by_letter() {
    let module = &module().1;
    let found = |method: Method, path: &str| module.handler(&method, path);
    for path in ["", "/", "/hello", "/hello/", "/deep/down-here_~"] {
        assert!(found(Method::Get, path).is_some(), "{path}");
    }
    for path in ["//", "/hello//", "/Hello", "hello", "/hell", "/deep", "/deep/"] {
        assert!(found(Method::Get, path).is_none(), "{path}");
    }
    assert!(found(Method::Post, "/hello").is_none());
    assert!(found(Method::Extension("BREW".into()), "/teapot").is_some());
    assert_eq!(found(Method::Put, ""), found(Method::Get, ""));
    assert_ne!(found(Method::Put, "/item"), found(Method::Get, "/item"));
}

#[test]
fn a_handler_reads_its_request() {
    let mut nodes = Nodes::new();
    let body = vec![3; 100_000];
    for (method, body, sum) in [(Method::Post, &body[..], 300_000), (Method::Get, &[], 0)] {
        let (code, said) = nodes.text(&method, "/echo", body);
        let name = if method == Method::Get { "GET" } else { "POST" };
        let nobody = "0".repeat(64);
        let expected = format!(
            "{name} http://host/route/echo HTTP/1.1\nx-a: [49]\n{nobody} None false\n{} bytes, {sum} in sum",
            body.len()
        );
        assert_eq!((code, said), (200, expected));
    }
    assert_eq!(nodes.text(&Method::Post, "/reverse", b"abc"), (200, "cba".into()));
    assert_eq!(*nodes.committed.borrow(), 0, "what only reads costs nothing");
    nodes.assert_same();
}

#[test]
fn what_it_writes_goes_through_the_log() {
    let mut nodes = Nodes::new();
    assert_eq!(nodes.text(&Method::Post, "/item", b"a"), (201, "a".into()));
    assert_eq!(nodes.text(&Method::Put, "/item", b"b"), (200, "1".into()));
    assert_eq!(*nodes.committed.borrow(), 3);
    assert_eq!(nodes.text(&Method::Get, "/item", b""), (200, "a,b,b".into()));
    let rolled_back = nodes.text(&Method::Delete, "/item", b"");
    assert_eq!(rolled_back, (409, "taken back".into()));
    nodes.assert_same();
    let failed = nodes.ask(&Method::Get, "/explode", "", b"");
    assert_eq!(failed.err(), Some(Failure::Trapped));
    let items = nodes.text(&Method::Get, "/item", b"");
    assert_eq!(items, (200, "a,b,b,before".into()));
    nodes.assert_same();
}

#[test]
fn an_answer_is_returned_as_it_was_written() {
    let mut nodes = Nodes::new();
    for bytes in [0_u32, 1, 8_192, 8_193, 1_000_000] {
        let query = format!("?bytes={bytes}");
        let (head, body) = nodes.ask(&Method::Get, "/large", &query, b"").unwrap();
        assert_eq!((head.code, body), (200, vec![b'x'; bytes as usize]));
    }
    let (head, body) = nodes.ask(&Method::Put, "/teapot", "", b"").unwrap();
    assert_eq!((head.code, &body[..]), (418, &b"tea"[..]));
    let cookies = head
        .headers
        .into_iter()
        .filter(|(name, _)| &**name == "set-cookie");
    let cookies: Vec<_> = cookies.map(|(_, value)| value.to_vec()).collect();
    assert_eq!(cookies, [b"a=1", b"b=2"]);
    let query = format!("?bytes={ANSWER_BYTES_MAX}");
    let too_large = nodes.ask(&Method::Get, "/large", &query, b"");
    assert_eq!(too_large.err(), Some(Failure::Trapped));
    nodes.assert_same();
}

#[test]
fn one_that_never_ends_is_ended() {
    let options = Options {
        call_units_max: 10_000_000,
        ..Options::default()
    };
    let mut nodes = Nodes::with(&prepare_with(&wasm("handlers-2x"), &options).unwrap().wasm);
    let spun = nodes.ask(&Method::Get, "/spin", "", b"");
    assert_eq!(spun.err(), Some(Failure::Trapped));
    assert_eq!(nodes.text(&Method::Get, "/hello", b""), (200, "hello".into()));
}

#[test]
fn nothing_is_done_for_another_module() {
    let mut nodes = Nodes::new();
    let handler = module().1.handler(&Method::Post, "/item").unwrap();
    let request = Request {
        method: Method::Post,
        headers: [].into_iter().collect(),
        timeout: None,
        uri: "http://host/".into(),
        version: Version::Http11,
    };
    let mut args = handle_args(&handler, &request, b"a").unwrap();
    args[0] ^= 1;
    let returned = nodes.run(&args).unwrap();
    assert!(matches!(Answer::decode(&returned), Ok(Answer::OtherModule)));
    assert!(nodes.here.db.rows("item").is_empty());
    // What is no number of a handler, the module itself has nothing for.
    let mut args = handle_args(&handler, &request, b"a").unwrap();
    args[8] = 99;
    assert_eq!(nodes.run(&args), Err(Failure::Trapped));
    nodes.assert_same();
}
