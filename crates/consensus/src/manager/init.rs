//! Making a cluster of nodes.

use super::{InitError, Manager};
use crate::Propose;
use crate::command::{Body, InitCluster};
use crate::group_id::GroupId;
use crate::member::Member;
use crate::transport::PeerError;
use crate::transport::wire::Join;
use std::collections::{BTreeMap, BTreeSet};

impl Manager {
    /// Makes a cluster of the nodes (ids and raft addresses, this node's among them), and waits until its settings
    /// are in the log: until a majority answers. May be repeated until it succeeds. Gives back the cluster's id: the
    /// one in the settings, or the one that an earlier attempt began with.
    ///
    /// # Errors
    /// [`InitError`]; nothing is done if a node can't be reached or belongs to another cluster.
    pub async fn init(
        &self,
        nodes: BTreeMap<u64, String>,
        settings: InitCluster,
    ) -> Result<String, InitError> {
        let me = self.config.node;
        if !nodes.contains_key(&me) {
            return Err(InitError::NotAmongNodes(me));
        }
        let cluster = self.cluster().unwrap_or_else(|| settings.cluster_id.clone());
        self.check_members(&cluster, &nodes)?;
        let others: Vec<_> = nodes.iter().filter(|(id, _)| **id != me).collect();
        let peer_error = |node: u64, addr: &str| {
            let addr = addr.to_owned();
            move |source| InitError::Peer { node, addr, source }
        };
        for (id, addr) in &others {
            let peer = self.hello(addr).await.map_err(peer_error(**id, addr))?;
            let found = peer.node;
            if found != **id {
                let source = PeerError::OtherNode { wanted: **id, found };
                return Err(peer_error(**id, addr)(source));
            }
            // A group has begun once all belong to the cluster: this one has lost what it has voted for.
            if !peer.in_cluster
                && self
                    .groups
                    .values()
                    .any(|group| !group.status().voters.is_empty())
            {
                return Err(InitError::Lost(**id));
            }
            // This node is the first to belong to the cluster.
            if peer.in_cluster && self.cluster().is_none() {
                return Err(InitError::Begun(**id));
            }
        }
        self.store
            .bind_cluster(&cluster, &nodes.keys().copied().collect())
            .await?;
        for (id, addr) in &others {
            self.peers
                .join(**id, addr, founded_by(&nodes))
                .await
                .map_err(peer_error(**id, addr))?;
        }
        self.begin_groups(&nodes)
            .await
            .map_err(|(group, reason)| InitError::Raft { group, reason })?;
        self.check_members(&cluster, &nodes)?;
        let settings = InitCluster {
            cluster_id: cluster.clone(),
            ..settings
        };
        self.meta().submit(Body::InitCluster(settings).into())?.await?;
        Ok(cluster)
    }

    /// Begins the log of each group that has none, with these members. Of more nodes that do so at once, one is elected, and the
    /// others take its log for theirs.
    pub(super) async fn begin_groups(&self, nodes: &BTreeMap<u64, String>) -> Result<(), (GroupId, String)> {
        let members: BTreeMap<u64, Member> = nodes.iter().map(|(id, addr)| (*id, Member::at(addr))).collect();
        for (id, group) in &self.groups {
            let raft = group.raft();
            let failed = |error: &dyn std::error::Error| (*id, error.to_string());
            if raft.is_initialized().await.map_err(|error| failed(&error))? {
                continue;
            }
            if let Err(error) = raft.initialize(members.clone()).await {
                // Another one may have been elected meanwhile.
                match raft.is_initialized().await {
                    Ok(true) => {}
                    _ => return Err(failed(&error)),
                }
            }
        }
        Ok(())
    }

    fn check_members(&self, cluster: &str, nodes: &BTreeMap<u64, String>) -> Result<(), InitError> {
        for group in self.groups.values() {
            let members: BTreeSet<u64> = group.status().voters.into_iter().collect();
            if !members.is_empty() && !members.iter().eq(nodes.keys()) {
                return Err(InitError::AlreadyInitialised {
                    cluster: cluster.to_owned(),
                    members,
                });
            }
        }
        Ok(())
    }
}

fn founded_by(nodes: &BTreeMap<u64, String>) -> Join {
    Join {
        founders: nodes.keys().copied().collect(),
        taken_in: None,
        floors: BTreeMap::new(),
    }
}
