//! HTTP handlers that read, write and fail, and that say what they were asked.

use spacetimedb::http::{handler, router, Body, HandlerContext, Request, Response, Router};
use spacetimedb::{reducer, table, ReducerContext, Table, TxContext};

#[table(accessor = item, public)]
pub struct Item {
    #[primary_key]
    #[auto_inc]
    id: u64,
    text: String,
}

#[reducer]
pub fn add(ctx: &ReducerContext, text: String) {
    ctx.db.item().insert(Item { id: 0, text });
}

fn put(tx: &TxContext, text: &str) -> u64 {
    let text = text.to_owned();
    tx.db.item().insert(Item { id: 0, text }).id
}

fn text(body: impl Into<String>) -> Response {
    Response::new(Body::from_bytes(body.into()))
}

fn with_status(status: u16, body: impl Into<String>) -> Response {
    let mut response = text(body);
    *response.status_mut() = status.try_into().unwrap();
    response
}

/// What the query says of `name`.
fn query(request: &Request, name: &str) -> Option<String> {
    let pairs = request.uri().query()?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

#[handler]
fn hello(_ctx: &mut HandlerContext, _request: Request) -> Response {
    text("hello")
}

#[handler]
fn empty(_ctx: &mut HandlerContext, _request: Request) -> Response {
    text("")
}

#[handler]
fn slash(_ctx: &mut HandlerContext, _request: Request) -> Response {
    text("slash")
}

/// What was asked: the method, the URI, what else is seen of it, and who asks in a transaction.
#[handler]
fn echo(ctx: &mut HandlerContext, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {:?}", value.as_bytes()))
        .collect();
    headers.sort();
    let sender = ctx.with_tx(|tx| {
        let auth = tx.sender_auth();
        format!("{} {:?} {}", tx.sender(), tx.connection_id(), auth.has_jwt())
    });
    let body = body.into_bytes();
    text(format!(
        "{} {} {:?}\n{}\n{sender}\n{} bytes, {} in sum",
        parts.method,
        parts.uri,
        parts.version,
        headers.join("\n"),
        body.len(),
        body.iter().map(|byte| u64::from(*byte)).sum::<u64>(),
    ))
}

#[handler]
fn reverse(_ctx: &mut HandlerContext, request: Request) -> Response {
    let mut body = request.into_body().into_bytes().to_vec();
    body.reverse();
    Response::new(Body::from_bytes(body))
}

/// Inserts an item.
#[handler]
fn post_item(ctx: &mut HandlerContext, request: Request) -> Response {
    let Ok(body) = request.into_body().into_string() else {
        return with_status(400, "no text");
    };
    ctx.with_tx(|tx| put(tx, &body));
    with_status(201, body)
}

/// Inserts in two transactions.
#[handler]
fn post_two(ctx: &mut HandlerContext, request: Request) -> Response {
    let body = request.into_body().into_string_lossy();
    let first = ctx.with_tx(|tx| put(tx, &body));
    let second = ctx.with_tx(|tx| put(tx, &body));
    text((second - first).to_string())
}

#[handler]
fn get_items(ctx: &mut HandlerContext, _request: Request) -> Response {
    text(ctx.with_tx(|tx| {
        let mut all: Vec<_> = tx.db.item().iter().map(|item| item.text).collect();
        all.sort();
        all.join(",")
    }))
}

/// Takes back what it does.
#[handler]
fn roll_back(ctx: &mut HandlerContext, _request: Request) -> Response {
    let done: Result<(), String> = ctx.try_with_tx(|tx| {
        put(tx, "never");
        Err("taken back".to_owned())
    });
    with_status(409, done.unwrap_err())
}

/// Fails in its second transaction.
#[handler]
fn explode(ctx: &mut HandlerContext, _request: Request) -> Response {
    ctx.with_tx(|tx| put(tx, "before"));
    ctx.with_tx(|tx| {
        put(tx, "never");
        panic!("as it should")
    })
}

/// Never ends.
#[handler]
fn spin(_ctx: &mut HandlerContext, _request: Request) -> Response {
    let mut n = 0_u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

/// As many bytes as the query says.
#[handler]
fn large(_ctx: &mut HandlerContext, request: Request) -> Response {
    let bytes = query(&request, "bytes").and_then(|bytes| bytes.parse().ok());
    Response::new(Body::from_bytes(vec![b'x'; bytes.unwrap_or(0)]))
}

/// An answer with a status and headers of every kind.
#[handler]
fn teapot(_ctx: &mut HandlerContext, request: Request) -> Response {
    let status = query(&request, "status").and_then(|status| status.parse().ok());
    let mut response = Response::builder()
        .status(status.unwrap_or(418_u16))
        .header("content-type", "text/x-tea")
        .header("set-cookie", "a=1")
        .header("set-cookie", "b=2")
        .header("x-bytes", &b"\xff\xfe"[..])
        .header("access-control-allow-origin", "https://tea.example")
        .header("vary", "x-leaf")
        .body(Body::from_bytes("tea"))
        .unwrap();
    if let Some(version) = query(&request, "version") {
        *response.version_mut() = match version.as_str() {
            "0.9" => http::Version::HTTP_09,
            "1.0" => http::Version::HTTP_10,
            "2" => http::Version::HTTP_2,
            _ => http::Version::HTTP_3,
        };
    }
    response
}

/// An answer with the headers that the body says, one a line.
#[handler]
fn answer(_ctx: &mut HandlerContext, request: Request) -> Response {
    let status = query(&request, "status").and_then(|status| status.parse().ok());
    let mut response = with_status(status.unwrap_or(200), "tea");
    let headers = request.into_body().into_string_lossy();
    for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
        let name: http::HeaderName = name.parse().unwrap();
        response.headers_mut().append(name, value.parse().unwrap());
    }
    response
}

#[router]
fn routes() -> Router {
    Router::new()
        .any("", empty)
        .get("/", slash)
        .get("/hello", hello)
        .get("/hello/", slash)
        .any("/echo", echo)
        .post("/reverse", reverse)
        .post("/item", post_item)
        .put("/item", post_two)
        .get("/item", get_items)
        .delete("/item", roll_back)
        .get("/explode", explode)
        .get("/spin", spin)
        .get("/large", large)
        .any("/teapot", teapot)
        .any("/answer", answer)
        .nest("/deep", Router::new().get("/down-here_~", hello))
}
