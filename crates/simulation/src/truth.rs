//! What must hold: one history for all nodes, and in it each acknowledged command once, at the place that was told.

use crate::module::{self, ADD, BURN, DATABASE, FAIL, REMOVE, TRAP};
use crate::shown::{Mask, Shown};
use crate::spacetime::database::Database;
use parking_lot::Mutex;
use rtdb_consensus::command::{Body, Timer, TimerAt};
use rtdb_consensus::{
    Applied, GroupId, Holding, LogIndex, Origin, Outcome, Position, Refusal, Reply, ResolvedCommand,
    ResolvedEntry, Unapplied,
};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{DISCONNECT, IDENTIFY, MARK, SKIPPED};
use rtdb_protocol::reply::Outcome as Ran;
use rtdb_replica::Found;
use rtdb_runtime::sim;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What the end of a session is called, before its number.
pub const END: &str = "end of ";

/// What the beginning of a session is called, before its client and number.
pub const SESSION: &str = "session ";

/// What a deletion is called, before its number.
pub const DELETION: &str = "deletion ";

/// For how long a gap is looked for.
const GAP_WITHIN: Duration = Duration::from_secs(3);

/// How far the log's time may be ahead while a majority's clocks are about right, in microseconds.
const AHEAD_US_MAX: i64 = 1_500_000;

/// The history that every node must show, as far as any has, and what the clients were told.
#[derive(Default)]
pub struct Truth(Mutex<State>);

#[derive(Default)]
struct State {
    history: BTreeMap<LogIndex, Arc<ResolvedEntry>>,
    commands: usize,
    /// The last command's place and time.
    last: (Position, i64),
    /// Where the commands of each stream stand.
    streams: BTreeMap<(Origin, u64), Position>,
    /// Calls of which somebody was told that there is no database.
    absent: BTreeSet<Position>,
    /// Where each command with a name stands.
    places: BTreeMap<String, Position>,
    /// Where those stood before that were made again, with their keys, in another database than before.
    former: BTreeSet<(String, Position)>,
    /// Where the database was deleted last.
    deleted: Position,
    acknowledged: BTreeMap<String, Position>,
    unknown: BTreeSet<String>,
    refused: BTreeSet<String>,
    /// What each client has asked one node for, in its order.
    asked: BTreeMap<(u64, u64), Vec<String>>,
    last_acknowledged: BTreeMap<u64, Position>,
    gaps: Vec<Gap>,
    /// Whether calls went well, and what ends with sessions.
    ran: BTreeMap<(Position, bool), bool>,
    /// The servers on which calls have failed.
    failed_on: BTreeMap<Position, BTreeSet<u64>>,
    majority: Option<usize>,
    /// Hashes of all rows, and digests, by the last call that is part of them.
    rows: BTreeMap<Position, (u64, u64)>,
    /// What subscribers may be shown.
    shown: Shown,
    /// Rows that were removed, by name.
    removed: BTreeSet<String>,
    /// What replicas have said that they hold.
    holdings: BTreeMap<(u64, bool), u64>,
    /// Calls that were told to have failed.
    failed: BTreeMap<String, Position>,
    /// Whether somebody has asked for the database's deletion.
    may_be_gone: bool,
    /// The last publication that a server has marked.
    marked: Position,
    /// Nodes whose clocks have jumped.
    doubted: BTreeSet<u64>,
    is_time_doubted: bool,
    /// The rows that were due, and the last one that each node has read of.
    timers: BTreeSet<u64>,
    last_timer: BTreeMap<u64, u64>,
    /// The life in which a node led a group in a term.
    leaders: BTreeMap<(GroupId, u64, u64), u64>,
    reigns: Vec<Reign>,
}

/// That a node began to lead the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// When, since the run began.
    pub since: Duration,
    /// The node.
    pub node: u64,
    /// Its term.
    pub term: u64,
}

/// Whether the database that there is ends with a command.
fn ends(command: &ResolvedCommand) -> bool {
    match &command.command.body {
        Some(Body::Publish(publish)) => publish.clear && !publish.module.starts_with(module::BAD.as_bytes()),
        Some(Body::Delete(_)) => true,
        _ => false,
    }
}

