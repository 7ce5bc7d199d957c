//! What each process spends on a call, and how many calls that lets machines of their own do.
//!
//! All processes share this machine's cores, the clients included, so that rates measure the machine. What a call costs
//! each of them hardly depends on that.

use std::fmt;

use anyhow::{Context, Result};
use rtdb_testkit::cluster::Cluster;
use rtdb_testkit::cpu_us;
use rtdb_testkit::server::PlainServer;
use serde::Serialize;

/// The processes of each machine: a node, if there is one, and its server.
#[derive(Debug)]
pub(crate) struct Processes(Vec<(Option<u32>, u32)>);

/// CPU time in µs, of all calls together or of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Machine {
    pub(crate) node_us: f64,
    pub(crate) server_us: f64,
}

/// CPU time of a call.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Cost {
    /// The leader's.
    pub(crate) leader: Machine,
    /// A follower's, the mean of all.
    pub(crate) follower: Option<Machine>,
    /// This program's, which plays the clients.
    pub(crate) load_us: f64,
}

impl Processes {
    pub(crate) fn plain(server: &PlainServer) -> Result<Self> {
        Ok(Self(vec![(None, server.pid()?)]))
    }

    /// Of a cluster with this leader.
    pub(crate) fn nodes(cluster: &Cluster, leader: u64) -> Result<Self> {
        let mut nodes: Vec<_> = cluster.running().collect();
        nodes.sort_by_key(|node| node.id() != leader);
        let processes = nodes.into_iter().map(|node| {
            let server = node.server_pids()?.first().copied();
            Ok((
                node.pid(),
                server.with_context(|| format!("node {} has no server", node.id()))?,
            ))
        });
        processes.collect::<Result<_>>().map(Self)
    }

    /// What they have spent so far.
    pub(crate) fn spent(&self) -> Result<Spent> {
        let machine =
            |&(node, server): &(Option<u32>, u32)| anyhow::Ok((node.map_or(Ok(0), cpu_us)?, cpu_us(server)?));
        Ok(Spent {
            machines: self.0.iter().map(machine).collect::<Result<_>>()?,
            load_us: cpu_us(std::process::id())?,
        })
    }
}

/// CPU time in µs, since the processes' start.
#[derive(Clone, Debug)]
pub(crate) struct Spent {
    /// Of node and server, the leader's first.
    machines: Vec<(u64, u64)>,
    load_us: u64,
}

impl Spent {
    /// What each of so many calls cost since `before`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a benchmark's µs and calls are far below 2^52"
    )]
    pub(crate) fn per_call(&self, before: &Self, calls: u64) -> Cost {
        let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / calls.max(1) as f64;
        let machines = self.machines.iter().zip(&before.machines);
        let machines = machines.map(|(now, before)| Machine {
            node_us: each(now.0, before.0),
            server_us: each(now.1, before.1),
        });
        let machines: Vec<Machine> = machines.collect();
        let (leader, followers) = machines
            .split_first()
            .map_or_else(Default::default, |(leader, followers)| (*leader, followers));
        let mean = |of: fn(&Machine) -> f64| followers.iter().map(of).sum::<f64>() / followers.len() as f64;
        Cost {
            leader,
            follower: (!followers.is_empty()).then(|| Machine {
                node_us: mean(|machine| machine.node_us),
                server_us: mean(|machine| machine.server_us),
            }),
            load_us: each(self.load_us, before.load_us),
        }
    }
}

impl Machine {
    fn us(self) -> f64 {
        self.node_us + self.server_us
    }
}

impl Cost {
    /// Calls a second, at most, if each node has a machine of its own with so many cores and the clients have others: as
    /// many as the busiest machine has time for.
    pub(crate) fn most_calls_per_s(&self, cores: f64) -> f64 {
        let busiest = self.follower.map_or(0.0, Machine::us).max(self.leader.us());
        1e6 * cores / busiest
    }

    /// Of several stretches of one node or plain server, as if they were as long.
    #[expect(clippy::cast_precision_loss, reason = "a handful of them")]
    pub(crate) fn mean(costs: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> f64| costs.iter().map(of).sum::<f64>() / costs.len().max(1) as f64;
        Self {
            leader: Machine {
                node_us: mean(|cost| cost.leader.node_us),
                server_us: mean(|cost| cost.leader.server_us),
            },
            follower: None,
            load_us: mean(|cost| cost.load_us),
        }
    }
}

/// One line for the plain server and one node.
pub(crate) fn write_costs(f: &mut fmt::Formatter<'_>, of: &str, costs: &[Cost; 2]) -> fmt::Result {
    let [plain, node] = costs;
    writeln!(
        f,
        "    CPU µs {of}: server {:.1}, load {:.1}; server {:.1}, node {:.1}, load {:.1}",
        plain.leader.server_us, plain.load_us, node.leader.server_us, node.leader.node_us, node.load_us
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_costs_is_the_growth_by_calls_and_followers_are_averaged() {
        let spent = |machines: &[(u64, u64)], load_us| Spent {
            machines: machines.to_vec(),
            load_us,
        };
        let before = spent(&[(1_000, 2_000), (100, 0), (0, 100)], 50);
        let after = spent(&[(5_000, 3_000), (300, 1_000), (600, 1_100)], 2_050);
        let cost = after.per_call(&before, 100);
        let machine = |node_us, server_us| Machine { node_us, server_us };
        assert_eq!(cost.leader, machine(40.0, 10.0));
        assert_eq!(cost.follower, Some(machine(4.0, 10.0)));
        assert_eq!(cost.load_us, 20.0);
        assert_eq!(after.per_call(&after, 0).leader, machine(0.0, 0.0));
    }

    #[test]
    fn the_busiest_machine_says_how_many_calls_there_can_be() {
        let cost = |leader: f64, follower: Option<f64>| Cost {
            leader: Machine {
                node_us: leader,
                server_us: 10.0,
            },
            follower: follower.map(|node_us| Machine {
                node_us,
                server_us: 10.0,
            }),
            load_us: 1e6,
        };
        for (cost, most) in [
            (cost(0.0, None), 200_000.0),
            (cost(10.0, Some(5.0)), 100_000.0),
            (cost(10.0, Some(40.0)), 40_000.0),
        ] {
            assert_eq!(cost.most_calls_per_s(2.0), most);
        }
    }
}
