//! Whom a node sees, and what is to be done next.

use super::{Ballot, Founder, Greeted, listed, majority};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long an answer counts.
const SIGHT_FOR: Duration = Duration::from_secs(3);

/// How much later than the one before it each founder proposes: the first one is mostly done by then.
const STAGGER: Duration = Duration::from_millis(300);

/// The first wait after an attempt that failed, at most. It doubles.
const BACK_OFF: Duration = Duration::from_millis(400);

/// How often it doubles.
const BACK_OFF_STEPS_MAX: u32 = 4;

/// How long a node looks around.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) time: Duration,
    /// Who is seen later than this share of it is no founder.
    pub(crate) share: f64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look on.
    Look,
    /// Another node is set up in another way: nothing is founded.
    Refuse(String),
    /// Ask a node that is in a cluster to be taken in.
    Join(u64, String),
    /// Propose that these found a cluster.
    Propose(Ballot, Vec<Founder>),
}

/// A node that was seen.
#[derive(Clone, Debug)]
struct Sight {
    founder: Founder,
    /// Since when it is there.
    since: Duration,
    last: Duration,
    /// When it last answered this node itself.
    direct: Option<Duration>,
}

/// Another node that has answered, whatever it is.
#[derive(Clone, Debug)]
struct Other {
    addr: String,
    last: Duration,
    in_cluster: bool,
    electors: BTreeSet<u64>,
}

/// What a node sees. Times are counted from when it began to look.
#[derive(Debug)]
pub(crate) struct Outlook {
    me: Founder,
    /// None of a node that founds nothing.
    electors: BTreeSet<u64>,
    window: Window,
    begun: Duration,
    sights: BTreeMap<u64, Sight>,
    others: BTreeMap<u64, Other>,
    /// The highest round that anybody has spoken of.
    round: u64,
    /// When this node may propose, once it could.
    turn: Option<Duration>,
    failures: u32,
}

impl Outlook {
    pub(crate) fn new(me: Founder, electors: BTreeSet<u64>, window: Window) -> Self {
        Self {
            me,
            electors,
            window,
            begun: Duration::ZERO,
            sights: BTreeMap::new(),
            others: BTreeMap::new(),
            round: 0,
            turn: None,
            failures: 0,
        }
    }

    /// A node has answered at an address.
    pub(crate) fn heard(&mut self, now: Duration, addr: &str, from: &Greeted) {
        if from.node == self.me.node || from.node == 0 {
            return;
        }
        let other = Other {
            addr: addr.to_owned(),
            last: now,
            in_cluster: from.in_cluster,
            electors: from.electors.iter().copied().collect(),
        };
        let is_elector = other.electors == self.electors;
        self.others
            .retain(|_, other| now.saturating_sub(other.last) <= SIGHT_FOR);
        if self.others.len() < OTHERS_MAX || self.others.contains_key(&from.node) {
            self.others.insert(from.node, other);
        }
        let promised = from.promised.map_or(0, |promised| promised.round);
        self.round = self.round.max(promised);
        if from.in_cluster || !is_elector {
            return;
        }
        if let Some(founder) = from.me.as_ref().filter(|founder| founder.node == from.node) {
            self.see(now, founder, true);
        }
        for founder in from.seen.iter().take(self.electors.len()) {
            self.see(now, founder, false);
        }
    }

    fn see(&mut self, now: Duration, founder: &Founder, directly: bool) {
        let node = founder.node;
        if node == self.me.node || !self.electors.contains(&node) || !founder.is_sound() {
            return;
        }
        let known = self.sights.get(&node);
        let known = known.filter(|sight| is_fresh(now, sight.last));
        let direct = known.and_then(|known| known.direct);
        // What it says itself counts more than what others say.
        if !directly && direct.is_some_and(|direct| is_fresh(now, direct)) {
            return;
        }
        let same = known.filter(|known| known.founder.directory == founder.directory);
        let sight = Sight {
            founder: founder.clone(),
            since: same.map_or(now, |known| known.since),
            last: now,
            direct: if directly { Some(now) } else { direct },
        };
        self.sights.insert(node, sight);
    }

