//! Clients that are slow, and clients that are dead, over a pipe.

use super::*;
use crate::catalog::{Catalog, Client, DatabaseRecord};
use crate::freshness::Freshness;
use crate::json::tests::{answer, module_with};
use crate::limits::{
    CLOSE_HANDSHAKE_MAX, ClientLimits, JSON_VALUE_BYTES_MAX, UPSTREAM_OPEN_MAX, WRITE_STALL_MAX,
};
use crate::local::{Claims, Local, LocalDatabase, SetAside, Tokens};
use crate::metrics::GatewayMetrics;
use crate::reach::{Reach, Unanswered, Visit};
use crate::session::core::Caller;
use crate::socket::{Counted, config};
use crate::upstream;
use bytes::Bytes;
use http::StatusCode;
use rtdb_consensus::{Command, NoReadIndex, Propose};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::compress::Compression;
use rtdb_replica::Views;
use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9Builder;
use spacetimedb_lib::{ConnectionId, Identity, RawModuleDef, bsatn};
use std::time::Duration;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Bytes of the first answer.
const LARGE: usize = 20 << 20;

struct Nothing {
    has_caught_up: watch::Sender<bool>,
}

impl Reach for Nothing {
    fn connect<'a>(&'a self, _: Visit<'a>) -> BoxFuture<'a, Result<Box<dyn Wire>, OpenError>> {
        async {
            let (near, _) = tokio::io::duplex(1 << 10);
            let ws = WebSocketStream::from_raw_socket(Counted::new(near), Role::Client, None).await;
            Ok(Box::new(ws) as Box<dyn Wire>)
        }
        .boxed()
    }
    fn query<'a>(
        &'a self,
        _: &'a Identity,
        _: &'a str,
        _: String,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), Unanswered>> {
        std::future::pending().boxed()
    }
}

impl Propose for Nothing {
    fn submit(&self, _: Command) -> Result<Pending, NotProposed> {
        Err(NotProposed::Stopping)
    }
    fn ready(&self) -> BoxFuture<'_, ()> {
        std::future::pending().boxed()
    }
    fn read_index(&self) -> BoxFuture<'_, Result<u64, NoReadIndex>> {
        std::future::ready(Err(NoReadIndex)).boxed()
    }
}

impl Catalog for Nothing {
    fn ready(&self) -> bool {
        true
    }
    fn takes_claims(&self) -> bool {
        true
    }
    fn judges(&self) -> bool {
        true
    }
    fn migrates(&self) -> bool {
        true
    }
    fn ends(&self) -> bool {
        true
    }
    fn writes(&self) -> bool {
        true
    }
    fn runs_procedures(&self) -> bool {
        true
    }

    fn calls_at_once(&self) -> bool {
        false
    }

    fn takes_keys(&self) -> bool {
        false
    }

    fn keyed(&self, _: &Identity, _: &rtdb_consensus::command::CallKey) -> Option<crate::catalog::FirstCall> {
        None
    }

    fn has_mixed_processors(&self) -> bool {
        false
    }

    fn has_mixed_servers(&self) -> bool {
        false
    }
    fn by_identity(&self, _: &Identity) -> Option<DatabaseRecord> {
        None
    }
    fn owned_by(&self, _: &Identity) -> Vec<DatabaseRecord> {
        Vec::new()
    }
    fn identity(&self, _: &str) -> Option<Identity> {
        None
    }
    fn clients(&self, _: &Identity) -> Vec<Client> {
        Vec::new()
    }
}

impl Local for Nothing {
    fn address(&self) -> Option<String> {
        None
    }
    fn newest_subprotocol(&self) -> Subprotocol {
        Subprotocol::V3
    }
    fn database(&self, _: &Identity) -> Option<LocalDatabase> {
        None
    }
    fn publications(&self, _: &Identity) -> Option<tokio::sync::watch::Receiver<u64>> {
        None
    }
    fn plans_updates(&self) -> bool {
        true
    }
    fn until_broken(&self, _: &Identity, _: u64) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
    fn until_deleted(&self, _: &Identity) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
    fn set_aside(&self, _: &Identity) -> Option<SetAside> {
        None
    }
    fn until_set_aside(&self, _: &Identity) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
    fn views(&self, _: &Identity) -> Option<Arc<Views>> {
        None
    }
    fn procedures(&self, _: &Identity) -> Option<Arc<rtdb_replica::Procedures>> {
        None
    }
    fn became(
        &self,
        _: &Identity,
        _: &Identity,
        _: spacetimedb_lib::ConnectionId,
        _: u32,
    ) -> rtdb_replica::Became {
        rtdb_replica::Became::Forgotten
    }

