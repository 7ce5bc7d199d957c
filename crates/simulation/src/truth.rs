//! What must hold: one history for all nodes, and in it each acknowledged command once, at the place that was told.

use parking_lot::Mutex;
use rtdb_consensus::command::Body;
use rtdb_consensus::{Outcome, Position, Refusal, ResolvedCommand, Unapplied};
use rtdb_runtime::sim;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the end of a session is called, before its number.
pub const END: &str = "end of ";

/// For how long a gap is looked for.
const GAP_WITHIN: Duration = Duration::from_secs(3);

/// How far the log's time may be ahead while a majority's clocks are about right, in microseconds.
const AHEAD_US_MAX: i64 = 1_500_000;

/// The history that every node must show, as far as any has, and what the clients were told.
#[derive(Default)]
pub struct Truth(Mutex<State>);

#[derive(Default)]
struct State {
    history: Vec<ResolvedCommand>,
    /// Where each command with a name stands.
    places: BTreeMap<String, Position>,
    acknowledged: BTreeMap<String, Position>,
    unknown: BTreeSet<String>,
    refused: BTreeSet<String>,
    /// What each client has asked one node for, in its order.
    asked: BTreeMap<(u64, u64), Vec<String>>,
    last_acknowledged: BTreeMap<u64, Position>,
    gaps: Vec<Gap>,
    /// Nodes whose clocks have jumped.
    doubted: BTreeSet<u64>,
    is_time_doubted: bool,
    /// The life in which a node led a group in a term.
    leaders: BTreeMap<(String, u64, u64), u64>,
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
        Body::Call(call) => Some(call.reducer.clone()),
        Body::Connect(connect) => Some(String::from_utf8_lossy(&connect.sender).into_owned()),
        Body::Disconnect(disconnect) => Some(format!("{END}{}", disconnect.session)),
        _ => None,
    }
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

    /// A node's replica has applied a command as the `place`th of its history.
    pub fn applied(&self, node: u64, place: usize, command: &ResolvedCommand) {
        let mut state = self.0.lock();
        let name = name(command);
        if let Some(known) = state.history.get(place) {
            assert!(
                known == command,
                "node {node} has another command in place {place}: {} {name:?} instead of {} {:?}",
                command.position,
                known.position,
                self::name(known)
            );
            return;
        }
        assert_eq!(state.history.len(), place, "node {node} has left something out");
        if let Some(last) = state.history.last() {
            assert!(
                last.position < command.position,
                "positions go back at {}",
                command.position
            );
            assert!(
                last.timestamp_us < command.timestamp_us,
                "time goes back at {}",
                command.position
            );
        }
        let ahead = command.timestamp_us - sim::true_wall_us() as i64;
        assert!(
            state.is_time_doubted || ahead <= AHEAD_US_MAX,
            "the log's time is {ahead} µs ahead at {}",
            command.position
        );
        sim::note(
            || {
                format!(
                    "{} is {}",
                    command.position,
                    name.as_deref().unwrap_or("the cluster's own")
                )
            },
            [command.position.0, 0, 0],
        );
        if let Some(name) = name {
            let before = state.places.insert(name.clone(), command.position);
            assert!(
                before.is_none(),
                "{name} is applied twice, at {before:?} and {}",
                command.position
            );
        }
        state
            .gaps
            .last_mut()
            .into_iter()
            .for_each(|gap| gap.note(sim::elapsed()));
        state.history.push(command.clone());
    }

    /// A node's clock is not to be believed any more. Once they may be most of a majority, all that is heard at times, neither
    /// is the log's time.
    pub fn doubt(&self, node: u64, nodes: usize) {
        let mut state = self.0.lock();
        state.doubted.insert(node);
        state.is_time_doubted |= state.doubted.len() * 2 > nodes / 2 + 1;
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
            Ok(applied) => {
                let last = state.last_acknowledged.insert(client, applied.position);
                assert!(
                    last.is_none_or(|last| last < applied.position),
                    "client {client} is answered out of order: {name}"
                );
                assert_eq!(
                    state.places.get(name),
                    Some(&applied.position),
                    "{name} is acknowledged at {}, and does not stand there",
                    applied.position
                );
                state.acknowledged.insert(name.to_owned(), applied.position);
            }
            Err(Unapplied::Unknown { why, .. }) => {
                assert!(
                    !is_undisturbed,
                    "{name} has an unknown outcome ({why}), and nothing was wrong"
                );
                state.unknown.insert(name.to_owned());
            }
            // That a session is over already was somebody else's doing, under the same name.
            Err(Unapplied::Refused(Refusal::SessionGone)) if name.starts_with(END) => {}
            Err(Unapplied::Refused(Refusal::SessionGone)) => {
                state.refused.insert(name.to_owned());
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// A node leads a group, in one of its lives. A term may have several leaders, one after the other: openraft tells
    /// entries apart by term and node. But none may lead twice in a term: it may have lost entries of the first time.
    pub fn leads(&self, node: u64, life: u64, group: String, term: u64) {
        let mut state = self.0.lock();
        let first = *state
            .leaders
            .entry((group.clone(), term, node))
            .or_insert_with(|| {
                sim::note(
                    || format!("node {node} leads {group} in term {term}"),
                    [node, term, 2],
                );
                life
            });
        assert_eq!(first, life, "node {node} leads {group} twice in term {term}");
    }

    /// Commands that some replica has applied.
    pub fn len(&self) -> usize {
        self.0.lock().history.len()
    }

    /// Whether nothing was applied yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
            history: state.history.len(),
            acknowledged: state.acknowledged.len(),
            unknown: state.unknown.len(),
            refused: state.refused.len(),
            leaders: state.leaders.len(),
        }
    }
}
