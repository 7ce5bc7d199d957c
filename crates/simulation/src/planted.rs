//! Faults that are planted in the code, to see that they are found. Each stands where its text does: see
//! [`rtdb_runtime::planted`].

/// A planted fault: what it is called, and what it does.
pub type Planted = (&'static str, &'static str);

/// Runs within which each must be found.
pub const SEEDS_MAX: u64 = 400;

/// Those that must be found.
pub const FAULTS: [Planted; 16] = [
    (
        "votes are not synced",
        "a vote is given before it is on disk, as raft's section 5.2 forbids",
    ),
    (
        "entries count before they are synced",
        "a node says that it has entries on disk while they are being written",
    ),
    (
        "failed syncs count",
        "a sync that failed is taken for done, as PostgreSQL once did",
    ),
    (
        "truncations are not written",
        "a follower's tail that contradicts the leader is cut off in memory only",
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
        "gaps are skipped",
        "a command is taken though those before it are missing",
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

/// Those that are not found, and why that is no harm, or is one.
pub const NOT_FOUND: [Planted; 2] = [
    (
        "leaders are restored",
        "a leader that comes back leads on in its term, with entries that others may have otherwise",
    ),
    (
        "reads span truncations",
        "entries are read half before and half after a tail was cut off",
    ),
];
