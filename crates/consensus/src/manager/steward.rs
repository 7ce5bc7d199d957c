//! Looks after the node's clock, disk and replicas, and gives leadership away when they are not fit for it.

use super::lasting::Lasting;
use crate::LOG_INDEX_MAX;
use crate::group::Group;
use crate::log::Store;
use crate::membership::hand_over;
use crate::supervisor::Supervisor;
use crate::transport::sanity::MEMBERS_MAX;
use crate::transport::{Peers, heard};
use crate::vitals::{FreeSpace, Vitals};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use rtdb_runtime::Instant;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Between two comparisons of clocks, at most: there are four within a lease, since an answer is a sign of life.
const COMPARE: Duration = Duration::from_secs(1);

/// The same, while it is not known whether the clock is good, or while a database is slowed.
const COMPARE_SOON: Duration = Duration::from_millis(200);

/// Between two looks at the disk, and at how the node is.
const LOOK: Duration = Duration::from_millis(500);

/// With less than this a disk is full.
const FULL_BYTES: u64 = 64 << 10;

/// A disk that takes so long for what is written to the log at once is slow.
const DISK_SLOW: Duration = Duration::from_millis(500);

/// How long it must have been slow, or replicas behind, for the node to give leadership away.
const SLOW_FOR: Duration = Duration::from_secs(3);

/// How long neither must have been so until the node counts as fit again.
const SWIFT_FOR: Duration = Duration::from_secs(30);

/// What a node says that was removed.
const REMOVED: &str = "this node was removed from the cluster, and stops. To add it again, empty its data directory, start it, and run \
     `rtdb add-node`, or start it with --join";

/// How long a node must have been fit before it may be elected again: it must not come and go.
const FIT_FOR: Duration = Duration::from_secs(5);

/// Asks all members, again and again, what time it is, which of their replicas lag, and whether this node is one of them.
pub(super) struct Comparison {
    pub(super) meta: Arc<Group>,
    pub(super) peers: Arc<Peers>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) lease: Duration,
    /// Who has heard its leader for so long is served.
    pub(super) served: Duration,
    pub(super) supervisor: Supervisor,
}

impl Comparison {
    pub(super) async fn run(self) {
        let (clock, lags) = (&self.vitals.clock, &self.vitals.lags);
        let metrics = self.meta.raft().metrics();
        // Each is asked by itself: one that does not answer must not make the others look silent.
        let (mut asked, mut answers) = (BTreeSet::new(), FuturesUnordered::new());
        loop {
            let (voters, others) = {
                let metrics = metrics.borrow_watched();
                let membership = metrics.membership_config.membership();
                let others: Vec<(u64, String)> = membership
                    .nodes()
                    .filter(|(node, _)| **node != self.peers.node)
                    .map(|(node, member)| (*node, member.addr.clone()))
                    .collect();
                (membership.voter_ids().collect(), others)
            };
            if let Some((at, members)) = self.meta.members() {
                self.peers.vouched.lock().note(at, members);
            }
            for (node, addr) in others {
                if asked.insert(node) {
                    answers.push(self.compare_with(node, addr));
                }
            }
            clock.judge(&voters);
            let pause = match clock.stamp_us() {
                Some(_) if !lags.lock().is_any_slowed() => COMPARE.min(self.lease / 4),
                _ => COMPARE_SOON,
            };
            let mut pause = pin!(rtdb_runtime::sleep(pause));
            loop {
                rtdb_runtime::select! {
                    Some(node) = answers.next() => {
                        asked.remove(&node);
                        clock.judge(&voters);
                    },
                    () = &mut pause => break,
                }
            }
        }
    }

    /// Asks a node, and gives its number back.
    async fn compare_with(&self, node: u64, addr: String) -> u64 {
        let begin = Instant::now();
        if let Ok(pong) = self.peers.ping(node, &addr).await {
            let clock = &self.vitals.clock;
            clock.note(node, begin.elapsed(), pong.clock_us, pong.is_fit);
            let lagging = heard(&pong.lagging);
            self.vitals.lags.lock().note(node, lagging, Instant::now());
            // Who does not know yet that this node was taken in knows less than this node, or than who took it in.
            if pong.members.len() > MEMBERS_MAX || pong.members_at > LOG_INDEX_MAX {
                return node;
            }
            // Whom a leader serves is a member, whatever somebody says at another's address.
            let is_member = pong.members.contains(&self.peers.node);
            let is_told = !is_member && pong.members_at > self.meta.member_since();
            if is_told && !self.meta.is_served(self.served).await {
                self.supervisor.fail(REMOVED.to_owned());
            }
            self.peers.vouched.lock().note(pong.members_at, pong.members);
        }
        node
    }
}

