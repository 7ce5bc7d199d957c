//! The state machine that openraft drives: it resolves committed entries and says so. It never waits for the local
//! SpacetimeDB: the replica reads what is resolved at its own pace.

use crate::group_id::GroupId;
use crate::log::{Change, Done, GroupLog, Sequence, Space};
use crate::record::{LogIdRecord, MembershipRecord};
use crate::resolved::{Applied, ResolvedLog};
use crate::resolver::{Change as StateChange, StateKey};
use crate::types::{LogId, Payload, RaftEntry, StoredMembership, TypeConfig};
use crate::version::RecordError;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::type_config::alias::WatchReceiverOf;
use prost::Message;
use std::io;
use std::sync::Arc;

/// Bytes of entries that are resolved before their decisions are written.
const CHUNK_BYTES_MAX: usize = 4 << 20;

type SnapshotOf = openraft::type_config::alias::SnapshotOf<TypeConfig, Bytes>;
type SnapshotMetaOf = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// The resolver's whole state, as a snapshot carries it.
#[derive(Clone, PartialEq, prost::Message)]
struct StateDump {
    #[prost(message, repeated, tag = "1")]
    pairs: Vec<Pair>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// Raft, as a group runs it.
pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

/// Raft's own view of a group, as it changes.
pub(crate) type Metrics = WatchReceiverOf<TypeConfig, openraft::RaftMetrics<TypeConfig>>;

/// Raft's news of who leads.
pub(crate) type Leaders = WatchReceiverOf<TypeConfig, openraft::metrics::RaftServerMetrics<TypeConfig>>;

/// A group's state machine.
///
/// The log is kept whole, so that raft never needs a snapshot; one can be built and installed all the same, of the
/// resolver's state alone.
pub(crate) struct Machine {
    shared: Arc<ResolvedLog>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<(SnapshotMetaOf, Bytes)>,
}

impl Machine {
    pub(crate) fn open(shared: Arc<ResolvedLog>) -> Result<Self, io::Error> {
        let group = shared.log().id();
        let store = shared.log().store();
        let applied = store.get(Space::State, &applied_key(group));
        let applied = applied.map(LogIdRecord::decode).transpose();
        let applied = applied.map_err(RecordError::from)?.map(LogId::from);
        if let Some(applied) = applied {
            check_applied(shared.log(), applied)?;
        }
        let membership = store.get(Space::State, &membership_key(group));
        let membership = match membership {
            Some(value) => MembershipRecord::decode(value)
                .map_err(RecordError::from)?
                .stored()?,
            None => StoredMembership::default(),
        };
        let (from, to) = state_range(group);
        for (key, value) in store.range(Space::State, &from, &to) {
            let key = StateKey::decode(&key[STATE_PREFIX..])
                .ok_or(RecordError::Missing("the meaning of a key of the state"))?;
            shared.resolver().restore(&key, value)?;
        }
        shared.resolver().set_voters(membership.voter_ids().collect());
        shared.start(applied.map_or(0, |id| id.index));
        Ok(Self {
            shared,
            applied,
            membership,
            snapshot: None,
        })
    }

    fn resolve(&mut self, entry: RaftEntry, chunk: &mut Chunk) -> Result<(), io::Error> {
        let index = entry.log_id.index;
        let group = self.shared.log().id();
        self.applied = Some(entry.log_id);
        chunk.applied.last = index;
        match entry.payload {
            Payload::Blank => {}
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                let voters = self.membership.voter_ids().collect();
                self.shared.resolver().set_voters(voters);
                chunk.changes.push(self.membership_change());
            }
            Payload::Normal(proposal) => {
                let size = proposal.0.len();
                let decoded = proposal.decode()?;
                let mut changes = Vec::new();
                let term = entry.log_id.leader_id.term;
                let decision = self
                    .shared
                    .resolver()
                    .resolve(index, term, decoded, &mut changes)?;
                chunk
                    .changes
                    .extend(changes.into_iter().map(|change| state_change(group, change)));
                let record = decision.record.encode_to_vec();
                chunk.changes.push(Change::Append {
                    group,
                    sequence: Sequence::Decisions,
                    index,
                    record,
                });
                chunk.bytes += size;
                chunk.applied.push(decision.entry, size, decision.settled);
            }
        }
        Ok(())
    }

