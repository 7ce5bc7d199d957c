//! Clients of gateways: they call, several calls at a time, subscribe to what others subscribe to as well, let go of it, ask for
//! what is not shared, read slowly, and come again with their token, to another node. They write down what they are told, and
//! add up the rows that they are shown.

use crate::client::draw_outcome;
use crate::cluster::Cluster;
use crate::gateway::database;
use crate::module::{self, ADD, ADDS, QUERIES, REMOVE};
use crate::network::id;
use crate::shown::{Mask, hash_of};
use crate::truth::Answer;
use crate::wire::{End, pair};
use bytes::{Bytes, BytesMut};
use rtdb_consensus::Position;
use rtdb_gateway::{Guest, Wire};
use rtdb_protocol::client::{self, ReadKind};
use rtdb_protocol::compress::Compression;
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::{self, CallResult, Changes, ServerMessage};
use rtdb_protocol::{Subprotocol, server::AppliedCall};
use rtdb_runtime::{Instant, sim, sleep, sleep_until};
use spacetimedb_lib::ConnectionId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

/// Calls that one has under way at most.
const WINDOW: usize = 24;
/// Calls that it makes at once, at most.
const BURST: u64 = 6;
/// The longest time between two things that it does.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Bytes on the way to it, and from it.
const WAY_BYTES_MAX: usize = 4 << 10;
/// The number of the first in what is written down.
const FIRST: u64 = 2_000;
/// How long it waits, at the end, for what it has not been shown.
const LOOK: Duration = Duration::from_millis(20);
/// What is wrong may be felt for so long.
const CALM: Duration = Duration::from_secs(2);
/// What clients are told when the database has ended, and when it is not known what became of a call.
const ENDED: &str = "module exited";
const UNKNOWN: &str = "unknown";
/// The same of a call that a server has ended: what the other nodes say of it is waited for.
const ALONE: &str = "a majority of the nodes has not said";
const HOLD_MAX: Duration = Duration::from_secs(15);
/// After one message of so many it may read nothing for a while.
const REST_ONE_OF: u64 = 256;
/// Rows that it could ask to be removed.
const SEEN_MAX: usize = 16;

/// A client.
pub struct Visitor {
    /// Its number.
    pub id: u64,
    /// All of it.
    pub cluster: Arc<Cluster>,
    /// Nothing new is to be asked for.
    pub is_over: Arc<AtomicBool>,
    /// Nothing more will happen: who has seen all of it may go.
    pub is_level: Arc<AtomicBool>,
}

/// Why a visit has ended.
#[derive(Debug, PartialEq)]
enum Left {
    /// All is done.
    Done,
    /// It goes elsewhere.
    Elsewhere,
    /// It was turned away, or closed, for this reason.
    Closed(String),
}

impl Visitor {
    /// Comes and goes until it is over.
    pub async fn run(self) {
        let nodes: Vec<u64> = self.cluster.nodes().collect();
        let mut node = nodes[self.id as usize % nodes.len()];
        for visit in 0.. {
            if self.is_level.load(Ordering::Relaxed) {
                return;
            }
            let left = self.visit(node, visit).await;
            if let Left::Closed(why) = &left {
                sim::note(
                    || format!("client {} is closed by node {node}: {why}", FIRST + self.id),
                    [self.id, node, 11],
                );
            }
            if left == Left::Done {
                return;
            }
            sleep(sim::up_to(PAUSE_MAX)).await;
            if left == Left::Elsewhere || sim::draw(2) == 0 {
                node = nodes[sim::draw(nodes.len() as u64) as usize];
            }
        }
    }