/// What a client is told of a call.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// When it was made.
    pub timestamp_us: Option<i64>,
    /// The place that the call itself has returned.
    pub place: Option<u64>,
    /// Why it has failed.
    pub error: Option<String>,
}

/// How much of what there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands in the history.
    pub history: usize,
    /// Commands that were acknowledged.
    pub acknowledged: usize,
    /// Commands whose outcome was told to be unknown.
    pub unknown: usize,
    /// Commands that the log's rules refused.
    pub refused: usize,
    /// Leaders of a group and a term.
    pub leaders: usize,
}

/// What a command is known by; `None` for what the cluster does by itself.
pub fn name(command: &ResolvedCommand) -> Option<String> {
    match command.command.body.as_ref()? {
        Body::Call(call) => module::name(&call.args).map(str::to_owned),
        Body::Connect(connect) => Some(
            match String::from_utf8_lossy(&connect.sender).trim_end_matches('\0') {
                name if name.starts_with(SESSION) => name.to_owned(),
                // Somebody who comes again and again.
                _ => visit(&connect.connection),
            },
        ),
        Body::Publish(publish) => Some(String::from_utf8_lossy(&publish.module).into_owned()),
        Body::Disconnect(disconnect) => Some(format!("{END}{}", disconnect.session)),
        _ => None,
    }
}

/// What a client's coming through a gateway is called, by its connection.
pub fn visit(connection: &[u8]) -> String {
    let number = connection
        .first_chunk()
        .map_or(0, |number| u128::from_le_bytes(*number));
    format!("{SESSION}by visit {number:x}")
}

/// The longest time without a new command, within some seconds after something.
#[derive(Clone, Copy)]
struct Gap {
    end: Duration,
    last: Duration,
    longest: Duration,
}

impl Gap {
    fn note(&mut self, now: Duration) {
        if self.last < self.end {
            self.longest = self.longest.max(now - self.last);
            self.last = now;
        }
    }
}

/// What an entry's commands are called.
fn names(entry: &ResolvedEntry) -> String {
    let names = entry.commands.iter().map(|command| {
        let name = name(command);
        format!("{} {name:?}", command.position)
    });
    names.collect::<Vec<_>>().join(", ")
}

/// The row that a command runs or claims, since it is due.
fn due_row(command: &ResolvedCommand) -> Option<&Timer> {
    match command.command.body.as_ref()? {
        Body::Timer(timer) => Some(timer),
        Body::Transaction(transaction) => transaction.claim.as_ref(),
        _ => None,
    }
}

fn is_skipped(outcome: &Ran) -> bool {
    matches!(outcome, Ran::Failed { message, .. } if message == SKIPPED)
}

impl State {
    /// Whether a command of this name stands there, in this database or one before.
    fn stands(&self, name: &str, position: Position) -> bool {
        self.places.get(name) == Some(&position) || self.former.contains(&(name.to_owned(), position))
    }

    /// Takes an entry that nobody has read before.
    fn append(&mut self, node: u64, entry: &Arc<ResolvedEntry>) {
        for command in &entry.commands {
            let (position, timestamp_us) = (command.position, command.timestamp_us);
            assert!(
                self.last.0 < position,
                "node {node} has left something out before {position}, or others have"
            );
            assert!(self.last.1 < timestamp_us, "time goes back at {position}");
            let ahead = timestamp_us - sim::true_wall_us() as i64;
            assert!(
                self.is_time_doubted || ahead <= AHEAD_US_MAX,
                "the log's time is {ahead} µs ahead at {position}"
            );
            self.streams.insert((command.origin, command.seq), position);
            if let Some(timer) = due_row(command) {
                self.due(timer, position, timestamp_us);
            }
            let name = name(command);
            sim::note(
                || format!("{position} is {}", name.as_deref().unwrap_or("the cluster's own")),
                [position.0, 0, 0],
            );
            if matches!(command.command.body, Some(Body::Delete(_))) {
                self.deleted = position;
            }
            if let Some(name) = name {
                let before = self.places.insert(name.clone(), position);
                // What found no database may be called again with its key, and all once it is deleted.
                let was_nothing = |before| before < self.deleted || self.absent.contains(&before);
                let is_anew = command.command.key().is_some() && before.is_some_and(was_nothing);
                assert!(
                    before.is_none() || is_anew,
                    "{name} is applied twice, at {before:?} and {position}"
                );
                if let Some(before) = before.filter(|_| is_anew) {
                    self.acknowledged.remove(&name);
                    self.failed.remove(&name);
                    self.former.insert((name, before));
                }
            }
            self.gaps
                .last_mut()
                .into_iter()
                .for_each(|gap| gap.note(sim::elapsed()));
            self.last = (position, timestamp_us);
            self.commands += 1;
        }
        self.history.insert(entry.index, entry.clone());
    }

