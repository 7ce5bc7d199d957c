//! One ballot, as its node counts it.

use super::{Ballot, Founding, Greeted, majority};
use std::collections::{BTreeMap, BTreeSet};

/// A ballot: Paxos's proposer.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) ballot: Ballot,
    electors: BTreeSet<u64>,
    /// What is proposed if nothing is agreed to.
    own: Founding,
    /// Who has promised, and what he had agreed to before.
    promised: BTreeMap<u64, Option<(Ballot, Founding)>>,
    accepted: BTreeSet<u64>,
}

impl Attempt {
    pub(crate) fn new(ballot: Ballot, electors: BTreeSet<u64>, own: Founding) -> Self {
        Self {
            ballot,
            electors,
            own,
            promised: BTreeMap::new(),
            accepted: BTreeSet::new(),
        }
    }

    /// A node has answered to the first question; gives what is to be proposed, once a majority has promised.
    pub(crate) fn promised(&mut self, from: &Greeted) -> Option<Founding> {
        if from.agrees && from.promised == Some(self.ballot) && self.electors.contains(&from.node) {
            let accepted = from.accepted.as_ref();
            let accepted = accepted.and_then(|it| Some((it.ballot?, it.founding.clone()?)));
            let is_sound = accepted
                .as_ref()
                .is_none_or(|(_, founding)| founding.is_sound(&self.electors));
            if !is_sound {
                return None;
            }
            self.promised.insert(from.node, accepted);
        }
        if self.promised.len() < majority(&self.electors) {
            return None;
        }
        let agreed = self.promised.values().flatten();
        let last = agreed.max_by_key(|(ballot, _)| *ballot);
        Some(last.map_or_else(|| self.own.clone(), |(_, founding)| founding.clone()))
    }

    /// A node has answered to the second question; whether that decides it.
    pub(crate) fn accepted(&mut self, from: &Greeted) -> bool {
        if from.agrees && from.promised == Some(self.ballot) && self.electors.contains(&from.node) {
            self.accepted.insert(from.node);
        }
        self.accepted.len() >= majority(&self.electors)
    }
}
