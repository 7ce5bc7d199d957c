//! The node's own SpacetimeDB, as the gateway asks for it: nothing until the cluster has its settings.

use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_gateway::{Local, LocalDatabase, OverReplica, Tokens};
use rtdb_protocol::Subprotocol;
use rtdb_replica::{LocalServer, Replica, Views};
use spacetimedb_lib::Identity;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// What runs once the cluster has its settings: the local server, and the replica that feeds it.
pub(crate) struct Running {
    pub(crate) server: LocalServer,
    pub(crate) replica: Arc<Replica>,
    local: OverReplica,
}

impl Running {
    /// `replica` feeds `server`, and `tokens` are the cluster's.
    pub(crate) fn new(server: LocalServer, replica: Arc<Replica>, tokens: rtdb_replica::Tokens) -> Self {
        let local = OverReplica::new(replica.clone(), server.clone(), tokens);
        Self {
            server,
            replica,
            local,
        }
    }
}

/// The node's own SpacetimeDB: nothing at first, then [`Running`].
#[derive(Default)]
pub(crate) struct LocalNode {
    running: OnceLock<Running>,
}

impl LocalNode {
    /// What runs, if it does already.
    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.get()
    }

    /// Says that it runs now. Later calls change nothing.
    pub(crate) fn run(&self, running: Running) -> &Running {
        self.running.get_or_init(|| running)
    }
}

impl Local for LocalNode {
    fn address(&self) -> Option<String> {
        self.running()?.local.address()
    }

    fn newest_subprotocol(&self) -> Subprotocol {
        self.running()
            .map_or(Subprotocol::V3, |running| running.local.newest_subprotocol())
    }

    fn database(&self, identity: &Identity) -> Option<LocalDatabase> {
        self.running()?.local.database(identity)
    }

    fn publications(&self, identity: &Identity) -> Option<watch::Receiver<u64>> {
        self.running()?.local.publications(identity)
    }

    fn views(&self, identity: &Identity) -> Option<Arc<Views>> {
        self.running()?.local.views(identity)
    }

    fn caught_up(&self, identity: &Identity) -> BoxFuture<'static, ()> {
        match self.running() {
            Some(running) => running.local.caught_up(identity),
            None => std::future::ready(()).boxed(),
        }
    }

    fn tokens(&self) -> Option<Arc<dyn Tokens>> {
        self.running()?.local.tokens()
    }
}