    /// A row is due once, and both halves of that stand together.
    fn due(&mut self, timer: &Timer, position: Position, timestamp_us: i64) {
        if let Some(TimerAt::TimeUs(at_us)) = timer.at {
            assert!(
                at_us <= timestamp_us,
                "row {} is not due at {position}",
                timer.row
            );
        }
        if timer.over {
            let is_next = self.last.0.0 + 1 == position.0 && self.timers.last() == Some(&timer.row);
            assert!(is_next, "half of row {} stands alone at {position}", timer.row);
        } else {
            let is_new = self.timers.insert(timer.row);
            assert!(is_new, "row {} is due again at {position}", timer.row);
        }
    }
}

impl State {
    /// Whoever has come since the database was last cleared, and has gone, has been seen off, on all servers.
    fn check_departures(&self, node: u64, cleared: Option<Position>, database: &Database) {
        let commands = || self.history.values().flat_map(|entry| &entry.commands);
        let passed_over: BTreeSet<u64> = commands()
            .filter_map(|command| match &command.command.body {
                Some(Body::Poison(poison)) => Some(poison.position),
                _ => None,
            })
            .collect();
        for command in commands() {
            let position = command.position;
            if let (Some(Body::Disconnect(gone)), Some(session)) = (&command.command.body, &command.session)
                && session.database == DATABASE
                && Some(Position(session.id)) > cleared
                && self.ran.get(&(Position(session.id), false)) == Some(&true)
                && !gone.refused
                && !passed_over.contains(&position.0)
            {
                let is_there = database.rows.contains_key(&position.0);
                assert_eq!(
                    self.ran.get(&(position, false)),
                    Some(&is_there),
                    "on node {node} session {} has ended at {position} without `client_disconnected`",
                    Position(session.id)
                );
            }
        }
    }
}

impl Truth {
    /// From now on it is looked for how long nothing new is applied.
    pub fn begin_gap(&self) {
        let now = sim::elapsed();
        self.0.lock().gaps.push(Gap {
            end: now + GAP_WITHIN,
            last: now,
            longest: Duration::ZERO,
        });
    }

    /// The longest times without a new command, each after a beginning.
    pub fn gaps(&self) -> Vec<Duration> {
        self.0.lock().gaps.iter().map(|gap| gap.longest).collect()
    }

    /// A node has read entries of its log, from an index on.
    pub fn read(&self, node: u64, from: LogIndex, entries: &[Arc<ResolvedEntry>]) {
        let mut state = self.0.lock();
        let Some(last) = entries.last() else { return };
        let commands = entries.iter().flat_map(|entry| &entry.commands);
        let rows = commands.filter_map(|command| Some(due_row(command)?.row));
        if let Some(row) = rows.max() {
            let last = state.last_timer.entry(node).or_default();
            *last = row.max(*last);
        }
        let known: Vec<_> = state
            .history
            .range(from..=last.index)
            .map(|(_, entry)| entry.clone())
            .collect();
        let mut known = known.into_iter();
        for entry in entries.iter().filter(|entry| !entry.commands.is_empty()) {
            match known.next() {
                Some(known) => assert!(
                    Arc::ptr_eq(&known, entry) || known == *entry,
                    "node {node} has another entry {}: {} instead of {}",
                    entry.index,
                    names(entry),
                    names(&known)
                ),
                None => state.append(node, entry),
            }
        }
        if let Some(left) = known.next() {
            panic!("node {node} has left out entry {}: {}", left.index, names(&left));
        }
    }

