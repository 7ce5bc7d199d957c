//! Faults that are planted in the code, to see that they are found. Each stands where its text does: see
//! [`rtdb_runtime::planted`].

/// A planted fault: what it is called, and what it does.
pub type Planted = (&'static str, &'static str);

/// Runs within which each must be found.
pub const SEEDS_MAX: u64 = 400;

/// Those that must be found.
pub const FAULTS: [Planted; 15] = [
    (
        "votes are not synced",
        "a vote is given before it is on disk, against section 5.2 of the Raft paper",
    ),
    (
        "entries count before they are synced",
        "a node says that it has entries on disk while they are being written",
    ),
    ("failed syncs count", "a sync that failed is taken for done"),
    (
        "tails are not cut off",
        "a follower keeps in memory what contradicts its leader",
    ),
    (
        "what is resolved is not noted",
        "after a restart entries are resolved again, from the newest state",
    ),
    (
        "streams are forgotten",
        "after a restart a node does not know how far the others' proposals have come",
    ),
    (
        "duplicates count",
        "a command that was proposed again is taken again",
    ),
    (
        "expired epochs go on",
        "commands of a node that was given up still count",
    ),
    (
        "epochs are used again",
        "a process that starts anew goes on under the epoch of the one before",
    ),
    (
        "nothing is sent again",
        "what the last leader lost is not sent to the next one",
    ),
    (
        "one command too few is sent again",
        "the first command that the log lacks is left out",
    ),
    (
        "patience never ends",
        "a leader that has lost proposals is waited for",
    ),
    (
        "outcomes go to the neighbour",
        "a caller is told what became of the call before its own",
    ),
    (
        "sessions of the dead stay",
        "nobody ends the sessions of a node that is gone",
    ),
    (
        "clocks are not compared",
        "entries are stamped by a clock that nobody has agreed to",
    ),
];

/// Those that may not be found, and why.
pub const MAY_LIVE: [Planted; 4] = [
    (
        "leaders are restored",
        "a leader that comes back leads on in its term: rare",
    ),
    (
        "reads span truncations",
        "entries are read half before and half after a tail was cut off: rare",
    ),
    (
        "truncations are not written",
        "no harm: what is appended in their place says the same",
    ),
    (
        "gaps are skipped",
        "no harm yet: a stream ends with the first batch that it loses",
    ),
];
