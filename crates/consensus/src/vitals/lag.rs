//! How far the nodes' replicas lag, and which databases are slowed for it: pure.
//!
//! Committing never waits for applying. So that a log which a majority of the replicas can't follow does not grow without
//! end, the nodes tell each other, with the time of day, which replicas lag ([`Lags::note`]), and each of them slows its
//! own clients' calls while a majority of the voters' replicas lags too much ([`Lags::judge`]). A node that is not heard
//! lately, one that does not vote, and a replica that is set aside (it applies nothing, and nobody waits for it) do not
//! count as lagging: fewer than a majority can slow nothing, whatever they say.

use rtdb_runtime::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How many commands a majority of a database's replicas may lag behind the log. (Half as many as one node may have under
/// way, so that one database leaves room for the others.)
pub const LAG_POSITIONS_MAX: u64 = 32_768;

/// How old the oldest command may be that they have not applied, in milliseconds.
pub const LAG_MS_MAX: u64 = 5_000;

/// With so few commands a replica does not lag, however old they are: a long call or a publication is no backlog.
pub const LAG_POSITIONS_MIN: u64 = 64;

/// A database is slowed until fewer than a majority lags by more than this part of the limits.
const RECOVERED_PART: u64 = 2;

/// What a node tells the others of: replicas that lag by more than this part of the limits.
const TOLD_PART: u64 = 4;

/// A replica that lags by this part of what another does, or more, is no better than that one.
const ALIKE_PART: u64 = 2;

/// Of so many databases a node tells at a time, the worst.
pub(crate) const LAGGING_MAX: usize = 256;

/// How long what a node has said counts.
const SAID_AGE_MAX: Duration = Duration::from_secs(5);

/// While a database is slowed, all nodes together let through one call for so many that a majority has applied.
const DRAIN: u64 = 2;

/// What a node lets through of a slowed database at least, in calls a second: whatever the replicas do, a call's turn comes.
pub const SLOWED_CALLS_PER_SECOND_MIN: u64 = 10;

/// A database's identity.
pub(crate) type DatabaseId = [u8; 32];

/// How far a replica lags behind what its node knows to be resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Commands that are not applied yet.
    pub commands: u64,
    /// How long ago the oldest of them was resolved on this node, in milliseconds.
    pub age_ms: u64,
    /// Commands that were applied since the node began.
    pub applied: u64,
}

impl Lag {
    /// Whether it is more than a part of the limits.
    fn exceeds(&self, part: u64) -> bool {
        let is_old = self.age_ms > LAG_MS_MAX / part && self.commands > LAG_POSITIONS_MIN / part;
        self.commands > LAG_POSITIONS_MAX / part || is_old
    }

    /// Whether this node's replica is that far behind, or has stood still for as long. If it is the only one, neither a long call
    /// nor a publication is to blame: the others have those, too.
    fn exceeds_alone(&self, part: u64) -> bool {
        let stands_still = self.commands > 0 && self.age_ms > LAG_MS_MAX / part;
        self.exceeds(part) || stands_still
    }

    /// Whether so little waits that it is a long call, or a publication, rather than a backlog.
    pub fn is_little(&self) -> bool {
        (1..=LAG_POSITIONS_MIN).contains(&self.commands)
    }

    /// How much it is of the limits, to be compared.
    fn severity(&self) -> u64 {
        let commands = self.commands.saturating_mul(LAG_MS_MAX);
        commands.max(self.age_ms.saturating_mul(LAG_POSITIONS_MAX))
    }
}

/// A database that is slowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slowed {
    /// Its identity.
    pub database: DatabaseId,
    /// How many more calls this node may propose.
    pub calls: u64,
}

/// What a node has said of its replicas.
struct Said {
    at: Instant,
    lags: BTreeMap<DatabaseId, Lag>,
}

/// How far the nodes' replicas lag.
pub(crate) struct Lags {
    me: u64,
    said: BTreeMap<u64, Said>,
    slowed: BTreeMap<DatabaseId, Slowing>,
}

impl Lags {
    pub(crate) fn new(me: u64) -> Self {
        Self {
            me,
            said: BTreeMap::new(),
            slowed: BTreeMap::new(),
        }
    }

    /// Takes in what a node says of its replicas: of those that lag, or of all.
    pub(crate) fn note(
        &mut self,
        node: u64,
        lags: impl IntoIterator<Item = (DatabaseId, Lag)>,
        now: Instant,
    ) {
        let lags = lags.into_iter().collect();
        self.said.insert(node, Said { at: now, lags });
    }

    /// What this node tells the others.
    pub(crate) fn told(&self) -> Vec<(DatabaseId, Lag)> {
        let own = self.said.get(&self.me).into_iter().flat_map(|said| &said.lags);
        let mut lagging: Vec<_> = own.filter(|(_, lag)| lag.exceeds_alone(TOLD_PART)).collect();
        lagging.sort_by_key(|(_, lag)| std::cmp::Reverse(lag.severity()));
        lagging.truncate(LAGGING_MAX);
        lagging
            .into_iter()
            .map(|(database, lag)| (*database, *lag))
            .collect()
    }

    /// Whether a database is slowed, as it was judged last.
    pub(crate) fn is_slowed(&self, database: &DatabaseId) -> bool {
        self.slowed.contains_key(database)
    }

