//! Finding a cluster, or founding one with others, without anybody who says so.

use super::{BootstrapError, Manager};
use crate::Propose;
use crate::command::{Body, InitCluster};
use crate::founding::{
    Attempt, Ballot, Founder, Founding, Greeted, Greeting, Outlook, Proposed, Step, Window, listed,
};
use crate::transport::PeerError;
use crate::transport::wire::{AddMember, ChangeAnswer};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rtdb_runtime::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks around.
const LOOK: Duration = Duration::from_millis(200);

/// Addresses that a node looks at.
const ADDRS_MAX: usize = 64;

/// How long a member may take to have this node taken in: longer than it tries.
const TAKEN_IN_WITHIN: Duration = Duration::from_secs(25);

/// Between two times that a node asks for it.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How often a node says in its log why it does not come into a cluster, if that is still the same.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How a node without data comes into a cluster.
#[derive(Clone, Debug, Default)]
pub struct Bootstrap {
    /// Whether it looks for one at all, rather than wait for an operator.
    pub looks: bool,
    /// The ids of the nodes that may found one, this node's own among them or not; none if it only joins what there is. At most
    /// [`ELECTORS_MAX`](crate::ELECTORS_MAX).
    pub electors: BTreeSet<u64>,
    /// How long it looks for all of them before it founds a cluster with a majority.
    pub window: Duration,
    /// The share of that in which a node must have been seen to be a founder.
    pub share: f64,
    /// It founds one alone and at once, whatever others do.
    pub alone: bool,
}

impl Manager {
    /// Has a node that is in no cluster find one, or found one with the electors; and finishes what it had begun to found. Ends when
    /// it is in a cluster, which has its settings if this node is one of its founders.
    ///
    /// `addrs` are raft addresses at which others may be. `settings` are a new cluster's; its id is drawn here.
    ///
    /// # Errors
    /// [`BootstrapError`], if that can't come about until somebody sees to it.
    pub async fn bootstrap(
        &self,
        plan: Bootstrap,
        addrs: watch::Receiver<BTreeSet<String>>,
        settings: impl FnOnce() -> Result<InitCluster, String>,
    ) -> Result<(), BootstrapError> {
        if self.cluster().is_none() {
            if plan.alone {
                self.found_alone().await?;
            } else if plan.looks {
                let found = self.look_for_cluster(&plan, addrs).await;
                self.formation.send_replace(None);
                found?;
            } else {
                return Ok(());
            }
        }
        let pledge = self.store.pledge();
        match pledge.founding().filter(|_| pledge.is_decided) {
            Some(founding) => self.begin_founded(founding, settings).await,
            None => Ok(()),
        }
    }

    async fn found_alone(&self) -> Result<(), BootstrapError> {
        let directory = self.store.begin_pledge().await?.directory;
        let founding = Founding {
            cluster: new_id(),
            founders: vec![self.founder(directory)],
        };
        tracing::warn!(
            cluster = founding.cluster,
            "this node founds a cluster alone, as it was told to: if others found one, there are two"
        );
        Ok(self.store.found(&founding).await?)
    }

    fn founder(&self, directory: bytes::Bytes) -> Founder {
        Founder {
            node: self.config.node,
            addr: self.config.raft_addr.clone(),
            directory,
        }
    }

