//! The log's rules: which commands of an entry take effect, when, and as what.
//!
//! Pure and deterministic: the same entries give the same decisions on every node. Its state is kept beside the log,
//! written as increments, and may be behind the log after a crash: the entries in between are resolved again.

mod audit;
mod audits;
mod issuers;
mod keys;
mod meta;
mod poison;
mod resolution;
mod sessions;
mod shard;
mod state;
#[cfg(test)]
mod tests;
mod verdict;

pub use audit::{Audit, Contest, Divergence, Holding};
pub use issuers::Issuer;
pub use keys::{
    KEY_KEPT_US_MAX, KEY_KEPT_US_MIN, KEYS_MAX, KEYS_PER_CALLER_MAX, KEYS_PER_DATABASE_MAX, KeyedCall,
};
pub use meta::{Database, MetaState};
pub use poison::StuckReplica;
pub(crate) use resolution::Resolution;
pub use shard::ShardState;
pub(crate) use state::StateKey;
pub(crate) use verdict::Change;

use crate::command::{Body, Timer};
use crate::entry::Entry;
use crate::version::{RecordError, decode};
use crate::{
    Applied, COMMANDS_PER_ENTRY_MAX, Command, LOG_INDEX_MAX, LogIndex, Origin, Outcome, Position, Reply,
    ResolvedCommand, ResolvedEntry, Unapplied,
};
use bytes::Bytes;
use prost::Message;
use state::{OriginRecord, TimestampRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use verdict::{Stamp, Verdict};

/// The latest time that an entry may claim, in microseconds since the Unix epoch: the year 9999.
const TIMESTAMP_US_MAX: i64 = 253_402_300_799_999_999;

/// What the rules made of an entry.
#[derive(Debug)]
pub(crate) struct Decision {
    /// What to keep beside the log, to read the entry again with the same decisions.
    pub(crate) record: Resolution,
    /// The commands for the replica.
    pub(crate) entry: ResolvedEntry,
    /// Commands that are finished already, with their outcome.
    pub(crate) settled: Vec<(Origin, u64, Outcome)>,
}

/// The rules of the group's kind, and their state.
#[derive(Debug)]
enum Rules {
    Meta(Arc<MetaState>),
    Shard(Box<ShardState>),
}

/// The state of a group's rules.
#[derive(Debug)]
pub(crate) struct Resolver {
    origins: BTreeMap<u64, OriginRecord>,
    last_timestamp_us: i64,
    rules: Rules,
}

impl Resolver {
    /// The rules of the meta group, at the log's start.
    pub(crate) fn meta() -> Self {
        Self::new(Rules::Meta(Arc::default()))
    }

    /// The rules of a shard, at the log's start.
    pub(crate) fn shard() -> Self {
        Self::new(Rules::Shard(Box::default()))
    }

    fn new(rules: Rules) -> Self {
        Self {
            origins: BTreeMap::new(),
            last_timestamp_us: 0,
            rules,
        }
    }

    /// The same rules at the log's start.
    pub(crate) fn emptied(&self) -> Self {
        match self.rules {
            Rules::Meta(_) => Self::meta(),
            Rules::Shard(_) => Self::shard(),
        }
    }

    /// Takes a part of the state back in, as it was written.
    pub(crate) fn restore(&mut self, key: &StateKey, value: Bytes) -> Result<(), RecordError> {
        match (key, &mut self.rules) {
            (StateKey::Timestamp, _) => {
                self.last_timestamp_us = decode::<TimestampRecord>(value)?.last_us;
            }
            (StateKey::Origin(_), _) if rtdb_runtime::planted("streams are forgotten") => {}
            (StateKey::Origin(node), _) => {
                self.origins.insert(*node, decode(value)?);
            }
            (_, Rules::Meta(meta)) => Arc::make_mut(meta).restore(key, value)?,
            (_, Rules::Shard(shard)) => shard.restore(key, value)?,
        }
        Ok(())
    }

    /// All of the state, as changes from nothing.
    pub(crate) fn dump(&self) -> Vec<Change> {
        let mut changes = vec![self.timestamp_change()];
        changes.extend(
            self.origins
                .iter()
                .map(|(node, origin)| origin_change(*node, origin)),
        );
        match &self.rules {
            Rules::Meta(meta) => meta.dump(&mut changes),
            Rules::Shard(shard) => shard.dump(&mut changes),
        }
        changes
    }

    /// The meta group's state; empty for a shard.
    pub(crate) fn meta_state(&self) -> Arc<MetaState> {
        match &self.rules {
            Rules::Meta(meta) => meta.clone(),
            Rules::Shard(_) => Arc::default(),
        }
    }

    /// A shard's state; `None` for the meta group.
    pub(crate) fn shard_state(&self) -> Option<&ShardState> {
        match &self.rules {
            Rules::Meta(_) => None,
            Rules::Shard(shard) => Some(shard),
        }
    }

    /// Who votes in the group from here on: known to the rules, and kept by the state machine.
    pub(crate) fn set_voters(&mut self, voters: BTreeSet<u64>) {
        if let Rules::Shard(shard) = &mut self.rules {
            shard.set_voters(voters);
        }
    }

    /// The newest epoch of a node that the log knows, and how far its stream has come; `None` if there is none.
    pub(crate) fn stream(&self, node: u64) -> Option<(Origin, u64)> {
        let origin = self.origins.get(&node)?;
        Some((
            Origin {
                node,
                epoch: origin.epoch,
            },
            origin.last_seq,
        ))
    }

    /// Whether a node's epoch is over: expired, or followed by a newer one.
    pub(crate) fn is_over(&self, origin: Origin) -> bool {
        self.origins
            .get(&origin.node)
            .is_some_and(|known| origin.epoch <= known.expired || origin.epoch < known.epoch)
    }

    /// The newest epochs that are not over.
    pub(crate) fn living(&self) -> Vec<Origin> {
        let newest = self.origins.iter().map(|(node, known)| Origin {
            node: *node,
            epoch: known.epoch,
        });
        newest.filter(|origin| !self.is_over(*origin)).collect()
    }

    /// Sessions, no more than `count_max`, of epochs that are over.
    pub(crate) fn orphans(&self, count_max: usize) -> Vec<u64> {
        let Rules::Shard(shard) = &self.rules else {
            return Vec::new();
        };
        shard
            .sessions()
            .filter(|session| self.is_over(session.origin) && shard.is_open(&session.database))
            .map(|session| session.id)
            .take(count_max)
            .collect()
    }

    /// Databases, no more than `count_max`, and their births, that epochs which are over have begun to restore.
    pub(crate) fn abandoned(&self, count_max: usize) -> Vec<(Bytes, u64)> {
        let Rules::Shard(shard) = &self.rules else {
            return Vec::new();
        };
        let abandoned = shard.abandoned(|by| self.is_over(by));
        abandoned.take(count_max).collect()
    }

    /// Applies the rules to an entry that a leader of `term` wrote, and notes what of the state has changed.
    ///
    /// # Errors
    /// [`RecordError`] if the entry is of a newer version, or is none that positions can name: the node must stop.
    pub(crate) fn resolve(
        &mut self,
        index: LogIndex,
        term: u64,
        entry: Entry,
        changes: &mut Vec<Change>,
    ) -> Result<Decision, RecordError> {
        let commands = entry.batches.iter().flat_map(|batch| &batch.commands);
        let count: usize = commands.map(Command::positions).sum();
        if index > LOG_INDEX_MAX || count > COMMANDS_PER_ENTRY_MAX {
            return Err(RecordError::BeyondPositions { index, count });
        }
        let first_timestamp_us =
            entry
                .timestamp_us
                .min(TIMESTAMP_US_MAX)
                .max(match rtdb_runtime::planted("time goes back") {
                    true => 0,
                    false => self.last_timestamp_us.saturating_add(1),
                });
        let mut record = Resolution::new(first_timestamp_us);
        let mut commands = Vec::with_capacity(count);
        let mut settled = Vec::new();
        let mut place = 0;
        for batch in entry.batches {
            let origin = Origin {
                node: batch.node,
                epoch: batch.epoch,
            };
            let known = self.origins.entry(batch.node).or_default();
            let before = *known;
            known.announce(batch.epoch);
            for (seq, command) in numbered(batch.first_seq, batch.commands) {
                let position = Position::new(index, place);
                let timestamp_us = first_timestamp_us + place as i64;
                place += command.positions();
                // Each command exactly once and in order: duplicates and what follows a gap are passed over.
                let known = self.origins.entry(batch.node).or_default();
                if !known.take(batch.epoch, seq) {
                    record.skip(position.command());
                    continue;
                }
                let body = known_body(&command).ok_or(RecordError::UnknownCommand)?;
                let stamp = Stamp {
                    term,
                    position,
                    timestamp_us,
                    origin,
                };
                match self.judge(body, stamp, changes) {
                    Verdict::Effect(session) => {
                        if let Some(session) = &session {
                            record.end(position.command(), session);
                        }
                        commands.extend(effects(ResolvedCommand {
                            position,
                            timestamp_us,
                            origin,
                            seq,
                            command,
                            session,
                        }));
                    }
                    Verdict::Done(reply) => {
                        record.skip(position.command());
                        settled.push((
                            origin,
                            seq,
                            Ok(Applied {
                                position,
                                timestamp_us,
                                reply,
                            }),
                        ));
                    }
                    Verdict::Refused(refusal) => {
                        record.skip(position.command());
                        settled.push((origin, seq, Err(Unapplied::Refused(refusal))));
                    }
                }
            }
            if let Some(known) = self.origins.get(&batch.node).filter(|known| **known != before) {
                changes.push(origin_change(batch.node, known));
            }
        }
        if count > 0 {
            self.last_timestamp_us = first_timestamp_us + count as i64 - 1;
            changes.push(self.timestamp_change());
        }
        Ok(Decision {
            record,
            entry: ResolvedEntry { index, commands },
            settled,
        })
    }

    fn judge(&mut self, body: &Body, stamp: Stamp, changes: &mut Vec<Change>) -> Verdict {
        if let Body::ExpireNode(expire) = body {
            if expire.term == stamp.term {
                let known = self.origins.entry(expire.node).or_default();
                known.expired = known.expired.max(expire.epoch);
                changes.push(origin_change(expire.node, known));
            }
            return Verdict::Done(Reply::Done);
        }
        match &mut self.rules {
            Rules::Meta(meta) => Arc::make_mut(meta).judge(body, stamp, changes),
            Rules::Shard(shard) => shard.judge(body, stamp, changes),
        }
    }

    fn timestamp_change(&self) -> Change {
        let record = TimestampRecord {
            last_us: self.last_timestamp_us,
        };
        (StateKey::Timestamp, Some(record.encode_to_vec()))
    }
}

/// What a command is, if this version knows it.
fn known_body(command: &Command) -> Option<&Body> {
    command.body.as_ref().filter(|body| match body {
        Body::Poison(poison) => poison.step.is_some(),
        Body::Write(write) => write.kind.is_some(),
        _ => true,
    })
}

/// What a command is to the replica: one command at each of its positions.
fn effects(command: ResolvedCommand) -> impl Iterator<Item = ResolvedCommand> {
    let second = match &command.command.body {
        Some(Body::Timer(timer)) => Some(ResolvedCommand {
            position: Position(command.position.0 + 1),
            timestamp_us: command.timestamp_us + 1,
            command: Body::Timer(Timer {
                over: true,
                ..timer.clone()
            })
            .into(),
            ..command.clone()
        }),
        _ => None,
    };
    [command].into_iter().chain(second)
}

/// A batch's commands with their numbers in the stream.
fn numbered(first_seq: u64, commands: Vec<Command>) -> impl Iterator<Item = (u64, Command)> {
    let place = move |(place, command)| (first_seq.saturating_add(place as u64), command);
    commands.into_iter().enumerate().map(place)
}

fn origin_change(node: u64, origin: &OriginRecord) -> Change {
    (StateKey::Origin(node), Some(origin.encode_to_vec()))
}

/// Reads a committed entry again, with the decisions that were made when it was resolved.
pub(crate) fn reread(index: LogIndex, entry: Entry, record: &Resolution) -> ResolvedEntry {
    let mut commands: Vec<ResolvedCommand> = Vec::new();
    let mut place = 0;
    for batch in entry.batches {
        let origin = Origin {
            node: batch.node,
            epoch: batch.epoch,
        };
        for (seq, command) in numbered(batch.first_seq, batch.commands) {
            let (position, first) = (Position::new(index, place), place);
            place += command.positions();
            if !record.is_skipped(first) {
                commands.extend(effects(ResolvedCommand {
                    position,
                    timestamp_us: record.first_timestamp_us + first as i64,
                    origin,
                    seq,
                    session: record.ended(first),
                    command,
                }));
            }
        }
    }
    ResolvedEntry { index, commands }
}
