//! Subscriptions that the client shares with others, by way of a feed.
//!
//! A client shares all its subscriptions or none, so that what one transaction changes comes in one message. Once it asks for
//! what can't be shared it leaves the feed: its subscriptions are repeated on an upstream of its own, as if that had been
//! lost, and then it has what it asked for.

use super::super::subscriptions::{Subscriptions, subscribes};
use super::admit::apart;
use super::{Action, Context, Core, Held, Upstream};
use crate::close::CloseReason;
use crate::feed::{Batch, Item, shareable};
use crate::limits::{RESTORATIONS_MAX, SUBSCRIPTIONS_BYTES_MAX, SUBSCRIPTIONS_MAX};
use bytes::{BufMut, Bytes, BytesMut};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client::{Read, ReadKind};
use rtdb_protocol::reply::{Direction, applied_head};
use rtdb_protocol::server::{Changes, ServerMessage, split};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a client shares with others.
pub(super) enum Sharing {
    /// Nothing is subscribed to yet. What will be may be shared.
    Open,
    /// The client is a member of a feed.
    Member(Membership),
    /// Nothing: its subscriptions are on an upstream of its own.
    Alone,
}

/// A client's part in a feed.
#[derive(Default)]
pub(super) struct Membership {
    /// Query sets, by the feed's number, and the requests for them.
    live: Vec<(u32, Read)>,
    /// Requests whose answers are due, by number.
    asked: VecDeque<(u32, Read)>,
    last_ticket: u32,
    /// The feed wants the client to go on by itself.
    evicted: bool,
    /// It leaves: what it was shown is on its way.
    leaving: bool,
}

impl Membership {
    /// Whether another subscription can be repeated with those that there are, should the client go on by itself.
    fn has_room(&self, read: &Read) -> bool {
        let reads = self.reads().chain([read]);
        let (count, bytes) = reads.fold((0, 0), |(count, bytes), read| (count + 1, bytes + read.raw.len()));
        count <= SUBSCRIPTIONS_MAX && bytes <= SUBSCRIPTIONS_BYTES_MAX
    }

    fn reads(&self) -> impl Iterator<Item = &Read> {
        let live = self.live.iter().map(|(_, read)| read);
        live.chain(self.asked.iter().map(|(_, read)| read))
    }
}

/// Where a subscribe or unsubscribe goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Feed,
    Upstream,
    /// It waits until the client has left the feed.
    Leaving,
}

impl Sharing {
    pub(super) fn new(shares: bool) -> Self {
        if shares { Self::Open } else { Self::Alone }
    }

    /// Whether the client's upstream, if there is one, is for nothing but queries.
    pub(super) fn is_shared(&self) -> bool {
        !matches!(self, Self::Alone)
    }

    /// Whether the client is to leave its feed as soon as it can.
    pub(super) fn is_evicted(&self) -> bool {
        matches!(self, Self::Member(member) if member.evicted)
    }

    /// Whether the feed tells of receipts.
    pub(super) fn is_subscribed(&self) -> bool {
        matches!(self, Self::Member(member) if !member.live.is_empty())
    }

    /// Requests whose answers are due.
    pub(super) fn asked(&self) -> usize {
        match self {
            Self::Member(member) => member.asked.len(),
            Self::Open | Self::Alone => 0,
        }
    }

    /// The feed's number of each query set, and the client's; sorted.
    fn numbers(&self) -> Vec<(u32, u32)> {
        let Self::Member(member) = self else {
            return Vec::new();
        };
        let sets = member.live.iter();
        let mut numbers: Vec<_> = sets
            .filter_map(|(set, read)| Some((*set, *read.query_sets.first()?)))
            .collect();
        numbers.sort_unstable();
        numbers
    }
}

impl Core {
    /// Whether the feed should be read: not while a receipt waits for its outcome.
    pub(crate) fn wants_feed(&self) -> bool {
        self.held.is_empty() && !self.closed && self.sharing.is_shared()
    }

    /// Where a read goes. The client may have to leave its feed first.
    pub(super) fn way(&mut self, read: &Read, context: &Context<'_>) -> Way {
        if read.kind == ReadKind::OneOffQuery {
            return Way::Upstream;
        }
        let v1 = self.subprotocol == Subprotocol::V1;
        let shareable = || shareable(read, context.module);
        match &self.sharing {
            Sharing::Alone => Way::Upstream,
            Sharing::Open if shareable() => Way::Feed,
            Sharing::Open => Way::Leaving,
            Sharing::Member(member) => {
                let is_first = member.live.is_empty() && member.asked.is_empty() && member.last_ticket == 0;
                let is_of_it = |other: &Read| other.query_sets.first() == read.query_sets.first();
                let is_live = member.live.iter().any(|(_, other)| is_of_it(other));
                let is_asked = member.asked.iter().any(|(_, other)| is_of_it(other));
                let is_shared = match read.kind {
                    _ if member.evicted || member.leaving => false,
                    ReadKind::UnsubscribeMulti => is_live && !is_asked,
                    _ => !is_live && !is_asked && (!v1 || is_first) && member.has_room(read) && shareable(),
                };
                if is_shared { Way::Feed } else { Way::Leaving }
            }
        }
    }

