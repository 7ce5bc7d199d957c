//! What no healthy peer says.
//!
//! Until peers prove who they are, whoever reaches the raft address may speak in a member's name. What he can't do by
//! it: have a node panic, or make it keep a term that a healthy cluster can't go on from, or bring into the log what no
//! node can read. What he still can do is what a member can: hold elections, and lead.

use crate::entry::{EncodedBatch, EncodedEntry};
pub(crate) use crate::founding::ADDR_BYTES_MAX;
use crate::founding::{ELECTORS_MAX, Greeting};
use crate::log::EPOCH_MAX;
use crate::position::LOG_INDEX_MAX;
use crate::record::{LogIdRecord, LogRecord, MembershipRecord, VoteRecord};
use crate::transport::MESSAGE_BYTES_MAX;
use crate::transport::wire::{Append, Appended, VoteAsk};
use crate::types::LogId;
use crate::{COMMANDS_PER_ENTRY_MAX, Command, version};
use prost::Message;
use std::collections::BTreeSet;
use thiserror::Error;

/// The highest number of a command in a stream.
const SEQ_MAX: u64 = 1 << 56;

/// How far a node's epoch may be ahead of its last one, if that was such a high one.
const EPOCH_STEP_MAX: u64 = 1 << 32;

/// The start of the year 2020: from then on every second has room for [`TERMS_PER_SECOND`] terms.
const TERMS_SINCE_S: u64 = 1_577_836_800;

/// The start of the year 2026: a clock that is before it is wrong.
const CLOCK_MIN_S: u64 = 1_767_225_600;

/// More than any cluster uses up: each election takes a second.
const TERMS_PER_SECOND: u64 = 10;

/// Terms above the highest that is believed of a peer, for the node's own next election and clocks that differ: ten seconds'.
/// That long nobody is elected if somebody makes the most of it.
const TERMS_SLACK: u64 = 100;

/// Bytes of a batch of proposals: the entry that is made of it fits in a message.
const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (1 << 20);

/// Bytes of an entry.
const ENTRY_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (512 << 10);

/// Members of a group. Raft keeps them all in one entry.
pub(crate) const MEMBERS_MAX: usize = 1_000;

/// Why a message is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Unsound {
    /// A term that no cluster has reached yet.
    #[error("term {term} can't have been reached yet (the highest is {max})")]
    Term { term: u64, max: u64 },
    /// A leader that was succeeded before this node was taken in.
    #[error("it leads in a term before {0}, in which this node was taken in")]
    Deposed(u64),
    /// Somebody else's vote.
    #[error("node {from} speaks with the vote of node {node}")]
    Vote { from: u64, node: u64 },
    /// An index that no log has.
    #[error("index {0} is beyond the end of any log")]
    Index(u64),
    /// Entries that do not follow each other.
    #[error("entry {0} does not follow the one before it")]
    Order(u64),
    /// An entry that is not the one that was committed here.
    #[error("entry {0} is committed, and is another one here")]
    Committed(u64),
    /// An entry whose time is far ahead.
    #[error(
        "the time of entry {index} is {ahead_ms} ms ahead of what this node's clock allows: see to the leader's clock"
    )]
    FarAhead { index: u64, ahead_ms: i64 },
    /// Members that no group can have.
    #[error("entry {0} holds members that no group can have")]
    Members(u64),
    /// Founders that no cluster can have, or that the sender or this node is not one of.
    #[error("the sender and this node are to be among the nodes that found the cluster, each of them once")]
    Founders,
    /// An answer to something else than what was asked.
    #[error("it is not an answer to what was sent")]
    Answer,
    /// A part that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number in a stream of proposals that can't be.
    #[error("a proposal's number or epoch can't be")]
    Number,
    /// What is too large to be sent on.
    #[error("{bytes} bytes can't be sent on (the most is {max})")]
    TooLarge { bytes: usize, max: usize },
    /// A command that nodes would stop at.
    #[error("a command can't be read: {0}")]
    Command(String),
}

/// The highest term that is believed of a peer, by this node's clock. It is the same on all nodes and grows ten times
/// as fast as terms do: whatever somebody pushes a node's term to, the others accept it too, and elections go on.
pub(crate) fn term_max(now_us: u64) -> u64 {
    let now_s = (now_us / 1_000_000).clamp(CLOCK_MIN_S, u64::MAX / 1_000_000);
    (now_s - TERMS_SINCE_S) * TERMS_PER_SECOND
}

fn term(term: u64, max: u64) -> Result<(), Unsound> {
    let max = max + TERMS_SLACK;
    (term <= max).then_some(()).ok_or(Unsound::Term { term, max })
}

/// A vote that a peer passes on.
pub(crate) fn vote(vote: Option<&VoteRecord>, term_max: u64) -> Result<(), Unsound> {
    vote.map_or(Ok(()), |vote| term(vote.term, term_max))
}

