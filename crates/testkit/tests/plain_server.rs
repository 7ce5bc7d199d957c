//! The test client and the history check against the real, plain server: what they say there is what they must say
//! of a cluster.

#![allow(clippy::unwrap_used, reason = "a test's failure is a panic")]

use std::time::Duration;

use rtdb_testkit::client::{Args, Client, Connect, Event, Thin, Told, Wire};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::demo_module::{self, ADD, add};
use rtdb_testkit::history::check;
use rtdb_testkit::load::{Load, Work};
use rtdb_testkit::server::{PlainServer, binary};
use tokio::time::timeout;

const DATABASE: &str = "plain";

async fn server() -> (PlainServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let server = PlainServer::start(&binary().unwrap(), folder.path())
        .await
        .unwrap();
    let api = server.api();
    let owner = api.with_token(api.new_token().await.unwrap());
    owner
        .publish(DATABASE, demo_module::wasm().unwrap())
        .await
        .unwrap();
    (server, folder)
}

/// How long a test may take.
const TEST_MAX: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_client_calls_subscribes_and_comes_back_as_itself() {
    timeout(TEST_MAX, converse()).await.unwrap();
}

#[tokio::test]
async fn numbered_calls_are_all_there_once_and_in_order() {
    timeout(TEST_MAX, load()).await.unwrap();
}

#[tokio::test]
async fn a_thin_client_tells_messages_apart() {
    timeout(TEST_MAX, count()).await.unwrap();
}

async fn count() {
    let (server, _folder) = server().await;
    let to = Connect {
        wire: Wire::thin().unwrap(),
        parameters: "&light=true".into(),
        ..Connect::new(server.addr(), DATABASE)
    };
    let mut thin = Thin::connect(&to).await.unwrap();
    // Its first rows are more than is read at a time.
    let mut other = Client::connect(&Connect::new(server.addr(), DATABASE))
        .await
        .unwrap();
    let many = Args::new().str(&"x".repeat(100)).raw(&2_000_u32.to_le_bytes());
    other
        .call_and_wait("add_many", &many)
        .await
        .unwrap()
        .result
        .unwrap();
    thin.subscribe(&["SELECT * FROM counter"], 1).await.unwrap();

    let next = async |thin: &mut Thin| {
        let mut all = Vec::new();
        thin.told(|told| all.push(told)).await.unwrap();
        all
    };
    thin.call(ADD, &add("mine", 7)).await.unwrap();
    assert_eq!(next(&mut thin).await, [Told::Reply { ok: true }]);
    thin.call(ADD, &add("", 7)).await.unwrap();
    assert_eq!(next(&mut thin).await, [Told::Reply { ok: false }]);
    other
        .call_and_wait(ADD, &add("theirs", 8))
        .await
        .unwrap()
        .result
        .unwrap();
    assert_eq!(next(&mut thin).await, [Told::Update]);
    for (query, ok) in [("SELECT * FROM counter", true), ("SELECT * FROM nothing", false)] {
        thin.query(query).await.unwrap();
        assert_eq!(next(&mut thin).await, [Told::QueryReply { ok }]);
    }
}

async fn converse() {
    let (server, _folder) = server().await;
    let mut client = Client::connect(&Connect::new(server.addr(), DATABASE))
        .await
        .unwrap();
    client
        .subscribe(&["SELECT * FROM counter WHERE name = 'mine'"], 1)
        .await
        .unwrap();
    assert!(matches!(
        client.event().await.unwrap(),
        Event::Subscribed { request_id: 1, .. }
    ));

    let reply = client.call_and_wait(ADD, &add("mine", 7)).await.unwrap();
    let committed = reply.result.unwrap();
    assert_eq!(
        (
            committed.tables[0].table.as_str(),
            committed.tables[0].inserts.len()
        ),
        ("counter", 1)
    );
    let refused = client.call_and_wait(ADD, &add("", 7)).await.unwrap();
    assert_eq!(refused.result.unwrap_err(), "name required");

    let mut other = Client::connect(&Connect::new(server.addr(), DATABASE))
        .await
        .unwrap();
    other
        .call_and_wait(ADD, &add("mine", 8))
        .await
        .unwrap()
        .result
        .unwrap();
    let Event::Update(tables) = client.event().await.unwrap() else {
        panic!("no update")
    };
    assert_eq!(tables[0].inserts.len(), 1);

    client
        .query("SELECT * FROM counter WHERE name = 'mine'")
        .await
        .unwrap();
    let Event::QueryReply(Ok(tables)) = client.event().await.unwrap() else {
        panic!("no rows")
    };
    assert_eq!(tables[0].inserts.len(), 2);

    let again = Connect::new(server.addr(), DATABASE).with_token(&client.hello().token);
    let again = Client::connect(&again).await.unwrap();
    assert_eq!(again.hello().identity, client.hello().identity);
    assert_ne!(again.hello().identity, other.hello().identity);
}

async fn load() {
    let (server, _folder) = server().await;
    let clients = Clients::start((0..4).map(|client| Load {
        client,
        addrs: vec![server.addr().to_string()],
        first: 0,
        database: DATABASE.to_string(),
        wire: Wire::V1,
        window: 16,
        invalid_every: 50,
        subscribed: client % 2 == 1,
        work: Work::Add,
    }));
    clients.rate(Duration::from_secs(1)).await;
    let histories = clients.stop().await.unwrap();
    let rows = demo_module::rows(&server.api(), DATABASE).await.unwrap();
    let verdict = check(&histories, &rows);
    assert!(
        verdict.holds(),
        "{verdict:?} {:?}",
        histories.iter().flat_map(|h| &h.wrong).next()
    );
    assert!(verdict.acknowledged > 100 && verdict.refused > 1, "{verdict:?}");
    assert_eq!((verdict.acknowledged, verdict.unknown), (rows.len(), 0));
}
