use super::*;
use crate::{Keys, LocalServer, ServerConfig, Tokens};
use futures::future::BoxFuture;
use rtdb_consensus::command::{Call, Owner, Publish};
use rtdb_consensus::{Lag, Origin, Outcome, ReadError, ResolvedCommand, ResolvedEntry};

/// A log of one entry that can't be read.
struct Broken(watch::Sender<LogIndex>);

impl Follow for Broken {
    fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.0.subscribe()
    }

    fn read(&self, _: LogIndex, _: usize) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>> {
        Box::pin(async { panic!("page {} is gone", 1) })
    }

    fn complete(&self, _: Origin, _: u64, _: Outcome) {}

    fn applied(&self, _: LogIndex) {}
}

/// A replica of a log whose server is not there.
async fn replica(follow: Arc<dyn Follow>) -> (Replica, LocalServer) {
    let keys = Keys::generate().unwrap();
    let url = "http://127.0.0.1:1".to_owned();
    let server = LocalServer::start(ServerConfig::External { url }, &keys)
        .await
        .unwrap();
    let config = ReplicaConfig {
        server: server.named(Tokens::new(&keys).unwrap()),
        call_time_max: Duration::from_secs(120),
        damage_wait: Duration::from_secs(180),
        node: 1,
        reports: None,
    };
    (Replica::start(config, follow), server)
}

#[tokio::test]
async fn a_scout_that_panics_is_fatal() {
    let (replica, server) = replica(Arc::new(Broken(watch::Sender::new(1)))).await;
    let mut fatal = replica.fatal();
    let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(
        reason.to_string(),
        "looking through the log for databases failed: page 1 is gone"
    );
    replica.stop().await;
    server.stop().await;
}

const DATABASE: DatabaseId = [7; 32];

fn publish() -> Publish {
    Publish {
        database: DATABASE.to_vec().into(),
        owner: Some(Owner {
            identity: vec![1; 32].into(),
            ..Owner::default()
        }),
        ..Publish::default()
    }
}

/// A log in memory.
#[derive(Default)]
struct Log {
    resolved: watch::Sender<LogIndex>,
    entries: Mutex<Vec<Arc<ResolvedEntry>>>,
    /// Held while nobody can read.
    shut: tokio::sync::Mutex<()>,
}

impl Log {
    fn push(&self, bodies: Vec<Body>) {
        let mut entries = self.entries.lock();
        let index = entries.len() as u64 + 1;
        let command = |(place, body): (usize, Body)| ResolvedCommand {
            position: Position((index << 16) + place as u64),
            timestamp_us: index as i64,
            origin: Origin { node: 2, epoch: 1 },
            seq: 1,
            command: body.into(),
            session: None,
        };
        entries.push(Arc::new(ResolvedEntry {
            index,
            commands: bodies.into_iter().enumerate().map(command).collect(),
        }));
        self.resolved.send_replace(index);
    }
}

impl Follow for Log {
    fn resolved(&self) -> watch::Receiver<LogIndex> {
        self.resolved.subscribe()
    }

    fn read(&self, from: LogIndex, _: usize) -> BoxFuture<'_, Result<Vec<Arc<ResolvedEntry>>, ReadError>> {
        let entries = self.entries.lock().clone();
        Box::pin(async move {
            let _open = self.shut.lock().await;
            Ok(entries.into_iter().skip(from as usize - 1).collect())
        })
    }

    fn complete(&self, _: Origin, _: u64, _: Outcome) {}

    fn applied(&self, _: LogIndex) {}
}

async fn until(is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            rtdb_runtime::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = rtdb_runtime::timeout(Duration::from_secs(10), looking).await;
    found.expect("it is so in time");
}

/// The log that there was at the start is as old as the start, though it takes its time to look through it.
#[tokio::test]
async fn what_was_there_at_the_start_lags_since() {
    let log = Arc::new(Log::default());
    log.push(vec![Body::Publish(publish())]);
    let shut = log.shut.lock().await;
    let (replica, server) = replica(log.clone()).await;
    until(|| replica.unread_ms() > 50).await;
    assert_eq!(replica.lags(), []);
    drop(shut);
    until(|| replica.unread_ms() == 0).await;
    assert!(replica.lags()[0].1.age_ms > 50, "{:?}", replica.lags());
    replica.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn what_the_server_does_not_take_lags() {
    let log = Arc::new(Log::default());
    let call = || {
        Body::Call(Call {
            database: DATABASE.to_vec().into(),
            ..Call::default()
        })
    };
    log.push(vec![Body::Publish(publish()), call()]);
    let (replica, server) = replica(log.clone()).await;
    let lags = async |commands| {
        until(|| replica.lags().iter().any(|(_, lag)| lag.commands == commands)).await;
    };
    // How much of the log it began with is applied, nobody knows yet.
    lags(0).await;
    log.push(vec![call(), call()]);
    lags(2).await;
    log.push(vec![call()]);
    lags(3).await;
    // What nobody has read yet lags, too, and from then on.
    let shut = log.shut.lock().await;
    log.push(vec![call(), call()]);
    until(|| replica.unread_ms() > 20).await;
    lags(3).await;
    drop(shut);
    lags(5).await;
    until(|| replica.unread_ms() == 0).await;
    replica.set_aside(&DATABASE, Quarantine::Misbehaves("a test".into()));
    assert_eq!(replica.lags(), [(DATABASE, Lag::default())]);
    replica.stop().await;
    server.stop().await;
}
