//! What goes wrong in a run, and when.

use rtdb_runtime::sim;
use std::fmt;
use std::time::Duration;

/// Stands for the node that leads the shard when it goes wrong.
pub const LEADER: u64 = 0;

/// Something that goes wrong once, whatever else does.
#[allow(missing_docs, reason = "the fields are what they are called")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process is killed, or its machine loses power; it comes back after `down`.
    Kill { node: u64, power: bool, down: Duration },
    /// The process that leads the shard is killed.
    KillLeader { down: Duration },
    /// A process is stopped in order.
    Stop { node: u64, down: Duration },
    /// A process stands still.
    Pause { node: u64, time: Duration },
    /// A node is cut off from all others.
    Isolate { node: u64, time: Duration },
    /// Nothing comes through from one node to another.
    Cut { from: u64, to: u64, time: Duration },
    /// Nothing comes through to a node, from any other.
    Deafen { node: u64, time: Duration },
    /// The connections between two nodes break.
    Reset { one: u64, other: u64 },
    /// Messages from one node to another take so many times as long.
    Slow {
        from: u64,
        to: u64,
        times: u32,
        time: Duration,
    },
    /// A node's time of day jumps.
    Jump { node: u64, by_us: i64 },
    /// A node's clock is so many millionths too fast from now on.
    Drift { node: u64, ppm: i64 },
    /// A node's disk is full.
    DiskFull { node: u64, time: Duration },
    /// A node's disk takes up to `sync_max` for a sync.
    DiskSlow {
        node: u64,
        sync_max: Duration,
        time: Duration,
    },
    /// The next sync of a node's disk fails.
    DiskFails { node: u64 },
    /// A node's disk does nothing.
    DiskHangs { node: u64, time: Duration },
    /// A bit of a node's log flips.
    Rot { node: u64 },
    /// A node gives its leadership away.
    Transfer { node: u64 },
    /// A node's database dies, and has lost the last of what it had, or everything.
    Lose { node: u64, everything: bool },
    /// A node's database does nothing.
    DatabaseHangs { node: u64, time: Duration },
    /// A node's database dies, and loses nothing.
    DatabaseDies { node: u64 },
    /// A node's database answers requests with errors.
    DatabaseTroubled { node: u64, time: Duration },
    /// The log says of a node that its database differs, and takes that back.
    Aside { node: u64, time: Duration },
    /// The connections to a node's database break.
    LinesBreak { node: u64 },
}

/// The kinds of faults, as they are counted.
pub const KINDS: [&str; 23] = [
    "kills",
    "orderly stops",
    "pauses",
    "nodes cut off",
    "links cut one way",
    "connections reset",
    "slow links",
    "clock jumps",
    "clock drifts",
    "full disks",
    "slow disks",
    "failed syncs",
    "hanging disks",
    "rotten bits",
    "leaderships given away",
    "databases that lost something",
    "hanging databases",
    "leaders killed",
    "databases that died",
    "databases with troubles",
    "databases set aside",
    "broken connections to databases",
    "nodes that hear nothing",
];

impl Fault {
    /// Its place among [`KINDS`].
    pub fn kind(&self) -> usize {
        match self {
            Self::Kill { .. } => 0,
            Self::Stop { .. } => 1,
            Self::Pause { .. } => 2,
            Self::Isolate { .. } => 3,
            Self::Cut { .. } => 4,
            Self::Reset { .. } => 5,
            Self::Slow { .. } => 6,
            Self::Jump { .. } => 7,
            Self::Drift { .. } => 8,
            Self::DiskFull { .. } => 9,
            Self::DiskSlow { .. } => 10,
            Self::DiskFails { .. } => 11,
            Self::DiskHangs { .. } => 12,
            Self::Rot { .. } => 13,
            Self::Transfer { .. } => 14,
            Self::Lose { .. } => 15,
            Self::DatabaseHangs { .. } => 16,
            Self::KillLeader { .. } => 17,
            Self::DatabaseDies { .. } => 18,
            Self::DatabaseTroubled { .. } => 19,
            Self::Aside { .. } => 20,
            Self::LinesBreak { .. } => 21,
            Self::Deafen { .. } => 22,
        }
    }