    /// Begins the groups of a cluster that this node founds with others, if nobody has, and sees that its settings come into the log.
    async fn begin_founded(
        &self,
        founding: &Founding,
        settings: impl FnOnce() -> Result<InitCluster, String>,
    ) -> Result<(), BootstrapError> {
        let begun = self.begin_groups(&founding.addrs()).await;
        begun.map_err(|(group, reason)| BootstrapError::Raft { group, reason })?;
        if self.meta().meta().cluster().is_some() {
            return Ok(());
        }
        let mut settings = settings().map_err(BootstrapError::Settings)?;
        settings.cluster_id = founding.cluster.clone();
        while self.meta().meta().cluster().is_none() {
            // One of the founders does it, with keys of its own: the first ones count.
            if self.meta().leads().is_some()
                && let Ok(pending) = self.meta().submit(Body::InitCluster(settings.clone()).into())
            {
                let _ = rtdb_runtime::timeout(TAKEN_IN_WITHIN, pending).await;
            }
            rtdb_runtime::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn look_for_cluster(
        &self,
        plan: &Bootstrap,
        addrs: watch::Receiver<BTreeSet<String>>,
    ) -> Result<(), BootstrapError> {
        let forming = self.service.forming();
        let pledge = self.store.begin_pledge().await?;
        if !plan.electors.is_empty() {
            let checked = pledge.check_electors(&plan.electors);
            checked.map_err(|refused| BootstrapError::Pledged(refused.to_string()))?;
        }
        forming.begin(plan.electors.clone());
        let me = self.founder(pledge.directory);
        let greeting = Greeting {
            me: (!plan.electors.is_empty()).then(|| me.clone()),
            electors: plan.electors.iter().copied().collect(),
            ..Greeting::default()
        };
        let window = Window {
            time: plan.window,
            share: plan.share,
        };
        let mut outlook = Outlook::new(me.clone(), plan.electors.clone(), window);
        let (mut asked, mut answered) = (BTreeSet::new(), BTreeSet::new());
        let mut answers: FuturesUnordered<BoxFuture<'_, _>> = FuturesUnordered::new();
        let mut joining: FuturesUnordered<BoxFuture<'_, _>> = FuturesUnordered::new();
        let (begin, mut joined, mut teller) = (Instant::now(), None, Teller::default());
        loop {
            let given: BTreeSet<String> = addrs.borrow().iter().take(ADDRS_MAX).cloned().collect();
            let known = outlook.addrs().into_values().chain(forming.greeters());
            for addr in given.iter().cloned().chain(known.take(ADDRS_MAX)) {
                if addr != self.config.raft_addr && asked.insert(addr.clone()) {
                    answers.push(Box::pin(self.greet(addr, greeting.clone())));
                }
            }
            let mut pause = pin!(rtdb_runtime::sleep(LOOK));
            loop {
                rtdb_runtime::select! {
                    () = &mut pause => break,
                    Some((addr, answer)) = answers.next() => {
                        asked.remove(&addr);
                        match answer {
                            Ok(greeted) => {
                                self.hear(&addr, &greeted, &me).await?;
                                outlook.heard(begin.elapsed(), &addr, &greeted);
                                answered.insert(addr);
                            }
                            Err(source @ PeerError::SameId { .. }) if given.contains(&addr) => {
                                return Err(BootstrapError::Peer { addr, source });
                            }
                            Err(error) => tracing::debug!(addr, "no answer: {error}"),
                        }
                    }
                    Some(answer) = joining.next() => {
                        joined = Some(Instant::now());
                        teller.asked(answer);
                    }
                }
                if self.cluster().is_some() {
                    return Ok(());
                }
            }
            let now = begin.elapsed();
            forming.see(outlook.seen(now));
            // What was given by name may be this node itself.
            let is_all = given
                .iter()
                .all(|addr| answered.contains(addr) || *addr == self.config.raft_addr);
            match outlook.step(now, is_all, rtdb_runtime::random()) {
                Step::Look => {}
                Step::Refuse(why) => {
                    teller.warn(&why);
                    self.formation.send_replace(Some(why));
                    continue;
                }
                Step::Join(node, addr) => {
                    let is_time = joined.is_none_or(|joined: Instant| joined.elapsed() >= ASK_AGAIN);
                    if joining.is_empty() && is_time {
                        joining.push(Box::pin(self.ask_to_be_taken_in(node, addr)));
                    }
                    let waits = teller
                        .waits
                        .clone()
                        .unwrap_or_else(|| format!("node {node}, to take this node in"));
                    self.formation.send_replace(Some(waits));
                    continue;
                }
                Step::Propose(ballot, founders) => {
                    let mut addrs = outlook.addrs();
                    addrs.remove(&self.config.node);
                    let round = self.propose(ballot, founders, &addrs, &greeting, &me).await?;
                    if self.cluster().is_some() {
                        return Ok(());
                    }
                    outlook.failed(begin.elapsed(), round, rtdb_runtime::random());
                }
            }
            let told = outlook.told();
            teller.inform(&told);
            self.formation.send_replace(Some(told));
        }
    }

    async fn greet(&self, addr: String, greeting: Greeting) -> (String, Result<Greeted, PeerError>) {
        let answer = self.peers.greet(&addr, greeting).await;
        (addr, answer)
    }

    /// A founder that is in the cluster tells one that is not yet.
    async fn hear(&self, addr: &str, from: &Greeted, me: &Founder) -> Result<(), BootstrapError> {
        let told = from.accepted.as_ref().filter(|_| from.in_cluster);
        let Some(founding) = told.and_then(|told| told.founding.as_ref()) else {
            return Ok(());
        };
        let electors = self.service.forming().electors();
        if founding.is_sound(&electors) && founding.names(me.node, &me.directory) {
            tracing::info!(
                addr,
                cluster = founding.cluster,
                "this node founds the cluster with others"
            );
            self.store.found(founding).await?;
        }
        Ok(())
    }

    async fn ask_to_be_taken_in(&self, node: u64, addr: String) -> Result<ChangeAnswer, PeerError> {
        let me = AddMember {
            node: self.config.node,
            addr: self.config.raft_addr.clone(),
            never_votes: false,
        };
        self.peers.take_in(node, &addr, me, TAKEN_IN_WITHIN).await
    }

    /// Holds a ballot, and belongs to the cluster if one is decided that this node founds. Gives the highest round that it was told
    /// of.
    async fn propose(
        &self,
        ballot: Ballot,
        founders: Vec<Founder>,
        addrs: &BTreeMap<u64, String>,
        greeting: &Greeting,
        me: &Founder,
    ) -> Result<u64, BootstrapError> {
        let electors: BTreeSet<u64> = greeting.electors.iter().copied().collect();
        let own = Founding {
            cluster: new_id(),
            founders,
        };
        let mut attempt = Attempt::new(ballot, electors.clone(), own);
        let mut round = ballot.round;
        let mut told = |greeted: &Greeted| {
            round = round.max(greeted.promised.map_or(0, |promised| promised.round));
        };

        let agrees = self.store.promise(&electors, ballot).await?.is_ok();
        let own = self.own_answer(agrees);
        told(&own);
        let mut chosen = attempt.promised(&own);
        if agrees && chosen.is_none() {
            let prepare = Greeting {
                prepare: Some(ballot),
                ..greeting.clone()
            };
            let mut answers = self.greet_all(addrs, &prepare);
            while let Some(answer) = answers.next().await {
                if let (_, Ok(greeted)) = answer {
                    told(&greeted);
                    chosen = attempt.promised(&greeted);
                }
                if chosen.is_some() {
                    break;
                }
            }
        }
        let Some(founding) = chosen else { return Ok(round) };

        let agrees = self.store.accept(&electors, ballot, &founding).await?.is_ok();
        let mut is_decided = attempt.accepted(&self.own_answer(agrees));
        if agrees && !is_decided {
            let accept = Greeting {
                accept: Some(Proposed {
                    ballot: Some(ballot),
                    founding: Some(founding.clone()),
                }),
                ..greeting.clone()
            };
            let mut answers = self.greet_all(addrs, &accept);
            while let Some(answer) = answers.next().await {
                if let (_, Ok(greeted)) = answer {
                    told(&greeted);
                    is_decided = attempt.accepted(&greeted);
                }
                if is_decided {
                    break;
                }
            }
        }
        if is_decided && founding.names(me.node, &me.directory) {
            let founders = listed(&founding.addrs().into_keys().collect());
            tracing::info!(cluster = founding.cluster, founders, "a cluster is founded");
            self.store.found(&founding).await?;
        }
        Ok(round)
    }

    fn own_answer(&self, agrees: bool) -> Greeted {
        let pledge = self.store.pledge();
        Greeted {
            node: self.config.node,
            promised: pledge.promised,
            accepted: pledge.accepted,
            agrees,
            ..Greeted::default()
        }
    }

    fn greet_all<'a>(
        &'a self,
        addrs: &BTreeMap<u64, String>,
        greeting: &Greeting,
    ) -> FuturesUnordered<BoxFuture<'a, (String, Result<Greeted, PeerError>)>> {
        let asked = addrs.values().cloned();
        let asked = asked.map(|addr| Box::pin(self.greet(addr, greeting.clone())) as BoxFuture<'a, _>);
        asked.collect()
    }
}

/// Says why a node is in no cluster yet, and not too often.
#[derive(Default)]
struct Teller {
    last: Option<(String, Instant)>,
    /// Why it is not taken in.
    waits: Option<String>,
}

impl Teller {
    fn inform(&mut self, what: &str) {
        if self.last.as_ref().is_none_or(|(said, _)| said != what) {
            tracing::info!("this node waits for {what}");
            self.last = Some((what.to_owned(), Instant::now()));
        }
    }

    fn warn(&mut self, why: &str) {
        let is_new = |(said, at): &(String, Instant)| said != why || at.elapsed() >= SAY_AGAIN;
        if self.last.as_ref().is_none_or(is_new) {
            tracing::error!("no cluster is founded: {why}");
            self.last = Some((why.to_owned(), Instant::now()));
        }
    }

    fn asked(&mut self, answer: Result<ChangeAnswer, PeerError>) {
        let why = match answer {
            Ok(ChangeAnswer { refused, waits }) => refused.or(waits),
            Err(error) => Some(error.to_string()),
        };
        let Some(why) = why else { return };
        let is_new = |(said, at): &(String, Instant)| *said != why || at.elapsed() >= SAY_AGAIN;
        if self.last.as_ref().is_none_or(is_new) {
            tracing::warn!("this node is not taken in yet: {why}");
            self.last = Some((why.clone(), Instant::now()));
        }
        self.waits = Some(format!("the cluster to take this node in: {why}"));
    }
}

/// An id for a new cluster: a random UUID, as RFC 9562 has it (version 4).
fn new_id() -> String {
    let mut bytes = rtdb_runtime::random_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
