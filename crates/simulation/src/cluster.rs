//! Machines, and the nodes that run on them.

use crate::disk::{Ailment, Disk};
use crate::fault::{Fault, KINDS};
use crate::gateway;
use crate::module::DATABASE;
use crate::network::{Link, Network, addr, id};
use crate::replica;
use crate::spacetime::{Loss, SpacetimeDb};
use crate::truth::{SESSION, Truth};
use parking_lot::Mutex;
use rtdb_consensus::{
    Config, Follow, FreeSpace, GroupId, Limits, LogIndex, Manager, Outcome, Role, Store, SystemClock, Timing,
    Unapplied,
};
use rtdb_gateway::Gateway;
use rtdb_gateway::limits::Gather;
use rtdb_protocol::Subprotocol;
use rtdb_replica::{DatabaseId, Fatal, Phase, Quarantine, Replica};
use rtdb_runtime::{Instant, sim, sleep, timeout};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes of a segment of the log: small, so that a run has many.
const SEGMENT_BYTES: u64 = 64 << 10;

/// What is wrong near a node may be felt for so long after it is over.
const AFTERMATH: Duration = Duration::from_secs(8);

/// How long an orderly stop may take, of a process that does not stand still; and how often that is looked at.
const STOP_MAX: Duration = Duration::from_secs(20);
const STOP_LOOK: Duration = Duration::from_secs(1);

/// What a node says of a log that is not what was written.
const DAMAGED: &str = "damaged";

/// What a node says that is no member any more.
const REMOVED: &str = "was removed";

/// The database that all use.
const ID: DatabaseId = [7; 32];

/// How often the nodes are looked at.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Roomy;

impl FreeSpace for Roomy {
    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

/// A machine: what outlives the processes on it.
struct Machine {
    disk: Disk,
    server: SpacetimeDb,
    sync_max: Duration,
    state: Mutex<MachineState>,
}

#[derive(Default)]
struct MachineState {
    manager: Option<Arc<Manager>>,
    replica: Option<Arc<Replica>>,
    gateway: Option<Gateway>,
    /// Whether its data directory is marked as a log's.
    is_marked: bool,
    is_starting: bool,
    is_stopping: bool,
    /// How often a process was started.
    lives: u64,
    /// It is to stay down until then.
    down_until: Option<Instant>,
    /// Until when something may be felt that was wrong.
    disturbed_until: Option<Instant>,
    /// What was wrong with its disk explains that it stops.
    may_stop: bool,
    /// Until when the log says that its database differs.
    aside_until: Option<Instant>,
    /// An index at which the log did not say so any more.
    sound: Option<LogIndex>,
    /// A bit has rotted: it need not start again.
    is_rotten: bool,
    /// It has refused to start on what has rotted.
    is_lost: bool,
    /// Somebody wants it to be no member any more.
    is_unwanted: bool,
}

/// Moments at which a machine may lose power.
pub struct Dangers {
    /// Of a thousand syncs so many cost it its power.
    pub sync_kills: u64,
    /// Nodes that are to be killed now.
    pub victims: mpsc::Sender<u64>,
}

/// All of it.
pub struct Cluster {
    /// The network between the nodes.
    pub net: Arc<Network>,
    /// What must hold.
    pub truth: Arc<Truth>,
    machines: BTreeMap<u64, Machine>,
    founders: u64,
    counted: Mutex<[u64; KINDS.len()]>,
    reached: Mutex<BTreeMap<&'static str, u64>>,
    timing: Timing,
    limits: Limits,
    subprotocol: Subprotocol,
    gather: Gather,
    /// Until when something may be felt that was wrong with anything but a database server.
    troubled_until: Mutex<Option<Instant>>,
}

impl Cluster {
    /// Machines that are still down: those of the nodes that are to found a cluster, and spare ones.
    pub fn new(
        [founders, spares]: [u64; 2],
        net: Arc<Network>,
        timing: Timing,
        sync_max: Duration,
        dangers: &Dangers,
    ) -> Arc<Self> {
        let truth = Arc::<Truth>::default();
        let subprotocol = [Subprotocol::V1, Subprotocol::V3][sim::draw(2) as usize];
        let is_external = sim::draw(4) == 0;
        let machine = |id| {
            let disk = Disk::default();
            disk.heal(sync_max);
            disk.endanger(id, dangers.sync_kills, dangers.victims.clone());
            let machine = Machine {
                disk,
                server: SpacetimeDb::new(id, subprotocol, is_external, Some(truth.clone())),
                sync_max,
                state: Mutex::default(),
            };
            (id, machine)
        };
        let machines = (1..=founders + spares).map(machine).collect();
        Arc::new(Self {
            net,
            truth,
            machines,
            founders,
            counted: Mutex::new([0; KINDS.len()]),
            reached: Mutex::default(),
            timing,
            limits: Limits::default(),
            subprotocol,
            gather: gateway::draw_gather(),
            troubled_until: Mutex::default(),
        })
    }

