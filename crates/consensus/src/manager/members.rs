//! Changing who belongs to the cluster, from any node.

use super::{ChangeError, Manager};
use crate::command::FEATURE_LEVEL;
use crate::group::Group;
use crate::group_id::GroupId;
use crate::membership::{self, Changed};
use crate::transport::wire::{AddMember, Join, MemberChange, RemoveMember};
use crate::{Follow, LogIndex, Propose};
use rtdb_runtime::{Instant, sleep};
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
            let at = *self.meta().resolved().borrow();
            self.join(add, at).await?;
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
        let knows = self.meta_is_known().await;
        if !knows {
            let reason = "no leader is known".to_owned();
            return Err(ChangeError::Unfinished {
                group: meta.id(),
                reason,
            });
        }
        let is_member = meta.status().members.contains_key(&add.node);
        if is_member && !peer.in_cluster {
            return Err(ChangeError::Emptied(add.node));
        }
        if is_member {
            // It moves, or has been away for long.
            return Ok(());
        }
        // A node that may have lost its log, and its votes, must be no member of anything until it comes anew.
        let gone = MemberChange::Remove(RemoveMember {
            node: add.node,
            force: false,
        });
        for group in self.groups.values().filter(|group| group.id() != meta.id()) {
            self.change_group(group, &gone).await?;
        }
        // Nothing is newer than what it is taken in by, as long as that does not stand in the log.
        self.join(add, LogIndex::MAX).await
    }

    /// Whether this node knows all of the meta group that is committed by now.
    async fn meta_is_known(&self) -> bool {
        let meta = self.meta();
        let known = async {
            let index = meta.read_index().await.ok()?;
            meta.resolved()
                .wait_for(|resolved| *resolved >= index)
                .await
                .ok()?;
            Some(())
        };
        matches!(rtdb_runtime::timeout(ANSWER_MAX, known).await, Ok(Some(())))
    }

    async fn join(&self, add: &AddMember, at: LogIndex) -> Result<(), ChangeError> {
        let members = self.meta().status().members;
        let mut founders: Vec<u64> = members.into_keys().filter(|member| *member != add.node).collect();
        founders.push(add.node);
        let join = Join {
            founders,
            taken_in: Some(at),
        };
        let joined = self.peers.join(add.node, &add.addr, join).await;
        joined.map_err(|source| ChangeError::Peer {
            node: add.node,
            addr: add.addr.clone(),
            source,
        })
    }
}
