use super::*;
use crate::{Keys, ServerConfig};
use futures::future::BoxFuture;
use rtdb_consensus::{Origin, Outcome, ReadError, ResolvedEntry};

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

#[tokio::test]
async fn a_scout_that_panics_is_fatal() {
    let keys = Keys::generate().unwrap();
    let url = "http://127.0.0.1:1".to_owned();
    let server = LocalServer::start(ServerConfig::External { url }, &keys)
        .await
        .unwrap();
    let config = ReplicaConfig {
        server: server.clone(),
        tokens: Tokens::new(&keys).unwrap(),
        call_time_max: Duration::from_secs(120),
        damage_wait: Duration::from_secs(180),
        node: 1,
        reports: None,
    };
    let replica = Replica::start(config, Arc::new(Broken(watch::Sender::new(1))));
    let mut fatal = replica.fatal();
    let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(
        reason.to_string(),
        "looking through the log for databases failed: page 1 is gone"
    );
    replica.stop().await;
    server.stop().await;
}
