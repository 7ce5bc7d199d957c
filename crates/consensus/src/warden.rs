//! What the leader of a shard looks after: nodes that are gone, the sessions that nobody holds any more, and what is left of
//! databases that have ended.

use crate::command::{Body, Delete, Disconnect, EndDatabase, ExpireNode, Failed, Poison, PoisonStep};
use crate::group::Group;
use crate::machine::Metrics;
use crate::vitals::Vitals;
use crate::{Follow, Origin, Pending, Position, Propose, StuckReplica};
use bytes::Bytes;
use futures::FutureExt;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use rtdb_runtime::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Sessions that are disconnected at once.
const DISCONNECTS_MAX: usize = 1024;

/// Databases that are deleted at once.
pub(crate) const DELETES_MAX: usize = 64;

/// The longest time between two rounds.
const ROUND_MAX: Duration = Duration::from_secs(1);

/// A round that takes so many times as long as it should was not this node's doing: the process was paused.
const LATE: u32 = 3;

/// The task that looks after a shard, on whichever node leads it.
pub(crate) struct Warden {
    pub(crate) node: u64,
    pub(crate) group: Arc<Group>,
    pub(crate) meta: Arc<Group>,
    pub(crate) lease: Duration,
    pub(crate) vitals: Arc<Vitals>,
}

