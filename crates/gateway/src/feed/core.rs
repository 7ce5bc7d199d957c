//! A feed as a state machine: members' requests and the server's messages in, actions out. No sockets, no clock, no waiting.
//!
//! A query set is subscribed to when the first member asks for it, under a number of the feed's own, and let go of with the
//! last one. What it shows is kept; so a member that comes later gets its rows from here, at its place among the updates. All
//! that was committed before it asked must be among them: a *fence*, a subscription to nothing, is answered behind that.

mod departure;
mod restore;
mod set;
mod sets;

use super::batch::Batch;
use super::item::Item;
use super::member::Request;
use crate::budget::Budget;
use crate::close::CloseReason;
use crate::limits::{ADMITTED_BYTES_MAX, FEED_LARGE_MAX, FEED_SETS_MAX};
use bytes::Bytes;
use prometheus::IntGauge;
use rtdb_protocol::client;
use rtdb_protocol::server::{Change, ServerMessage, Update};
use rtdb_protocol::sql::Query;
use rtdb_protocol::{RECEIPT_QUERY_SET, Subprotocol};
use set::{Joiner, Set, State};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// The query set of fences.
const FENCE_QUERY_SET: u32 = RECEIPT_QUERY_SET - 1;

/// The first of the query sets of members' receipts. In v1 there may be many feeds, most of them with few members: each hears
/// of its own alone.
const FOLLOWED_QUERY_SETS: u32 = 1 << 31;

/// What the feed wants done.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Open the upstream, when the local server has all that it may have shown; then say [`Core::opened`] or
    /// [`Core::close`].
    Open,
    /// Send SpacetimeDB a message.
    Forward(Bytes),
    /// Count the rows of a query set, then say [`Core::counted`].
    Count(u32, Vec<String>),
    /// Tell a session something.
    Tell(u64, Item),
    /// Tell sessions of updates.
    Broadcast(Arc<Batch>, Vec<u64>),
}

/// The feed's connection to the local server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    Absent,
    Opening,
    /// Open; everything has been subscribed to, and so many replies are due.
    Restoring {
        due: usize,
    },
    Open,
}

/// A session that shares subscriptions.
#[derive(Debug, Default)]
struct Membership {
    sets: Vec<u32>,
    /// The last batch that it was told of.
    told: u64,
    /// It knows that it is to go on by itself.
    evicted: bool,
    /// v1: the query set of its receipts.
    followed: u32,
}

/// Subscriptions to nothing, by whose answers it is known how far the updates are.
#[derive(Debug, Default)]
struct Fences {
    /// The number of the one that is on its way.
    under_way: Option<u32>,
    /// The number of the last one.
    last: u32,
}

/// A feed.
pub(super) struct Core {
    subprotocol: Subprotocol,
    upstream: Upstream,
    members: BTreeMap<u64, Membership>,
    sets: BTreeMap<u32, Set>,
    /// The query set of a list of queries.
    by_queries: BTreeMap<Arc<[Query]>, u32>,
    last_set: u32,
    /// The query set whose rows were last gone through for who joined.
    last_admitted: u32,
    /// v1: how many members there were.
    followed: u32,
    /// How many query sets are being counted.
    counting: usize,
    /// The session whose query set was last counted.
    last_counted: u64,
    /// The session whose query set was last subscribed to.
    last_asked: u64,
    fences: Fences,
    /// Lists of queries that have too many rows: their hashes, since they may be long.
    large: VecDeque<u64>,
    hasher: RandomState,
    /// Updates that are gathered for a batch.
    gathered: Vec<Update>,
    /// How many batches there were.
    batches: u64,
    /// The newest receipt of each session, while the feed is restored.
    receipts: BTreeMap<u64, u64>,
    /// How often the upstream was lost since all was last restored.
    losses: u32,
    /// Nobody can join any more: the members go on by themselves.
    ending: bool,
    /// Where the bytes of rows are counted.
    row_bytes: IntGauge,
    budget: Budget,
}

