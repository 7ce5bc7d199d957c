//! Scenarios in `testdata/scenarios`: commands, `----`, and what they must print.

use super::cluster::{Cluster, Node, call, call_in, connect};
use super::replica::name;
use super::run;
use crate::batcher::Refused;
use crate::command::{Body, ExpireNode};
use crate::{Command, EncodedBatch, Outcome, Pending, Propose, Role, Unapplied};
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A cluster that a script speaks to.
#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
    isolated: Option<u64>,
    stopped: Vec<u64>,
    sessions: Vec<u64>,
    pending: Vec<(String, Pending)>,
}

impl Script {
    fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().unwrap()
    }

    /// A node by its part: `leader` and `follower` are of those that are not cut off.
    async fn pick(&mut self, part: &str) -> u64 {
        let isolated = self.isolated;
        let cluster = self.cluster();
        match part {
            "isolated" => isolated.unwrap(),
            "any" => *cluster.nodes.keys().next().unwrap(),
            "leader" => cluster.leader(|id| Some(id) != isolated).await,
            "follower" => {
                let running: BTreeSet<u64> = cluster.nodes.keys().copied().collect();
                let leader = if running.len() > 1 {
                    cluster.leader(|id| Some(id) != isolated).await
                } else {
                    0
                };
                running
                    .into_iter()
                    .rfind(|id| *id != leader && Some(*id) != isolated)
                    .unwrap()
            }
            id => id.parse().unwrap(),
        }
    }

    async fn node(&mut self, part: &str) -> &Node {
        let id = self.pick(part).await;
        &self.cluster().nodes[&id]
    }

    async fn submit(&mut self, part: &str, command: Command) -> Pending {
        let shard = self.node(part).await.manager.shard().clone();
        shard.ready().await;
        shard.submit(command).unwrap()
    }

    async fn begin(&mut self, part: &str, commands: Vec<(String, Command)>) {
        for (name, command) in commands {
            let pending = self.submit(part, command).await;
            self.pending.push((name, pending));
        }
    }

    async fn outcomes(&mut self) -> String {
        let mut lines = Vec::new();
        for (name, pending) in self.pending.drain(..) {
            lines.push(format!("{name}: {}", say(&pending.await)));
        }
        lines.join("\n")
    }

    async fn inject(&mut self, node: u64, epoch: u64, first_seq: u64, names: &[&str]) -> String {
        let leader = self.pick("leader").await;
        let before = self.cluster().converge().await.len();
        let commands = names
            .iter()
            .map(|name| call(name).encode_to_vec().into())
            .collect();
        let batch = EncodedBatch {
            node,
            epoch,
            first_seq,
            commands,
        };
        let batcher = self.cluster().nodes[&leader].manager.shard().batcher();
        assert!(batcher.put(batch, &Arc::new(Refused::default())).await);
        // What is proposed after it is resolved after it: a command that has no effect.
        let marker = Body::ExpireNode(ExpireNode {
            node: 99,
            epoch: 0,
            term: 0,
        })
        .into();
        self.submit("leader", marker).await.await.unwrap();
        let history = self.cluster().converge().await;
        history[before..].iter().map(name).collect::<Vec<_>>().join(" ")
    }

    async fn command(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let calls = |names: &[&str]| {
            names
                .iter()
                .map(|name| ((*name).to_owned(), call(name)))
                .collect::<Vec<_>>()
        };
        match words.as_slice() {
            ["start", count] => self.cluster = Some(Cluster::start(count.parse().unwrap()).await),
            ["call", part, names @ ..] => {
                self.begin(part, calls(names)).await;
                return self.last_outcomes(names.len()).await;
            }
            ["call-in", part, session, names @ ..] => {
                let session = self.sessions[session.parse::<usize>().unwrap() - 1];
                let calls = names
                    .iter()
                    .map(|name| ((*name).to_owned(), call_in(session, name)))
                    .collect();
                self.begin(part, calls).await;
                return self.last_outcomes(names.len()).await;
            }
            ["begin", part, names @ ..] => self.begin(part, calls(names)).await,
            ["outcomes"] => return self.outcomes().await,
            ["acknowledged"] => {
                let count = self.pending.len();
                let polled: Vec<_> = self
                    .pending
                    .iter_mut()
                    .map(|(_, p)| futures::FutureExt::now_or_never(p))
                    .collect();
                return format!("{} of {count}", polled.iter().flatten().count());
            }
            ["isolate", part] => {
                let id = self.pick(part).await;
                let cluster = self.cluster();
                cluster
                    .hub
                    .isolate(id, cluster.nodes.keys().copied().filter(|other| *other != id));
                self.isolated = Some(id);
            }
            ["heal"] => self.cluster().hub.heal(),
            ["stop", part] => {
                let id = self.pick(part).await;
                self.cluster().stop_node(id).await;
                self.stopped.push(id);
            }
            ["restart"] => {
                for id in std::mem::take(&mut self.stopped) {
                    self.cluster().start_node(id).await;
                }
            }
            ["bounce", part] => {
                let id = self.pick(part).await;
                self.cluster().stop_node(id).await;
                self.cluster().start_node(id).await;
            }
            ["transfer"] => {
                let leader = self.pick("leader").await;
                let manager = self.cluster().nodes[&leader].manager.clone();
                assert!(manager.transfer_leadership().await, "leadership was not taken");
                assert_ne!(manager.shard().status().role, Role::Leader);
            }
            ["inject", node, epoch, first, names @ ..] => {
                let number = |text: &str| text.parse::<u64>().unwrap();
                return self
                    .inject(number(node), number(epoch), number(first), names)
                    .await;
            }
            ["expire", node, epoch] => {
                let expire = ExpireNode {
                    node: node.parse().unwrap(),
                    epoch: epoch.parse().unwrap(),
                    term: self.node("leader").await.manager.shard().status().term,
                };
                self.submit("leader", Body::ExpireNode(expire).into())
                    .await
                    .await
                    .unwrap();
            }
            ["connect", part] => {
                let outcome = self.submit(part, connect()).await.await.unwrap();
                self.sessions.push(outcome.position.0);
                return format!("session {}", self.sessions.len());
            }
            ["await-sessions", count] => {
                let count: usize = count.parse().unwrap();
                while self.node("leader").await.manager.shard().status().sessions != count {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            ["history"] => {
                let history = self.cluster().converge().await;
                self.isolated = None;
                return history.iter().map(name).collect::<Vec<_>>().join(" ");
            }
            _ => panic!("`{line}` is not a command"),
        }
        "ok".to_owned()
    }

    /// The outcomes of what was begun last.
    async fn last_outcomes(&mut self, count: usize) -> String {
        let last = self.pending.split_off(self.pending.len() - count);
        let earlier = std::mem::replace(&mut self.pending, last);
        let outcomes = self.outcomes().await;
        self.pending = earlier;
        outcomes
    }
}

fn say(outcome: &Outcome) -> String {
    match outcome {
        Ok(_) => "applied".to_owned(),
        Err(Unapplied::Refused(refusal)) => format!("refused: {refusal}"),
        Err(Unapplied::Reducer { message, .. }) => format!("failed: {message}"),
        Err(Unapplied::Unknown { .. }) => "unknown".to_owned(),
    }
}

fn play(text: &'static str) {
    run(async move {
        let mut script = Script::default();
        for block in text.trim_end().split("\n\n") {
            let (head, expected) = block.split_once("----").unwrap();
            let line = head.lines().find(|line| !line.starts_with('#')).unwrap();
            let printed = script.command(line).await;
            assert_eq!(printed, expected.trim(), "`{line}` printed something else");
        }
        script.cluster.unwrap().stop().await;
    });
}

#[test]
fn a_majority_commits() {
    play(include_str!("../../testdata/scenarios/majority.txt"));
}

#[test]
fn an_isolated_node_acknowledges_nothing() {
    play(include_str!("../../testdata/scenarios/isolation.txt"));
}

#[test]
fn go_back_n_applies_each_command_once() {
    play(include_str!("../../testdata/scenarios/go_back_n.txt"));
}

#[test]
fn sessions_end_with_their_node() {
    play(include_str!("../../testdata/scenarios/sessions.txt"));
}