    async fn publish(&mut self, chunk: Chunk) -> Result<(), io::Error> {
        let Some(applied) = self
            .applied
            .filter(|_| chunk.applied.last > 0 || !chunk.changes.is_empty())
        else {
            return Ok(());
        };
        let mut changes = chunk.changes;
        if !rtdb_runtime::planted("what is resolved is not noted") {
            changes.push(self.applied_change(applied));
        }
        let done = Done::Later {
            written: self.shared.written(),
            index: applied.index,
        };
        self.shared.log().store().write(changes, done).await?;
        self.shared.publish(chunk.applied);
        Ok(())
    }

    fn applied_change(&self, applied: LogId) -> Change {
        let value = LogIdRecord::from(applied).encode_to_vec();
        Change::set(Space::State, applied_key(self.shared.log().id()), value)
    }

    fn membership_change(&self) -> Change {
        let value = MembershipRecord::from(&self.membership).encode_to_vec();
        Change::set(Space::State, membership_key(self.shared.log().id()), value)
    }

    fn build(&mut self) -> SnapshotOf {
        let pairs = self.shared.resolver().dump().into_iter().map(|(key, value)| {
            let mut encoded = Vec::new();
            key.encode(&mut encoded);
            Pair {
                key: encoded,
                value: value.unwrap_or_default().into(),
            }
        });
        let data = Bytes::from(
            StateDump {
                pairs: pairs.collect(),
            }
            .encode_to_vec(),
        );
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        self.snapshot = Some((meta.clone(), data.clone()));
        Snapshot { meta, snapshot: data }
    }
}

/// Entries that were resolved and are not written yet.
#[derive(Default)]
struct Chunk {
    changes: Vec<Change>,
    bytes: usize,
    applied: Applied,
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunk = Chunk::default();
        let mut responders = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            self.resolve(entry, &mut chunk)?;
            responders.extend(responder);
            if chunk.bytes >= CHUNK_BYTES_MAX {
                self.publish(std::mem::take(&mut chunk)).await?;
            }
        }
        self.publish(chunk).await?;
        for responder in responders {
            responder.send(());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.build())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf, data: Bytes) -> Result<(), io::Error> {
        let dump = StateDump::decode(data.clone()).map_err(RecordError::from)?;
        let group = self.shared.log().id();
        let (from, to) = state_range(group);
        let old = self.shared.log().store().range(Space::State, &from, &to);
        let mut changes: Vec<Change> = old
            .into_iter()
            .map(|(key, _)| Change::Set {
                space: Space::State,
                key,
                value: None,
            })
            .collect();
        let mut resolver = self.shared.resolver().emptied();
        for Pair { key, value } in dump.pairs {
            let key =
                StateKey::decode(&key).ok_or(RecordError::Missing("the meaning of a snapshot's key"))?;
            changes.push(state_change(group, (key.clone(), Some(value.to_vec()))));
            resolver.restore(&key, value)?;
        }
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        changes.push(self.membership_change());
        changes.extend(self.applied.map(|applied| self.applied_change(applied)));
        self.shared.log().store().sync(changes).await?;
        resolver.set_voters(self.membership.voter_ids().collect());
        *self.shared.resolver() = resolver;
        self.shared.start(self.applied.map_or(0, |id| id.index));
        self.snapshot = Some((meta.clone(), data));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        let snapshot = self.snapshot.clone();
        Ok(snapshot.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// A snapshot that is built already: the state is small.
pub(crate) struct Builder(SnapshotOf);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        Ok(self.0.clone())
    }
}

/// The length of what stands before a [`StateKey`].
const STATE_PREFIX: usize = 9;

fn key(group: GroupId, part: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.extend_from_slice(&group.0.to_be_bytes());
    key.push(part);
    key
}

fn applied_key(group: GroupId) -> Vec<u8> {
    key(group, b'a')
}

fn membership_key(group: GroupId) -> Vec<u8> {
    key(group, b'm')
}

fn state_range(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (key(group, b's'), key(group, b's' + 1))
}

fn state_change(group: GroupId, (state_key, value): StateChange) -> Change {
    let mut key = key(group, b's');
    state_key.encode(&mut key);
    let space = Space::State;
    Change::Set { space, key, value }
}

/// Checks that the log holds the entry up to which it was resolved: raft would take what is missing for purged, and
/// forget the rest.
fn check_applied(log: &GroupLog, applied: LogId) -> io::Result<()> {
    let last = log.last();
    let stands = last >= Some(applied) && log.log_id_at(applied.index)?.is_none_or(|found| found == applied);
    if stands {
        return Ok(());
    }
    let last = last.map_or_else(|| "nothing".to_owned(), |last| last.to_string());
    let reason = format!(
        "{} was applied up to {applied}, and its log ends with {last}",
        log.id()
    );
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        log.store().damaged(reason),
    ))
}