    async fn visit(&self, node: u64, number: u64) -> Left {
        let Some(gateway) = self.cluster.gateway(node) else {
            return Left::Closed("it is down".to_owned());
        };
        let newest = self.cluster.subprotocol();
        let subprotocols = Subprotocol::ALL.into_iter().filter(|spoken| *spoken <= newest);
        let subprotocols: Vec<_> = subprotocols.collect();
        let subprotocol = subprotocols[sim::draw(subprotocols.len() as u64) as usize];
        let connection = ((u128::from(FIRST + self.id) << 64) | u128::from(number + 1)).to_le_bytes();
        let guest = Guest {
            database: database(),
            subprotocol,
            connection: ConnectionId::from_le_byte_array(connection),
            compression: Compression::None,
            light: sim::draw(2) == 0,
            token: format!("visitor {}", self.id),
        };
        let (near, end) = pair(WAY_BYTES_MAX, WAY_BYTES_MAX);
        drop(sim::spawn_on(id(node), async move {
            if let Err(why) = gateway.attend(end, guest).await {
                sim::note(|| format!("a client is turned away: {why}"), [11, 0, 0]);
            }
        }));
        Visit {
            visitor: self,
            node,
            number,
            begin: sim::true_now(),
            connection,
            subprotocol,
            end: near,
            is_in: false,
            last_request: 0,
            calls: VecDeque::new(),
            reads: BTreeMap::new(),
            sets: BTreeMap::new(),
            flat: 0,
            at: Position::default(),
            has_rows: true,
            seen: VecDeque::new(),
            rest_max: [0, 0, 50, 1_000].map(Duration::from_millis)[sim::draw(4) as usize],
        }
        .run()
        .await
    }
}

/// A call under way.
struct Asked {
    name: String,
    request_id: u32,
}

/// A read under way: what it subscribes to; `None`, if it ends a query set.
struct Wish {
    set: u32,
    query: Option<usize>,
    /// v1: it is to be asked for and let go of by itself.
    is_single: bool,
}

/// What a query set shows.
struct Set {
    query: usize,
    sum: u64,
    is_single: bool,
}

/// One visit to a node.
struct Visit<'a> {
    visitor: &'a Visitor,
    node: u64,
    number: u64,
    begin: Instant,
    connection: [u8; 16],
    subprotocol: Subprotocol,
    end: End,
    is_in: bool,
    last_request: u32,
    calls: VecDeque<Asked>,
    reads: BTreeMap<u32, Wish>,
    sets: BTreeMap<u32, Set>,
    /// v1, which does not tell query sets apart: what all of them show.
    flat: u64,
    /// The position at which it is.
    at: Position,
    /// It was shown the rows of all its calls that are answered. If not, it is about to be sent away, and what is still on its way
    /// comes as it may.
    has_rows: bool,
    /// The numbers of some rows that it was shown.
    seen: VecDeque<u64>,
    /// The longest that it reads nothing, now and then.
    rest_max: Duration,
}

