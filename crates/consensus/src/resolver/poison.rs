//! The rules about commands that stop SpacetimeDB: who is stuck at which, and when one has failed.
//!
//! A replica that has reported itself stuck does not try the command again before it has taken that back. So when all
//! voters are stuck at one command, it is part of nobody's database, and can be decided to have failed.

use super::state::{StateKey, StuckRecord};
use super::verdict::{Change, Stamp, Verdict};
use crate::command::{Poison, PoisonStep};
use crate::{Position, Refusal};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;

/// A replica that is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StuckReplica {
    /// Whose replica it is.
    pub node: u64,
    /// The command at which it is stuck.
    pub position: Position,
    /// How often that command has stopped its server.
    pub attempts: u32,
}

/// The replicas that are stuck, by database.
#[derive(Clone, Debug, Default)]
pub(super) struct StuckReplicas(BTreeMap<Bytes, BTreeMap<u64, StuckReplica>>);

impl StuckReplicas {
    /// The databases with stuck replicas, and those.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, Vec<StuckReplica>)> {
        self.0
            .iter()
            .map(|(database, replicas)| (database, replicas.values().copied().collect()))
    }

    /// What a command says of the database, which exists. The replica of each effect's node hears of it.
    pub(super) fn judge(&mut self, poison: &Poison, stamp: Stamp, changes: &mut Vec<Change>) -> Verdict {
        let Stamp {
            term,
            position: at,
            origin,
            ..
        } = stamp;
        let position = Position(poison.position);
        if position >= at {
            return Verdict::Refused(Refusal::NotYet);
        }
        match &poison.step {
            Some(PoisonStep::Stuck(stuck)) => {
                let replica = StuckReplica {
                    node: origin.node,
                    position,
                    attempts: stuck.attempts,
                };
                match stuck.attempts {
                    0 => self.remove(&poison.database, |it| it.node == origin.node, changes),
                    _ => {
                        changes.push(change(&poison.database, &replica));
                        self.insert(Bytes::copy_from_slice(&poison.database), replica);
                    }
                }
            }
            Some(PoisonStep::Failed(failed)) => {
                let replicas = self.0.get(&poison.database);
                let is_stuck = |voter| {
                    let replica = replicas.and_then(|replicas| replicas.get(voter));
                    replica.is_some_and(|replica| replica.position == position)
                };
                if failed.term != term || failed.voters.is_empty() || !failed.voters.iter().all(is_stuck) {
                    return Verdict::Refused(Refusal::NotStuck);
                }
                self.remove(&poison.database, |it| it.position == position, changes);
            }
            Some(PoisonStep::Skipped(_)) => {
                self.remove(&poison.database, |it| it.position == position, changes);
            }
            // The resolver lets none of a newer version in.
            None => return Verdict::Refused(Refusal::NotStuck),
        }
        Verdict::Effect(None)
    }

    /// The database is gone.
    pub(super) fn forget(&mut self, database: &Bytes, changes: &mut Vec<Change>) {
        self.remove(database, |_| true, changes);
    }

    pub(super) fn restore(&mut self, database: &Bytes, node: u64, record: &StuckRecord) {
        let replica = StuckReplica {
            node,
            position: Position(record.position),
            attempts: record.attempts,
        };
        self.insert(database.clone(), replica);
    }

    pub(super) fn dump(&self, changes: &mut Vec<Change>) {
        for (database, replicas) in &self.0 {
            changes.extend(replicas.values().map(|replica| change(database, replica)));
        }
    }

    fn insert(&mut self, database: Bytes, replica: StuckReplica) {
        self.0.entry(database).or_default().insert(replica.node, replica);
    }

    fn remove(&mut self, database: &Bytes, which: impl Fn(&StuckReplica) -> bool, changes: &mut Vec<Change>) {
        let Some(replicas) = self.0.get_mut(database) else {
            return;
        };
        replicas.retain(|node, replica| {
            let goes = which(replica);
            if goes {
                changes.push((StateKey::Stuck(*node, database.clone()), None));
            }
            !goes
        });
        if replicas.is_empty() {
            self.0.remove(database);
        }
    }
}

