//! Changing who belongs to the cluster, from any node.

use super::{ChangeError, Manager};
use crate::command::{Body, FEATURE_LEVEL, SetNode};
use crate::group::Group;
use crate::group_id::GroupId;
use crate::membership::{self, Changed};
use crate::record::LogIdRecord;
use crate::transport::wire::{AddMember, Join, MemberChange, RemoveMember};
use crate::{Follow, LogIndex, Propose};
use rtdb_runtime::{Instant, sleep};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a change is tried.
const TRIED_FOR: Duration = Duration::from_secs(18);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a leader may take to answer: longer than it waits for a majority.
const ANSWER_MAX: Duration = Duration::from_secs(8);

impl Manager {
    /// Changes the members of all groups, or of one, through their leaders, and waits until that is committed. Asking for what is
    /// done already changes nothing: so it may be repeated until it succeeds.
    ///
    /// # Errors
    /// [`ChangeError`]; some groups may have changed already.
    pub async fn change_members(
        &self,
        change: MemberChange,
        group: Option<GroupId>,
    ) -> Result<(), ChangeError> {
        if self.cluster().is_none() {
            return Err(ChangeError::NoCluster);
        }
        if !membership::is_sound(&change) {
            return Err(ChangeError::Unsound);
        }
        let mut groups: Vec<_> = self
            .groups
            .values()
            .filter(|it| group.is_none_or(|id| id == it.id()))
            .collect();
        if groups.is_empty() {
            return Err(ChangeError::UnknownGroup);
        }
        match &change {
            MemberChange::Add(add) => self.take_in(add).await?,
            // Who leaves stays known as long as it has a part in anything.
            MemberChange::Remove(_) => groups.reverse(),
            MemberChange::Promote(_) | MemberChange::Demote(_) | MemberChange::Lead(_) => {}
        }
        for group in groups {
            self.change_group(group, &change).await?;
        }
        if let MemberChange::Add(add) = &change {
            // Not what this node knows: it may lag, and whoever knows more would tell the new one that it was removed.
            let at = self.known(self.meta()).await?.index;
            if !self.meta().is_member(add.node) {
                return Err(unfinished(self.meta(), "the node was removed meanwhile"));
            }
            self.join(add, at, BTreeMap::new()).await?;
        }
        Ok(())
    }