    /// Asks the feed.
    pub(super) fn ask_feed(&mut self, read: Read, actions: &mut Vec<Action>) {
        if matches!(self.sharing, Sharing::Open) {
            self.sharing = Sharing::Member(Membership::default());
        }
        let Sharing::Member(member) = &mut self.sharing else {
            return;
        };
        let read = apart(self.subprotocol, read);
        member.last_ticket = member.last_ticket.wrapping_add(1);
        let ticket = member.last_ticket;
        if subscribes(read.kind) {
            actions.push(Action::Join(ticket, read.queries.clone()));
        } else {
            let of = read.query_sets.first();
            let set = member.live.iter().find(|(_, live)| live.query_sets.first() == of);
            let wants_rows = self.subprotocol == Subprotocol::V1 || read.wants_rows();
            actions.extend(set.map(|(set, _)| Action::Leave(ticket, *set, wants_rows)));
        }
        self.bytes += read.bytes();
        member.asked.push_back((ticket, read));
    }

    /// Leaves the feed as soon as nothing more is due.
    pub(super) fn leave_feed(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        match &mut self.sharing {
            Sharing::Open => self.go_alone(context, actions),
            Sharing::Member(member) => {
                if !member.leaving && member.asked.is_empty() && self.reads.is_empty() {
                    member.leaving = true;
                    actions.push(Action::MoveOut);
                }
            }
            Sharing::Alone => {}
        }
    }

    /// An item of the feed.
    pub(crate) fn feed(&mut self, item: Item, context: &Context<'_>, actions: &mut Vec<Action>) {
        match item {
            Item::Batch(batch) => self.batch(&batch, actions),
            Item::Joined { ticket, set, rows } => {
                if let Some(read) = self.take_asked(ticket) {
                    self.applied_by_feed(&read, Direction::Come, rows, actions);
                    if let Sharing::Member(member) = &mut self.sharing {
                        self.bytes += read.bytes();
                        member.live.push((set, read));
                    }
                    actions.push(Action::Subscribed(self.sharing.numbers()));
                }
            }
            Item::Left { ticket, rows } => {
                if let Some(read) = self.take_asked(ticket) {
                    self.applied_by_feed(&read, Direction::Leave, rows, actions);
                    if let Sharing::Member(member) = &mut self.sharing {
                        let of = read.query_sets.first();
                        let at = member
                            .live
                            .iter()
                            .position(|(_, live)| live.query_sets.first() == of);
                        if let Some((_, live)) = at.map(|at| member.live.swap_remove(at)) {
                            self.bytes -= live.bytes();
                        }
                    }
                    actions.push(Action::Subscribed(self.sharing.numbers()));
                }
            }
            Item::Declined { ticket } => {
                if let Some(read) = self.take_asked(ticket) {
                    self.wait_again(read);
                    self.evicted(context, actions);
                }
            }
            Item::Restored { missed, receipt } => {
                self.restored_to = self.restored_to.max(receipt);
                actions.extend(missed.map(Action::Show));
            }
            Item::Evicted => self.evicted(context, actions),
            Item::Moved { shown } => self.moved(shown, context, actions),
            Item::Closed(reason) => return self.feed_lost(reason, actions),
        }
        self.settle(actions);
        self.admit(context, actions);
    }

    /// The feed tells nothing more: the client must connect again.
    pub(crate) fn feed_lost(&mut self, reason: CloseReason, actions: &mut Vec<Action>) {
        self.forget_feed();
        self.expect_no_receipts();
        self.settle(actions);
        self.close_when_idle(reason, actions);
    }

    /// Updates of the feed. From the receipt of a call on whose outcome is not there yet, they wait.
    fn batch(&mut self, batch: &Arc<Batch>, actions: &mut Vec<Action>) {
        if self.held.is_empty() && !batch.has_receipt(self.caller.session) {
            return actions.push(Action::Show(batch.clone()));
        }
        for at in 0..batch.len() {
            let held = Held::Shared(batch.clone(), at);
            let waits = !self.held.is_empty() && !rtdb_runtime::planted("updates overtake receipts");
            if !waits && self.receipt(&held).is_none() {
                actions.push(Action::ShowOne(batch.clone(), at));
            } else {
                self.held.push_back(held);
                self.settle(actions);
            }
        }
    }