    /// The same, of the node that leads, if it is meant for that one.
    pub fn aimed(mut self, leader: Option<u64>) -> Self {
        if let Some(node) = self.node().filter(|node| **node == LEADER) {
            *node = leader.unwrap_or(1);
        }
        self
    }

    /// The node that it is near to, if there is just one.
    fn node(&mut self) -> Option<&mut u64> {
        match self {
            Self::Kill { node, .. }
            | Self::Stop { node, .. }
            | Self::Pause { node, .. }
            | Self::Isolate { node, .. }
            | Self::Deafen { node, .. }
            | Self::Jump { node, .. }
            | Self::Drift { node, .. }
            | Self::DiskFull { node, .. }
            | Self::DiskSlow { node, .. }
            | Self::DiskFails { node }
            | Self::DiskHangs { node, .. }
            | Self::Rot { node }
            | Self::Transfer { node }
            | Self::Lose { node, .. }
            | Self::DatabaseHangs { node, .. }
            | Self::DatabaseDies { node }
            | Self::DatabaseTroubled { node, .. }
            | Self::Aside { node, .. }
            | Self::LinesBreak { node } => Some(node),
            Self::Cut { .. } | Self::Slow { .. } | Self::Reset { .. } | Self::KillLeader { .. } => None,
        }
    }

    /// Whether only a database server is met, in a way that its clients are not to notice, or nothing but who leads changes.
    pub fn is_of_server(&self) -> bool {
        matches!(
            self,
            Self::Lose { .. }
                | Self::DatabaseDies { .. }
                | Self::DatabaseTroubled { .. }
                | Self::LinesBreak { .. }
                | Self::Transfer { .. }
        )
    }

    /// The nodes that it is near to.
    pub fn nodes(&self) -> Vec<u64> {
        match *self {
            Self::Cut { from, to, .. } | Self::Slow { from, to, .. } => vec![from, to],
            Self::Reset { one, other } => vec![one, other],
            // Of the death of whoever leads it is known only then.
            _ => self.clone().node().map(|node| *node).into_iter().collect(),
        }
    }

    fn draw(kind: usize, nodes: u64, has_rot: &mut bool) -> Self {
        let node = 1 + sim::draw(nodes);
        let other = 1 + (node + sim::draw(nodes - 1)) % nodes;
        let millis = |max| Duration::from_millis(1 + sim::draw(max));
        let time = [millis(300), millis(2_000), millis(8_000)][sim::draw(3) as usize];
        let (from, to) = (node, other);
        match kind {
            0 => Self::Kill {
                node,
                power: sim::draw(3) > 0,
                down: time,
            },
            1 => Self::Stop { node, down: time },
            2 => Self::Pause { node, time },
            3 => Self::Isolate { node, time },
            4 => Self::Cut { from, to, time },
            5 => Self::Reset { one: node, other },
            6 => Self::Slow {
                from,
                to,
                times: 2 + sim::draw(100) as u32,
                time,
            },
            7 => Self::Jump {
                node,
                by_us: sim::draw(20_000_000) as i64 - 10_000_000,
            },
            8 => Self::Drift {
                node,
                ppm: sim::draw(2_001) as i64 - 1_000,
            },
            9 => Self::DiskFull { node, time },
            10 => Self::DiskSlow {
                node,
                sync_max: [millis(20), millis(300), millis(3_000)][sim::draw(3) as usize],
                time,
            },
            11 => Self::DiskFails { node },
            12 => Self::DiskHangs { node, time: time * 4 },
            // The log is not made again from others yet: so one node's only.
            13 if !std::mem::replace(has_rot, true) => Self::Rot { node },
            13 | 15 => Self::Lose {
                node,
                everything: sim::draw(3) == 0,
            },
            14 => Self::Transfer { node },
            17 => Self::KillLeader { down: time },
            18 => Self::DatabaseDies { node },
            19 => Self::DatabaseTroubled { node, time },
            20 => Self::Aside {
                node,
                time: time / [1, 10, 1_000][sim::draw(3) as usize],
            },
            21 => Self::LinesBreak { node },
            22 => Self::Deafen { node, time },
            _ => Self::DatabaseHangs { node, time },
        }
    }