impl Core {
    pub(super) fn new(subprotocol: Subprotocol, row_bytes: IntGauge, budget: Budget) -> Self {
        Self {
            subprotocol,
            upstream: Upstream::Absent,
            members: BTreeMap::new(),
            sets: BTreeMap::new(),
            by_queries: BTreeMap::new(),
            last_set: 0,
            last_admitted: 0,
            followed: 0,
            counting: 0,
            last_counted: 0,
            last_asked: 0,
            fences: Fences::default(),
            large: VecDeque::new(),
            hasher: RandomState::new(),
            gathered: Vec::new(),
            batches: 0,
            receipts: BTreeMap::new(),
            losses: 0,
            ending: false,
            row_bytes,
            budget,
        }
    }

    /// Whether nobody needs it.
    pub(super) fn is_idle(&self) -> bool {
        self.members.is_empty()
    }

    /// How many sessions are subscribed by it.
    pub(super) fn subscribed(&self) -> u64 {
        let members = self.members.values();
        members.filter(|member| !member.sets.is_empty()).count() as u64
    }

    /// Bytes of rows that may have to be gone through with the next messages of SpacetimeDB.
    pub(super) fn burden(&self) -> usize {
        let restoring = matches!(self.upstream, Upstream::Restoring { .. });
        if !restoring && self.fences.under_way.is_none() {
            return 0;
        }
        let sets = self.sets.values();
        let told = sets.filter(|set| restoring || !set.waiting.is_empty());
        told.map(Set::row_bytes).sum()
    }

    /// Bytes of what a session is shown.
    pub(super) fn shown_to(&self, session: u64) -> usize {
        let member = self.members.get(&session);
        let sets = member.into_iter().flat_map(|member| &member.sets);
        sets.filter_map(|set| self.sets.get(set))
            .map(Set::row_bytes)
            .sum()
    }

    /// A member's request. That it has come is the I/O's business, too.
    pub(super) fn request(&mut self, request: Request, actions: &mut Vec<Action>) {
        match request {
            Request::Enter { session, .. } => {
                self.followed = (self.followed + 1) % (FOLLOWED_QUERY_SETS / 2);
                let member = Membership {
                    followed: FOLLOWED_QUERY_SETS + self.followed,
                    ..Membership::default()
                };
                self.members.insert(session, member);
                match self.upstream {
                    Upstream::Absent => {
                        self.upstream = Upstream::Opening;
                        actions.push(Action::Open);
                    }
                    Upstream::Opening => {}
                    Upstream::Restoring { due } => {
                        let due = due + self.follow(&[session], actions);
                        self.upstream = Upstream::Restoring { due };
                    }
                    Upstream::Open => _ = self.follow(&[session], actions),
                }
            }
            Request::Join {
                session,
                ticket,
                queries,
            } => self.join(session, ticket, queries, actions),
            Request::Leave {
                session,
                ticket,
                set,
                rows,
            } => self.leave(session, ticket, set, rows, actions),
            Request::MoveOut { session } => self.move_out(session, actions),
            Request::Gone { session } => self.gone(session, actions),
        }
    }

    /// Messages of SpacetimeDB, as many as there are.
    pub(super) fn upstream(
        &mut self,
        messages: impl IntoIterator<Item = ServerMessage>,
        actions: &mut Vec<Action>,
    ) {
        for message in messages {
            match message {
                ServerMessage::Update(update) => self.update(update, actions),
                ServerMessage::SubscribeReply {
                    request_id: Some(request_id),
                    query_set: Some(query_set),
                    error,
                    changes,
                    ..
                } => {
                    self.flush(actions);
                    self.replied(request_id, query_set, error, &changes, actions);
                }
                // v1 does not say of what, where it can't.
                ServerMessage::SubscribeReply { .. } => self.evict_all(actions),
                ServerMessage::SubscriptionLost { query_set, .. } => {
                    self.flush(actions);
                    match query_set.filter(|set| self.sets.contains_key(set)) {
                        Some(set) => self.freeze(set, actions),
                        None => self.evict_all(actions),
                    }
                }
                ServerMessage::Hello { .. }
                | ServerMessage::CallResult(_)
                | ServerMessage::QueryReply { .. }
                | ServerMessage::Procedure(_) => {}
            }
        }
        self.flush(actions);
    }

