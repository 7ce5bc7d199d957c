//! Nodes in a world of their own: they start in any order, are cut off, die and come again, and messages take their time.

use super::{
    Attempt, Ballot, Founder, Founding, Greeted, Outlook, PledgeRecord, Proposed, Refused, Step, Window,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One turn of the world.
const TICK: Duration = Duration::from_millis(50);

const WINDOW: Window = Window {
    time: Duration::from_secs(10),
    share: 0.8,
};

/// A ballot under way: to whom it has not come yet.
struct Holding {
    attempt: Attempt,
    chosen: Option<Founding>,
    left: Vec<u64>,
    until: u32,
}

struct Node {
    pledge: PledgeRecord,
    electors: BTreeSet<u64>,
    /// What it is bound to, on its disk.
    cluster: Option<String>,
    /// None while it is down.
    outlook: Option<Outlook>,
    begun: u32,
    holding: Option<Holding>,
    refuses: bool,
}

struct World {
    rng: StdRng,
    tick: u32,
    nodes: BTreeMap<u64, Node>,
    /// Of a thousand messages so many are lost.
    lost: u32,
    cut: BTreeSet<(u64, u64)>,
    clusters: u32,
    /// All foundings that a node has been bound to.
    founded: BTreeMap<String, Founding>,
}

fn set(nodes: &[u64]) -> BTreeSet<u64> {
    nodes.iter().copied().collect()
}

impl World {
    fn new(seed: u64, nodes: u64, electors: &BTreeSet<u64>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut node = |_| Node {
            pledge: PledgeRecord::new(rng.random::<[u8; 16]>().to_vec().into()),
            electors: electors.clone(),
            cluster: None,
            outlook: None,
            begun: 0,
            holding: None,
            refuses: false,
        };
        let nodes = (1..=nodes).map(|id| (id, node(id))).collect();
        Self {
            rng: StdRng::seed_from_u64(seed + 1),
            tick: 0,
            nodes,
            lost: 0,
            cut: BTreeSet::new(),
            clusters: 0,
            founded: BTreeMap::new(),
        }
    }

    fn start(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let me = founder(id, &node.pledge);
        node.outlook = Some(Outlook::new(me, node.electors.clone(), WINDOW));
        node.begun = self.tick;
    }

    fn kill(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        (node.outlook, node.holding) = (None, None);
    }

    /// Cuts off these from the others.
    fn divide(&mut self, ones: &[u64]) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for (a, b) in ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b))) {
            if ones.contains(&a) != ones.contains(&b) {
                self.cut.insert((a, b));
            }
        }
    }

    fn reaches(&mut self, from: u64, to: u64) -> bool {
        let is_up = self.nodes[&to].outlook.is_some();
        is_up && !self.cut.contains(&(from, to)) && self.rng.random_range(0..1_000) >= self.lost
    }

    fn answer(&self, id: u64, from: u64, agrees: bool) -> Greeted {
        let node = &self.nodes[&id];
        if node.cluster.is_some() {
            let founding = node.pledge.founding().filter(|_| node.pledge.is_decided);
            let directory = &self.nodes[&from].pledge.directory;
            let founding = founding.filter(|founding| founding.names(from, directory));
            return Greeted {
                node: id,
                in_cluster: true,
                accepted: founding.map(|founding| Proposed {
                    ballot: None,
                    founding: Some(founding.clone()),
                }),
                ..Greeted::default()
            };
        }
        let now = TICK * (self.tick - node.begun);
        Greeted {
            node: id,
            in_cluster: false,
            me: Some(founder(id, &node.pledge)),
            electors: node.electors.iter().copied().collect(),
            seen: node
                .outlook
                .as_ref()
                .map_or(Vec::new(), |outlook| outlook.seen(now)),
            promised: node.pledge.promised,
            accepted: node.pledge.accepted.clone().filter(|_| agrees),
            agrees,
        }
    }

    fn found(&mut self, id: u64, founding: Founding) {
        let node = self.nodes.get_mut(&id).unwrap();
        assert!(node.cluster.is_none());
        node.cluster = Some(founding.cluster.clone());
        node.pledge.accepted = Some(Proposed {
            ballot: node.pledge.promised,
            founding: Some(founding.clone()),
        });
        node.pledge.is_decided = true;
        node.holding = None;
        self.founded.insert(founding.cluster.clone(), founding);
        assert_eq!(self.founded.len(), 1, "two clusters: {:?}", self.founded);
    }

    fn tick(&mut self) {
        self.tick += 1;
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let begin = self.rng.random_range(0..ids.len());
        for place in 0..ids.len() {
            self.turn(ids[(begin + place) % ids.len()]);
        }
    }

    fn turn(&mut self, id: u64) {
        let node = &self.nodes[&id];
        if node.outlook.is_none() || node.cluster.is_some() {
            return;
        }
        let now = TICK * (self.tick - node.begun);
        if node.holding.is_some() {
            return self.hold(id, now);
        }
        for other in self
            .nodes
            .keys()
            .copied()
            .filter(|other| *other != id)
            .collect::<Vec<_>>()
        {
            if !self.reaches(id, other) || !self.reaches(other, id) {
                continue;
            }
            let greeted = self.answer(other, id, false);
            if let Some(founding) = greeted.accepted.clone().and_then(|told| told.founding) {
                return self.found(id, founding);
            }
            let outlook = self.nodes.get_mut(&id).unwrap().outlook.as_mut().unwrap();
            outlook.heard(now, &format!("n{other}"), &greeted);
        }
        let random = self.rng.random();
        let node = self.nodes.get_mut(&id).unwrap();
        node.refuses = false;
        match node.outlook.as_mut().unwrap().step(now, true, random) {
            Step::Look => {}
            Step::Refuse(_) => node.refuses = true,
            // Taken in, perhaps: by a cluster that has a majority.
            Step::Join(other, _) => {
                let cluster = self.nodes[&other].cluster.clone().unwrap();
                let founding = &self.founded[&cluster];
                let bound = founding
                    .founders
                    .iter()
                    .filter(|founder| self.nodes[&founder.node].cluster.is_some());
                let is_member = founding.founders.iter().any(|founder| founder.node == id);
                if !is_member && bound.count() > founding.founders.len() / 2 {
                    self.nodes.get_mut(&id).unwrap().cluster = Some(cluster);
                }
            }
            Step::Propose(ballot, founders) => {
                self.clusters += 1;
                let cluster = format!("cluster {}", self.clusters);
                let own = Founding { cluster, founders };
                let mut left: Vec<u64> = node.electors.iter().copied().collect();
                let place = self.rng.random_range(0..left.len());
                left.rotate_left(place);
                let attempt = Attempt::new(ballot, node.electors.clone(), own);
                node.holding = Some(Holding {
                    attempt,
                    chosen: None,
                    left,
                    until: self.tick + 40,
                });
            }
        }
    }

    /// One message of a ballot.
    fn hold(&mut self, id: u64, now: Duration) {
        let mut holding = self.nodes.get_mut(&id).unwrap().holding.take().unwrap();
        let Some(other) = holding.left.pop() else {
            // All were asked: it has failed.
            let random = self.rng.random();
            let outlook = self.nodes.get_mut(&id).unwrap().outlook.as_mut().unwrap();
            return outlook.failed(now, holding.attempt.ballot.round, random);
        };
        let comes = other == id || self.reaches(id, other);
        if comes && self.nodes[&other].cluster.is_none() {
            let node = self.nodes.get_mut(&other).unwrap();
            let ballot = holding.attempt.ballot;
            let pledged = match &holding.chosen {
                None => node.pledge.promise(&node.electors, ballot),
                Some(founding) => node.pledge.accept(&node.electors, ballot, founding),
            };
            let agrees = pledged.is_ok();
            if let Ok(pledged) = pledged {
                node.pledge = pledged;
            }
            let greeted = self.answer(other, id, agrees);
            if other == id || self.reaches(other, id) {
                match &holding.chosen {
                    None => {
                        if let Some(founding) = holding.attempt.promised(&greeted) {
                            holding.chosen = Some(founding);
                            holding.left = self.nodes[&id].electors.iter().copied().collect();
                        }
                    }
                    Some(founding) => {
                        if holding.attempt.accepted(&greeted) {
                            let founding = founding.clone();
                            if founding.names(id, &self.nodes[&id].pledge.directory) {
                                self.found(id, founding);
                            } else {
                                let random = self.rng.random();
                                let outlook = self.nodes.get_mut(&id).unwrap().outlook.as_mut().unwrap();
                                outlook.failed(now, ballot.round, random);
                            }
                            return;
                        }
                    }
                }
            }
        }
        if self.tick < holding.until {
            self.nodes.get_mut(&id).unwrap().holding = Some(holding);
        } else {
            let random = self.rng.random();
            let outlook = self.nodes.get_mut(&id).unwrap().outlook.as_mut().unwrap();
            outlook.failed(now, 0, random);
        }
    }

    fn run(&mut self, seconds: u32) {
        for _ in 0..seconds * 20 {
            self.tick();
        }
    }

    fn bound(&self) -> Vec<u64> {
        let bound = self.nodes.iter().filter(|(_, node)| node.cluster.is_some());
        bound.map(|(id, _)| *id).collect()
    }

    fn founders(&self) -> Vec<u64> {
        let founding = self.founded.values().next().expect("a cluster");
        founding.addrs().into_keys().collect()
    }
}

