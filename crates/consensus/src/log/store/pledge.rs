//! What the directory has bound itself to before it belongs to a cluster: see [`founding`](crate::founding).

use super::super::change::{Change, Space};
use super::super::error::StoreError;
use super::Store;
use super::bound::{CLUSTER_KEY, FOUNDERS_KEY};
use crate::founding::{Ballot, Founding, PledgeRecord, Proposed, Refused};
use crate::record::FoundersRecord;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

pub(super) const PLEDGE_KEY: &[u8] = b"pledge";

impl Store {
    /// What the directory has bound itself to.
    pub(crate) fn pledge(&self) -> PledgeRecord {
        self.pledge.lock().clone()
    }

    /// The same of a directory that has its number from now on, if it had none.
    pub(crate) async fn begin_pledge(&self) -> io::Result<PledgeRecord> {
        let _binding = self.binding.lock().await;
        let known = self.pledge();
        if !known.directory.is_empty() {
            return Ok(known);
        }
        let begun = PledgeRecord::new(rtdb_runtime::random_bytes().to_vec().into());
        self.keep(Vec::new(), begun.clone()).await?;
        Ok(begun)
    }

    /// Pledges the directory to a ballot, unless it belongs to a cluster.
    pub(crate) async fn promise(
        &self,
        electors: &BTreeSet<u64>,
        ballot: Ballot,
    ) -> io::Result<Result<(), Refused>> {
        self.pledge_to(|known| known.promise(electors, ballot)).await
    }

    /// Pledges the directory to a founding, unless it belongs to a cluster.
    pub(crate) async fn accept(
        &self,
        electors: &BTreeSet<u64>,
        ballot: Ballot,
        founding: &Founding,
    ) -> io::Result<Result<(), Refused>> {
        self.pledge_to(|known| known.accept(electors, ballot, founding))
            .await
    }

    async fn pledge_to(
        &self,
        pledge: impl FnOnce(&PledgeRecord) -> Result<PledgeRecord, Refused>,
    ) -> io::Result<Result<(), Refused>> {
        let _binding = self.binding.lock().await;
        let known = self.pledge();
        if self.cluster().is_some() || known.directory.is_empty() {
            return Ok(Err(Refused::Unsound));
        }
        match pledge(&known) {
            Ok(pledged) => Ok(Ok(self.keep(Vec::new(), pledged).await?)),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Binds the directory, for good, to the cluster that was decided, as one of those that found it.
    ///
    /// # Errors
    /// [`StoreError::OtherCluster`] if it belongs to another one; [`StoreError::Stopped`] if it can't be written.
    pub(crate) async fn found(&self, founding: &Founding) -> Result<(), StoreError> {
        let _binding = self.binding.lock().await;
        if self.check_cluster(&founding.cluster)? {
            return Ok(());
        }
        let founders = FoundersRecord {
            nodes: founding.addrs().into_keys().collect(),
            taken_in: None,
            floors: BTreeMap::new(),
        };
        let cluster = founding.cluster.clone();
        let bound = vec![
            Change::set(Space::Meta, CLUSTER_KEY.to_vec(), cluster.clone().into_bytes()),
            Change::set(Space::Meta, FOUNDERS_KEY.to_vec(), founders.encode_to_vec()),
        ];
        let known = self.pledge();
        let decided = PledgeRecord {
            accepted: Some(Proposed {
                ballot: known.promised,
                founding: Some(founding.clone()),
            }),
            is_decided: true,
            ..known
        };
        let kept = self.keep(bound, decided).await;
        kept.map_err(|error| StoreError::Stopped(error.to_string()))?;
        *self.founders.lock() = founders;
        *self.cluster.lock() = Some(cluster);
        Ok(())
    }

    async fn keep(&self, mut changes: Vec<Change>, pledge: PledgeRecord) -> io::Result<()> {
        let record = pledge.encode_to_vec();
        changes.push(Change::set(Space::Meta, PLEDGE_KEY.to_vec(), record));
        self.sync(changes).await?;
        *self.pledge.lock() = pledge;
        Ok(())
    }
}
