//! What replicas report of a database, and which of them are right.
//!
//! Pure, and part of the log's rules: every node comes to the same verdict at the same entry. Replicas report the digest
//! that they hold at certain positions, the same on all of them. What a majority of the voters holds there is right, and
//! whoever holds something else has diverged. Where there can be no majority the database is split, and takes no calls
//! until an operator says which replica is right.

use crate::Position;
use crate::version::{RecordError, decode};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// Positions of a database whose reports are kept until all voters' are there: how far behind a replica may be, in
/// reports, and still be compared.
const POSITIONS_MAX: usize = 64;

/// Positions at which it is known what is right: how far behind the voters another replica may be, in reports, and still
/// be compared.
const AGREED_MAX: usize = 64;

/// Clearing publications of a database of which it is not known yet whether they are taken; the oldest are given up.
const CLEARS_MAX: usize = 16;

/// How long replicas that contradict each other are waited with for the others to say who is right, in microseconds of
/// the log's time.
pub(super) const DOUBT_US: i64 = 10_000_000;

/// A digest, and where it was held.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Holding {
    /// The position of the last command in it.
    #[prost(fixed64, tag = "1")]
    pub position: u64,
    /// The digest.
    #[prost(fixed64, tag = "2")]
    pub digest: u64,
}

/// How a replica differs from the majority.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Divergence {
    /// The last position at which it was known to be the same; 0 if there is none.
    #[prost(fixed64, tag = "1")]
    pub after: u64,
    /// The first position at which it is known to differ.
    #[prost(fixed64, tag = "2")]
    pub by: u64,
}

/// Replicas that contradict each other, and no majority yet.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Contest {
    /// The last position at which a majority agreed; 0 if there is none.
    #[prost(fixed64, tag = "1")]
    pub after: u64,
    /// The position at which they differ.
    #[prost(fixed64, tag = "2")]
    pub by: u64,
    /// When that was seen, in microseconds of the log's time.
    #[prost(sfixed64, tag = "3")]
    pub since_us: i64,
    /// Whether the voters that have not reported could not make a majority any more.
    #[prost(bool, tag = "4")]
    pub is_certain: bool,
}

impl Contest {
    /// Whether the database is split at that time.
    pub fn is_split(&self, now_us: i64) -> bool {
        self.is_certain || now_us.saturating_sub(self.since_us) >= DOUBT_US
    }
}

/// What is known of a database's replicas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// Where the database was made as it is. What is reported of before says nothing any more.
    begins: u64,
    /// Clearing publications that may yet be taken.
    clears: BTreeSet<u64>,
    /// The digests that a majority held, by position.
    agreed: BTreeMap<u64, u64>,
    /// The last position at which each node was right.
    right: BTreeMap<u64, u64>,
    diverged: BTreeMap<u64, Divergence>,
    contest: Option<Contest>,
    /// Reports at positions where not all voters' are there, by position and node.
    open: BTreeMap<u64, BTreeMap<u64, u64>>,
}

impl Audit {
    /// The last position at which a majority held the same, and the digest there.
    pub fn agreed(&self) -> Option<Holding> {
        let (position, digest) = self.agreed.last_key_value()?;
        Some(Holding {
            position: *position,
            digest: *digest,
        })
    }

    /// The replicas that have diverged, by node.
    pub fn diverged(&self) -> &BTreeMap<u64, Divergence> {
        &self.diverged
    }

    /// Replicas that contradict each other, if nobody can say yet who is right.
    pub fn contest(&self) -> Option<Contest> {
        self.contest
    }

    /// The nodes that have said what they hold where the replicas differ.
    pub fn contestants(&self) -> impl Iterator<Item = u64> {
        let by = self.contest.and_then(|contest| self.open.get(&contest.by));
        by.into_iter().flat_map(BTreeMap::keys).copied()
    }

    /// Begins where the database is made anew, and all replicas with it.
    pub(super) fn begin(&mut self, at: u64) {
        let clears = self.clears.split_off(&at.saturating_add(1));
        *self = Self {
            begins: at,
            clears,
            ..Self::default()
        };
    }

    /// The database may be made anew there: whether the publication is taken is said later.
    pub(super) fn may_begin(&mut self, at: u64) {
        self.clears.insert(at);
        if self.clears.len() > CLEARS_MAX {
            self.clears.pop_first();
        }
    }

    /// Whether it was still open if the database is made anew there. From now on it is not.
    pub(super) fn might_begin(&mut self, at: u64) -> bool {
        self.clears.remove(&at)
    }

    /// Takes in what a node holds.
    pub(super) fn note(&mut self, node: u64, held: Holding, voters: &BTreeSet<u64>, now_us: i64) {
        let Holding { position, digest } = held;
        if position < self.begins {
            return;
        }
        let is_open = self.open.contains_key(&position);
        if let Some(digest) = self.agreed.get(&position).copied() {
            self.compare(node, held, Holding { position, digest });
            if !is_open {
                return;
            }
        }
        let is_kept = self.open.len() < POSITIONS_MAX
            || is_open
            || self.oldest().is_some_and(|oldest| oldest < position);
        if !is_kept {
            return;
        }
        self.open.entry(position).or_default().insert(node, digest);
        if self.open.len() > POSITIONS_MAX
            && let Some(oldest) = self.oldest()
        {
            self.open.remove(&oldest);
        }
        self.judge(position, voters, now_us);
    }

    /// The position whose reports are the first to be given up. Those where the replicas differ stay: an operator must be
    /// able to say which of them is right.
    fn oldest(&self) -> Option<u64> {
        let by = self.contest.map(|contest| contest.by);
        self.open.keys().copied().find(|position| Some(*position) != by)
    }