    /// The newest subprotocol of the servers.
    pub fn subprotocol(&self) -> Subprotocol {
        self.subprotocol
    }

    /// Their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = u64> + '_ {
        self.machines.keys().copied()
    }

    /// Those of the nodes that found the cluster.
    pub fn founders(&self) -> impl Iterator<Item = u64> + '_ {
        self.nodes().filter(|node| *node <= self.founders)
    }

    /// Who belongs to the shard, as its leader has it, and who of them votes.
    pub fn members(&self) -> Option<[Vec<u64>; 2]> {
        let status = self.manager(self.leader()?)?.shard().status();
        Some([status.members.into_keys().collect(), status.voters])
    }

    /// A node is to be no member any more, and may hear so until it has.
    pub fn may_go(&self, node: u64) {
        self.machines[&node].state.lock().is_unwanted = true;
    }

    /// What runs on a machine.
    pub fn manager(&self, node: u64) -> Option<Arc<Manager>> {
        self.machines[&node].state.lock().manager.clone()
    }

    /// What serves clients there.
    pub fn gateway(&self, node: u64) -> Option<Gateway> {
        self.machines[&node].state.lock().gateway.clone()
    }

    /// What applies there.
    pub fn replica(&self, node: u64) -> Option<Arc<Replica>> {
        self.machines[&node].state.lock().replica.clone()
    }

    /// Whether a node has refused to start on what has rotted.
    pub fn is_lost(&self, node: u64) -> bool {
        self.machines[&node].state.lock().is_lost
    }

    /// How often each kind of fault happened.
    pub fn counted(&self) -> [u64; KINDS.len()] {
        *self.counted.lock()
    }

    /// What was reached, and how often.
    pub fn reached(&self) -> BTreeMap<&'static str, u64> {
        let mut reached = self.reached.lock().clone();
        reached.insert(
            "syncs",
            self.machines.values().map(|machine| machine.disk.syncs()).sum(),
        );
        reached.insert("messages", self.net.sent());
        reached
    }

    fn reach(&self, what: &'static str, times: u64) {
        *self.reached.lock().entry(what).or_default() += times;
    }

    /// Whether nothing was wrong since then near a node, and near all whose word an outcome depends on.
    pub fn is_undisturbed(&self, node: u64, outcome: &Outcome, since: Instant) -> bool {
        let is_of_all = matches!(
            outcome,
            Err(Unapplied::Unknown {
                position: Some(_),
                ..
            })
        );
        self.machines.iter().all(|(id, machine)| {
            let until = machine.state.lock().disturbed_until;
            (*id != node && !is_of_all) || until.is_none_or(|until| until < since)
        })
    }

    /// Whether nothing was wrong anywhere since then.
    pub fn is_well(&self, since: Instant) -> bool {
        let mut machines = self.machines.values();
        machines.all(|machine| {
            let until = machine.state.lock().disturbed_until;
            until.is_none_or(|until| until < since)
        })
    }

    /// Whether since then nothing was wrong anywhere, but perhaps that database servers died.
    pub fn is_calm(&self, since: Instant) -> bool {
        self.troubled_until.lock().is_none_or(|until| until < since)
    }

    fn trouble(&self, time: Duration) {
        let until = sim::true_now() + time + AFTERMATH;
        let mut troubled = self.troubled_until.lock();
        *troubled = troubled.max(Some(until));
    }

    /// The database ends and begins: on all nodes clients may hear that the outcome of what was under way is unknown.
    pub fn disturb_all(&self, time: Duration) {
        self.disturb(self.nodes().collect::<Vec<_>>(), time);
    }

    fn disturb(&self, nodes: impl IntoIterator<Item = u64>, time: Duration) {
        let until = sim::true_now() + time + AFTERMATH;
        for node in nodes {
            let mut state = self.machines[&node].state.lock();
            state.disturbed_until = state.disturbed_until.max(Some(until));
        }
    }

    /// Starts a node's process, unless it runs.
    pub async fn start(self: &Arc<Self>, node: u64) {
        let machine = &self.machines[&node];
        {
            let mut state = machine.state.lock();
            if state.manager.is_some() || state.is_starting || state.is_lost {
                return;
            }
            state.is_starting = true;
            state.lives += 1;
        }
        let cluster = self.clone();
        let started = sim::spawn_on(id(node), async move { cluster.begin(node).await });
        let started = started.await;
        let mut state = machine.state.lock();
        state.is_starting = false;
        match started {
            Ok(Ok(())) => sim::note(|| format!("node {node} runs"), [node, 3, 0]),
            Ok(Err(reason)) => {
                sim::note(|| format!("node {node} does not start: {reason}"), [node, 4, 0]);
                let is_explained = state.may_stop || state.is_rotten;
                assert!(is_explained, "node {node} does not start: {reason}");
                state.is_lost = state.is_rotten && reason.contains(DAMAGED);
            }
            // It was killed meanwhile.
            Err(_) => {}
        }
    }

    /// What the process does, up to where it runs.
    async fn begin(self: Arc<Self>, node: u64) -> Result<(), String> {
        let machine = &self.machines[&node];
        let is_new = !machine.state.lock().is_marked;
        let files = Arc::new(machine.disk.clone());
        let store = Store::bare(files, node, SEGMENT_BYTES, is_new).map_err(|e| e.to_string())?;
        machine.state.lock().is_marked = true;
        let config = Config {
            node,
            data_dir: "data".into(),
            raft_addr: addr(node),
            client_addr: format!("c{node}"),
            version: "simulation".to_owned(),
            cpu: "virtual".to_owned(),
            timing: self.timing.clone(),
            limits: self.limits.clone(),
            disk_reserve_bytes: 0,
            wall_clock: Arc::new(SystemClock),
            free_space: Arc::new(Roomy),
        };
        let manager = Manager::start_on(store, config, Arc::new(Link(self.net.clone())))
            .await
            .map_err(|e| e.to_string())?;
        self.net.connect(node, manager.service());
        // What is left of the server of before is ended.
        machine
            .server
            .die([Loss::Nothing, Loss::Last][sim::draw(2) as usize]);
        let replica = replica::start(node, &manager, machine.server.clone(), self.truth.clone());
        let gateway = gateway::start(&manager, &replica, &machine.server, self.gather);
        let mut state = machine.state.lock();
        (state.manager, state.replica, state.gateway) = (Some(manager), Some(replica), Some(gateway));
        Ok(())
    }

    /// A process dies.
    fn die(&self, node: u64, power: bool) {
        self.trouble(Duration::ZERO);
        let machine = &self.machines[&node];
        self.net.disconnect(node);
        sim::kill(id(node));
        let parts = {
            let mut state = machine.state.lock();
            (state.gateway.take(), state.manager.take(), state.replica.take())
        };
        drop(parts);
        // Dropping it may have woken tasks of its own.
        sim::kill(id(node));
        match power {
            true => {
                let lost = machine.disk.lose_power();
                self.reach("sectors lost", lost as u64);
                machine.server.die(match sim::draw(8) {
                    0 => Loss::Everything,
                    _ => Loss::Last,
                });
            }
            false => machine.disk.survive(),
        }
        machine.disk.heal(machine.sync_max);
        machine.server.hang(false);
        machine.server.trouble(false);
        let mut state = machine.state.lock();
        (state.is_starting, state.is_stopping) = (false, false);
        (state.may_stop, state.sound) = (false, None);
    }

    /// A process is down for a time, and started again.
    async fn down(self: Arc<Self>, node: u64, time: Duration) {
        let until = sim::true_now() + time;
        {
            let mut state = self.machines[&node].state.lock();
            state.down_until = state.down_until.max(Some(until));
        }
        sleep(time).await;
        let is_over = {
            let state = self.machines[&node].state.lock();
            state.down_until.is_none_or(|until| until <= sim::true_now())
        };
        if is_over {
            self.start(node).await;
        }
    }

    /// Lets something go wrong.
    pub async fn suffer(self: Arc<Self>, fault: Fault) {
        let fault = fault.aimed(self.leader());
        sim::note(|| fault.to_string(), [fault.kind() as u64, 5, 0]);
        self.counted.lock()[fault.kind()] += 1;
        // What is wrong with one is felt by those who follow it, or are led by it.
        let time = match fault {
            Fault::Kill { down: time, .. }
            | Fault::KillLeader { down: time }
            | Fault::Stop { down: time, .. }
            | Fault::Pause { time, .. }
            | Fault::Isolate { time, .. }
            | Fault::Cut { time, .. }
            | Fault::Deafen { time, .. }
            | Fault::Slow { time, .. }
            | Fault::DiskFull { time, .. }
            | Fault::DiskSlow { time, .. }
            | Fault::DiskHangs { time, .. }
            | Fault::DatabaseHangs { time, .. }
            | Fault::DatabaseTroubled { time, .. }
            | Fault::Aside { time, .. } => time,
            _ => Duration::ZERO,
        };
        self.disturb(fault.nodes(), time);
        if !fault.is_of_server() {
            self.trouble(time);
        }
        let others = |node| self.nodes().filter(move |other| *other != node);
        match fault {
            Fault::Kill { node, power, down } => {
                self.die(node, power);
                self.down(node, down).await;
            }
            Fault::KillLeader { down } => {
                if let Some(node) = self.leader() {
                    self.disturb([node], down);
                    self.truth.begin_gap();
                    self.die(node, false);
                    self.down(node, down).await;
                }
            }
            Fault::Stop { node, down } => {
                if let Some(manager) = self.manager(node) {
                    self.machines[&node].state.lock().is_stopping = true;
                    self.net.disconnect(node);
                    let (replica, gateway) = (self.replica(node), self.gateway(node));
                    let mut stopped = sim::spawn_on(id(node), async move {
                        if let Some(gateway) = gateway {
                            gateway.shutdown("leader=?".to_owned()).await;
                        }
                        if let Some(replica) = replica {
                            replica.stop().await;
                        }
                        manager.shutdown().await
                    });
                    let mut waited = Duration::ZERO;
                    while timeout(STOP_LOOK, &mut stopped).await.is_err() {
                        if !sim::is_paused(id(node)) {
                            waited += STOP_LOOK;
                        }
                        assert!(waited <= STOP_MAX, "node {node} does not stop");
                    }
                }
                self.die(node, false);
                self.down(node, down).await;
            }
            Fault::Pause { node, time } => sim::pause(id(node), time),
            Fault::Isolate { node, time } => {
                let links = others(node).flat_map(|other| [(node, other), (other, node)]);
                self.cut(links.collect(), time).await;
            }
            Fault::Cut { from, to, time } => self.cut(vec![(from, to)], time).await,
            Fault::Deafen { node, time } => {
                self.cut(others(node).map(|other| (other, node)).collect(), time)
                    .await;
            }
            Fault::Reset { one, other } => self.net.reset(one, other),
            Fault::Slow {
                from,
                to,
                times,
                time,
            } => {
                self.net.slow(from, to, times);
                sleep(time).await;
                self.net.slow(from, to, 1);
            }
            Fault::Jump { node, by_us } => {
                self.truth.doubt(node, self.machines.len());
                sim::shift_wall(id(node), by_us);
            }
            Fault::Drift { node, ppm } => sim::drift(id(node), ppm),
            Fault::DiskFull { node, time } => {
                self.ail(node, time, |disk, is_ill| disk.is_full = is_ill).await;
            }
            Fault::DiskSlow { node, sync_max, time } => {
                let usual = self.machines[&node].sync_max;
                self.ail(node, time, |disk, is_ill| {
                    disk.sync_max = if is_ill { sync_max } else { usual };
                })
                .await;
            }
            Fault::DiskFails { node } => {
                self.machines[&node].state.lock().may_stop = true;
                self.machines[&node].disk.ail(|ailment| ailment.fails = true);
            }
            Fault::DiskHangs { node, time } => {
                self.ail(node, time, |disk, is_ill| disk.hangs = is_ill).await;
            }
            Fault::Rot { node } => {
                let mut state = self.machines[&node].state.lock();
                if self.machines[&node].disk.rot() {
                    (state.is_rotten, state.may_stop) = (true, true);
                }
            }
            Fault::Transfer { node } => {
                if let Some(manager) = self.manager(node) {
                    drop(sim::spawn_on(id(node), async move {
                        manager.transfer_leadership().await
                    }));
                }
            }
            Fault::Lose { node, everything } => self.machines[&node].server.die(match everything {
                true => Loss::Everything,
                false => Loss::Last,
            }),
            Fault::DatabaseHangs { node, time } => {
                self.machines[&node].server.hang(true);
                sleep(time).await;
                self.machines[&node].server.hang(false);
            }
            Fault::LinesBreak { node } => self.machines[&node].server.break_lines(),
            Fault::DatabaseDies { node } => self.machines[&node].server.die(Loss::Nothing),
            Fault::DatabaseTroubled { node, time } => {
                self.machines[&node].server.trouble(true);
                sleep(time).await;
                self.machines[&node].server.trouble(false);
            }
            Fault::Aside { node, time } => {
                {
                    let mut state = self.machines[&node].state.lock();
                    state.aside_until = state.aside_until.max(Some(sim::true_now() + time));
                }
                self.audit(node);
                sleep(time).await;
                self.audit(node);
            }
        }
    }

    /// Does on a node what the log says of its database, as the auditor does.
    fn audit(&self, node: u64) {
        let mut state = self.machines[&node].state.lock();
        let (Some(manager), Some(replica)) = (state.manager.clone(), state.replica.clone()) else {
            return;
        };
        if state.aside_until.is_some_and(|until| until > sim::true_now()) {
            state.sound = None;
            replica.set_aside(&ID, Quarantine::Outvoted(String::new()));
        } else {
            let resolved = || *manager.shard().resolved().borrow();
            let since = *state.sound.get_or_insert_with(resolved);
            replica.acquit(&ID, since);
        }
    }

    /// Nothing comes through these links for a time.
    async fn cut(&self, links: Vec<(u64, u64)>, time: Duration) {
        links.iter().for_each(|(from, to)| self.net.cut(*from, *to));
        sleep(time).await;
        links.iter().for_each(|(from, to)| self.net.mend(*from, *to));
    }

    async fn ail(&self, node: u64, time: Duration, change: impl Fn(&mut Ailment, bool)) {
        let machine = &self.machines[&node];
        machine.state.lock().may_stop = true;
        machine.disk.ail(|disk| change(disk, true));
        sleep(time).await;
        machine.disk.ail(|disk| change(disk, false));
    }

    /// Who leads the shard.
    pub fn leader(&self) -> Option<u64> {
        self.nodes().find(|node| {
            let status = self.manager(*node).map(|manager| manager.shard().status());
            status.is_some_and(|status| status.role == Role::Leader)
        })
    }

    /// A node dies at a moment that was chosen for it: it has just granted a vote, or is about to have something on disk.
    pub async fn doom(self: Arc<Self>, node: u64) {
        if self.machines.contains_key(&node) && self.manager(node).is_some() {
            self.reach("deaths at chosen moments", 1);
            let down = sim::up_to(Duration::from_millis(2));
            self.suffer(Fault::Kill {
                node,
                power: true,
                down,
            })
            .await;
        }
    }

    /// Everything is well again, and everybody runs.
    pub async fn heal(self: &Arc<Self>) {
        for (node, machine) in &self.machines {
            machine.state.lock().aside_until = None;
            machine.disk.heal(machine.sync_max);
            machine.server.hang(false);
            machine.server.trouble(false);
            for other in self.machines.keys() {
                for _ in 0..64 {
                    self.net.mend(*node, *other);
                }
                self.net.slow(*node, *other, 1);
            }
        }
        for (node, machine) in &self.machines {
            let is_between = {
                let mut state = machine.state.lock();
                // Whoever was to start it at some time may be gone.
                state.down_until = None;
                state.is_starting || state.is_stopping
            };
            if is_between {
                self.die(*node, false);
            }
            set_clock(*node);
            self.start(*node).await;
        }
    }

    /// A node's log can't be read any more.
    fn unreadable(&self, node: u64, reason: &str) {
        let mut state = self.machines[&node].state.lock();
        assert!(state.is_rotten, "node {node} can't read its log: {reason}");
        state.is_lost = true;
        drop(state);
        sim::note(
            || format!("node {node} can't read its log: {reason}"),
            [node, 8, 0],
        );
    }

    /// Looks at the nodes again and again: who leads, what they hold, and whether one has stopped by itself.
    pub async fn watch(self: Arc<Self>) {
        let mut terms = BTreeMap::new();
        loop {
            for (node, machine) in &self.machines {
                let Some(manager) = self.manager(*node) else {
                    continue;
                };
                if self.is_lost(*node) {
                    drop(manager);
                    self.die(*node, false);
                    continue;
                }
                let reason = manager.fatal().borrow().clone();
                if let Some(reason) = reason {
                    sim::note(|| format!("node {node} stops: {reason}"), [*node, 6, 0]);
                    let is_removed = {
                        let mut state = machine.state.lock();
                        let is_removed = state.is_unwanted && reason.contains(REMOVED);
                        let is_explained = state.may_stop || state.is_rotten || is_removed;
                        assert!(is_explained, "node {node} stops: {reason}");
                        state.is_lost |= state.is_rotten && reason.contains(DAMAGED);
                        is_removed
                    };
                    self.reach(
                        if is_removed {
                            "nodes that were removed"
                        } else {
                            "nodes that stopped"
                        },
                        1,
                    );
                    drop(manager);
                    self.disturb([*node], Duration::from_secs(1));
                    self.die(*node, false);
                    if is_removed {
                        // It comes again as another.
                        machine.disk.wipe();
                        machine.server.die(Loss::Everything);
                        let mut state = machine.state.lock();
                        (state.is_marked, state.is_unwanted) = (false, false);
                    }
                    if !self.is_lost(*node) {
                        let down = Duration::from_millis(1 + sim::draw(1_000));
                        drop(sim::spawn_on(0, self.clone().down(*node, down)));
                    }
                    continue;
                }
                self.audit(*node);
                if let Some(replica) = self.replica(*node) {
                    self.look_at(*node, &replica);
                }
                let status = manager.status();
                let life = machine.state.lock().lives;
                let limit = self.limits.waiting_bytes_max;
                assert!(
                    status.waiting_bytes <= limit,
                    "node {node} has more waiting than it may"
                );
                assert!(
                    status.append_bytes <= limit,
                    "node {node} has more on its way than it may"
                );
                for group in &status.groups {
                    assert!(
                        group.outstanding_count <= self.limits.outstanding_count_max,
                        "node {node} has more under way than it may"
                    );
                    if group.role == Role::Leader {
                        self.truth.leads(*node, life, group.group, group.term);
                    }
                    let known = terms.entry((*node, group.group)).or_insert(group.term);
                    if group.term > *known {
                        self.reach("new terms seen", 1);
                        *known = group.term;
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Looks at a node's replica: what it holds, and whether it has stopped or was set aside.
    fn look_at(&self, node: u64, replica: &Replica) {
        for (_, found) in replica.take_holdings() {
            self.truth.holds(node, &found);
        }
        let aside = replica.quarantine(&ID).and_then(|why| why.borrow().clone());
        assert!(
            matches!(aside, None | Some(Quarantine::Outvoted(_))),
            "node {node} has set the database aside: {aside:?}"
        );
        let fatal = replica.fatal().borrow().clone();
        match fatal.as_deref() {
            None => {}
            Some(Fatal::Log(error)) => self.unreadable(node, &error.to_string()),
            Some(fatal) => panic!("the replica of node {node} stops: {fatal}"),
        }
    }

    /// Whether all nodes that can run have the whole history, and only sessions of lives that go on.
    pub fn is_level(&self) -> bool {
        let end = self.truth.end();
        let running: Vec<_> = self
            .nodes()
            .filter(|node| !self.is_lost(*node))
            .map(|node| (node, self.manager(node)))
            .collect();
        let mut live = BTreeMap::new();
        let mut rows = None;
        for (node, manager) in &running {
            let Some(manager) = manager else { return false };
            let Some(replica) = self.replica(*node) else {
                return false;
            };
            let is_aside = replica.quarantine(&ID).is_some_and(|why| why.borrow().is_some());
            if is_aside || *replica.applied().borrow() < end {
                return false;
            }
            // What was set aside has applied it all only then.
            let held = self.machines[node].server.database(&DATABASE);
            let held = held.map(|database| database.hash());
            if held != *rows.get_or_insert(held) {
                return false;
            }
            live.insert(*node, *manager.shard().epoch().borrow());
        }
        let sessions: BTreeSet<Vec<_>> = running
            .iter()
            .filter_map(|(_, manager)| {
                manager.as_ref()?.shard().with_shard(|shard| {
                    let sessions = shard.sessions();
                    sessions.map(|session| (session.id, session.origin)).collect()
                })
            })
            .collect();
        let is_live =
            |(_, origin): &(u64, rtdb_consensus::Origin)| live.get(&origin.node) == Some(&origin.epoch);
        sessions.len() == 1 && sessions.iter().flatten().all(is_live)
    }

    /// Whether somebody who came through a gateway is still there.
    pub fn is_anybody_in(&self) -> bool {
        let sessions = |manager: Arc<Manager>| {
            manager.shard().with_shard(|shard| {
                let mut senders = shard.sessions().map(|session| session.sender.clone());
                senders.any(|sender| !sender.starts_with(SESSION.as_bytes()))
            })
        };
        self.nodes()
            .filter_map(|node| self.manager(node))
            .any(|manager| sessions(manager) == Some(true))
    }

    /// At the end: what the servers of all that run hold.
    pub fn check(&self) {
        let mut first = None;
        for node in self.nodes().filter(|node| !self.is_lost(*node)) {
            let Some(database) = self.machines[&node].server.database(&DATABASE) else {
                panic!("the server of node {node} has no database")
            };
            self.truth.check(node, &database);
            let (_, known) = first.get_or_insert((node, database.clone()));
            assert!(
                (&known.rows, &known.receipts) == (&database.rows, &database.receipts),
                "node {node} holds other rows in the end"
            );
        }
    }

    /// Whether a replica waits, since its server has died again and again with one call on its way.
    pub fn is_any_stuck(&self) -> bool {
        let databases = self
            .nodes()
            .filter_map(|node| self.replica(node))
            .flat_map(|replica| replica.progress().databases);
        databases
            .into_iter()
            .any(|database| matches!(database.phase, Phase::Stuck { .. }))
    }

    /// Says how everybody is, for a run that does not end.
    pub fn describe(&self) -> String {
        let describe = |node: u64| match self.manager(node) {
            Some(manager) => {
                let groups = manager.status().groups;
                let shard = groups.into_iter().find(|group| group.group == GroupId::SHARD);
                format!(
                    "node {node} has applied {:?} of {}: {:?}: {shard:?}",
                    self.replica(node).map(|replica| *replica.applied().borrow()),
                    self.truth.end(),
                    self.replica(node).map(|replica| replica.progress()),
                )
            }
            None => format!("node {node} is down"),
        };
        self.nodes().map(describe).collect::<Vec<_>>().join("\n")
    }
}

/// Lets a node's clock be about right.
pub fn set_clock(node: u64) {
    let ppm = sim::draw(401) as i64 - 200;
    let ahead_us = sim::draw(400_000) as i64 - 200_000;
    sim::set_clock(id(node), ppm, ahead_us);
}