fn change(database: &Bytes, replica: &StuckReplica) -> Change {
    let record = StuckRecord {
        position: replica.position.0,
        attempts: replica.attempts,
    };
    (
        StateKey::Stuck(replica.node, database.clone()),
        Some(record.encode_to_vec()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Origin;
    use crate::command::{Failed, Skipped, Stuck};

    const DATABASE: Bytes = Bytes::from_static(&[7; 32]);
    const POISON: Position = Position(100);

    #[derive(Default)]
    struct Shard {
        replicas: StuckReplicas,
        changes: Vec<Change>,
    }

    impl Shard {
        fn judge(&mut self, node: u64, position: Position, step: PoisonStep) -> bool {
            let poison = Poison {
                database: DATABASE,
                position: position.0,
                step: Some(step),
            };
            let stamp = Stamp {
                term: 5,
                position: Position(1000),
                timestamp_us: 0,
                origin: Origin { node, epoch: 1 },
            };
            let verdict = self.replicas.judge(&poison, stamp, &mut self.changes);
            matches!(verdict, Verdict::Effect(None))
        }

        fn stuck(&mut self, node: u64, position: Position, attempts: u32) {
            assert!(self.judge(node, position, PoisonStep::Stuck(Stuck { attempts })));
        }

        fn fail(&mut self, term: u64, voters: &[u64]) -> bool {
            let voters = voters.to_vec();
            self.judge(1, POISON, PoisonStep::Failed(Failed { term, voters }))
        }
    }

    #[test]
    fn a_command_has_failed_only_while_all_voters_are_stuck_at_it() {
        let mut shard = Shard::default();
        shard.stuck(1, POISON, 3);
        shard.stuck(2, POISON, 3);
        assert!(!shard.fail(5, &[1, 2, 3]), "node 3 may be past it");
        shard.stuck(3, Position(99), 3);
        assert!(!shard.fail(5, &[1, 2, 3]), "node 3 is stuck elsewhere");
        shard.stuck(3, POISON, 3);
        shard.stuck(2, POISON, 0);
        assert!(!shard.fail(5, &[1, 2, 3]), "node 2 tries again");
        shard.stuck(2, POISON, 4);
        assert!(!shard.fail(4, &[1, 2, 3]), "the proposer does not lead any more");
        assert!(!shard.fail(5, &[]));
        assert!(shard.fail(5, &[1, 2, 3]));
        assert!(!shard.fail(5, &[1, 2, 3]), "it is decided");
        assert_eq!(shard.replicas.iter().count(), 0);
    }

    #[test]
    fn an_operator_decides_alone_and_only_about_what_is_in_the_log() {
        let mut shard = Shard::default();
        shard.stuck(1, POISON, 3);
        shard.stuck(2, Position(50), 3);
        assert!(!shard.judge(1, Position(1000), PoisonStep::Skipped(Skipped {})));
        assert!(shard.judge(1, POISON, PoisonStep::Skipped(Skipped {})));
        let left: Vec<_> = shard.replicas.iter().flat_map(|(_, replicas)| replicas).collect();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].node, left[0].position), (2, Position(50)));
    }

    #[test]
    fn the_state_is_what_its_changes_say() {
        let mut shard = Shard::default();
        shard.stuck(1, POISON, 3);
        shard.stuck(2, POISON, 3);
        shard.stuck(1, POISON, 0);
        let mut replayed = StuckReplicas::default();
        for (key, value) in shard.changes.drain(..) {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            let Some(StateKey::Stuck(node, database)) = StateKey::decode(&bytes) else {
                panic!("{key:?}")
            };
            match value {
                Some(value) => {
                    let record = StuckRecord::decode(value.as_slice()).unwrap();
                    replayed.restore(&database, node, &record);
                }
                None => replayed.remove(&database, |it| it.node == node, &mut Vec::new()),
            }
        }
        assert_eq!(format!("{replayed:?}"), format!("{:?}", shard.replicas));
        let mut gone = Vec::new();
        replayed.forget(&DATABASE, &mut gone);
        assert_eq!((gone.len(), replayed.iter().count()), (1, 0));
    }
}