fn log_id(id: Option<&LogIdRecord>, term_max: u64) -> Result<(), Unsound> {
    let Some(id) = id else { return Ok(()) };
    term(id.term, term_max)?;
    (id.index <= LOG_INDEX_MAX)
        .then_some(())
        .ok_or(Unsound::Index(id.index))
}

fn own(vote: Option<&VoteRecord>, from: u64, term_max: u64) -> Result<&VoteRecord, Unsound> {
    let vote = vote.ok_or(Unsound::Missing("a vote"))?;
    let node = vote.node;
    if node != from {
        return Err(Unsound::Vote { from, node });
    }
    // A step below what is believed when it is passed on: the answer to it must be believed too.
    (vote.term <= term_max).then_some(vote).ok_or(Unsound::Term {
        term: vote.term,
        max: term_max,
    })
}

/// Who asks for a vote asks for his own.
pub(crate) fn vote_ask(ask: &VoteAsk, from: u64, term_max: u64) -> Result<(), Unsound> {
    let vote = own(ask.vote.as_ref(), from, term_max)?;
    let node = vote.node;
    match vote.committed {
        true => Err(Unsound::Vote { from, node }),
        false => candidate(ask.last.as_ref(), term_max),
    }
}

/// A candidate has the log's first entry at least, which says who the members are.
pub(crate) fn candidate(last: Option<&LogIdRecord>, term_max: u64) -> Result<(), Unsound> {
    log_id(
        Some(last.ok_or(Unsound::Missing("the end of the log"))?),
        term_max,
    )
}

/// Who led when an entry was made, as openraft orders it.
fn leader(id: &LogIdRecord) -> (u64, u64) {
    (id.term, id.node)
}

/// A leader sends entries in order, of its own term and those before, none stamped later than `stamp_us_max`, if there is
/// such a limit.
pub(crate) fn append(
    append: &Append,
    from: u64,
    term_max: u64,
    stamp_us_max: Option<i64>,
) -> Result<(), Unsound> {
    let vote = own(append.vote.as_ref(), from, term_max)?;
    let node = vote.node;
    if !vote.committed {
        return Err(Unsound::Vote { from, node });
    }
    let latest = (vote.term, vote.node);
    for id in append.prev.iter().chain(&append.commit) {
        log_id(Some(id), term_max)?;
        if leader(id) > latest {
            return Err(Unsound::Order(id.index));
        }
    }
    let mut before = append.prev;
    for record in &append.entries {
        let id = record.log_id.ok_or(Unsound::Missing("an entry's id"))?;
        log_id(Some(&id), term_max)?;
        let next = before.map_or(0, |before| before.index + 1);
        let since = before.as_ref().map_or((0, 0), leader);
        if id.index != next || leader(&id) < since || leader(&id) > latest {
            return Err(Unsound::Order(id.index));
        }
        before = Some(id);
    }
    let ids = append
        .prev
        .iter()
        .chain(append.entries.iter().filter_map(|record| record.log_id.as_ref()));
    for id in ids {
        if append
            .commit
            .is_some_and(|commit| commit.index == id.index && commit != *id)
        {
            return Err(Unsound::Committed(id.index));
        }
    }
    for record in &append.entries {
        entry(record, record.log_id.map_or(0, |id| id.index), stamp_us_max)?;
    }
    Ok(())
}

/// An entry that nodes can't read would stop them, and one that is too large to be sent on the log.
fn entry(record: &LogRecord, index: u64, stamp_us_max: Option<i64>) -> Result<(), Unsound> {
    if let Some(entry) = &record.entry {
        size(entry.len(), ENTRY_BYTES_MAX)?;
        let unreadable = |error: &dyn std::error::Error| Unsound::Command(error.to_string());
        let entry = EncodedEntry::decode(entry.clone()).map_err(|error| unreadable(&error))?;
        version::check_entry(entry.version).map_err(|error| unreadable(&error))?;
        if let Some(max) = stamp_us_max.filter(|max| entry.timestamp_us > *max) {
            let ahead_ms = entry.timestamp_us.saturating_sub(max) / 1_000;
            return Err(Unsound::FarAhead { index, ahead_ms });
        }
        let mut count = 0;
        for batch in &entry.batches {
            count += commands(batch)?;
        }
        if count > COMMANDS_PER_ENTRY_MAX {
            return Err(Unsound::Command(format!("{count} commands have no places")));
        }
    }
    match &record.membership {
        None => Ok(()),
        Some(_) if record.entry.is_some() => Err(Unsound::Members(index)),
        Some(membership) => members(membership).then_some(()).ok_or(Unsound::Members(index)),
    }
}

