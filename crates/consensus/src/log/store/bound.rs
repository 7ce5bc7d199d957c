//! What a directory is bound to, a node and a cluster, and the node's epochs.

use super::super::change::{Change, Space};
use super::super::error::StoreError;
use super::Store;
use crate::LogIndex;
use crate::group_id::GroupId;
use crate::record::{FoundersRecord, LogIdRecord};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

pub(super) const NODE_KEY: &[u8] = b"node";
pub(super) const CLUSTER_KEY: &[u8] = b"cluster";
pub(super) const FOUNDERS_KEY: &[u8] = b"founders";
pub(super) const EPOCH_KEY: &[u8] = b"epoch";

/// The highest epoch that a node takes from its clock, in microseconds: beyond the year 100,000. A clock that was wrong
/// once must not bar a node for good.
pub(crate) const EPOCH_MAX: u64 = 1 << 62;

impl Store {
    /// The cluster that the directory belongs to, once it does.
    pub fn cluster(&self) -> Option<String> {
        self.cluster.lock().clone()
    }

    /// Whether a node is among those that found the cluster, or that have taken this one in.
    pub(crate) fn is_founder(&self, node: u64) -> bool {
        self.founders.lock().nodes.contains(&node)
    }

    /// How far the meta group's log was committed when this node was taken in; `None` of a founder.
    pub(crate) fn taken_in(&self) -> Option<u64> {
        self.founders.lock().taken_in
    }

    /// What a group's leader had reached when this node was taken in. A node that comes back empty under its old id has forgotten
    /// what it voted for, and its log begins with members that are none any more, itself among them: below this it neither
    /// votes, nor stands, nor follows an earlier leader.
    pub(crate) fn floor(&self, group: GroupId) -> LogIdRecord {
        let floors = &self.founders.lock().floors;
        floors.get(&group.0).copied().unwrap_or_default()
    }

    /// Binds the directory to a cluster that these nodes found, for good.
    ///
    /// # Errors
    /// [`StoreError::OtherCluster`] if it belongs to another one, or has agreed to found another one;
    /// [`StoreError::OtherFounders`] if others found it;
    /// [`StoreError::Stopped`] if it can't be written.
    pub async fn bind_cluster(&self, cluster: &str, founders: &BTreeSet<u64>) -> Result<(), StoreError> {
        let _binding = self.binding.lock().await;
        let known: BTreeSet<u64> = self.founders.lock().nodes.iter().copied().collect();
        let is_bound = self.check_cluster(cluster)?;
        if let Some(agreed) = self
            .pledge()
            .founding()
            .filter(|it| !is_bound && it.cluster != cluster)
        {
            return Err(StoreError::OtherCluster {
                found: agreed.cluster.clone(),
                wanted: cluster.to_owned(),
            });
        }
        if is_bound && known == *founders {
            return Ok(());
        }
        if is_bound && !known.is_empty() {
            return Err(StoreError::OtherFounders {
                found: listed(&known),
                wanted: listed(founders),
            });
        }
        let nodes = founders.iter().copied().collect();
        self.bind(
            cluster,
            FoundersRecord {
                nodes,
                taken_in: None,
                floors: BTreeMap::new(),
            },
        )
        .await
    }

    /// Binds the directory to a cluster that there is already, whose members take this node in when its meta group's log is
    /// committed so far.
    ///
    /// # Errors
    /// [`StoreError::OtherCluster`] if it belongs to another one; [`StoreError::Stopped`] if it can't be written.
    pub(crate) async fn join_cluster(
        &self,
        cluster: &str,
        members: &BTreeSet<u64>,
        at: u64,
        floors: BTreeMap<u64, LogIdRecord>,
    ) -> Result<(), StoreError> {
        let _binding = self.binding.lock().await;
        self.check_cluster(cluster)?;
        let known = self.founders.lock().clone();
        let record = FoundersRecord {
            nodes: members.iter().copied().collect(),
            // Who has asked long ago may be heard late.
            taken_in: known
                .taken_in
                .filter(|known| *known < LogIndex::MAX)
                .max(Some(at)),
            floors: match floors.is_empty() {
                true => known.floors,
                false => floors,
            },
        };
        self.bind(cluster, record).await
    }

    /// Whether the directory is bound to a cluster: to no other than this one.
    pub(super) fn check_cluster(&self, cluster: &str) -> Result<bool, StoreError> {
        match self.cluster() {
            Some(found) if found != cluster => Err(StoreError::OtherCluster {
                found,
                wanted: cluster.to_owned(),
            }),
            found => Ok(found.is_some()),
        }
    }

    async fn bind(&self, cluster: &str, founders: FoundersRecord) -> Result<(), StoreError> {
        let bound = vec![
            Change::set(Space::Meta, CLUSTER_KEY.to_vec(), cluster.as_bytes().to_vec()),
            Change::set(Space::Meta, FOUNDERS_KEY.to_vec(), founders.encode_to_vec()),
        ];
        self.sync(bound)
            .await
            .map_err(|error| StoreError::Stopped(error.to_string()))?;
        *self.founders.lock() = founders;
        *self.cluster.lock() = Some(cluster.to_owned());
        Ok(())
    }

    /// A new epoch for this node: larger than all before, the one that the log knows too, and on disk when this returns.
    pub(crate) async fn next_epoch(&self, now_us: u64, known: u64) -> io::Result<u64> {
        let mut last = self.epoch.lock().await;
        let mut epoch = now_us.min(EPOCH_MAX).max((*last).max(known).saturating_add(1));
        if rtdb_runtime::planted("epochs are used again") && *last > 0 {
            epoch = *last;
        }
        let taken = Change::set(Space::Meta, EPOCH_KEY.to_vec(), epoch.to_be_bytes().to_vec());
        self.sync(vec![taken]).await?;
        *last = epoch;
        Ok(epoch)
    }
}

fn listed(nodes: &BTreeSet<u64>) -> String {
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    nodes.join(", ")
}