    /// A server has made a call.
    pub fn ran(
        &self,
        node: u64,
        id: &[u8],
        (reducer, args): (&str, &[u8]),
        outcome: &Ran,
        removed: Option<&str>,
        database: &Database,
    ) {
        let (Some(header), true) = (CallHeader::decode(args), id == DATABASE) else {
            return;
        };
        if header.index == 0 || is_skipped(outcome) {
            return;
        }
        let mut state = self.0.lock();
        let position = Position(header.index);
        sim::note(
            || format!("the server of node {node} makes the call {reducer} at {position}: {outcome:?}"),
            [node, header.index, 10],
        );
        let is_ok = matches!(outcome, Ran::Ok { .. });
        if [ADD, REMOVE, FAIL, TRAP, BURN].contains(&reducer) {
            let name = module::name(args).unwrap_or_default();
            assert!(
                state.stands(name, position),
                "node {node} has {name} called at {position}, where it does not stand"
            );
        }
        if reducer == MARK && is_ok && args.last() == Some(&1) {
            state.marked = state.marked.max(position);
        }
        if ![MARK, IDENTIFY].contains(&reducer) {
            let known = *state
                .ran
                .entry((position, reducer == DISCONNECT))
                .or_insert(is_ok);
            assert_eq!(
                known, is_ok,
                "the call at {position} has another outcome on node {node}"
            );
            assert!(
                !state.absent.contains(&position),
                "node {node} makes the call at {position}, of which another has told that there is no database"
            );
        }
        if !is_ok {
            state.failed_on.entry(position).or_default().insert(node);
            return;
        }
        let Some(its) = database.state.filter(|its| its.index == header.index) else {
            return;
        };
        let rows = (database.hash(), its.digest);
        if !state.rows.contains_key(&position) {
            state.shown.record(position, database.shown);
            state.removed.extend(removed.map(str::to_owned));
        }
        let known = *state.rows.entry(position).or_insert(rows);
        assert_eq!(
            known, rows,
            "the server of node {node} holds other rows at {position} than one before"
        );
    }

    /// The last row that was due, as far as a node's replica has read.
    pub fn last_timer(&self, node: u64) -> u64 {
        self.0.lock().last_timer.get(&node).copied().unwrap_or_default()
    }

    /// The last command that anybody was told to be committed.
    pub fn told_last(&self) -> Position {
        let told = self.0.lock().last_acknowledged.values().max().copied();
        told.unwrap_or_default()
    }

    /// What a majority is.
    pub fn majority(&self, majority: usize) {
        self.0.lock().majority = Some(majority);
    }

    /// A node's replica tells what became of a command.
    pub fn completed(&self, node: u64, origin: Origin, seq: u64, outcome: &Outcome) {
        let mut state = self.0.lock();
        let (position, is_ok) = match outcome {
            Ok(applied) => (applied.position, true),
            Err(Unapplied::Reducer { position, .. }) => (*position, false),
            Err(Unapplied::Refused(Refusal::NoSuchDatabase | Refusal::NothingToEnter(_))) => {
                let Some(position) = state.streams.get(&(origin, seq)).copied() else {
                    panic!("node {node} tells of {seq} of {origin:?}, which nobody has read")
                };
                assert!(
                    !state.ran.contains_key(&(position, false)),
                    "node {node} tells of the call at {position} that there is no database, and a server has made it"
                );
                state.absent.insert(position);
                return;
            }
            Err(_) => return,
        };
        let Some(entry) = state.history.get(&position.index()) else {
            panic!("node {node} tells of {position}, which nobody has read")
        };
        let command = entry.commands.iter().find(|command| command.position == position);
        let Some(Body::Call(call)) = command.and_then(|command| command.command.body.as_ref()) else {
            return;
        };
        let ran = state.ran.get(&(position, false));
        // One that has failed by decision never ran, perhaps.
        assert!(
            ran.is_none_or(|ran| *ran == is_ok) && (ran.is_some() || !is_ok),
            "node {node} tells of the call at {position} that it {}, and it has not",
            if is_ok { "went well" } else { "failed" }
        );
        if let Ok(Applied {
            reply: Reply::Call {
                return_value, energy, ..
            },
            ..
        }) = outcome
        {
            let is_own = (return_value.is_empty() || return_value[..] == position.0.to_le_bytes())
                && (*energy == 0 || *energy == u128::from(position.0));
            assert!(
                is_own,
                "node {node} tells of the call at {position} what came of another one"
            );
        }
        if let Some(majority) = state.majority
            && [TRAP, BURN].contains(&call.reducer.as_str())
            && origin.node == node
        {
            let count = state.failed_on.get(&position).map_or(0, BTreeSet::len);
            assert!(
                count >= majority,
                "node {node} tells that the call at {position} has failed, when {count} servers say so"
            );
        }
    }

