//! Call rates, on the plain server, one node and three nodes, and what a call costs each process.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use rtdb_testkit::clients::Clients;
use rtdb_testkit::load::Work;
use serde::Serialize;
use tokio::time::sleep;

use crate::cpu::{Cost, Processes};
use crate::measure::clients;

/// Before a rate is measured, caches and queues fill for this long.
const WARM_UP: Duration = Duration::from_secs(1);

/// For each way of calling its own: a call takes longer the more rows there are.
pub(crate) const DATABASES: [&str; 3] = ["bench-one", "bench-many", "bench-deposit"];

/// How a rate is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) seconds: Duration,
    pub(crate) connections: u32,
    pub(crate) window: usize,
    pub(crate) work: Work,
}

impl Load {
    /// One client that adds rows, and many with as many calls in flight together, who add rows or change one each.
    pub(crate) fn ways(seconds: Duration, connections: u32, window: usize) -> [Self; 3] {
        let one = Self {
            seconds,
            connections: 1,
            window,
            work: Work::Add,
        };
        let many = Self {
            connections,
            window: window / connections.max(1) as usize,
            ..one
        };
        let deposits = Self {
            work: Work::Deposit,
            ..many
        };
        [one, many, deposits]
    }
}

/// Acknowledged calls a second, all connections together, and what each cost.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Rate {
    calls_per_s: f64,
    cost: Cost,
}

/// The rates of all ways of calling.
pub(crate) async fn rates(addrs: &[String], loads: &[Load; 3], processes: &Processes) -> Result<[Rate; 3]> {
    let mut rates = <[Rate; 3]>::default();
    for ((measured, load), database) in rates.iter_mut().zip(loads).zip(DATABASES) {
        *measured = rate(clients(addrs, database, load)?, load, processes).await?;
        let clients = if load.connections == 1 {
            "client"
        } else {
            "clients"
        };
        eprintln!(
            "  {} {clients}, {}: {:.0} calls/s",
            load.connections, load.work, measured.calls_per_s
        );
    }
    Ok(rates)
}

async fn rate(clients: Clients, load: &Load, processes: &Processes) -> Result<Rate> {
    sleep(WARM_UP).await;
    let (before, spent) = (clients.acknowledged(), processes.spent()?);
    let calls_per_s = clients.rate(load.seconds).await;
    let cost = processes
        .spent()?
        .per_call(&spent, clients.acknowledged() - before);
    for history in clients.stop().await? {
        ensure!(history.reconnects == 0, "a connection broke");
        ensure!(history.wrong.is_empty(), "wrong: {:?}", history.wrong.first());
    }
    Ok(Rate { calls_per_s, cost })
}

/// All rates.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Calls {
    /// Those of the many, in the second and the third way.
    pub(crate) clients: u32,
    /// Of this machine.
    pub(crate) cores: f64,
    pub(crate) plain: [Rate; 3],
    pub(crate) one_node: [Rate; 3],
    /// One client at the leader, many spread over all nodes.
    pub(crate) three_nodes: [Rate; 3],
}

impl Calls {
    fn rows(&self) -> [(&'static str, &[Rate; 3], &'static str); 3] {
        [
            ("plain server", &self.plain, ""),
            ("one node", &self.one_node, "  (goal 0.60)"),
            ("three nodes", &self.three_nodes, "  (goal 0.20)"),
        ]
    }

    /// A row for each process, and what the busiest machine could do if none was shared.
    fn costs(&self, f: &mut fmt::Formatter<'_>, way: usize) -> fmt::Result {
        let us = |us: f64| {
            if us > 0.0 {
                format!("{us:.1}")
            } else {
                String::new()
            }
        };
        let most = |rates: &[Rate; 3]| rates[way].cost.most_calls_per_s(self.cores);
        for (name, rates, _) in self.rows() {
            let cost = &rates[way].cost;
            let follower = cost.follower.unwrap_or_default();
            writeln!(
                f,
                "    {name:<21}{:>8}{:>8}{:>10}{:>8}{:>8} {:>9.0} calls/s {:>5.2}",
                us(cost.leader.node_us),
                us(cost.leader.server_us),
                us(follower.node_us),
                us(follower.server_us),
                us(cost.load_us),
                most(rates),
                most(rates) / most(&self.plain)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = format!("{} clients", self.clients);
        let deposits = format!("{many}, {}", Work::Deposit);
        writeln!(
            f,
            "  {:<23}  {:<25}{many:<25}{deposits}",
            "", "one client, pipelined"
        )?;
        for (name, rates, goal) in self.rows() {
            let rates = rates.iter().zip(&self.plain).map(|(rate, plain)| {
                let ratio = rate.calls_per_s / plain.calls_per_s;
                format!("{:>8.0} calls/s {ratio:>5.2}", rate.calls_per_s)
            });
            let rates: Vec<String> = rates.collect();
            writeln!(f, "  {name:<23}{}{goal}", rates.join("   "))?;
        }
        writeln!(
            f,
            "  CPU µs a call          leader  server  follower  server    load   on machines of their own, at most"
        )?;
        for (way, name) in ["one client", &many, &deposits].into_iter().enumerate() {
            writeln!(f, "   {name}")?;
            self.costs(f, way)?;
        }
        Ok(())
    }
}