impl Visit<'_> {
    fn id(&self) -> u64 {
        FIRST + self.visitor.id
    }

    async fn run(mut self) -> Left {
        let mut next = sim::true_now() + sim::up_to(PAUSE_MAX);
        loop {
            rtdb_runtime::select! {
                message = self.end.receive() => match message {
                    Some(Message::Binary(payload)) => {
                        self.hear(payload);
                        if !self.rest_max.is_zero() && sim::draw(REST_ONE_OF) == 0 {
                            sleep(sim::up_to(self.rest_max)).await;
                        }
                    }
                    Some(Message::Close(frame)) => {
                        let why = frame.map(|frame| format!("{} {}", frame.code, frame.reason));
                        return self.closed(why.unwrap_or_default());
                    }
                    Some(_) => {}
                    None => return self.closed("no more is heard".to_owned()),
                },
                () = sleep_until(next) => {
                    next = sim::true_now() + sim::up_to(PAUSE_MAX);
                    if let Some(left) = self.act() {
                        return left;
                    }
                    if self.is_over() {
                        next = sim::true_now() + LOOK;
                    }
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.visitor.is_over.load(Ordering::Relaxed)
    }

    /// What was wrong before is not felt any more.
    fn lately(&self) -> Instant {
        self.ago(CALM)
    }

    fn ago(&self, time: Duration) -> Instant {
        self.begin + (sim::true_now() - self.begin).saturating_sub(time)
    }

    /// Whether nothing was wrong of late, but perhaps with database servers.
    fn is_calm(&self) -> bool {
        self.visitor.cluster.is_calm(self.lately())
    }

    /// The visit is over, and not by its own doing.
    fn closed(&self, why: String) -> Left {
        let cluster = &self.visitor.cluster;
        let is_explained = !self.is_in
            || !self.is_calm()
            || why.contains(ENDED) && cluster.truth.may_have_ended()
            // More calls have failed unheard than can be told apart.
            || why.contains(UNKNOWN) && !cluster.is_well(self.lately())
            // A node that was set aside says nothing of the calls before.
            || why.contains(ALONE) && !cluster.is_well(self.ago(HOLD_MAX + CALM));
        assert!(
            is_explained,
            "client {} is closed by node {}, where nothing was wrong: {why}",
            self.id(),
            self.node
        );
        rtdb_runtime::reached("clients closed");
        Left::Closed(why)
    }

    /// Does something, if it is let in.
    fn act(&mut self) -> Option<Left> {
        if self.is_over() {
            return self.rest();
        }
        if !self.is_in {
            return None;
        }
        match sim::draw(24) {
            0 if sim::draw(4) == 0 => {
                rtdb_runtime::reached("clients that went elsewhere");
                if sim::draw(2) == 0 {
                    drop(self.end.send(Message::Close(None)));
                }
                return Some(Left::Elsewhere);
            }
            1..=4 => self.subscribe(),
            5 => self.unsubscribe(),
            _ => (0..1 + sim::draw(BURST)).for_each(|_| self.call()),
        }
        None
    }

    /// Waits for what is due, and then for the end.
    fn rest(&mut self) -> Option<Left> {
        let level = self.visitor.is_level.load(Ordering::Relaxed);
        let is_due = !self.calls.is_empty() || !self.reads.is_empty() || !self.is_in || !self.has_rows;
        if !level || is_due {
            return None;
        }
        let (mask, sum) = self.shown();
        let is_last = mask == 0 || self.visitor.cluster.truth.shows_last(mask, sum);
        is_last.then_some(Left::Done)
    }

    fn request(&mut self) -> u32 {
        self.last_request += 1;
        self.last_request
    }

    fn send(&mut self, message: Bytes) {
        // Whether anybody is there shows in what is heard.
        drop(self.end.push(message));
    }

    fn call(&mut self) {
        if self.calls.len() >= WINDOW {
            return;
        }
        let request_id = self.request();
        let name = format!("call {}/{}/{request_id}", self.id(), self.number);
        let reducer = match sim::draw(8) {
            0 => REMOVE,
            _ => draw_outcome(),
        };
        let value = match (reducer, self.seen.len() as u64) {
            (REMOVE, 1..) => self.seen[sim::draw(self.seen.len() as u64) as usize] as i64,
            _ => sim::draw(3) as i64,
        };
        let name = format!("{}{name}", if reducer == ADD { ADDS } else { "" });
        self.visitor.cluster.truth.asked(self.id(), self.number, &name);
        let mut frame = BytesMut::new();
        let args = module::own_args(&name, value);
        client::call_reducer(self.subprotocol, &mut frame, reducer, &[&args], request_id);
        self.calls.push_back(Asked { name, request_id });
        self.send(frame.freeze());
    }

    fn subscribe(&mut self) {
        let is_v1 = self.subprotocol == Subprotocol::V1;
        let query = sim::draw(QUERIES.len() as u64) as usize;
        // What a client has twice is not shared. v1 can't tell the two apart.
        let mut others = self.sets.values().map(|set| set.query);
        let wished = self.reads.values().filter_map(|wish| wish.query);
        let is_there = others.any(|other| other == query) || { wished }.any(|other| other == query);
        if self.sets.len() + self.reads.len() > 3 || is_there && (is_v1 || sim::draw(4) > 0) {
            return;
        }
        let set = self.request();
        let is_single = is_v1 && sim::draw(6) == 0;
        let mut message = client::subscribe(self.subprotocol, &[QUERIES[query]], set, set);
        if is_single {
            // `SubscribeSingle`: the one query, and no list.
            message = [&[3], &message[5..]].concat().into();
        }
        let query = Some(query);
        self.reads.insert(
            set,
            Wish {
                set,
                query,
                is_single,
            },
        );
        self.send(message);
    }

    fn unsubscribe(&mut self) {
        let ending = |set: &u32| self.reads.values().any(|wish| wish.set == *set);
        let sets: Vec<u32> = self.sets.keys().copied().filter(|set| !ending(set)).collect();
        if sets.is_empty() {
            return;
        }
        let set = sets[sim::draw(sets.len() as u64) as usize];
        let is_single = self.sets[&set].is_single;
        let kind = match is_single {
            true => ReadKind::SubscribeSingle,
            false => ReadKind::SubscribeMulti,
        };
        let request_id = self.request();
        let mut message = client::unsubscribe(self.subprotocol, kind, set).to_vec();
        message[1..5].copy_from_slice(&request_id.to_le_bytes());
        let query = None;
        self.reads.insert(
            request_id,
            Wish {
                set,
                query,
                is_single,
            },
        );
        self.send(message.into());
    }

    fn hear(&mut self, payload: Bytes) {
        for message in server::split(self.subprotocol, payload) {
            self.hear_one(message.expect("a message that can be read"));
        }
    }

    fn hear_one(&mut self, message: ServerMessage) {
        match message {
            ServerMessage::Hello { .. } => {
                self.is_in = true;
                self.at = self.visitor.cluster.truth.let_in(self.id(), &self.connection);
            }
            ServerMessage::CallResult(result) => self.result(result),
            ServerMessage::Update(update) => {
                self.play(update.changes());
                let shown = update.changes().iter().next().is_some();
                if shown {
                    self.look();
                }
                if self.subprotocol == Subprotocol::V1
                    && let Some(mut applied) = ServerMessage::Update(update).into_applied()
                    && self.is_own(&mut applied)
                {
                    self.result_v1(applied, shown);
                }
            }
            ServerMessage::SubscribeReply {
                request_id,
                error,
                changes,
                ..
            } => self.replied(request_id, error, &changes),
            message => panic!("client {} hears {message:?}", self.id()),
        }
    }

    fn replied(&mut self, request_id: Option<u32>, error: bool, changes: &Changes) {
        let wish = request_id.and_then(|request_id| self.reads.remove(&request_id));
        let Some(Wish {
            set,
            query,
            is_single,
        }) = wish
        else {
            panic!(
                "client {} is answered {request_id:?}, which it did not ask",
                self.id()
            )
        };
        assert!(!error, "client {} is refused a query that is good", self.id());
        match query {
            Some(query) => {
                let sum = 0;
                self.sets.insert(
                    set,
                    Set {
                        query,
                        sum,
                        is_single,
                    },
                );
                self.play(changes);
            }
            None if self.subprotocol == Subprotocol::V1 => {
                self.play(changes);
                self.sets.remove(&set);
            }
            None => drop(self.sets.remove(&set)),
        }
        self.look();
    }

    /// What became of a call (v2, v3).
    fn result(&mut self, result: CallResult) {
        let shown = result.changes.iter().next().is_some();
        self.play(&result.changes);
        let error = match result.outcome {
            Outcome::Ok { .. } => None,
            Outcome::Failed { ref message, .. }
            | Outcome::Internal(ref message)
            | Outcome::Rejected(ref message) => Some(message.clone()),
            Outcome::OutOfEnergy => Some(String::new()),
        };
        let place = match &result.outcome {
            Outcome::Ok { return_value, .. } => {
                return_value.first_chunk().map(|place| u64::from_le_bytes(*place))
            }
            _ => None,
        };
        let answer = Answer {
            timestamp_us: Some(result.timestamp_us),
            place,
            error,
        };
        self.answered(result.request_id, &answer, shown);
    }

    /// v1: whether that is the answer to a call of this client's. One that nobody would propose is answered without its number.
    fn is_own(&self, applied: &mut AppliedCall) -> bool {
        if let (Outcome::Rejected(_), Some(oldest)) = (&applied.outcome, self.calls.front()) {
            applied.request_id = oldest.request_id;
        }
        let mut calls = self.calls.iter();
        calls.any(|asked| asked.request_id == applied.request_id)
    }

    fn result_v1(&mut self, applied: AppliedCall, shown: bool) {
        let mut answer = Answer::default();
        match applied.outcome {
            Outcome::Ok { energy, .. } => {
                answer.place = u64::try_from(energy).ok().filter(|place| *place > 0);
            }
            Outcome::Failed { message, .. } | Outcome::Internal(message) | Outcome::Rejected(message) => {
                answer.error = Some(message);
            }
            Outcome::OutOfEnergy => answer.error = Some(String::new()),
        }
        self.answered(applied.request_id, &answer, shown);
    }

    /// The oldest call is answered, perhaps with the rows that it has changed.
    fn answered(&mut self, request_id: u32, answer: &Answer, shown: bool) {
        let Some(asked) = self.calls.pop_front() else {
            panic!(
                "client {} is answered {request_id}, which it did not ask",
                self.id()
            )
        };
        assert_eq!(
            asked.request_id,
            request_id,
            "client {} is answered out of order",
            self.id()
        );
        let truth = &self.visitor.cluster.truth;
        let position = truth.answered(self.id(), &asked.name, answer, self.is_calm());
        let Some(position) = position.filter(|_| answer.error.is_none()) else {
            return;
        };
        self.at = self.at.max(position);
        if shown && self.has_rows {
            let (mask, sum) = self.shown();
            assert!(
                self.visitor.cluster.truth.shows_at(mask, sum, position),
                "client {} is told of its call at {position} with other rows than it shows then",
                self.id()
            );
        }
        self.has_rows &= shown || self.place().is_some();
        self.look();
    }

    /// Adds up rows that come and leave.
    fn play(&mut self, changes: &Changes) {
        for change in changes.iter() {
            assert!(!change.table.starts_with("rtdb_"), "hidden rows show");
            let sum = match change.query_set {
                None => &mut self.flat,
                Some(set) => match self.sets.get_mut(&set) {
                    Some(set) => &mut set.sum,
                    None => panic!("rows of query set {set}, which is not subscribed to"),
                },
            };
            for row in change.inserts.iter() {
                *sum = sum.wrapping_add(hash_of(&row));
                let number = row.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
                self.seen.push_back(number);
            }
            for row in change.deletes.iter() {
                *sum = sum.wrapping_sub(hash_of(&row));
            }
        }
        let more = self.seen.len().saturating_sub(SEEN_MAX);
        self.seen.drain(..more);
    }

    /// The queries that are subscribed to, and what they show together: each once.
    fn shown(&self) -> (Mask, u64) {
        let mut sums: BTreeMap<usize, u64> = BTreeMap::new();
        for set in self.sets.values() {
            let other = sums.insert(set.query, set.sum);
            assert!(
                other.is_none_or(|other| other == set.sum),
                "client {} is shown different rows by the same query",
                self.id()
            );
        }
        let mask = sums.keys().fold(0, |mask, query| mask | 1 << query);
        let sum = sums
            .values()
            .fold(self.flat, |sum, of_one| sum.wrapping_add(*of_one));
        (mask, sum)
    }

    /// The first place at which there is what it is shown: not before what it has seen already, nor before its calls.
    fn place(&self) -> Option<Position> {
        let (mask, sum) = self.shown();
        match mask {
            0 => Some(self.at),
            _ => self.visitor.cluster.truth.shows(mask, sum, self.at),
        }
    }

    /// What it is shown must have been so, at once.
    fn look(&mut self) {
        if !self.has_rows {
            return;
        }
        let (id, at) = (self.id(), self.at);
        let place = self.place();
        self.at = place.unwrap_or_else(|| panic!("client {id} is shown what never was so, from {at} on"));
    }
}
