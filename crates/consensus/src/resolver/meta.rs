//! The rules of the meta group: the cluster's settings, its nodes, its databases and their names.

use super::issuers::{Issuer, Issuers};
use super::state::StateKey;
use super::verdict::{Change, Stamp, Verdict};
use crate::command::{
    Body, Delete, ENDS_LEVEL, EndDatabase, InitCluster, MIGRATION_LEVEL, Owner, RegisterDatabase, SetLock,
    SetNames, SetNode,
};
use crate::version::{RecordError, decode};
use crate::{GroupId, Position, Refusal, Reply};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;

/// Databases that have ended of which it is kept what they were called. The one that ended first is forgotten first.
pub(super) const ENDED_MAX: usize = 16_384;

/// What the meta group's log says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetaState {
    cluster: Option<InitCluster>,
    nodes: BTreeMap<u64, SetNode>,
    databases: BTreeMap<Bytes, Database>,
    names: BTreeMap<String, Bytes>,
    /// The databases that have ended, by where they did.
    ended: BTreeMap<u64, Bytes>,
    issuers: Issuers,
}

/// A database's place in the cluster. Of one that has ended this is kept, as SpacetimeDB does: who publishes under one of its
/// names gets its identity, and nobody else gets the name.
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
    /// Its birth: where it got its place in the meta group's log. What else was or will be of this identity has another one.
    /// 0 for a database of before there were births.
    #[prost(fixed64, tag = "8")]
    pub born: u64,
    /// Where it ended; 0 if it has not.
    #[prost(fixed64, tag = "9")]
    pub ended: u64,
    /// The version that its reader must know: one that passed over the lock would delete it.
    #[prost(uint32, tag = "15")]
    pub(crate) version: u32,
}

impl Database {
    fn exists(&self) -> bool {
        self.ended == 0
    }

    fn needed_version(&self) -> u32 {
        match (self.locked, self.born, self.ended) {
            (false, 0, 0) => 0,
            (true, ..) => MIGRATION_LEVEL,
            _ => ENDS_LEVEL,
        }
    }
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

    /// The [feature level](crate::command::FEATURE_LEVEL) that all members have announced. One that does not vote yet may not have
    /// come to say so: it was asked before it became a member.
    pub(crate) fn feature_level(&self, voters: &[u64], learners: &[u64]) -> u32 {
        let level = |member| self.nodes.get(member).map(|node| node.feature_level);
        let voters = voters.iter().map(|voter| level(voter).unwrap_or(0));
        voters.chain(learners.iter().filter_map(level)).min().unwrap_or(0)
    }

    /// The database of an identity.
    pub fn database(&self, identity: &[u8]) -> Option<&Database> {
        self.databases.get(identity).filter(|database| database.exists())
    }

    /// The database of a name.
    pub fn named(&self, name: &str) -> Option<&Database> {
        self.database(self.names.get(name)?)
    }

    /// The identity of a name, whose database may have ended.
    pub fn identity(&self, name: &str) -> Option<&Bytes> {
        self.names.get(name)
    }

    /// All databases.
    pub fn databases(&self) -> impl Iterator<Item = &Database> {
        self.databases.values().filter(|database| database.exists())
    }

    /// An outside issuer of tokens.
    pub fn issuer(&self, name: &str) -> Option<&Issuer> {
        self.issuers.get(name)
    }

