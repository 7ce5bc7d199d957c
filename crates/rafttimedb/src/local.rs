//! The node's own SpacetimeDB, as the gateway asks for it: nothing until the cluster has its settings.

use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_consensus::{LogIndex, Manager};
use rtdb_gateway::{Local, LocalDatabase, OverReplica, SetAside, Tokens};
use rtdb_protocol::Subprotocol;
use rtdb_replica::{Became, LocalServer, Procedures, Replica, Views};
use spacetimedb_lib::{ConnectionId, Hash, Identity};
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
pub(crate) struct LocalNode {
    manager: Arc<Manager>,
    running: OnceLock<Running>,
}

impl LocalNode {
    pub(crate) fn new(manager: Arc<Manager>) -> Self {
        Self {
            manager,
            running: OnceLock::new(),
        }
    }

    /// A node whose replica of the database is sound, as far as the log knows: the leader rather than another.
    fn elsewhere(&self, database: &Identity) -> Option<String> {
        let me = self.manager.node();
        let shard = self.manager.shard();
        let diverged = shard.with_shard(|shard| shard.diverged(&database.to_byte_array()));
        let diverged = diverged.unwrap_or_default();
        let status = shard.status();
        let leader = status.leader.map(|(id, _)| id);
        let id = leader
            .into_iter()
            .chain(status.voters)
            .find(|node| *node != me && !diverged.contains_key(node))?;
        let meta = self.manager.meta().meta();
        Some(format!("leader={id}:{}", meta.node(id)?.client_addr))
    }

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

    fn original(&self, identity: &Identity, prepared: Hash) -> Option<Hash> {
        self.running()?.local.original(identity, prepared)
    }

    fn publications(&self, identity: &Identity) -> Option<watch::Receiver<u64>> {
        self.running()?.local.publications(identity)
    }

    fn plans_updates(&self) -> bool {
        self.running().is_none_or(|running| running.local.plans_updates())
    }

    fn until_broken(&self, identity: &Identity, session: u64) -> BoxFuture<'static, ()> {
        match self.running() {
            Some(running) => running.local.until_broken(identity, session),
            None => std::future::pending().boxed(),
        }
    }

    fn set_aside(&self, identity: &Identity) -> Option<SetAside> {
        let aside = self.running()?.local.set_aside(identity)?;
        Some(SetAside {
            hint: self.elsewhere(identity),
            ..aside
        })
    }

    fn until_set_aside(&self, identity: &Identity) -> BoxFuture<'static, ()> {
        match self.running() {
            Some(running) => running.local.until_set_aside(identity),
            None => std::future::pending().boxed(),
        }
    }

    fn until_deleted(&self, identity: &Identity) -> BoxFuture<'static, ()> {
        match self.running() {
            Some(running) => running.local.until_deleted(identity),
            None => std::future::pending().boxed(),
        }
    }

    fn views(&self, identity: &Identity) -> Option<Arc<Views>> {
        self.running()?.local.views(identity)
    }

    fn in_flight(&self, identity: &Identity) -> Option<watch::Receiver<usize>> {
        self.running()?.local.in_flight(identity)
    }

    fn procedures(&self, identity: &Identity) -> Option<Arc<Procedures>> {
        self.running()?.local.procedures(identity)
    }

    fn became(
        &self,
        identity: &Identity,
        sender: &Identity,
        connection: ConnectionId,
        request_id: u32,
    ) -> Became {
        let became = |running: &Running| running.local.became(identity, sender, connection, request_id);
        self.running().map_or(Became::Forgotten, became)
    }

    fn caught_up(&self, identity: &Identity, index: LogIndex) -> BoxFuture<'static, ()> {
        match self.running() {
            Some(running) => running.local.caught_up(identity, index),
            None => std::future::ready(()).boxed(),
        }
    }

    fn tokens(&self) -> Option<Arc<dyn Tokens>> {
        self.running()?.local.tokens()
    }
}