fn size(bytes: usize, max: usize) -> Result<(), Unsound> {
    (bytes <= max)
        .then_some(())
        .ok_or(Unsound::TooLarge { bytes, max })
}

/// Whether a group can have these members: voters, each of which has an id and an address.
fn members(record: &MembershipRecord) -> bool {
    let voters: BTreeSet<u64> = record
        .configs
        .iter()
        .flat_map(|set| set.voters.iter().copied())
        .collect();
    let addresses = &mut record.members.values().map(|member| &member.addr);
    (1..=2).contains(&record.configs.len())
        && record.configs.iter().all(|set| !set.voters.is_empty())
        && record.members.len() <= MEMBERS_MAX
        && voters.iter().all(|voter| record.members.contains_key(voter))
        && !record.members.contains_key(&0)
        && addresses.all(|addr| (1..=ADDR_BYTES_MAX).contains(&addr.len()))
}

/// What is `said` of a log, of which everything up to `committed` is as `known` has it: another entry in the place of one
/// that is committed was never in a leader's log, and neither was one of an earlier term behind it.
pub(crate) fn history(
    committed: Option<LogId>,
    known: impl Fn(u64) -> Option<LogId>,
    said: impl IntoIterator<Item = LogId>,
) -> Result<(), Unsound> {
    let Some(committed) = committed else { return Ok(()) };
    for id in said {
        let fits = match id.index <= committed.index {
            // What was purged is not known any more.
            true => known(id.index).is_none_or(|known| known == id),
            false => leader(&id.into()) >= leader(&committed.into()),
        };
        if !fits {
            return Err(Unsound::Committed(id.index));
        }
    }
    Ok(())
}

/// A follower speaks of what it was sent: entries behind `prev`, the last of them `last`.
pub(crate) fn appended(
    reply: &Appended,
    prev: Option<LogIdRecord>,
    last: Option<LogIdRecord>,
    term_max: u64,
) -> Result<(), Unsound> {
    vote(reply.higher.as_ref(), term_max)?;
    let index = |id: Option<LogIdRecord>| id.map(|id| id.index);
    let matches = reply.matching == last || index(reply.matching) < index(last);
    let conflicts = reply.conflict.is_none() || reply.conflict == prev;
    (matches && conflicts).then_some(()).ok_or(Unsound::Answer)
}

/// The nodes that found a cluster are given once each, and this node is among them.
pub(crate) fn founders(founders: &[u64], me: u64, from: u64) -> Option<BTreeSet<u64>> {
    let nodes: BTreeSet<u64> = founders.iter().copied().collect();
    let is_sound = nodes.len() == founders.len()
        && nodes.len() <= MEMBERS_MAX
        && !nodes.contains(&0)
        && nodes.contains(&me)
        && nodes.contains(&from);
    is_sound.then_some(nodes)
}

/// Who greets says who he is, and asks in his own name.
pub(crate) fn greeting(greeting: &Greeting, from: u64) -> bool {
    let me = greeting.me.as_ref();
    let proposed = greeting.accept.as_ref().map(|proposed| proposed.ballot.as_ref());
    let founders = greeting.accept.iter().flat_map(|proposed| &proposed.founding);
    let mut ballots = greeting.prepare.iter().chain(proposed.flatten());
    greeting.electors.len() <= ELECTORS_MAX
        && { founders }.all(|founding| founding.founders.len() <= ELECTORS_MAX)
        && me.is_none_or(|me| me.node == from && me.is_sound())
        && ballots.all(|ballot| ballot.node == from)
}

/// A node's proposals are numbered, and every node can read them. `known` is the node's last epoch.
pub(crate) fn proposals(batch: &EncodedBatch, known: u64) -> Result<(), Unsound> {
    let last = batch.first_seq.checked_add(batch.commands.len() as u64);
    let is_number = batch.first_seq > 0 && last.is_some_and(|last| last <= SEQ_MAX);
    if !is_number || batch.epoch > EPOCH_MAX.max(known.saturating_add(EPOCH_STEP_MAX)) {
        return Err(Unsound::Number);
    }
    size(batch.size(), BATCH_BYTES_MAX)?;
    commands(batch).map(drop)
}

/// Every node can read the commands. Gives how many positions they take.
fn commands(batch: &EncodedBatch) -> Result<usize, Unsound> {
    let mut positions = 0;
    for command in &batch.commands {
        let command =
            Command::decode(command.clone()).map_err(|error| Unsound::Command(error.to_string()))?;
        let known = version::check(command.version);
        known.map_err(|error| Unsound::Command(error.to_string()))?;
        if command.body.is_none() {
            return Err(Unsound::Command("it is of no known kind".to_owned()));
        }
        positions += command.positions();
    }
    Ok(positions)
}

#[cfg(test)]
mod tests;