    /// The outside issuers whose keys a node has fetched, or wants.
    pub fn issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.iter()
    }

    /// Whether a database of that identity and birth has ended, if the log that is known here goes beyond the birth.
    pub(crate) fn has_ended(&self, identity: &[u8], born: u64) -> bool {
        match self.databases.get(identity) {
            Some(database) => !database.exists() || database.born != born,
            // Whether there was one before there were births, is not known.
            None => born != 0,
        }
    }

    pub(super) fn judge(&mut self, body: &Body, stamp: Stamp, changes: &mut Vec<Change>) -> Verdict {
        let at = stamp.position;
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
            Body::RegisterDatabase(register) => self.register(register, at, changes),
            Body::SetNames(names) => self.rename(names, changes),
            Body::SetLock(lock) => self.lock(lock, changes),
            Body::EndDatabase(end) => self.end(end, at, changes),
            Body::Delete(delete) => self.delete(delete, changes),
            Body::SetIssuer(set) => self.issuers.set(set, stamp.timestamp_us, changes),
            Body::WantIssuer(want) => self.issuers.want(want, stamp.timestamp_us, changes),
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

    fn register(&mut self, register: &RegisterDatabase, at: Position, changes: &mut Vec<Change>) -> Verdict {
        let name = Some(&register.name).filter(|name| !name.is_empty());
        let named = name.and_then(|name| self.names.get(name));
        let identity = named.unwrap_or(&register.database).clone();
        let before = self.databases.get(&identity);
        if let Some(database) = before.filter(|database| database.exists()) {
            if database.owner != register.owner {
                return Verdict::Refused(match (named, name) {
                    (Some(_), Some(name)) => Refusal::NameTaken(name.clone()),
                    _ => Refusal::NotOwner,
                });
            }
            let mut database = database.clone();
            if let Some(name) = name.filter(|_| named.is_none()) {
                database.names.push(name.clone());
                changes.push(changed(&mut database));
                self.insert(database.clone());
            }
            return registered(&database, false);
        }
        // As yet there is one shard. An id that no shard can have is refused for good.
        if GroupId::shard(register.shard) != Some(GroupId::SHARD) {
            return Verdict::Refused(Refusal::NoSuchShard(register.shard));
        }
        // Without a birth of its own, what comes after an end would be taken for what was before.
        let has_birth = register.has_birth || before.is_some();
        let born = if has_birth { at.0 } else { 0 };
        let mut names = before.map(|before| before.names.clone()).unwrap_or_default();
        names.extend(name.filter(|_| named.is_none()).cloned());
        self.ended.remove(&before.map_or(0, |before| before.ended));
        let mut database = Database {
            identity,
            owner: register.owner.clone(),
            names,
            shard: register.shard,
            locked: false,
            born,
            ended: 0,
            version: 0,
        };
        changes.push(changed(&mut database));
        self.insert(database.clone());
        registered(&database, true)
    }

    fn end(&mut self, end: &EndDatabase, at: Position, changes: &mut Vec<Change>) -> Verdict {
        let found = self.databases.get_mut(&end.database);
        let Some(database) = found.filter(|it| it.exists() && it.born == end.born) else {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        };
        if database.locked {
            return Verdict::Refused(Refusal::Locked);
        }
        database.ended = at.0;
        changes.push(changed(database));
        self.ended.insert(at.0, end.database.clone());
        if self.ended.len() > ENDED_MAX
            && let Some((_, first)) = self.ended.pop_first()
        {
            self.forget(&first, changes);
        }
        Verdict::Done(Reply::Done)
    }

    fn rename(&mut self, set: &SetNames, changes: &mut Vec<Change>) -> Verdict {
        let taken = |name: &&String| self.names.get(*name).is_some_and(|owner| *owner != set.database);
        if let Some(name) = set.names.iter().find(taken) {
            return Verdict::Refused(Refusal::NameTaken(name.clone()));
        }
        let found = self.databases.get_mut(&set.database);
        let Some(database) = found.filter(|database| database.exists()) else {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        };
        if let Some(replaced) = &set.replaced
            && (replaced.born != database.born || replaced.names != database.names)
        {
            return Verdict::Refused(Refusal::NamesChanged);
        }
        for name in std::mem::replace(&mut database.names, set.names.clone()) {
            self.names.remove(&name);
        }
        for name in &set.names {
            self.names.insert(name.clone(), set.database.clone());
        }
        changes.push(changed(database));
        Verdict::Done(Reply::Done)
    }

    fn delete(&mut self, delete: &Delete, changes: &mut Vec<Change>) -> Verdict {
        match self.databases.get(&delete.database) {
            None => Verdict::Refused(Refusal::NoSuchDatabase),
            Some(database) if database.locked => Verdict::Refused(Refusal::Locked),
            Some(_) => {
                self.forget(&delete.database, changes);
                Verdict::Done(Reply::Done)
            }
        }
    }

    fn forget(&mut self, identity: &Bytes, changes: &mut Vec<Change>) {
        let Some(database) = self.databases.remove(identity) else {
            return;
        };
        for name in &database.names {
            self.names.remove(name);
        }
        self.ended.remove(&database.ended);
        changes.push((StateKey::Database(database.identity), None));
    }

    fn lock(&mut self, lock: &SetLock, changes: &mut Vec<Change>) -> Verdict {
        let found = self.databases.get_mut(&lock.database);
        let Some(database) = found.filter(|it| it.exists() && it.born == lock.born) else {
            return Verdict::Refused(Refusal::NoSuchDatabase);
        };
        database.locked = lock.locked;
        changes.push(changed(database));
        Verdict::Done(Reply::Done)
    }

    fn insert(&mut self, database: Database) {
        for name in &database.names {
            self.names.insert(name.clone(), database.identity.clone());
        }
        if !database.exists() {
            self.ended.insert(database.ended, database.identity.clone());
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
            StateKey::Issuer(_) => self.issuers.restore(decode(value)?),
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
        self.issuers.dump(changes);
    }
}

fn registered(database: &Database, created: bool) -> Verdict {
    Verdict::Done(Reply::Database {
        identity: database.identity.clone(),
        created,
        born: database.born,
    })
}

fn node_change(node: &SetNode) -> Change {
    (StateKey::Node(node.node), Some(node.encode_to_vec()))
}

fn changed(database: &mut Database) -> Change {
    database.version = database.needed_version();
    database_change(database)
}

fn database_change(database: &Database) -> Change {
    (
        StateKey::Database(database.identity.clone()),
        Some(database.encode_to_vec()),
    )
}
