//! What a node answers while a cluster is founded, and afterwards.

use super::Service;
use crate::founding::{Founder, Founding, Greeted, Greeting, Proposed, Refused};
use crate::group_id::GroupId;
use crate::log::Store;
use crate::transport::wire::Header;
use crate::transport::{PeerError, sanity};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};

/// What this node knows of a founding that it takes part in.
#[derive(Debug, Default)]
pub(crate) struct Forming {
    /// None as long as it takes part in none.
    electors: Mutex<BTreeSet<u64>>,
    /// The electors that answer this node.
    seen: Mutex<Vec<Founder>>,
    /// The electors that have greeted it, and where they say to be.
    greeters: Mutex<BTreeMap<u64, String>>,
}

impl Forming {
    /// It takes part from now on.
    pub(crate) fn begin(&self, electors: BTreeSet<u64>) {
        *self.electors.lock() = electors;
    }

    /// Who may found a cluster with it.
    pub(crate) fn electors(&self) -> BTreeSet<u64> {
        self.electors.lock().clone()
    }

    /// Who answers it now.
    pub(crate) fn see(&self, seen: Vec<Founder>) {
        *self.seen.lock() = seen;
    }

    /// Where those are who have greeted it.
    pub(crate) fn greeters(&self) -> BTreeSet<String> {
        self.greeters.lock().values().cloned().collect()
    }
}

impl Service {
    /// What this node knows of a founding.
    pub(crate) fn forming(&self) -> &Forming {
        &self.forming
    }

    pub(super) async fn greet(&self, header: &Header, greeting: &Greeting) -> Result<Greeted, PeerError> {
        if !sanity::greeting(greeting, header.from) {
            return Err(PeerError::Garbled);
        }
        let (store, node) = (self.store()?, self.me.node);
        let electors = self.forming.electors();
        let mut greeted = Greeted {
            node,
            ..Greeted::default()
        };
        let theirs: BTreeSet<u64> = greeting.electors.iter().copied().collect();
        let mut agreed = None;
        if !electors.is_empty() && store.cluster().is_none() {
            greeted.electors = electors.iter().copied().collect();
            if theirs == electors {
                if let Some(from) = greeting.me.as_ref().filter(|from| electors.contains(&from.node)) {
                    self.forming.greeters.lock().insert(from.node, from.addr.clone());
                }
                agreed = pledge(&store, &electors, greeting).await?;
            }
        }
        if store.cluster().is_some() {
            greeted.in_cluster = true;
            greeted.accepted = self.founding_for(&store, greeting).map(decided);
            return Ok(greeted);
        }
        if !greeted.electors.is_empty() {
            let pledge = store.pledge();
            greeted.me = Some(Founder {
                node,
                addr: self.me.raft_addr.clone(),
                directory: pledge.directory,
            });
            greeted.seen = self.forming.seen.lock().clone();
            greeted.promised = pledge.promised;
            greeted.agrees = agreed == Some(Ok(()));
            greeted.accepted = pledge.accepted.filter(|_| greeted.agrees);
        }
        Ok(greeted)
    }

    /// The founding of this node's cluster, if who asks founds it and may not know that yet. Whoever has said in the cluster what
    /// he is knows it, and nobody else is told the cluster's id.
    fn founding_for(&self, store: &Store, greeting: &Greeting) -> Option<Founding> {
        let pledge = store.pledge();
        let (from, founding) = (greeting.me.as_ref()?, pledge.founding()?);
        let node = self.node.read();
        let meta = node.as_ref()?.groups.get(&GroupId::META)?;
        let knows = meta.meta().node(from.node).is_some();
        let is_told = pledge.is_decided && founding.names(from.node, &from.directory) && !knows;
        is_told.then(|| founding.clone())
    }
}

/// Does what a greeting asks for; `None` if that is nothing.
async fn pledge(
    store: &Store,
    electors: &BTreeSet<u64>,
    greeting: &Greeting,
) -> Result<Option<Result<(), Refused>>, PeerError> {
    let pledged = match (&greeting.prepare, &greeting.accept) {
        (Some(ballot), None) => store.promise(electors, *ballot).await,
        (
            None,
            Some(Proposed {
                ballot: Some(ballot),
                founding: Some(founding),
            }),
        ) => store.accept(electors, *ballot, founding).await,
        _ => return Ok(None),
    };
    pledged.map(Some).map_err(PeerError::stopped)
}

fn decided(founding: Founding) -> Proposed {
    Proposed {
        ballot: None,
        founding: Some(founding),
    }
}
