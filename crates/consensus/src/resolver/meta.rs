//! The rules of the meta group: the cluster's settings, its nodes, its databases and their names.

use super::state::StateKey;
use super::{Change, Verdict};
use crate::command::{
    Body, Delete, InitCluster, MIGRATION_LEVEL, Owner, RegisterDatabase, SetLock, SetNames, SetNode,
};
use crate::record::RecordError;
use crate::version::decode;
use crate::{GroupId, Refusal, Reply};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What the meta group's log says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetaState {
    cluster: Option<InitCluster>,
    nodes: BTreeMap<u64, SetNode>,
    databases: BTreeMap<Bytes, Database>,
    names: BTreeMap<String, Bytes>,
}

/// A database's place in the cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Database {
    /// The identity, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub identity: Bytes,
    /// Who owns it.
    #[prost(message, optional, tag = "2")]
    pub owner: Option<Owner>,
    /// Its names, the first one first.
    #[prost(string, repeated, tag = "3")]
    pub names: Vec<String>,
    /// The shard it belongs to.
    #[prost(uint64, tag = "4")]
    pub shard: u64,
    /// Whether its owner has locked it: it is neither deleted nor cleared.
    #[prost(bool, tag = "5")]
    pub locked: bool,
    /// The version that its reader must know: one that passed over the lock would delete it.
    #[prost(uint32, tag = "15")]
    pub(crate) version: u32,
}

impl MetaState {
    /// The cluster's settings; `None` before `rtdb init`.
    pub fn cluster(&self) -> Option<&InitCluster> {
        self.cluster.as_ref()
    }

    /// A node, as it announced itself.
    pub fn node(&self, id: u64) -> Option<&SetNode> {
        self.nodes.get(&id)
    }

    /// The nodes that have announced themselves.
    pub fn nodes(&self) -> impl Iterator<Item = &SetNode> {
        self.nodes.values()
    }

    /// The [feature level](crate::command::FEATURE_LEVEL) that all of `members` have announced.
    pub(crate) fn feature_level(&self, members: &[u64]) -> u32 {
        let level = |member| self.nodes.get(member).map_or(0, |node| node.feature_level);
        members.iter().map(level).min().unwrap_or(0)
    }

    /// The database of an identity.
    pub fn database(&self, identity: &[u8]) -> Option<&Database> {
        self.databases.get(identity)
    }

    /// The database of a name.
    pub fn named(&self, name: &str) -> Option<&Database> {
        self.databases.get(self.names.get(name)?)
    }

    /// All databases.
    pub fn databases(&self) -> impl Iterator<Item = &Database> {
        self.databases.values()
    }

    pub(super) fn judge(&mut self, body: &Body, changes: &mut Vec<Change>) -> Verdict {
        match body {
            Body::InitCluster(init) => self.init(init, changes),
            Body::SetNode(node) => match node.too_long() {
                Some((what, max)) => Verdict::Refused(Refusal::TooLong { what, max }),
                None => {
                    changes.push(node_change(node));
                    self.nodes.insert(node.node, node.clone());
                    Verdict::Done(Reply::Done)
                }
            },
            Body::RegisterDatabase(register) => self.register(register, changes),
            Body::SetNames(names) => self.rename(names, changes),
            Body::SetLock(lock) => self.lock(lock, changes),
            Body::Delete(delete) => self.delete(delete, changes),
            // Nothing proposes a shard's command here; a log that holds one must stay readable all the same.
            _ => Verdict::Refused(Refusal::NoSuchDatabase),
        }
    }

    fn init(&mut self, init: &InitCluster, changes: &mut Vec<Change>) -> Verdict {
        match &self.cluster {
            Some(cluster) if cluster.cluster_id == init.cluster_id => Verdict::Done(Reply::Done),
            Some(_) => Verdict::Refused(Refusal::AlreadyInitialised),
            None => {
                changes.push((StateKey::Cluster, Some(init.encode_to_vec())));
                self.cluster = Some(init.clone());
                Verdict::Done(Reply::Done)
            }
        }
    }

