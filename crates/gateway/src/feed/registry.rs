use super::member::{Member, Request};
use super::shape::Shapes;
use super::task::Feed;
use crate::budget::Budget;
use crate::limits::{ALONE_MAX, FEED_ITEMS_MAX, FEED_REQUESTS_MAX, Gather};
use crate::local::Local;
use crate::metrics::GatewayMetrics;
use crate::pool::Pool;
use crate::reach::Reach;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::sql::Query;
use spacetimedb_lib::Identity;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// What feeds need of their node.
pub(super) struct Means {
    pub(super) local: Arc<dyn Local>,
    pub(super) reach: Arc<dyn Reach>,
    pub(super) pool: Pool,
    pub(super) metrics: GatewayMetrics,
    pub(super) budget: Budget,
    pub(super) gather: Gather,
    running: Mutex<BTreeMap<FeedKey, Running>>,
}

/// The feeds of a node.
pub(crate) struct Feeds {
    means: Arc<Means>,
    /// Clients whose subscriptions could not be shared, oldest first: that is not tried again each time they come.
    alone: Mutex<VecDeque<(Identity, Identity)>>,
}

/// Which feed a session belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeedConfig {
    pub(crate) database: Identity,
    pub(crate) subprotocol: Subprotocol,
    pub(crate) light: bool,
}

/// A feed among others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FeedKey {
    pub(super) database: Identity,
    pub(super) subprotocol: Subprotocol,
    /// v1 does not tell query sets apart, and light updates from others are light for the whole connection.
    pub(super) alone: Option<(bool, Vec<Query>)>,
}

struct Running {
    requests: mpsc::Sender<Request>,
    shapes: Arc<Shapes>,
}

impl Feeds {
    pub(crate) fn new(
        local: Arc<dyn Local>,
        reach: Arc<dyn Reach>,
        pool: Pool,
        metrics: GatewayMetrics,
        budget: Budget,
        gather: Gather,
    ) -> Self {
        Self {
            means: Arc::new(Means {
                local,
                reach,
                pool,
                metrics,
                budget,
                gather,
                running: Mutex::default(),
            }),
            alone: Mutex::default(),
        }
    }

    /// Makes a session a member of the feed for these queries. The feed is started if there is none.
    pub(crate) fn enter(&self, config: FeedConfig, session: u64, queries: &[Query]) -> Member {
        let v1 = config.subprotocol == Subprotocol::V1;
        let key = FeedKey {
            database: config.database,
            subprotocol: match config.subprotocol {
                Subprotocol::V1 => Subprotocol::V1,
                Subprotocol::V2 | Subprotocol::V3 => self.means.local.newest_subprotocol(),
            },
            alone: v1.then(|| (config.light, queries.to_vec())),
        };
        let (items, heard) = mpsc::channel(FEED_ITEMS_MAX);
        let mut running = self.means.running();
        let feed = running.entry(key.clone()).or_insert_with(|| {
            let (requests, asked) = mpsc::channel(FEED_REQUESTS_MAX);
            let feed = Feed::new(self.means.clone(), key, asked);
            rtdb_runtime::spawn(feed.run());
            Running {
                requests,
                shapes: Arc::default(),
            }
        });
        // A feed ends only while nothing is asked of it and nobody can ask. If there is no room, the session hears nothing.
        let _ = feed.requests.try_send(Request::Enter { session, items });
        Member {
            session,
            requests: feed.requests.clone(),
            items: heard,
            shapes: feed.shapes.clone(),
        }
    }

    /// Whether a client may share its subscriptions.
    pub(crate) fn shares(&self, database: &Identity, client: &Identity) -> bool {
        !self.alone().contains(&(*database, *client))
    }

    /// A client's subscriptions are not shared from now on.
    pub(crate) fn remember_alone(&self, database: Identity, client: Identity) {
        let mut alone = self.alone();
        if !alone.contains(&(database, client)) {
            if alone.len() >= ALONE_MAX {
                alone.pop_front();
            }
            alone.push_back((database, client));
        }
    }

    fn alone(&self) -> MutexGuard<'_, VecDeque<(Identity, Identity)>> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Means {
    /// Ends a feed of which nothing is asked, and says so.
    pub(super) fn end(&self, key: &FeedKey, asked: &mpsc::Receiver<Request>) -> bool {
        let mut running = self.running();
        let ends = asked.is_empty();
        if ends {
            running.remove(key);
        }
        ends
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<FeedKey, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