    /// It can't go on.
    pub(super) fn close(&mut self, reason: &CloseReason, actions: &mut Vec<Action>) {
        for (session, _) in std::mem::take(&mut self.members) {
            actions.push(Action::Tell(session, Item::Closed(reason.clone())));
        }
        // Who comes before the feed has ended begins it anew.
        self.upstream = Upstream::Absent;
        self.sets.clear();
        self.by_queries.clear();
        self.fences.under_way = None;
        self.gathered.clear();
        self.receipts.clear();
        self.losses = 0;
        self.ending = false;
    }

    /// Tells members of the updates that were gathered.
    fn flush(&mut self, actions: &mut Vec<Action>) {
        if self.gathered.is_empty() {
            return;
        }
        let batch = Batch::new(std::mem::take(&mut self.gathered), self.only_set());
        let batch = Arc::new(batch);
        let sessions = self.concerned(&batch);
        if !sessions.is_empty() {
            actions.push(Action::Broadcast(batch, sessions));
        }
    }

    /// Those whom a batch concerns.
    fn concerned(&mut self, batch: &Batch) -> Vec<u64> {
        self.batches += 1;
        let Self {
            members,
            sets,
            batches,
            ..
        } = self;
        let sets = batch.query_sets().filter_map(|set| sets.get(&set));
        let subscribed = sets.flat_map(|set| set.members.iter().copied());
        // Who has called goes first: it may have more to call meanwhile.
        let concerned = batch.sessions().chain(subscribed).filter(|session| {
            members
                .get_mut(session)
                .is_some_and(|member| std::mem::replace(&mut member.told, *batches) != *batches)
        });
        concerned.collect()
    }

    /// v1: the one query set that all updates are of.
    fn only_set(&self) -> Option<u32> {
        let only = self.sets.keys().next().copied();
        only.filter(|_| self.subprotocol == Subprotocol::V1)
    }

    fn update(&mut self, update: Update, actions: &mut Vec<Action>) {
        let restoring = matches!(self.upstream, Upstream::Restoring { .. });
        let changes: Vec<Change> = update.changes().visible().collect();
        for changes in changes.chunk_by(|a, b| a.query_set == b.query_set) {
            let set = changes[0].query_set.or(self.only_set());
            // In v1 they may be of a query set that was let go of, while the answer for the next one is due.
            let is_live = |set: &u32| self.sets.get(set).is_some_and(|set| set.state == State::Live);
            let Some(set) = set
                .filter(is_live)
                .filter(|set| !self.apply(*set, changes, restoring))
            else {
                continue;
            };
            self.flush(actions);
            self.outgrown(set, actions);
        }
        if restoring {
            self.receipts.extend(update.changes().receipts());
        } else {
            self.gathered.push(update);
        }
    }

    fn replied(
        &mut self,
        request_id: u32,
        query_set: u32,
        error: bool,
        changes: &rtdb_protocol::server::Changes,
        actions: &mut Vec<Action>,
    ) {
        match query_set {
            RECEIPT_QUERY_SET if error => {
                let why = "the database was not published through RaftTimeDB";
                self.close(&CloseReason::new(CloseReason::ERROR, why), actions);
            }
            RECEIPT_QUERY_SET => {
                self.receipts.extend(changes.receipts());
                self.one_restored(actions);
            }
            FENCE_QUERY_SET if error => self.evict_all(actions),
            FENCE_QUERY_SET if self.fences.under_way == Some(request_id) => self.fenced(request_id, actions),
            // An end that was asked for.
            _ if request_id == RECEIPT_QUERY_SET => {}
            FOLLOWED_QUERY_SETS.. if error => self.evict_all(actions),
            FOLLOWED_QUERY_SETS.. if self.upstream == Upstream::Open => {}
            FOLLOWED_QUERY_SETS.. => {
                self.receipts.extend(changes.receipts());
                self.one_restored(actions);
            }
            set => self.answered(set, error, changes, actions),
        }
    }