    /// Asks a group's leader, and again, until it is done or refused.
    async fn change_group(&self, group: &Group, change: &MemberChange) -> Result<(), ChangeError> {
        let begin = Instant::now();
        loop {
            let why = match self.ask_leader(group, change).await {
                Changed::Done => return Ok(()),
                Changed::Refused(reason) => {
                    return Err(ChangeError::Refused {
                        group: group.id(),
                        reason,
                    });
                }
                Changed::Waits(why) => why,
            };
            if begin.elapsed() > TRIED_FOR {
                return Err(ChangeError::Unfinished {
                    group: group.id(),
                    reason: why,
                });
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask_leader(&self, group: &Group, change: &MemberChange) -> Changed {
        let Some((leader, addr)) = group.status().leader else {
            return Changed::Waits("no leader is known".to_owned());
        };
        if leader == self.config.node {
            let patience = self.config.timing.another_leads();
            return membership::change(group, &self.vitals, change, leader, patience).await;
        }
        let asked = self
            .peers
            .change(leader, &addr, group.id(), change.clone(), ANSWER_MAX)
            .await;
        asked.map_or_else(
            |error| Changed::Waits(format!("node {leader}, which leads: {error}")),
            Changed::from,
        )
    }

    /// Makes a node that is to be a member listen to the cluster, if it can be one.
    async fn take_in(&self, add: &AddMember) -> Result<(), ChangeError> {
        let meta = self.meta();
        let change = MemberChange::Add(add.clone());
        if let Some(reason) = membership::refusal(meta, &change) {
            return Err(ChangeError::Refused {
                group: meta.id(),
                reason,
            });
        }
        self.known(meta).await?;
        let peer_error = |source| ChangeError::Peer {
            node: add.node,
            addr: add.addr.clone(),
            source,
        };
        let peer = self.hello(&add.addr).await.map_err(peer_error)?;
        if peer.node != add.node {
            return Err(ChangeError::OtherNode {
                addr: add.addr.clone(),
                found: peer.node,
                wanted: add.node,
            });
        }
        let level = self.feature_level();
        if peer.feature_level < level {
            return Err(ChangeError::TooOld {
                node: add.node,
                has: peer.feature_level,
                wants: level.min(FEATURE_LEVEL),
            });
        }
        match (meta.status().members.contains_key(&add.node), peer.in_cluster) {
            // It moves, or has been away for long.
            (true, true) => Ok(()),
            // What it has voted for, and said to have, it does not know any more.
            (true, false) => Err(ChangeError::Refused {
                group: meta.id(),
                reason: format!(
                    "node {0} is a member, and what answers at {1} is empty: if it has lost its data, remove it with \
                     `rtdb remove-node --node-id {0}`, and add it again",
                    add.node, add.addr
                ),
            }),
            (false, _) => {
                // Nor does it, perhaps, if it comes again: so it must be a member of nothing before.
                let gone = MemberChange::Remove(RemoveMember {
                    node: add.node,
                    force: false,
                });
                for shard in self.groups.values().filter(|group| group.id() != meta.id()) {
                    self.change_group(shard, &gone).await?;
                }
                // The shards before the meta group: a member of theirs is one of its.
                let mut floors = BTreeMap::new();
                for group in self.groups.values().rev() {
                    floors.insert(group.id().0, self.known(group).await?);
                }
                self.announce(add.node, peer.feature_level).await?;
                // Nothing is newer than what it is taken in by, as long as that does not stand in the log.
                self.join(add, LogIndex::MAX, floors).await
            }
        }
    }

    /// The term of a group's leader, and what is committed, once this node knows that too.
    async fn known(&self, group: &Group) -> Result<LogIdRecord, ChangeError> {
        let read = group.read_index().await;
        let index = read.map_err(|_| unfinished(group, "nobody leads it for sure"))?;
        let mut resolved = group.resolved();
        let reached = resolved.wait_for(|resolved| *resolved >= index);
        match rtdb_runtime::timeout(ANSWER_MAX, reached).await {
            Ok(Ok(_)) => Ok(LogIdRecord {
                term: group.status().term,
                node: 0,
                index,
            }),
            _ => Err(unfinished(group, "the node that was asked lags: ask another one")),
        }
    }

    /// What a node said of itself when it was a member before is not what it can do now.
    async fn announce(&self, node: u64, feature_level: u32) -> Result<(), ChangeError> {
        let meta = self.meta();
        let known = meta.meta().node(node).cloned();
        let Some(known) = known.filter(|known| known.feature_level != feature_level) else {
            return Ok(());
        };
        let body = Body::SetNode(SetNode {
            feature_level,
            ..known
        });
        let failed = |error: &dyn std::error::Error| unfinished(meta, &error.to_string());
        let said = meta.submit(body.into()).map_err(|error| failed(&error))?;
        said.await.map(drop).map_err(|error| failed(&error))
    }

    async fn join(
        &self,
        add: &AddMember,
        at: LogIndex,
        floors: BTreeMap<u64, LogIdRecord>,
    ) -> Result<(), ChangeError> {
        let members = self.meta().status().members;
        let mut founders: Vec<u64> = members.into_keys().filter(|member| *member != add.node).collect();
        founders.push(add.node);
        let join = Join {
            founders,
            taken_in: Some(at),
            floors,
        };
        let joined = self.peers.join(add.node, &add.addr, join).await;
        joined.map_err(|source| ChangeError::Peer {
            node: add.node,
            addr: add.addr.clone(),
            source,
        })
    }
}

fn unfinished(group: &Group, reason: &str) -> ChangeError {
    ChangeError::Unfinished {
        group: group.id(),
        reason: reason.to_owned(),
    }
}