    /// The electors that answer this node itself: what it tells the others.
    pub(crate) fn seen(&self, now: Duration) -> Vec<Founder> {
        let sights = self.sights.values();
        let direct = sights.filter(|sight| sight.direct.is_some_and(|direct| is_fresh(now, direct)));
        direct.map(|sight| sight.founder.clone()).collect()
    }

    /// Where electors are, as far as is known.
    pub(crate) fn addrs(&self) -> BTreeMap<u64, String> {
        let sights = self.sights.values();
        sights
            .map(|sight| (sight.founder.node, sight.founder.addr.clone()))
            .collect()
    }

    /// What to do. `is_all` says whether all addresses that this node was given have answered.
    pub(crate) fn step(&mut self, now: Duration, is_all: bool, random: u64) -> Step {
        self.sights.retain(|_, sight| is_fresh(now, sight.last));
        self.others.retain(|_, other| is_fresh(now, other.last));
        let members: Vec<_> = self.others.iter().filter(|(_, other)| other.in_cluster).collect();
        if !members.is_empty() {
            let (node, member) = members[(random % members.len() as u64) as usize];
            return Step::Join(*node, member.addr.clone());
        }
        if !self.electors.contains(&self.me.node) {
            return Step::Look;
        }
        let wrong = self
            .others
            .iter()
            .find(|(_, other)| !other.electors.is_empty() && other.electors != self.electors);
        if let Some((node, other)) = wrong {
            return Step::Refuse(format!(
                "node {node} expects nodes {} to found the cluster, and this one nodes {}: give all the same --bootstrap-expect, and \
                 the same --peers",
                listed(&other.electors),
                listed(&self.electors)
            ));
        }
        let Some(founders) = self.founders(now, is_all) else {
            self.turn = None;
            return Step::Look;
        };
        let rank = founders.iter().position(|founder| founder.node == self.me.node);
        let delay = STAGGER * rank.unwrap_or_default() as u32;
        if now < *self.turn.get_or_insert(now + delay) {
            return Step::Look;
        }
        let round = self.round + 1;
        self.round = round;
        let node = self.me.node;
        Step::Propose(Ballot { round, node }, founders)
    }

    /// Who is to found the cluster, if it is time.
    fn founders(&mut self, now: Duration, is_all: bool) -> Option<Vec<Founder>> {
        let is_full = is_all && self.sights.len() + 1 == self.electors.len();
        let is_over = now >= self.begun + self.window.time;
        if !is_full && !is_over {
            return None;
        }
        // At the end of the window that is who was seen in the first part of it.
        let late = self.window.time.mul_f64(1.0 - self.window.share);
        let early = self
            .sights
            .values()
            .filter(|sight| is_full || sight.since + late <= now);
        let founders = early.map(|sight| (sight.founder.node, sight.founder.clone()));
        let mut founders: BTreeMap<u64, Founder> = founders.collect();
        founders.insert(self.me.node, self.me.clone());
        if founders.len() < majority(&self.electors) {
            self.begun = now;
            return None;
        }
        Some(founders.into_values().collect())
    }

    /// Another has a later ballot, or too few answer.
    pub(crate) fn failed(&mut self, now: Duration, round: u64, random: u64) {
        self.round = self.round.max(round);
        let longest = BACK_OFF * (1 << self.failures.min(BACK_OFF_STEPS_MAX));
        self.failures += 1;
        let wait = Duration::from_nanos(random % longest.as_nanos() as u64);
        self.turn = Some(now + BACK_OFF / 2 + wait);
    }

    /// How it stands, for people.
    pub(crate) fn told(&self) -> String {
        if self.electors.is_empty() {
            return "a cluster to join: none answers yet".to_owned();
        }
        if !self.electors.contains(&self.me.node) {
            let electors = listed(&self.electors);
            return format!("the cluster that nodes {electors} found: none answers yet");
        }
        let seen: BTreeSet<u64> = self.sights.keys().copied().chain([self.me.node]).collect();
        format!(
            "the founding of a cluster: nodes {} are there, {} of {} must be",
            listed(&seen),
            majority(&self.electors),
            listed(&self.electors)
        )
    }
}

/// Nodes whose answers are kept.
const OTHERS_MAX: usize = 64;

fn is_fresh(now: Duration, at: Duration) -> bool {
    now.saturating_sub(at) <= SIGHT_FOR
}