    /// Whether a majority of a database's replicas lags.
    pub(crate) fn is_common(&self, database: &DatabaseId, voters: &BTreeSet<u64>, now: Instant) -> bool {
        self.do_most(database, voters, now, |lag| lag.exceeds_alone(TOLD_PART))
    }

    /// Whether one of this node's own replicas lags too far, and most of the others do not lag nearly as much: they may have a
    /// long call now and then, and a replica that stands still is behind those all the same.
    pub(crate) fn is_behind_others(&self, voters: &BTreeSet<u64>, now: Instant) -> bool {
        let own = self.said.get(&self.me);
        let own = own.filter(|said| now.duration_since(said.at) <= SAID_AGE_MAX);
        let mut own = own.into_iter().flat_map(|said| &said.lags);
        own.any(|(database, own)| {
            let lags_too =
                |lag: &Lag| lag.exceeds_alone(TOLD_PART) && lag.severity() >= own.severity() / ALIKE_PART;
            own.exceeds_alone(1) && !self.do_most(database, voters, now, lags_too)
        })
    }

    /// Whether something holds for how far a majority of a database's replicas lags.
    fn do_most(
        &self,
        database: &DatabaseId,
        voters: &BTreeSet<u64>,
        now: Instant,
        holds: impl Fn(&Lag) -> bool,
    ) -> bool {
        let lagging = self.said.iter().filter(|(node, said)| {
            let is_known = voters.contains(node) && now.duration_since(said.at) <= SAID_AGE_MAX;
            is_known && said.lags.get(database).is_some_and(&holds)
        });
        lagging.count() > voters.len() / 2
    }

    /// Whether a node has said lately that none of its replicas lags.
    pub(crate) fn keeps_up(&self, node: u64, now: Instant) -> bool {
        let said = self.said.get(&node);
        said.is_some_and(|said| said.lags.is_empty() && now.duration_since(said.at) <= SAID_AGE_MAX)
    }

    /// Whether any is.
    pub(crate) fn is_any_slowed(&self) -> bool {
        !self.slowed.is_empty()
    }

    /// Which databases are slowed from now on, and what of each may be proposed since it was asked last.
    pub(crate) fn judge(&mut self, voters: &BTreeSet<u64>, now: Instant) -> Vec<Slowed> {
        let quorum = Quorum {
            voters: voters.len(),
            majority: voters.len() / 2 + 1,
        };
        let mut lagging: BTreeMap<DatabaseId, BTreeMap<u64, Lag>> = BTreeMap::new();
        for (node, said) in &self.said {
            if !voters.contains(node) || now.duration_since(said.at) > SAID_AGE_MAX {
                continue;
            }
            for (database, lag) in said.lags.iter().filter(|(_, lag)| lag.exceeds(RECOVERED_PART)) {
                lagging.entry(*database).or_default().insert(*node, *lag);
            }
        }
        lagging.retain(|_, replicas| replicas.len() >= quorum.majority);
        self.slowed.retain(|database, _| lagging.contains_key(database));
        for (database, replicas) in &lagging {
            let too_far = replicas.values().filter(|lag| lag.exceeds(1)).count();
            if too_far >= quorum.majority {
                self.slowed.entry(*database).or_insert_with(|| Slowing::new(now));
            }
        }
        let slowed = self.slowed.iter_mut().map(|(database, slowing)| Slowed {
            database: *database,
            calls: slowing.grant(&lagging[database], quorum, now),
        });
        slowed.collect()
    }
}

/// How many vote, and how many are a majority of them.
#[derive(Clone, Copy)]
struct Quorum {
    voters: usize,
    majority: usize,
}

/// What is let through while a database is slowed: this node's share of what a majority has applied meanwhile, so that the
/// log does not grow faster than a majority follows.
struct Slowing {
    since: Instant,
    /// What each replica that lags had applied when counting began.
    bases: BTreeMap<u64, u64>,
    /// What was let through for what has been applied since.
    granted: u64,
    /// What was let through for the time that has passed.
    granted_by_time: u64,
}

impl Slowing {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            bases: BTreeMap::new(),
            granted: 0,
            granted_by_time: 0,
        }
    }

    /// What may be let through since it was asked last; `lagging` are the replicas that lag, a majority at least.
    fn grant(&mut self, lagging: &BTreeMap<u64, Lag>, quorum: Quorum, now: Instant) -> u64 {
        let is_counted =
            |(node, lag): (&u64, &Lag)| self.bases.get(node).is_some_and(|base| *base <= lag.applied);
        if lagging.len() != self.bases.len() || !lagging.iter().all(is_counted) {
            // Others lag, or a node has begun anew.
            self.bases = lagging.iter().map(|(node, lag)| (*node, lag.applied)).collect();
            self.granted = 0;
        }
        let mut applied: Vec<u64> = lagging
            .iter()
            .map(|(node, lag)| lag.applied - self.bases[node])
            .collect();
        applied.sort_unstable_by(|a, b| b.cmp(a));
        // The others keep up, so they have applied whatever came.
        let keep_up = quorum.voters - lagging.len();
        let by_majority = applied[quorum.majority - keep_up - 1];
        let share = by_majority / (DRAIN * quorum.voters as u64);
        let by_time = now.duration_since(self.since).as_millis() as u64 * SLOWED_CALLS_PER_SECOND_MIN / 1_000;
        let calls = share.saturating_sub(self.granted) + (by_time - self.granted_by_time);
        self.granted = self.granted.max(share);
        self.granted_by_time = by_time;
        calls
    }
}

#[cfg(test)]
mod tests;