fn founder(node: u64, pledge: &PledgeRecord) -> Founder {
    Founder {
        node,
        addr: format!("n{node}"),
        directory: pledge.directory.clone(),
    }
}

#[test]
fn all_that_start_at_once_found_the_cluster_without_waiting() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, &set(&[1, 2, 3]));
        for id in 1..=3 {
            world.start(id);
        }
        world.run(4);
        assert_eq!(world.bound(), [1, 2, 3], "seed {seed}");
        assert_eq!(world.founders(), [1, 2, 3]);
    }
}

#[test]
fn three_and_five_in_random_orders_come_to_be_one_cluster() {
    for seed in 0..200 {
        for count in [3, 5] {
            let electors = (1..=count).collect();
            let mut world = World::new(seed, count, &electors);
            world.lost = if seed % 2 == 0 { 0 } else { 100 };
            let starts: BTreeMap<u64, u32> = electors
                .iter()
                .map(|id| (*id, world.rng.random_range(0..600)))
                .collect();
            for tick in 0..2_400 {
                for id in starts.iter().filter(|(_, at)| **at == tick).map(|(id, _)| *id) {
                    world.start(id);
                }
                world.tick();
            }
            assert_eq!(world.bound().len() as u64, count, "seed {seed}");
            assert!(world.founders().len() as u64 > count / 2);
        }
    }
}