impl Warden {
    /// Looks after the shard until the group stops.
    pub(crate) async fn run(self) {
        let metrics = self.group.raft().metrics();
        let mut changes = self.group.raft().server_metrics();
        loop {
            let leads = changes.borrow_watched().state == ServerState::Leader;
            if leads {
                self.lead(&metrics).await;
            } else if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn lead(&self, metrics: &Metrics) {
        let (mut since, mut under_way) = (Instant::now(), BTreeMap::new());
        let (mut ending, mut deleting) = (BTreeMap::new(), BTreeMap::new());
        let term = metrics.borrow_watched().current_term;
        let round = ROUND_MAX.min(self.lease / 8);
        loop {
            let begin = Instant::now();
            rtdb_runtime::sleep(round).await;
            // A leader that was paused has not listened: it begins to count anew.
            if begin.elapsed() > round * LATE {
                since = Instant::now();
            }
            let silent = {
                let metrics = metrics.borrow_watched();
                if metrics.state != ServerState::Leader || metrics.current_term != term {
                    return;
                }
                let heard = metrics.heartbeat.iter().flatten();
                let silent = heard.filter(|(node, acked)| {
                    // A node that catches up acknowledges nothing for long, and answers all the same.
                    let acked = acked.map(|acked| acked.elapsed());
                    let answered = self.vitals.clock.heard(**node).map(|heard| heard.elapsed());
                    let signs = [acked, answered, Some(since.elapsed())];
                    let silence = signs.into_iter().flatten().min();
                    **node != self.node && silence.is_some_and(|silence| silence > self.lease)
                });
                silent.map(|(node, _)| *node).collect::<Vec<_>>()
            };
            for Origin { node, epoch } in self.group.living() {
                let is_removed = !self.group.is_member(node);
                if is_removed || silent.contains(&node) {
                    let why = if is_removed { "was removed" } else { "is gone" };
                    tracing::warn!(node, "the node {why}: its sessions end");
                    let body = Body::ExpireNode(ExpireNode { node, epoch, term });
                    // Whether it is taken, the next round sees.
                    drop(self.group.submit(body.into()));
                }
            }
            self.disconnect_orphans(&mut under_way);
            self.end_abandoned(&mut ending);
            self.delete_ended(&mut deleting);
            self.fail_poison(term, metrics);
        }
    }

    /// Decides that a command has failed at which all voters are stuck. Whether it is taken, the next round sees.
    fn fail_poison(&self, term: u64, metrics: &Metrics) {
        let voters: Vec<u64> = {
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().voter_ids().collect()
        };
        let found = self.group.with_shard(|shard| {
            let found = shard.stuck().filter_map(|(database, replicas)| {
                let position = poison(&voters, &replicas)?;
                Some((database.clone(), position))
            });
            found.collect::<Vec<_>>()
        });
        for (database, position) in found.unwrap_or_default() {
            tracing::error!(
                database = %hex(&database),
                %position,
                "this command stops SpacetimeDB on every node: it has failed"
            );
            let voters = voters.clone();
            let body = Body::Poison(Poison {
                database,
                position: position.0,
                step: Some(PoisonStep::Failed(Failed { term, voters })),
            });
            drop(self.group.submit(body.into()));
        }
    }

    /// Ends databases that a node has begun to restore which is gone since: nobody has seen them.
    fn end_abandoned(&self, under_way: &mut BTreeMap<Bytes, (u64, Pending)>) {
        let abandoned = self.group.abandoned(DELETES_MAX);
        under_way.retain(|_, (_, pending)| !pending.is_done());
        for (database, born) in abandoned {
            if under_way.contains_key(&database) {
                continue;
            }
            tracing::warn!(database = %hex(&database), "a database that was restored by half ends: who has begun is gone");
            let end = EndDatabase {
                database: database.clone(),
                born,
            };
            let Ok(pending) = self.meta.submit(Body::EndDatabase(end).into()) else {
                return;
            };
            under_way.insert(database, (born, pending));
        }
    }

    /// Deletes what the shard has of databases that have ended: who ended them may not have come to it, and a publication may
    /// have come after it. What is under way is not waited for, once it is in the log least of all: this node's own replica
    /// may not come to it for long.
    fn delete_ended(&self, under_way: &mut BTreeMap<Bytes, (u64, Pending)>) {
        // In this order: the state is at least as new as that.
        let known = *Follow::resolved(&*self.meta).borrow();
        let meta = self.meta.meta();
        let found = self.group.with_shard(|shard| {
            under_way.retain(|identity, (born, pending)| {
                shard.born(identity) == Some(*born) && !pending.is_done()
            });
            let ended = shard.births().filter(|(identity, born)| {
                Position(*born).index() <= known
                    && meta.has_ended(identity, *born)
                    && !under_way.contains_key(*identity)
            });
            let ended = ended.take(DELETES_MAX.saturating_sub(under_way.len()));
            ended
                .map(|(identity, born)| (identity.clone(), born))
                .collect::<Vec<_>>()
        });
        for (database, born) in found.unwrap_or_default() {
            tracing::info!(database = %hex(&database), "deleting what is left of a database that has ended");
            let body = Body::Delete(Delete {
                database: database.clone(),
                before: born.saturating_add(1),
            });
            let Ok(pending) = self.group.submit(body.into()) else {
                return;
            };
            under_way.insert(database, (born, pending));
        }
    }

    /// Ends sessions that nobody holds. What is under way is not waited for: this node's own replica may lag.
    fn disconnect_orphans(&self, under_way: &mut BTreeMap<u64, Pending>) {
        under_way.retain(|_, pending| pending.now_or_never().is_none());
        if rtdb_runtime::planted("sessions of the dead stay") {
            return;
        }
        let orphans = self.group.orphans(DISCONNECTS_MAX);
        let fresh: Vec<u64> = orphans
            .into_iter()
            .filter(|session| !under_way.contains_key(session))
            .collect();
        if !fresh.is_empty() {
            tracing::info!(count = fresh.len(), "disconnecting sessions whose node is gone");
        }
        for session in fresh {
            rtdb_runtime::reached("sessions of dead nodes");
            let refused = false;
            let body = Body::Disconnect(Disconnect { session, refused });
            let Ok(pending) = self.group.submit(body.into()) else {
                return;
            };
            under_way.insert(session, pending);
        }
    }
}

/// The command at which all voters are stuck.
fn poison(voters: &[u64], replicas: &[StuckReplica]) -> Option<Position> {
    let of = |voter: &u64| replicas.iter().find(|replica| replica.node == *voter);
    let position = of(voters.first()?)?.position;
    let are_stuck = voters
        .iter()
        .all(|voter| of(voter).is_some_and(|replica| replica.position == position));
    are_stuck.then_some(position)
}

/// An identity as SpacetimeDB writes it: the most significant byte first.
fn hex(identity: &[u8]) -> String {
    identity.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_poison_if_all_voters_are_stuck_at_it() {
        let replica = |node, position| StuckReplica {
            node,
            position: Position(position),
            attempts: 3,
        };
        let stuck = |replicas: &[(u64, u64)]| {
            let replicas: Vec<_> = replicas.iter().map(|(node, at)| replica(*node, *at)).collect();
            poison(&[1, 2, 3], &replicas)
        };
        assert_eq!(stuck(&[(1, 9), (2, 9), (3, 9)]), Some(Position(9)));
        assert_eq!(stuck(&[(1, 9), (2, 9), (3, 9), (4, 7)]), Some(Position(9)));
        for apart in [
            &[(1, 9), (2, 9)][..],
            &[(1, 9), (2, 9), (3, 8)],
            &[(1, 9), (2, 9), (4, 9)],
            &[],
        ] {
            assert_eq!(stuck(apart), None);
        }
        assert_eq!(poison(&[], &[replica(1, 9)]), None);
    }
}
