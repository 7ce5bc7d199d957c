//! Outside issuers of tokens, as all nodes know them: so that none is turned away who shows a token of an issuer that only
//! another node could ask, or that nobody can ask any more.

use super::state::StateKey;
use super::verdict::{Change, Verdict};
use crate::command::{ISSUER_BYTES_MAX, ISSUER_KEYS_BYTES_MAX, ISSUERS_LEVEL, SetIssuer, WantIssuer};
use crate::{Refusal, Reply};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;

/// Issuers whose keys are known. Of the host that has most of them, the one that was fetched longest ago goes first.
pub(super) const ISSUERS_MAX: usize = 128;

/// Issuers that are wanted and whose keys nobody has fetched. The same of when they were wanted.
pub(super) const WANTED_MAX: usize = 32;

/// An outside issuer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Issuer {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its keys, as a JSON Web Key Set; nothing if nobody has fetched them.
    #[prost(bytes = "bytes", tag = "2")]
    pub keys: Bytes,
    /// When a node had them from the issuer last, by the log's time in microseconds; 0 for never.
    #[prost(sfixed64, tag = "3")]
    pub fetched_us: i64,
    /// When a node wanted them last that could not fetch them; 0 for never.
    #[prost(sfixed64, tag = "4")]
    pub wanted_us: i64,
    /// The version that its reader must know.
    #[prost(uint32, tag = "15")]
    pub(crate) version: u32,
}

impl Issuer {
    fn change(&self) -> Change {
        (StateKey::Issuer(self.name.clone()), Some(self.encode_to_vec()))
    }
}

/// The issuers that the meta group knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Issuers(BTreeMap<String, Issuer>);

impl Issuers {
    pub(super) fn get(&self, name: &str) -> Option<&Issuer> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Issuer> {
        self.0.values()
    }

    /// Takes the keys that a node has fetched.
    pub(super) fn set(&mut self, set: &SetIssuer, now_us: i64, changes: &mut Vec<Change>) -> Verdict {
        if set.keys.len() > ISSUER_KEYS_BYTES_MAX {
            let (what, max) = ("the issuer's key set", ISSUER_KEYS_BYTES_MAX);
            return Verdict::Refused(Refusal::TooLong { what, max });
        }
        self.change(&set.issuer, changes, |issuer| {
            if !set.keys.is_empty() {
                issuer.keys = set.keys.clone();
            }
            // Of an issuer that is forgotten by now, the same as before is nothing.
            if !issuer.keys.is_empty() {
                issuer.fetched_us = now_us;
            }
        })
    }

    /// Notes that a node wants an issuer's keys.
    pub(super) fn want(&mut self, want: &WantIssuer, now_us: i64, changes: &mut Vec<Change>) -> Verdict {
        self.change(&want.issuer, changes, |issuer| issuer.wanted_us = now_us)
    }

    fn change(&mut self, name: &str, changes: &mut Vec<Change>, change: impl FnOnce(&mut Issuer)) -> Verdict {
        if name.len() > ISSUER_BYTES_MAX {
            let (what, max) = ("the issuer's name", ISSUER_BYTES_MAX);
            return Verdict::Refused(Refusal::TooLong { what, max });
        }
        let new = || Issuer {
            name: name.to_owned(),
            version: ISSUERS_LEVEL,
            ..Issuer::default()
        };
        let issuer = self.0.entry(name.to_owned()).or_insert_with(new);
        change(issuer);
        changes.push(issuer.change());
        self.forget(ISSUERS_MAX, |it| !it.keys.is_empty(), |it| it.fetched_us, changes);
        self.forget(WANTED_MAX, |it| it.keys.is_empty(), |it| it.wanted_us, changes);
        Verdict::Done(Reply::Done)
    }

    /// Keeps no more of a kind than `max`: the oldest one goes of the host that has most of them, so that nobody pushes out
    /// others' with many of his own.
    fn forget(
        &mut self,
        max: usize,
        is_kind: impl Fn(&Issuer) -> bool,
        age: impl Fn(&Issuer) -> i64,
        changes: &mut Vec<Change>,
    ) {
        let of_kind = || self.0.values().filter(|issuer| is_kind(issuer));
        if of_kind().count() <= max {
            return;
        }
        let mut hosts: BTreeMap<String, Vec<&Issuer>> = BTreeMap::new();
        for issuer in of_kind() {
            hosts.entry(host(&issuer.name)).or_default().push(issuer);
        }
        let most = hosts.values().map(Vec::len).max();
        let of_most = hosts.into_values().filter(|of_host| Some(of_host.len()) == most);
        let oldest = of_most.flatten().min_by_key(|issuer| age(issuer));
        if let Some(name) = oldest.map(|issuer| issuer.name.clone()) {
            self.0.remove(&name);
            changes.push((StateKey::Issuer(name), None));
        }
    }

    pub(super) fn restore(&mut self, issuer: Issuer) {
        self.0.insert(issuer.name.clone(), issuer);
    }

    pub(super) fn dump(&self, changes: &mut Vec<Change>) {
        changes.extend(self.0.values().map(Issuer::change));
    }
}

/// An issuer's host, however it is spelled.
fn host(issuer: &str) -> String {
    let (_, rest) = issuer.split_once("://").unwrap_or(("", issuer));
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.trim_end_matches('.').to_ascii_lowercase()
}