#[test]
fn who_dies_comes_again_and_is_cut_off_never_makes_it_two() {
    for seed in 0..300 {
        let count = [3, 5, 7][seed as usize % 3];
        let electors = (1..=count).collect();
        let mut world = World::new(seed, count + 1, &electors);
        world.lost = 150;
        for tick in 0..1_600 {
            let id = world.rng.random_range(1..=count + 1);
            let is_up = world.nodes[&id].outlook.is_some();
            match world.rng.random_range(0..60) {
                0 if is_up => world.kill(id),
                1..=3 if !is_up => world.start(id),
                4 => {
                    let ones: Vec<u64> = (1..=count + 1).filter(|_| world.rng.random()).collect();
                    world.cut.clear();
                    world.divide(&ones);
                }
                5 => world.cut.clear(),
                _ => {}
            }
            assert_eq!(world.tick, tick);
            world.tick();
        }
        // All come again, and find one another.
        world.cut.clear();
        world.lost = 0;
        for id in 1..=count + 1 {
            if world.nodes[&id].outlook.is_none() {
                world.start(id);
            }
        }
        world.run(60);
        assert_eq!(world.bound().len() as u64, count + 1, "seed {seed}");
    }
}

#[test]
fn fewer_than_a_majority_wait_and_late_ones_join() {
    let mut world = World::new(1, 5, &set(&[1, 2, 3, 4, 5]));
    world.start(1);
    world.start(4);
    world.run(120);
    assert!(world.bound().is_empty());
    world.start(2);
    world.run(30);
    assert_eq!(world.bound(), [1, 2, 4]);
    world.start(3);
    world.start(5);
    world.run(5);
    assert_eq!(world.bound().len(), 5);
    assert_eq!(world.founders(), [1, 2, 4]);
}

#[test]
fn of_two_halves_at_most_one_founds() {
    for seed in 0..40 {
        let count = 4 + seed % 2;
        let mut world = World::new(seed, count, &(1..=count).collect());
        world.divide(&[1, 2]);
        for id in 1..=count {
            world.start(id);
        }
        world.run(60);
        assert_eq!(world.bound().len(), if count == 5 { 3 } else { 0 });
        world.cut.clear();
        world.run(60);
        assert_eq!(world.bound().len() as u64, count);
    }
}