    fn caught_up(&self, _: &Identity, _: u64) -> BoxFuture<'static, ()> {
        let mut caught_up = self.has_caught_up.subscribe();
        async move { drop(caught_up.wait_for(|has| *has).await) }.boxed()
    }
    fn tokens(&self) -> Option<Arc<dyn Tokens>> {
        None
    }
}

/// A session with a large answer to send, and the client's end of the pipe.
async fn session() -> (Session<WebSocketStream<Counted<DuplexStream>>>, DuplexStream) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let config = config(1 << 20);
    let ws = WebSocketStream::from_raw_socket(Counted::new(near), Role::Server, Some(config)).await;
    let metrics = GatewayMetrics::new().expect("metrics");
    let nothing = Arc::new(Nothing {
        has_caught_up: watch::Sender::new(true),
    });
    let node = Node::new(
        nothing.clone(),
        nothing.clone(),
        nothing.clone(),
        nothing,
        metrics,
        ClientLimits::default(),
    );
    let mut outbox = Outbox::new(Subprotocol::V2, Compression::None, node.pool.clone());
    outbox.push(Bytes::from(vec![0; LARGE]));
    let def = RawModuleDef::V9(RawModuleDefV9Builder::new().finish());
    let def = bsatn::to_vec(&def).expect("a definition");
    let caller = Caller {
        session: 1,
        database: Bytes::from_static(&[1; 32]),
        identity: [2; 32],
        connection: [3; 16],
        is_owner: false,
        server: Subprotocol::V3,
        freshness: Freshness::default(),
    };
    let claims = Claims {
        identity: Identity::ZERO,
        issuer: "i".into(),
        subject: "s".into(),
        expires: false,
        payload: String::new(),
    };
    let session = Session {
        is_json: false,
        session: 1,
        core: Core::new(Subprotocol::V2, caller, node.metrics.row_bytes.clone(), false),
        module: Arc::new(Module::from_def(&def).expect("a module")),
        upstream_config: UpstreamConfig {
            database: Identity::ZERO,
            subprotocol: Subprotocol::V2,
            connection: ConnectionId::ZERO,
            light: false,
            claims,
            token: "t".into(),
            counted: node.metrics.upstreams.clone(),
        },
        client: Socket::serving(ws),
        outbox,
        share: Share::new(&node.budget),
        broken: std::future::pending().boxed(),
        closing: std::future::pending().boxed(),
        node: Arc::new(node),
    };
    (session, far)
}

/// Takes 64 KiB from the pipe, twice a second.
async fn sip(client: &mut DuplexStream) -> usize {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut sip = vec![0; 64 << 10];
    client.read(&mut sip).await.expect("the client is not closed")
}