    /// What a node's replica found that it holds.
    pub fn holds(&self, node: u64, found: &Found) {
        let Holding { position, digest } = found.held;
        let known = *self
            .0
            .lock()
            .holdings
            .entry((position, found.of_rows))
            .or_insert(digest);
        assert_eq!(
            known,
            digest,
            "node {node} has another digest at {}",
            Position(position)
        );
    }

    /// The last index of the history.
    pub fn end(&self) -> LogIndex {
        let state = self.0.lock();
        state.history.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// A node's clock is not to be believed any more. Once they may be most of a majority, all that is heard at times, neither
    /// is the log's time.
    pub fn doubt(&self, node: u64, nodes: usize) {
        let mut state = self.0.lock();
        state.doubted.insert(node);
        state.is_time_doubted |= state.doubted.len() * 2 > nodes / 2 + 1;
    }

    /// Somebody asks for the database's deletion.
    pub fn deletes(&self) {
        self.0.lock().may_be_gone = true;
    }

    /// Whether the database may have ended, so that its clients are sent away.
    pub fn may_have_ended(&self) -> bool {
        let state = self.0.lock();
        state.may_be_gone || state.places.keys().any(|name| name.ends_with(module::CLEARING))
    }

    /// A client has asked for something, after it has moved so often.
    pub fn asked(&self, client: u64, moves: u64, name: &str) {
        let mut state = self.0.lock();
        let asked = state.asked.entry((client, moves)).or_default();
        asked.push(name.to_owned());
    }

    /// A client was told what became of it. `is_undisturbed` says that nothing went wrong near it meanwhile.
    pub fn told(&self, client: u64, name: &str, outcome: &Outcome, is_undisturbed: bool) {
        let mut state = self.0.lock();
        let shown = || match outcome {
            Ok(applied) => format!("{name} is acknowledged at {}", applied.position),
            Err(error) => format!("{name}: {error}"),
        };
        let position = outcome.as_ref().map_or(0, |applied| applied.position.0);
        sim::note(shown, [client, position, 1]);
        match outcome {
            Ok(_) if name.starts_with(DELETION) => {}
            Ok(applied) => {
                let last = state.last_acknowledged.insert(client, applied.position);
                assert!(
                    last.is_none_or(|last| last < applied.position),
                    "client {client} is answered out of order: {name}"
                );
                assert!(
                    state.stands(name, applied.position),
                    "{name} is acknowledged at {}, and does not stand there",
                    applied.position
                );
                if state.places.get(name) == Some(&applied.position) {
                    state.acknowledged.insert(name.to_owned(), applied.position);
                }
            }
            Err(Unapplied::Unknown { why, .. }) => {
                assert!(
                    !is_undisturbed,
                    "{name} has an unknown outcome ({why}), and nothing was wrong"
                );
                state.unknown.insert(name.to_owned());
            }
            Err(Unapplied::Reducer { position, .. }) => {
                assert!(
                    state.stands(name, *position),
                    "{name} has failed where it does not stand"
                );
                state.failed.insert(name.to_owned(), *position);
            }
            // No server takes it.
            Err(Unapplied::Refused(Refusal::Module(_))) if name.starts_with(module::BAD) => {}
            // It is deleted now and then.
            Err(Unapplied::Refused(Refusal::NoSuchDatabase | Refusal::NothingToEnter(_)))
                if state.may_be_gone => {}
            // That a session is over already was somebody else's doing, under the same name.
            Err(Unapplied::Refused(Refusal::SessionGone)) if name.starts_with(END) => {}
            Err(Unapplied::Refused(Refusal::SessionGone)) => {
                state.refused.insert(name.to_owned());
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// A client was told through a node what became of a call that it has sent again with its key.
    pub fn repeated(&self, node: u64, name: &str, outcome: &Outcome) {
        let state = self.0.lock();
        let (position, is_ok) = match outcome {
            Ok(applied) => (applied.position, true),
            Err(Unapplied::Reducer { position, .. }) => (*position, false),
            // Nobody has ever said what is not known.
            Err(Unapplied::Unknown { .. }) => return,
            Err(Unapplied::Refused(Refusal::NoSuchDatabase)) if state.may_be_gone => return,
            Err(error) => panic!("{name}, which was sent again: {error}"),
        };
        sim::note(
            || format!("{name} was at {position}, says node {node}, as it is sent again"),
            [node, position.0, 11],
        );
        if position < state.deleted {
            return;
        }
        assert_eq!(
            state.places.get(name),
            Some(&position),
            "{name}, which was sent again through node {node}, does not stand where it was told"
        );
        assert_eq!(
            state.ran.get(&(position, false)).copied().unwrap_or(false),
            is_ok,
            "{name}, which was sent again through node {node}, has ended otherwise at {position}"
        );
        assert!(
            !is_ok && !state.acknowledged.contains_key(name) || is_ok && !state.failed.contains_key(name),
            "{name}, which was sent again through node {node}, is told to have ended in two ways"
        );
    }

    /// What a client was told through a gateway of a call. Gives the call's place; none if no node would propose it, which may be
    /// where something was wrong.
    pub fn answered(
        &self,
        client: u64,
        name: &str,
        result: &Answer,
        is_undisturbed: bool,
    ) -> Option<Position> {
        let mut state = self.0.lock();
        let Some(position) = state.places.get(name).copied() else {
            assert!(
                result.error.is_some() && !is_undisturbed,
                "client {client} is answered on {name}, which stands nowhere: {result:?}"
            );
            state.refused.insert(name.to_owned());
            return None;
        };
        let entry = state.history.get(&position.index()).cloned();
        let commands = entry.iter().flat_map(|entry| &entry.commands);
        let command = commands.into_iter().find(|command| command.position == position);
        let timestamp_us = command.map_or(0, |command| command.timestamp_us);
        let told = result.timestamp_us.unwrap_or(timestamp_us);
        assert_eq!(
            told, timestamp_us,
            "client {client} is told another call's time of {name}, at {position}"
        );
        assert!(
            result.place.is_none_or(|place| place == position.0),
            "client {client} is told of {name}, at {position}, what came of another one"
        );
        // One that has failed by decision never ran, perhaps.
        let ran = state.ran.get(&(position, false)).copied();
        assert!(
            ran.unwrap_or(false) == result.error.is_none(),
            "client {client} is told of {name}, at {position}, that it has ended otherwise than it has: {result:?}"
        );
        // What a module says is the call's name.
        let error = result.error.as_deref();
        assert!(
            error.is_none_or(|error| !error.starts_with("call ") || error == name),
            "client {client} is told another call's error of {name}, at {position}: {error:?}"
        );
        drop(state);
        let outcome = match &result.error {
            None => Ok(Applied {
                position,
                timestamp_us,
                reply: Reply::Done,
            }),
            Some(message) => Err(Unapplied::Reducer {
                position,
                timestamp_us,
                trapped: false,
                message: message.clone(),
                execution_us: 0,
                energy: 0,
            }),
        };
        self.told(client, name, &outcome, true);
        Some(position)
    }

    /// A client was let in by a gateway, on a connection. Gives the place.
    pub fn let_in(&self, client: u64, connection: &[u8]) -> Position {
        let name = visit(connection);
        let mut state = self.0.lock();
        let Some(position) = state.places.get(&name).copied() else {
            panic!("client {client} was let in, and the log does not know it")
        };
        assert_eq!(
            state.ran.get(&(position, false)),
            Some(&true),
            "client {client} was let in before `client_connected` was called"
        );
        state.acknowledged.insert(name, position);
        position
    }

    /// The first position, from one on, at which there is what a client is shown.
    pub fn shows(&self, mask: Mask, sum: u64, from: Position) -> Option<Position> {
        self.0.lock().shown.find(mask, sum, from)
    }

    /// Whether that is what there is at a position.
    pub fn shows_at(&self, mask: Mask, sum: u64, position: Position) -> bool {
        self.0.lock().shown.is_at(mask, sum, position)
    }

    /// Whether that is what there is in the end.
    pub fn shows_last(&self, mask: Mask, sum: u64) -> bool {
        self.0.lock().shown.is_last(mask, sum)
    }

    /// A node leads a group, in one of its lives. A term may have several leaders, one after the other: openraft tells
    /// entries apart by term and node. But none may lead twice in a term: it may have lost entries of the first time.
    pub fn leads(&self, node: u64, life: u64, group: GroupId, term: u64) {
        let state = &mut *self.0.lock();
        let first = *state.leaders.entry((group, term, node)).or_insert_with(|| {
            sim::note(
                || format!("node {node} leads {group} in term {term}"),
                [node, term, 2],
            );
            if group == GroupId::SHARD {
                let since = sim::elapsed();
                state.reigns.push(Reign { since, node, term });
            }
            life
        });
        assert_eq!(first, life, "node {node} leads {group} twice in term {term}");
    }

    /// Who began to lead the shard, and when.
    pub fn reigns(&self) -> Vec<Reign> {
        self.0.lock().reigns.clone()
    }

    /// Commands that some replica has read.
    pub fn len(&self) -> usize {
        self.0.lock().commands
    }

    /// Whether nothing was applied yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At the end: what a server holds is what the calls have left behind, each once.
    pub fn check(&self, node: u64, database: &Database) {
        let state = self.0.lock();
        let mut held = BTreeMap::new();
        for (index, row) in database.rows.iter().filter(|(_, row)| !row.name.is_empty()) {
            let before = held.insert(row.name.as_str(), Position(*index));
            assert!(before.is_none(), "node {node} holds {} twice", row.name);
        }
        // Of some of these nobody may have been told what became of them.
        let commands = state.history.values().flat_map(|entry| &entry.commands);
        let cleared = commands
            .filter(|command| ends(command))
            .map(|command| command.position)
            .max();
        state.check_departures(node, cleared, database);
        for (name, position) in &state.acknowledged {
            let is_add = name.starts_with(module::ADDS) && Some(*position) > cleared;
            assert!(
                !is_add || state.removed.contains(name) || held.get(name.as_str()) == Some(position),
                "node {node} does not hold {name} of {position}, which was acknowledged"
            );
            let is_arrival = name.starts_with(SESSION) && Some(*position) > cleared;
            assert!(
                !is_arrival || database.rows.contains_key(&position.0),
                "on node {node} {name} of {position} did not come, which was acknowledged"
            );
        }
        let published = database.state.map(|its| Position(its.module));
        assert_eq!(
            published,
            Some(state.marked),
            "node {node} does not say that it runs the last module"
        );
        let names = state.places.iter().filter(|(_, place)| **place == state.marked);
        let numbers: Vec<_> = names
            .flat_map(|(name, _)| module::number(name.as_bytes()))
            .collect();
        assert_eq!(numbers, [database.module], "node {node} runs another module");
        let gone = state
            .failed
            .keys()
            .chain(&state.refused)
            .find(|name| held.contains_key(name.as_str()));
        assert_eq!(gone, None, "node {node} holds what has failed");
    }

    /// At the end: what was acknowledged is there, and everything in its client's order.
    pub fn finish(&self) -> Counts {
        let state = self.0.lock();
        for (name, position) in &state.acknowledged {
            assert_eq!(
                state.places.get(name),
                Some(position),
                "{name} was acknowledged and is lost"
            );
        }
        for name in &state.refused {
            assert!(
                !state.places.contains_key(name),
                "{name} was refused and is applied"
            );
        }
        for names in state.asked.values() {
            let places: Vec<_> = names.iter().filter_map(|name| state.places.get(name)).collect();
            assert!(
                places.is_sorted(),
                "a client's calls take effect out of their order"
            );
        }
        Counts {
            history: state.commands,
            acknowledged: state.acknowledged.len(),
            unknown: state.unknown.len(),
            refused: state.refused.len(),
            leaders: state.leaders.len(),
        }
    }
}