#[test]
fn partial_connectivity_is_enough() {
    for seed in 0..40 {
        // Only the third one reaches the others.
        let mut world = World::new(seed, 3, &set(&[1, 2, 3]));
        world.cut.extend([(1, 2), (2, 1)]);
        for id in 1..=3 {
            world.start(id);
        }
        world.run(30);
        assert_eq!(world.bound(), [1, 2, 3], "seed {seed}");
        assert_eq!(world.founders(), [1, 2, 3]);
    }
}

#[test]
fn one_alone_founds_only_what_is_for_one() {
    let mut world = World::new(1, 1, &set(&[1]));
    world.start(1);
    world.run(1);
    assert_eq!(world.bound(), [1]);
    let mut world = World::new(1, 1, &set(&[1, 2]));
    world.start(1);
    world.run(300);
    assert!(world.bound().is_empty());
}

#[test]
fn nodes_that_expect_others_found_nothing_together() {
    let mut world = World::new(1, 3, &set(&[1, 2, 3]));
    world.nodes.get_mut(&3).unwrap().electors = set(&[1, 2, 3, 4, 5]);
    for id in 1..=3 {
        world.start(id);
    }
    world.run(60);
    assert!(world.bound().is_empty());
    assert!(world.nodes.values().all(|node| node.refuses));
    world.kill(3);
    world.nodes.get_mut(&3).unwrap().electors = set(&[1, 2, 3]);
    world.start(3);
    world.run(20);
    assert_eq!(world.bound(), [1, 2, 3]);
}

/// It may have voted before, and does not know that any more.
#[test]
fn a_founder_that_has_lost_its_disk_is_not_one() {
    let mut world = World::new(1, 3, &set(&[1, 2, 3]));
    for id in 1..=3 {
        world.start(id);
    }
    world.run(5);
    let node = world.nodes.get_mut(&2).unwrap();
    (node.pledge, node.cluster) = (PledgeRecord::new(vec![9; 16].into()), None);
    world.start(2);
    world.run(60);
    assert_eq!(
        world.bound(),
        [1, 3],
        "an operator removes it, and then it is taken in"
    );
}

#[test]
fn a_pledge_is_kept() {
    let electors = set(&[1, 2, 3]);
    let ballot = |round, node| Ballot { round, node };
    let founder = |node| Founder {
        node,
        addr: format!("n{node}"),
        directory: vec![node as u8; 16].into(),
    };
    let founding = |cluster: &str, nodes: &[u64]| Founding {
        cluster: cluster.to_owned(),
        founders: nodes.iter().map(|node| founder(*node)).collect(),
    };
    let one = founding("one", &[1, 2]);
    let begun = PledgeRecord::new(vec![7; 16].into());
    let promised = begun.promise(&electors, ballot(2, 1)).unwrap();
    assert_eq!(promised.promise(&electors, ballot(1, 3)), Err(Refused::Later));
    assert_eq!(promised.promise(&electors, ballot(2, 1)), Err(Refused::Later));
    assert_eq!(
        promised.accept(&electors, ballot(1, 3), &one),
        Err(Refused::Later)
    );
    let accepted = promised.accept(&electors, ballot(2, 1), &one).unwrap();
    assert_eq!(accepted.founding(), Some(&one));
    assert!(accepted.promise(&electors, ballot(2, 2)).is_ok());

    // With other electors it may be started as long as it has agreed to nothing, and its ballots are kept.
    let more = set(&[1, 2, 3, 4, 5]);
    assert!(matches!(
        accepted.promise(&more, ballot(9, 4)),
        Err(Refused::OtherElectors(_))
    ));
    let others = promised.promise(&more, ballot(3, 4)).unwrap();
    assert_eq!(others.promise(&electors, ballot(3, 1)), Err(Refused::Later));

    for unsound in [
        founding("", &[1, 2]),
        founding("x", &[1]),
        founding("x", &[1, 1]),
        founding("x", &[1, 4]),
        founding(&"x".repeat(65), &[1, 2]),
    ] {
        let refused = begun.accept(&electors, ballot(1, 1), &unsound);
        assert_eq!(refused, Err(Refused::Unsound), "{unsound:?}");
    }
    for (round, node) in [(0, 1), (1, 4), (u64::MAX, 1)] {
        assert_eq!(
            begun.promise(&electors, ballot(round, node)),
            Err(Refused::Unsound)
        );
    }
}
