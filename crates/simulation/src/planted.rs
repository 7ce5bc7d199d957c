//! Faults that are planted in the code, to see that they are found. Each stands where its text does: see
//! [`rtdb_runtime::planted`].

/// A planted fault.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// What it is called.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
}

const fn planted(name: &'static str, what: &'static str) -> Planted {
    Planted { name, what }
}

/// Runs within which each must be found.
pub const SEEDS_MAX: u64 = 400;

/// Those that must be found.
pub const FAULTS: [Planted; 41] = [
    planted("votes are not synced", "a vote is given before it is on disk"),
    planted(
        "entries count before they are synced",
        "they are told to be on disk while they are being written",
    ),
    planted("failed syncs count", "a sync that failed is taken for done"),
    planted(
        "tails are not cut off",
        "a follower keeps in memory what contradicts its leader",
    ),
    planted(
        "leaders are restored",
        "a leader that comes back leads on in its term",
    ),
    planted(
        "what is resolved is not noted",
        "after a restart entries are resolved again, from the newest state",
    ),
    planted(
        "streams are forgotten",
        "after a restart it is not known how far others' proposals have come",
    ),
    planted(
        "sessions are forgotten",
        "after a restart others' clients are not known",
    ),
    planted(
        "decisions are forgotten",
        "what was passed over counts when the log is read again",
    ),
    planted(
        "duplicates count",
        "a command that was proposed again is taken again",
    ),
    planted(
        "repeated calls count",
        "a call that is sent again with its key takes effect again",
    ),
    planted(
        "timers count in any term",
        "what a deposed leader has seen due counts, though its successor may have seen it too",
    ),
    planted(
        "timers run before they are due",
        "what a leader with another clock has seen due counts by a clock that is behind",
    ),
    planted(
        "epochs are used again",
        "a process goes on under the epoch of the one before",
    ),
    planted(
        "nothing is sent again",
        "what the last leader lost is not sent to the next one",
    ),
    planted(
        "one command too few is sent again",
        "the first command that the log lacks is left out",
    ),
    planted(
        "outcomes go to the neighbour",
        "a caller is told what became of the call before its own",
    ),
    planted(
        "sessions of the dead stay",
        "nobody ends the sessions of a node that is gone",
    ),
    planted(
        "clocks are not compared",
        "entries are stamped by a clock that nobody has agreed to",
    ),
    planted(
        "time goes back",
        "an entry's time is its leader's, however late the log was before",
    ),
    planted(
        "losses of servers are not noticed",
        "a replica goes on where it remembers to have been, and not where its server is",
    ),
    planted(
        "calls are sent again wherever the server is",
        "after a lost connection what was open is sent again, without a look at where the server is",
    ),
    planted(
        "results go to the neighbour",
        "what came of a call is told to the caller of the next one",
    ),
    planted(
        "any result is taken for the next call's",
        "results are not compared with the calls that wait for them",
    ),
    planted(
        "outcomes are told again",
        "what is applied again after a server lost it is told again",
    ),
    planted(
        "lost answers are good ones",
        "calls whose answers were lost with a server are told to have gone well",
    ),
    planted(
        "doubtful answers are told at once",
        "what one server alone says of a trap is not held until a majority says so",
    ),
    planted(
        "updates are left out",
        "a publication to an existing database is marked, and its module never put there",
    ),
    planted(
        "late joiners are shown old rows",
        "whoever joins a shared subscription gets the rows that one before got, and so misses updates",
    ),
    planted(
        "fences are not waited for",
        "whoever joins a shared subscription gets its rows before those are there that it has seen committed",
    ),
    planted(
        "restored rows are shown again",
        "what members of a feed missed is not taken down as shown",
    ),
    planted(
        "updates that wait change places",
        "what a feed has gathered is not told in the order in which it came",
    ),
    planted(
        "updates overtake receipts",
        "what stands behind a call's rows is shown while these wait for its outcome",
    ),
    planted(
        "departures are not told",
        "a session that ends is not ended in the log",
    ),
    planted(
        "publications are not noticed",
        "a connection to what was there before a publication is kept",
    ),
    planted(
        "servers are not waited for",
        "a connection is opened before the server has again what it had shown",
    ),
    planted(
        "results go before what stands before them",
        "a call's result and the message before it change places",
    ),
    planted(
        "lost feeds are not opened again",
        "members of a feed are sent away when the server dies",
    ),
    planted(
        "arrivals call nothing",
        "who comes is let in without `client_connected`",
    ),
    planted(
        "departures call nothing",
        "who goes is forgotten without `client_disconnected`",
    ),
    planted(
        "reads ask nobody",
        "a leader says how far the log is committed, and does not ask whether it leads still",
    ),
];

/// Those that may not be found, and why.
pub const MAY_LIVE: [Planted; 6] = [
    planted(
        "receipts of a lost life count",
        "rare: an update waits for its outcome when its connection is lost",
    ),
    planted(
        "reads span truncations",
        "rare: entries are read half before and half after a tail was cut off",
    ),
    planted(
        "truncations are not written",
        "no harm: what is appended in their place says the same",
    ),
    planted(
        "gaps are skipped",
        "no harm yet: a stream ends with the first batch that it loses",
    ),
    planted(
        "expired epochs go on",
        "no harm to what was told: that the outcome is unknown",
    ),
    planted(
        "patience never ends",
        "no harm yet: whoever loses proposals says so",
    ),
];