    /// All that goes wrong within a time. How often what does, is drawn too: where everything is even, what needs two
    /// of a kind in a row is not met.
    pub fn schedule(nodes: u64, time: Duration) -> Vec<(Duration, Self)> {
        let weights: Vec<u64> = KINDS
            .iter()
            .map(|_| [0, 0, 1, 1, 2, 6][sim::draw(6) as usize])
            .collect();
        let sum: u64 = weights.iter().sum();
        let pause_max = Duration::from_millis([300, 1_500, 4_000][sim::draw(3) as usize]);
        let (mut at, mut has_rot, mut faults) = (Duration::ZERO, false, Vec::new());
        loop {
            at += Duration::from_millis(20) + sim::up_to(pause_max);
            if at >= time || sum == 0 {
                return faults;
            }
            let mut pick = sim::draw(sum);
            let kind = weights.iter().position(|weight| {
                let is_here = pick < *weight;
                pick = pick.saturating_sub(*weight);
                is_here
            });
            faults.push((at, Self::draw(kind.unwrap_or(0), nodes, &mut has_rot)));
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill {
                node,
                power: false,
                down,
            } => write!(f, "node {node} is killed, for {down:?}"),
            Self::Kill {
                node,
                power: true,
                down,
            } => write!(f, "node {node} loses power, for {down:?}"),
            Self::KillLeader { down } => write!(f, "whoever leads is killed, for {down:?}"),
            Self::Stop { node, down } => write!(f, "node {node} is stopped, for {down:?}"),
            Self::Pause { node, time } => write!(f, "node {node} stands still for {time:?}"),
            Self::Isolate { node, time } => write!(f, "node {node} is cut off for {time:?}"),
            Self::Cut { from, to, time } => write!(f, "nothing comes from {from} to {to} for {time:?}"),
            Self::Deafen { node, time } => write!(f, "nothing comes to node {node} for {time:?}"),
            Self::Reset { one, other } => write!(f, "connections between {one} and {other} break"),
            Self::Slow {
                from,
                to,
                times,
                time,
            } => {
                write!(f, "{from} to {to} takes {times} times as long for {time:?}")
            }
            Self::Jump { node, by_us } => write!(f, "the time of node {node} jumps by {} ms", by_us / 1_000),
            Self::Drift { node, ppm } => write!(f, "the clock of node {node} is {ppm} ppm too fast"),
            Self::DiskFull { node, time } => write!(f, "the disk of node {node} is full for {time:?}"),
            Self::DiskSlow { node, sync_max, time } => {
                write!(f, "the disk of node {node} takes up to {sync_max:?} for {time:?}")
            }
            Self::DiskFails { node } => write!(f, "a sync of node {node} fails"),
            Self::DiskHangs { node, time } => write!(f, "the disk of node {node} hangs for {time:?}"),
            Self::Rot { node } => write!(f, "a bit of node {node}'s log flips"),
            Self::Transfer { node } => write!(f, "node {node} is to give leadership away"),
            Self::Lose {
                node,
                everything: true,
            } => write!(f, "the database of node {node} loses everything"),
            Self::Lose {
                node,
                everything: false,
            } => {
                write!(f, "the database of node {node} loses its last commits")
            }
            Self::DatabaseHangs { node, time } => write!(f, "the database of node {node} hangs for {time:?}"),
            Self::DatabaseDies { node } => write!(f, "the database of node {node} dies"),
            Self::DatabaseTroubled { node, time } => {
                write!(f, "the database of node {node} answers with errors for {time:?}")
            }
            Self::LinesBreak { node } => write!(f, "the connections to the database of node {node} break"),
            Self::Aside { node, time } => write!(f, "the database of node {node} is set aside for {time:?}"),
        }
    }
}
