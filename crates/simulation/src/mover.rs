//! An operator to whom the members are never right: nodes come, go, lead, and vote or not.

use crate::cluster::Cluster;
use crate::network::{addr, id};
use rtdb_consensus::ChangeError;
use rtdb_consensus::wire::{AddMember, MemberChange, RemoveMember};
use rtdb_runtime::{sim, sleep, timeout};
use std::sync::Arc;
use std::time::Duration;

/// Between two changes, at most.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How long one is waited for: longer than it is tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// So few nodes may vote, whatever happens.
const VOTERS_MIN: usize = 3;

/// Changes the members for ever, one change at a time.
pub async fn run(cluster: Arc<Cluster>) {
    loop {
        sleep(sim::up_to(PAUSE_MAX)).await;
        let Some([members, voters]) = cluster.members() else {
            continue;
        };
        let all: Vec<u64> = cluster.nodes().collect();
        let node = all[sim::draw(all.len() as u64) as usize];
        let has_enough = voters.len() > VOTERS_MIN || !voters.contains(&node);
        let force = sim::draw(8) == 0;
        let change = match sim::draw(4) {
            _ if !members.contains(&node) => added(node, sim::draw(4) == 0),
            0 if has_enough => MemberChange::Remove(RemoveMember { node, force }),
            1 if has_enough => MemberChange::Demote(RemoveMember { node, force }),
            2 => MemberChange::Promote(node),
            _ => MemberChange::Lead(node),
        };
        // Until it is done or refused: what is not finished may come about later, beside the next one.
        while !ask(&cluster, &change).await {}
    }
}

/// Waits until all nodes that can run vote. What was asked for before may still be tried, and come between.
pub async fn all_are_in(cluster: &Arc<Cluster>) {
    let all_vote = || {
        let [_, voters] = cluster.members()?;
        let mut nodes = cluster.nodes().filter(|node| !cluster.is_lost(*node));
        nodes.all(|node| voters.contains(&node)).then_some(())
    };
    while all_vote().is_none() {
        for node in cluster.nodes().filter(|node| !cluster.is_lost(*node)) {
            ask(cluster, &added(node, false)).await;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

fn added(node: u64, never_votes: bool) -> MemberChange {
    let addr = addr(node);
    MemberChange::Add(AddMember {
        node,
        addr,
        never_votes,
    })
}

/// Asks any node for a change, and says whether it need not be asked for again.
async fn ask(cluster: &Arc<Cluster>, change: &MemberChange) -> bool {
    let members = cluster.members().map(|[members, _]| members).unwrap_or_default();
    let asked = members.get(sim::draw(members.len().max(1) as u64) as usize);
    let Some((node, manager)) = asked.and_then(|node| Some((*node, cluster.manager(*node)?))) else {
        sleep(Duration::from_millis(100)).await;
        return false;
    };
    if let MemberChange::Remove(it) = change {
        cluster.may_go(it.node);
    }
    sim::note(|| format!("node {node} is asked for {change:?}"), [node, 9, 0]);
    cluster.disturb_all(PATIENCE);
    let it = change.clone();
    let asked = sim::spawn_on(id(node), async move { manager.change_members(it, None).await });
    let outcome = timeout(PATIENCE, asked).await;
    sim::note(|| format!("… {outcome:?}"), [node, 10, 0]);
    match outcome {
        Ok(Ok(Ok(()) | Err(ChangeError::Refused { .. } | ChangeError::OtherNode { .. }))) => true,
        Ok(Ok(Err(ChangeError::Unsound | ChangeError::UnknownGroup | ChangeError::TooOld { .. }))) => {
            panic!("node {node} answers {outcome:?}")
        }
        // The node has gone, or could not do it in time.
        _ => {
            sleep(Duration::from_millis(100)).await;
            false
        }
    }
}
