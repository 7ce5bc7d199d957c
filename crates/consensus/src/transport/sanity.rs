//! What no healthy peer says.
//!
//! Until peers prove who they are, whoever reaches the raft address may speak in a member's name. What he can't do by
//! it: have a node panic, or make it keep a term that a healthy cluster can't go on from, or bring into the log what no
//! node can read. What he still can do is what a member can: hold elections, and lead.

use crate::position::LOG_INDEX_MAX;
use crate::record::{EncodedBatch, LogIdRecord, LogRecord, RecordError, VoteRecord};
use crate::transport::wire::{Append, VoteAsk};
use crate::{Command, version};
use prost::Message;
use thiserror::Error;

/// The highest number of a command in a stream.
const SEQ_MAX: u64 = 1 << 56;

/// How far a node's epoch, which it takes from its clock, may be ahead of this node's clock, in microseconds: a day.
const EPOCH_AHEAD_US_MAX: u64 = 86_400 * 1_000_000;

/// The start of the year 2020: from then on every second has room for [`TERMS_PER_SECOND`] terms.
const TERMS_SINCE_S: u64 = 1_577_836_800;

/// The start of the year 2026: a clock that is before it is wrong.
const CLOCK_MIN_S: u64 = 1_767_225_600;

/// More than any cluster uses up: each election takes a second.
const TERMS_PER_SECOND: u64 = 10;

/// Terms above the highest that is believed of a peer, for the node's own next election and clocks that differ.
const TERMS_SLACK: u64 = 1_000_000;

/// Why a message is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Unsound {
    /// A term that no cluster has reached yet.
    #[error("term {term} can't have been reached yet (the highest is {max})")]
    Term { term: u64, max: u64 },
    /// Somebody else's vote.
    #[error("node {from} speaks with the vote of node {node}")]
    Vote { from: u64, node: u64 },
    /// An index that no log has.
    #[error("index {0} is beyond the end of any log")]
    Index(u64),
    /// Entries that do not follow each other.
    #[error("entry {0} does not follow the one before it")]
    Order(u64),
    /// A part that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number in a stream of proposals that can't be.
    #[error("a proposal's number or epoch can't be")]
    Number,
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
        false => log_id(ask.last.as_ref(), term_max),
    }
}

/// A leader sends entries in order, of its own term and those before.
pub(crate) fn append(append: &Append, from: u64, term_max: u64) -> Result<(), Unsound> {
    let vote = own(append.vote.as_ref(), from, term_max)?;
    let node = vote.node;
    if !vote.committed {
        return Err(Unsound::Vote { from, node });
    }
    log_id(append.prev.as_ref(), vote.term)?;
    log_id(append.commit.as_ref(), vote.term)?;
    let mut before = append.prev;
    for record in &append.entries {
        let id = record.log_id.ok_or(Unsound::Missing("an entry's id"))?;
        log_id(Some(&id), vote.term)?;
        let next = before.map_or(0, |before| before.index + 1);
        let since = before.map_or(0, |before| before.term);
        if id.index != next || id.term < since || id.term > vote.term {
            return Err(Unsound::Order(id.index));
        }
        before = Some(id);
    }
    append.entries.iter().try_for_each(readable)
}

/// An entry whose version this node, and so the cluster, does not know would stop it. What is in it was looked at by
/// the node that took it into the log.
fn readable(record: &LogRecord) -> Result<(), Unsound> {
    let unreadable = |error: RecordError| Unsound::Command(error.to_string());
    match &record.entry {
        Some(entry) => record.check_version(entry).map_err(unreadable),
        None => Ok(()),
    }
}

/// A node's proposals are numbered, and every node can read them.
pub(crate) fn proposals(batch: &EncodedBatch, now_us: u64) -> Result<(), Unsound> {
    let last = batch.first_seq.checked_add(batch.commands.len() as u64);
    let is_number = batch.first_seq > 0 && last.is_some_and(|last| last <= SEQ_MAX);
    if !is_number || batch.epoch > now_us.saturating_add(EPOCH_AHEAD_US_MAX) {
        return Err(Unsound::Number);
    }
    for command in &batch.commands {
        let command =
            Command::decode(command.clone()).map_err(|error| Unsound::Command(error.to_string()))?;
        let known = version::check(command.version);
        known.map_err(|error| Unsound::Command(error.to_string()))?;
        if command.body.is_none() {
            return Err(Unsound::Command("it is of no known kind".to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW_US: u64 = 1_800_000_000_000_000;

    fn id(term: u64, index: u64) -> LogIdRecord {
        LogIdRecord { term, node: 3, index }
    }

    fn sent(vote_term: u64, prev: Option<LogIdRecord>, ids: &[LogIdRecord]) -> Append {
        let record = |id: &LogIdRecord| LogRecord {
            log_id: Some(*id),
            ..LogRecord::default()
        };
        Append {
            vote: Some(VoteRecord {
                term: vote_term,
                node: 3,
                committed: true,
            }),
            prev,
            entries: ids.iter().map(record).collect(),
            commit: None,
        }
    }

    #[test]
    fn terms_have_a_ceiling_that_grows() {
        assert!(
            term_max(0) > 1 << 30,
            "a clock of 1970 still lets a cluster elect"
        );
        assert_eq!(term_max(NOW_US + 1_000_000), term_max(NOW_US) + TERMS_PER_SECOND);
        assert!(term_max(u64::MAX) < u64::MAX - TERMS_SLACK);
        let max = term_max(NOW_US);
        assert_eq!(append(&sent(max, None, &[]), 3, max), Ok(()));
        assert!(append(&sent(max + 1, None, &[]), 3, max).is_err());
        assert!(append(&sent(u64::MAX, None, &[]), 3, max).is_err());
        assert!(append(&sent(5, None, &[]), 4, max).is_err(), "another's vote");
    }

    #[test]
    fn entries_follow_each_other() {
        let max = term_max(NOW_US);
        let check = |prev, ids: &[LogIdRecord]| append(&sent(9, prev, ids), 3, max).is_ok();
        assert!(check(None, &[id(0, 0), id(1, 1)]) && check(Some(id(7, 4)), &[id(7, 5), id(9, 6)]));
        assert!(!check(None, &[id(1, 1)]), "the first is missing");
        assert!(!check(Some(id(7, 4)), &[id(7, 5), id(7, 7)]), "a gap");
        assert!(!check(Some(id(7, 4)), &[id(6, 5)]), "a term that goes back");
        assert!(!check(Some(id(7, 4)), &[id(10, 5)]), "a term above the vote's");
        assert!(!check(Some(id(7, u64::MAX)), &[id(7, 0)]));
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            numbers in proptest::array::uniform6(prop_oneof![Just(0), Just(u64::MAX), 0u64..9, any::<u64>()]),
        ) {
            if let Ok(message) = Append::decode(&*bytes) {
                drop(append(&message, numbers[0], numbers[1]>>1));
            }
            let [term, prev, first, second, from, now] = numbers;
            drop(append(&sent(term, Some(id(term, prev)), &[id(term, first), id(prev, second)]), from, term_max(now)));
            let batch = EncodedBatch { node: 1, epoch: term, first_seq: first, commands: vec![bytes.into()] };
            drop(proposals(&batch, now));
        }
    }
}
