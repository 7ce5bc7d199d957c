//! Commands that stop every replica's server.

use super::cluster::{Cluster, DATABASE, call};
use super::run;
use crate::command::{Body, FEATURE_LEVEL, POISON_LEVEL, Poison, PoisonStep, Skipped, Stuck};
use crate::{Command, Follow, Position, Propose, Refusal, Unapplied};

fn poison(position: Position, step: PoisonStep) -> Command {
    Body::Poison(Poison {
        database: DATABASE,
        position: position.0,
        step: Some(step),
    })
    .into()
}

async fn say_stuck(cluster: &Cluster, node: u64, position: Position, attempts: u32) {
    let shard = cluster.nodes[&node].manager.shard();
    let report = poison(position, PoisonStep::Stuck(Stuck { attempts }));
    shard.submit(report).unwrap().await.unwrap();
}

/// The decision about a command, once the leader has made it.
async fn decided(cluster: &Cluster, node: u64) -> Position {
    let shard = cluster.nodes[&node].manager.shard();
    let mut resolved = Follow::resolved(&**shard);
    loop {
        cluster.nodes[&node]
            .replica
            .wait(*resolved.borrow_and_update())
            .await;
        let history = cluster.nodes[&node].replica.history();
        let decision = history.iter().find_map(|command| match &command.command.body {
            Some(Body::Poison(poison)) if poison.decides() => Some(Position(poison.position)),
            _ => None,
        });
        if let Some(decision) = decision {
            return decision;
        }
        resolved.changed().await.unwrap();
    }
}

#[test]
fn a_command_has_failed_once_all_voters_are_stuck_at_it() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let shard = cluster.nodes[&1].manager.shard().clone();
        let first = shard.submit(call("poison")).unwrap().await.unwrap().position;
        let second = shard.submit(call("poison too")).unwrap().await.unwrap().position;
        drop(shard);
        for node in [1, 2] {
            say_stuck(&cluster, node, first, 3).await;
        }
        // Of the third nothing is known: after a restart of everybody, still nothing is decided.
        say_stuck(&cluster, 3, second, 3).await;
        for id in 1..=3 {
            cluster.stop_node(id).await;
        }
        for id in 1..=3 {
            cluster.start_node(id).await;
        }
        say_stuck(&cluster, 3, first, 4).await;
        for node in 1..=3 {
            assert_eq!(decided(&cluster, node).await, first);
        }
        let history = cluster.converge().await;
        let decisions = history.iter().filter(|command| match &command.command.body {
            Some(Body::Poison(poison)) => poison.decides(),
            _ => false,
        });
        assert_eq!(decisions.count(), 1);
        let stuck = cluster.nodes[&1]
            .manager
            .shard()
            .with_shard(|shard| shard.stuck().count());
        assert_eq!(stuck, Some(0));
        cluster.stop().await;
    });
}

#[test]
fn an_operator_decides_whoever_is_stuck() {
    run(async {
        let cluster = Cluster::start(1).await;
        let shard = cluster.nodes[&1].manager.shard();
        let position = shard.submit(call("poison")).unwrap().await.unwrap().position;
        let later = Position::new(position.index() + 1000, 0);
        let skip = |position| {
            shard
                .submit(poison(position, PoisonStep::Skipped(Skipped {})))
                .unwrap()
        };
        assert_eq!(skip(later).await, Err(Unapplied::Refused(Refusal::NotYet)));
        skip(position).await.unwrap();
        assert_eq!(decided(&cluster, 1).await, position);
        cluster.stop().await;
    });
}

#[test]
fn reports_wait_for_all_nodes_to_know_them() {
    run(async {
        let cluster = Cluster::start(3).await;
        let manager = &cluster.nodes[&1].manager;
        let mut resolved = Follow::resolved(&**manager.meta());
        resolved
            .wait_for(|_| manager.feature_level() == FEATURE_LEVEL)
            .await
            .unwrap();
        const { assert!(FEATURE_LEVEL >= POISON_LEVEL) };
        let meta = manager.meta().meta();
        assert_eq!(
            meta.feature_level(&[1, 2, 3, 4], &[]),
            0,
            "node 4 has announced nothing"
        );
        cluster.stop().await;
    });
}