    /// v1: subscribes to members' receipts; to how many. Who joins later does so behind that.
    fn follow(&self, sessions: &[u64], actions: &mut Vec<Action>) -> usize {
        if self.subprotocol != Subprotocol::V1 {
            return 0;
        }
        let members = sessions
            .iter()
            .filter_map(|session| Some((*session, self.members.get(session)?)));
        let before = actions.len();
        actions.extend(members.map(|(session, member)| {
            let receipts = client::subscribe_receipts_as(self.subprotocol, session, member.followed);
            Action::Forward(receipts)
        }));
        actions.len() - before
    }

    /// Sends a fence for those who wait for one, unless one is on its way.
    fn fence(&mut self, actions: &mut Vec<Action>) {
        if self.upstream != Upstream::Open || self.fences.under_way.is_some() {
            return;
        }
        let mut waiting = self.sets.values().flat_map(|set| &set.waiting);
        if !waiting.any(|joiner| joiner.fence > 0) {
            return;
        }
        self.fences.last += 1;
        self.fences.under_way = Some(self.fences.last);
        let fence = client::subscribe_nothing(self.subprotocol, FENCE_QUERY_SET, self.fences.last);
        let end = client::unsubscribe(
            self.subprotocol,
            client::ReadKind::SubscribeMulti,
            FENCE_QUERY_SET,
        );
        actions.push(Action::Forward(fence));
        actions.push(Action::Forward(end));
    }

    /// A fence has been answered: who asked before it is told what there is here.
    fn fenced(&mut self, fence: u32, actions: &mut Vec<Action>) {
        self.fences.under_way = None;
        let live = self.sets_in(State::Live);
        // Updates wait meanwhile: what is large is let in with the next fences, and the query sets take turns.
        let from = live.partition_point(|set| *set <= self.last_admitted);
        let mut bytes = 0;
        for number in live[from..].iter().chain(&live[..from]) {
            let more = self.sets.get(number).map_or(0, |set| set.bytes_to_admit(fence));
            if more > 0 && bytes >= ADMITTED_BYTES_MAX {
                continue;
            }
            if more > 0 {
                self.last_admitted = *number;
                bytes += more;
            }
            self.admit(*number, fence, actions);
        }
        self.fence(actions);
    }

    fn sets_in(&self, state: State) -> Vec<u32> {
        let sets = self.sets.iter().filter(|(_, set)| set.state == state);
        sets.map(|(set, _)| *set).collect()
    }

    fn remember_large(&mut self, queries: &[Query]) {
        if self.large.len() >= FEED_LARGE_MAX {
            self.large.pop_front();
        }
        self.large.push_back(self.hasher.hash_one(queries));
    }

    fn is_large(&self, queries: &[Query]) -> bool {
        self.large.contains(&self.hasher.hash_one(queries))
    }

    /// A number for another query set; `None` if there are enough.
    fn next_set(&mut self) -> Option<u32> {
        let alone = self.subprotocol == Subprotocol::V1;
        let max = if alone { 1 } else { FEED_SETS_MAX };
        if self.sets.len() >= max || self.last_set + 1 >= FOLLOWED_QUERY_SETS {
            return None;
        }
        self.last_set += 1;
        Some(self.last_set)
    }

    fn decline(joiners: Vec<Joiner>, actions: &mut Vec<Action>) {
        for Joiner { session, ticket, .. } in joiners {
            actions.push(Action::Tell(session, Item::Declined { ticket }));
        }
    }
}

#[cfg(test)]
mod tests;