    fn register(&mut self, register: &RegisterDatabase, changes: &mut Vec<Change>) -> Verdict {
        let named = self.named(&register.name).filter(|_| !register.name.is_empty());
        if let Some(database) = named {
            if database.owner != register.owner {
                return Verdict::Refused(Refusal::NameTaken(register.name.clone()));
            }
            return found(database);
        }
        if let Some(database) = self.databases.get_mut(&register.database) {
            if database.owner != register.owner {
                return Verdict::Refused(Refusal::NotOwner);
            }
            if !register.name.is_empty() {
                database.names.push(register.name.clone());
                self.names
                    .insert(register.name.clone(), database.identity.clone());
                changes.push(database_change(database));
            }
            return found(database);
        }
        // As yet there is one shard. An id that no shard can have is refused for good.
        if GroupId::shard(register.shard) != Some(GroupId::SHARD) {
            return Verdict::Refused(Refusal::NoSuchShard(register.shard));
        }
        let database = Database {
            identity: register.database.clone(),
            owner: register.owner.clone(),
            names: Some(&register.name)
                .filter(|name| !name.is_empty())
                .cloned()
                .into_iter()
                .collect(),
            shard: register.shard,
            ..Database::default()
        };
        changes.push(database_change(&database));
        self.insert(database);
        Verdict::Done(Reply::Database {
            identity: register.database.clone(),
            created: true,
        })
    }

    fn rename(&mut self, set: &SetNames, changes: &mut Vec<Change>) -> Verdict {
        let taken = |name: &&String| self.names.get(*name).is_some_and(|owner| *owner != set.database);
        if let Some(name) = set.names.iter().find(taken) {
            return Verdict::Refused(Refusal::NameTaken(name.clone()));
        }
        let Some(database) = self.databases.get_mut(&set.database) else {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        };
        for name in std::mem::replace(&mut database.names, set.names.clone()) {
            self.names.remove(&name);
        }
        for name in &set.names {
            self.names.insert(name.clone(), set.database.clone());
        }
        changes.push(database_change(database));
        Verdict::Done(Reply::Done)
    }

    fn delete(&mut self, delete: &Delete, changes: &mut Vec<Change>) -> Verdict {
        let database = match self.databases.entry(delete.database.clone()) {
            Entry::Occupied(entry) if entry.get().locked => return Verdict::Refused(Refusal::Locked),
            Entry::Occupied(entry) => entry.remove(),
            Entry::Vacant(_) => return Verdict::Refused(Refusal::NoSuchDatabase),
        };
        for name in &database.names {
            self.names.remove(name);
        }
        changes.push((StateKey::Database(database.identity), None));
        Verdict::Done(Reply::Done)
    }

    fn lock(&mut self, lock: &SetLock, changes: &mut Vec<Change>) -> Verdict {
        let Some(database) = self.databases.get_mut(&lock.database) else {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        };
        database.locked = lock.locked;
        database.version = if lock.locked { MIGRATION_LEVEL } else { 0 };
        changes.push(database_change(database));
        Verdict::Done(Reply::Done)
    }

    fn insert(&mut self, database: Database) {
        for name in &database.names {
            self.names.insert(name.clone(), database.identity.clone());
        }
        self.databases.insert(database.identity.clone(), database);
    }

    pub(super) fn restore(&mut self, key: &StateKey, value: Bytes) -> Result<(), RecordError> {
        match key {
            StateKey::Cluster => self.cluster = Some(decode(value)?),
            StateKey::Node(id) => {
                self.nodes.insert(*id, decode(value)?);
            }
            StateKey::Database(_) => self.insert(decode(value)?),
            _ => return Err(RecordError::Missing("the meaning of a key of the meta group")),
        }
        Ok(())
    }

    pub(super) fn dump(&self, changes: &mut Vec<Change>) {
        changes.extend(
            self.cluster
                .iter()
                .map(|cluster| (StateKey::Cluster, Some(cluster.encode_to_vec()))),
        );
        changes.extend(self.nodes.values().map(node_change));
        changes.extend(self.databases.values().map(database_change));
    }
}

fn found(database: &Database) -> Verdict {
    Verdict::Done(Reply::Database {
        identity: database.identity.clone(),
        created: false,
    })
}

fn node_change(node: &SetNode) -> Change {
    (StateKey::Node(node.node), Some(node.encode_to_vec()))
}

fn database_change(database: &Database) -> Change {
    (
        StateKey::Database(database.identity.clone()),
        Some(database.encode_to_vec()),
    )
}