/// Looks at the disk's room, again and again.
///
/// The log takes its space ahead and goes on for a while on a disk that is full. SpacetimeDB does not, so that the node
/// would look alive and serve nobody: then it stops.
pub(super) async fn watch_space(
    source: Arc<dyn FreeSpace>,
    path: PathBuf,
    vitals: Arc<Vitals>,
    supervisor: Supervisor,
) {
    loop {
        let (asked, at) = (source.clone(), path.clone());
        // A disk that hangs does not answer here either; that it hangs is what its writes find out.
        match rtdb_runtime::unblock(move || asked.free_bytes(&at)).await {
            Ok(Ok(free_bytes)) if free_bytes < FULL_BYTES => {
                supervisor.fail(format!(
                    "No space left on the disk that holds {}: make room",
                    path.display()
                ));
            }
            Ok(Ok(free_bytes)) => vitals.space.see(free_bytes),
            Ok(Err(error)) => tracing::warn!(%error, "how much room the disk has can't be found out"),
            Err(_) => return,
        }
        rtdb_runtime::sleep(LOOK).await;
    }
}

/// Looks, again and again, how fast the node works: its disk, and its replicas, beside the others'.
pub(super) async fn watch_work(store: Arc<Store>, shard: Arc<Group>, vitals: Arc<Vitals>) {
    let mut slow = Lasting::new(SLOW_FOR, SWIFT_FOR);
    let mut behind = Lasting::new(SLOW_FOR, SWIFT_FOR);
    let mut before = store.stats();
    loop {
        rtdb_runtime::sleep(LOOK).await;
        let (stats, now) = (store.stats(), Instant::now());
        let took = store.writing_for().max(stats.mean_since(&before));
        before = stats;
        vitals
            .is_disk_slow
            .store(slow.look(took >= DISK_SLOW, now), Relaxed);
        let voters = shard.status().voters.into_iter().collect();
        let is_behind = vitals.lags.lock().is_behind_others(&voters, now);
        vitals.is_behind.store(behind.look(is_behind, now), Relaxed);
    }
}

/// Gives leadership away while this node is not fit for it.
///
/// A node with a wrong clock is not elected either. One whose disk is low or slow, or whose replicas lag, is, if nobody else
/// stands: somebody must lead, if only so that what frees the disk gets through. If no other is fit it goes on leading.
pub(super) async fn keep_fit(groups: Vec<Arc<Group>>, me: u64, vitals: Arc<Vitals>, patience: Duration) {
    let (mut told, mut unfit_at) = (Vec::new(), None);
    loop {
        let troubles = vitals.troubles();
        if troubles.len() != told.len() {
            match troubles.is_empty() {
                true => tracing::info!("this node may lead again"),
                false => tracing::error!("this node is not fit to lead: {}", troubles.join("; ")),
            }
        }
        if vitals.is_clock_off() {
            unfit_at = Some(Instant::now());
        } else if unfit_at.is_some_and(|at: Instant| at.elapsed() > FIT_FOR) {
            unfit_at = None;
        }
        for group in &groups {
            let may_stand = unfit_at.is_none() && group.is_ripe();
            group.raft().runtime_config().elect(may_stand);
        }
        if !troubles.is_empty() {
            for group in &groups {
                // If nobody takes it, the next round tries again. A node whose disk is low can stamp; one whose clock is
                // wrong can't, and gives way to any that is there.
                let is_given = hand_over(group, me, patience, |node| vitals.clock.is_fit(node)).await;
                if !is_given && vitals.is_clock_off() {
                    let lately = |heard: Instant| heard.elapsed() <= FIT_FOR;
                    let is_there = |node| vitals.clock.heard(node).is_some_and(lately);
                    hand_over(group, me, patience, is_there).await;
                }
            }
        }
        told = troubles;
        rtdb_runtime::sleep(LOOK).await;
    }
}