    /// Whether a node has said what it holds where the replicas differ.
    pub(super) fn has_contested(&self, node: u64) -> bool {
        self.contestants().any(|it| it == node)
    }

    /// The replica of `node` is right where they differ; `false` if it has not said what it holds there.
    pub(super) fn resolve(&mut self, node: u64) -> bool {
        let Some(contest) = self.contest else { return false };
        let Some(digest) = self.open.get(&contest.by).and_then(|held| held.get(&node)) else {
            return false;
        };
        self.agree(Holding {
            position: contest.by,
            digest: *digest,
        });
        true
    }

    fn judge(&mut self, position: u64, voters: &BTreeSet<u64>, now_us: i64) {
        let Some(held) = self.open.get(&position) else {
            return;
        };
        let held: BTreeMap<u64, u64> = held
            .iter()
            .filter(|(node, _)| voters.contains(node))
            .map(|(node, digest)| (*node, *digest))
            .collect();
        let reported = held.len();
        // Who has diverged contradicts nobody any more; made anew, it may agree.
        let sound = held.iter().filter(|(node, _)| !self.diverged.contains_key(node));
        let sound: BTreeSet<u64> = sound.map(|(_, digest)| *digest).collect();
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for digest in held.values().filter(|digest| sound.contains(digest)) {
            *counts.entry(*digest).or_default() += 1;
        }
        let Some((digest, most)) = counts.iter().max_by_key(|(_, count)| **count) else {
            return;
        };
        let (digest, most, majority) = (*digest, *most, voters.len() / 2 + 1);
        if most >= majority {
            self.agree(Holding { position, digest });
            if reported == voters.len() {
                self.open.remove(&position);
            }
        } else if counts.len() > 1 {
            let missing = voters.len() - reported;
            let earlier = self.contest.filter(|contest| contest.by <= position);
            let first = earlier.unwrap_or(Contest {
                after: self
                    .agreed
                    .range(..position)
                    .next_back()
                    .map_or(0, |(after, _)| *after),
                by: position,
                since_us: now_us,
                is_certain: false,
            });
            self.contest = Some(Contest {
                is_certain: first.is_certain || most + missing < majority,
                ..first
            });
        }
    }

    fn agree(&mut self, agreed: Holding) {
        self.agreed.insert(agreed.position, agreed.digest);
        if self.agreed.len() > AGREED_MAX {
            self.agreed.pop_first();
        }
        if self.contest.is_some_and(|contest| contest.by <= agreed.position) {
            self.contest = None;
        }
        let held = self.open.get(&agreed.position).cloned().unwrap_or_default();
        for (node, digest) in held {
            let position = agreed.position;
            self.compare(node, Holding { position, digest }, agreed);
        }
    }

    /// A digest that holds all writes so far can't be the same again once it differs, unless the replica was made anew.
    fn compare(&mut self, node: u64, held: Holding, agreed: Holding) {
        if held == agreed {
            let right = self.right.entry(node).or_default();
            *right = agreed.position.max(*right);
            if self
                .diverged
                .get(&node)
                .is_some_and(|it| it.by <= agreed.position)
            {
                self.diverged.remove(&node);
            }
            return;
        }
        let after = self.right.get(&node).copied().unwrap_or(0).min(agreed.position);
        let by = held.position;
        let known = self.diverged.entry(node).or_insert(Divergence { after, by });
        known.by = known.by.min(by);
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        AuditRecord {
            agreed: self.agreed(),
            earlier: self.agreed.clone(),
            begins: self.begins,
            clears: self.clears.iter().copied().collect(),
            right: self.right.clone(),
            diverged: self.diverged.clone(),
            contest: self.contest,
            open: self.open.iter().map(open_record).collect(),
            version: 0,
        }
        .encode_to_vec()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        let record: AuditRecord = decode(bytes)?;
        let mut agreed = record.earlier;
        agreed.extend(record.agreed.map(|it| (it.position, it.digest)));
        Ok(Self {
            begins: record.begins,
            clears: record.clears.into_iter().collect(),
            agreed,
            right: record.right,
            diverged: record.diverged,
            contest: record.contest,
            open: record.open.into_iter().map(|it| (it.position, it.held)).collect(),
        })
    }
}

/// An [`Audit`], as it is written.
#[derive(Clone, PartialEq, prost::Message)]
struct AuditRecord {
    #[prost(message, optional, tag = "1")]
    agreed: Option<Holding>,
    #[prost(btree_map = "uint64, fixed64", tag = "2")]
    right: BTreeMap<u64, u64>,
    #[prost(btree_map = "uint64, message", tag = "3")]
    diverged: BTreeMap<u64, Divergence>,
    #[prost(message, optional, tag = "4")]
    contest: Option<Contest>,
    #[prost(message, repeated, tag = "5")]
    open: Vec<OpenRecord>,
    /// What was agreed before `agreed`, and that too.
    #[prost(btree_map = "fixed64, fixed64", tag = "6")]
    earlier: BTreeMap<u64, u64>,
    #[prost(fixed64, tag = "7")]
    begins: u64,
    #[prost(fixed64, repeated, tag = "8")]
    clears: Vec<u64>,
    #[prost(uint32, tag = "15")]
    version: u32,
}

/// What was reported at a position.
#[derive(Clone, PartialEq, prost::Message)]
struct OpenRecord {
    #[prost(fixed64, tag = "1")]
    position: u64,
    #[prost(btree_map = "uint64, fixed64", tag = "2")]
    held: BTreeMap<u64, u64>,
}

fn open_record((position, held): (&u64, &BTreeMap<u64, u64>)) -> OpenRecord {
    OpenRecord {
        position: *position,
        held: held.clone(),
    }
}

impl Holding {
    /// Where it was held.
    pub fn at(&self) -> Position {
        Position(self.position)
    }
}

#[cfg(test)]
mod tests;