    /// What the client sees of an update of the feed.
    pub(super) fn seen(&self, batch: &Batch, at: usize) -> Option<rtdb_protocol::server::Update> {
        let update = batch.update(at)?;
        Some(update.renumbered(&self.sharing.numbers()))
    }

    /// The client is to go on by itself.
    fn evicted(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        if let Sharing::Member(member) = &mut self.sharing {
            member.evicted = true;
        }
        self.leave_feed(context, actions);
    }

    fn applied_by_feed(&self, read: &Read, direction: Direction, rows: Bytes, actions: &mut Vec<Action>) {
        let head = self.head(read, direction);
        actions.push(Action::SendParts(head, rows));
    }

    fn head(&self, read: &Read, direction: Direction) -> Bytes {
        let request_id = read.request_id.unwrap_or_default();
        let query_set = read.query_sets.first().copied().unwrap_or_default();
        applied_head(self.subprotocol, direction, request_id, query_set)
    }

    fn take_asked(&mut self, ticket: u32) -> Option<Read> {
        let Sharing::Member(member) = &mut self.sharing else {
            return None;
        };
        let at = member.asked.iter().position(|(of, _)| *of == ticket)?;
        let (_, read) = member.asked.remove(at)?;
        self.bytes -= read.bytes();
        Some(read)
    }

    /// The client has left the feed, which had shown it these rows.
    fn moved(&mut self, shown: Vec<(u32, Bytes)>, context: &Context<'_>, actions: &mut Vec<Action>) {
        let Some(member) = self.forget_feed() else {
            return;
        };
        actions.push(Action::Subscribed(Vec::new()));
        if member.live.is_empty() {
            self.sharing = Sharing::Open;
            return self.go_alone(context, actions);
        }
        let none = Subscriptions::new(self.subprotocol, self.total_row_bytes.clone());
        let mut subscriptions = none.moving();
        let mut restorable = true;
        for (set, read) in &member.live {
            let rows = shown.iter().find(|(of, _)| of == set);
            let changes = rows.and_then(|(_, rows)| self.changes(read, rows));
            // Of what has grown too large it is not known what it shows.
            restorable &= changes.is_some();
            subscriptions.asked(read, context.module, self.caller.is_owner);
            subscriptions.answered(read, false, &changes.unwrap_or_default());
        }
        restorable &= subscriptions.restorable();
        self.subscriptions = Some(Box::new(subscriptions));
        if !restorable {
            let why = "this client is shown too much to be given a connection of its own: connect again";
            return self.feed_lost(CloseReason::new(CloseReason::AGAIN, why), actions);
        }
        self.upstream = Upstream::Reopening;
        actions.push(Action::ReopenUpstream);
    }

    /// The client is no member any more.
    fn forget_feed(&mut self) -> Option<Membership> {
        match std::mem::replace(&mut self.sharing, Sharing::Alone) {
            Sharing::Member(member) => {
                self.bytes -= member.reads().map(Read::bytes).sum::<usize>();
                Some(member)
            }
            Sharing::Open | Sharing::Alone => None,
        }
    }

    /// The rows that a query set of the feed has shown, as if the server had told of them.
    fn changes(&self, read: &Read, rows: &Bytes) -> Option<Changes> {
        let head = self.head(read, Direction::Come);
        let mut payload = BytesMut::with_capacity(1 + head.len() + rows.len());
        payload.put_u8(0);
        payload.put_slice(&head);
        payload.put_slice(rows);
        match split(self.subprotocol, payload.freeze()).next() {
            Some(Ok(ServerMessage::SubscribeReply { changes, .. })) => Some(changes),
            _ => None,
        }
    }

    /// The upstream is gone, on which there was nothing but queries.
    pub(super) fn lost_but_for_the_feed(
        &mut self,
        reason: CloseReason,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        self.upstream = Upstream::Absent;
        if !self.reads.is_empty() {
            self.losses += 1;
            if self.losses > RESTORATIONS_MAX {
                return self.close_when_idle(reason, actions);
            }
            self.upstream = Upstream::Reopening;
            actions.push(Action::ReopenUpstream);
        }
        self.admit(context, actions);
    }

    /// From now on subscriptions are the client's own.
    fn go_alone(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        self.sharing = Sharing::Alone;
        if self.upstream == Upstream::Open {
            let refreshes = self.refreshes.wanted(self.subprotocol, context);
            self.subscribe_receipts(refreshes, actions);
        }
    }
}