#[tokio::test(start_paused = true)]
async fn a_first_connection_waits_for_a_server_that_has_less_than_the_client_was_told() {
    let (session, _client) = session().await;
    let local = Arc::new(Nothing {
        has_caught_up: watch::Sender::new(false),
    });
    let opening = upstream::open(local.clone(), local.clone(), session.upstream_config.clone());
    let mut opening = std::pin::pin!(opening);
    let early = tokio::time::timeout(2 * UPSTREAM_OPEN_MAX, &mut opening).await;
    assert!(early.is_err(), "it is not there before");
    local.has_caught_up.send_replace(true);
    assert!(opening.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_downloads_slowly_gets_all_of_it_and_pings_between() {
    let (mut session, mut client) = session().await;
    let running = tokio::spawn(async move { session.run().await });
    let mut taken = 0;
    while taken < LARGE {
        match sip(&mut client).await {
            0 => panic!("cut off after {taken} bytes"),
            bytes => taken += bytes,
        }
        assert!(!running.is_finished(), "given up after {taken} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_closed() {
    let (mut session, mut client) = session().await;
    for _ in 0..3 {
        let reading = async {
            sip(&mut client).await;
        };
        let ended = async {
            session.run().await;
        };
        tokio::select! {
            () = reading => {}
            () = ended => panic!("it reads"),
        }
    }
    let since = Instant::now();
    let end = session.run().await;
    assert!(matches!(end, End::Close(reason) if reason.code == CloseReason::AGAIN));
    assert!(since.elapsed() <= 2 * WRITE_STALL_MAX, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_client_that_would_be_told_too_much_in_json_is_closed_with_the_reason() {
    let (mut session, _client) = session().await;
    session.outbox.clear();
    session.outbox.speak_json(Arc::new(module_with("text")));
    let text = vec![b'a'; JSON_VALUE_BYTES_MAX];
    let row = [&[1], &(text.len() as u32).to_le_bytes()[..], &text].concat();
    session.outbox.push(answer(&[0], &row).into());
    let end = session.run().await;
    assert!(matches!(end, End::Close(reason) if reason.code == CloseReason::TOO_BIG));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_gone() {
    let (mut session, mut client) = session().await;
    session.outbox.clear();
    let reading = async { while sip(&mut client).await > 0 {} };
    let since = Instant::now();
    tokio::select! {
        () = reading => panic!("the pipe has ended"),
        end = session.run() => assert!(matches!(end, End::Gone)),
    }
    assert!(
        since.elapsed() <= 2 * session.node.limits.idle_timeout,
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_nobody_looked_after_for_long_is_not_gone() {
    let (mut session, _client) = session().await;
    session.outbox.clear();
    let idle_timeout = session.node.limits.idle_timeout;
    let mut running = Box::pin(session.run());
    assert!(futures::poll!(&mut running).is_pending());
    // The session has no turn meanwhile, and so the client is sent no ping.
    tokio::time::advance(3 * idle_timeout).await;
    assert!(futures::poll!(&mut running).is_pending());
    let gone = tokio::time::timeout(2 * idle_timeout, running).await;
    assert!(matches!(gone, Ok(End::Gone)));
}

#[tokio::test(start_paused = true)]
async fn a_client_is_looked_after_while_its_turn_does_not_come() {
    let (mut session, mut client) = session().await;
    session.outbox.clear();
    let idle_timeout = session.node.limits.idle_timeout;
    let now = Instant::now();
    let mut io = Io::new(session.next_tick());
    tokio::spawn(async move { while sip(&mut client).await > 0 {} });
    let mut turn = std::future::pending().boxed();
    let waiting = poll_fn(|cx| session.poll_turn(&mut turn, false, &mut io, cx));
    let gone = tokio::time::timeout(4 * idle_timeout, waiting).await;
    assert!(matches!(gone, Ok(Err(End::Gone))));
    assert!(now.elapsed() <= 2 * idle_timeout, "{:?}", now.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_floods_is_closed_when_it_is_to_be() {
    let (mut session, client) = session().await;
    session.outbox.clear();
    let (mut reads, mut writes) = tokio::io::split(client);
    // Pings without a payload, masked with zeros.
    let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(10_000);
    let writing = tokio::spawn(async move {
        while tokio::io::AsyncWriteExt::write_all(&mut writes, &pings)
            .await
            .is_ok()
        {}
    });
    let reading = tokio::spawn(async move {
        let mut scrap = vec![0; 64 << 10];
        while reads.read(&mut scrap).await.is_ok_and(|bytes| bytes > 0) {}
    });
    let restart = || CloseReason::new(CloseReason::RESTART, "the node stops");
    session.closing = async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        restart()
    }
    .boxed();
    let running = tokio::spawn(async move {
        let End::Close(reason) = session.run().await else {
            panic!("it is closed");
        };
        session.finish(&reason).await;
    });
    let ended = tokio::time::timeout(2 * CLOSE_HANDSHAKE_MAX, running).await;
    writing.abort();
    reading.abort();
    ended.expect("in time").expect("it ends");
}
