//! The upstream, when it was opened, lost, or opened anew.
//!
//! What members were shown is kept. On a new upstream all query sets are subscribed to again, and what comes is kept from
//! the members until the last answer is there: then one update leads from what they were shown to what there is.

use super::set::{self, State};
use super::{Action, Core, Upstream};
use crate::close::CloseReason;
use crate::feed::batch::Batch;
use crate::feed::item::Item;
use crate::limits::RESTORATIONS_MAX;
use bytes::{BufMut, Bytes, BytesMut};
use rtdb_protocol::client;
use rtdb_protocol::server::{Changes, ServerMessage, TableDifference, Update, put_difference, split};
use rtdb_protocol::sql::Query;
use rtdb_protocol::{RECEIPT_QUERY_SET, Subprotocol};
use std::sync::Arc;

impl Core {
    /// The upstream is open. Query sets that can't be shared any more, as the database may run another module, are not
    /// subscribed to.
    pub(in crate::feed) fn opened(
        &mut self,
        shareable: impl Fn(&[Query]) -> bool,
        actions: &mut Vec<Action>,
    ) {
        for number in self.sets.keys().copied().collect::<Vec<_>>() {
            if !shareable(&self.sets[&number].queries) {
                self.freeze(number, actions);
            }
        }
        actions.push(Action::Forward(match self.subprotocol {
            Subprotocol::V1 => {
                client::subscribe_nothing(self.subprotocol, RECEIPT_QUERY_SET, RECEIPT_QUERY_SET)
            }
            Subprotocol::V2 | Subprotocol::V3 => client::subscribe_all_receipts(self.subprotocol),
        }));
        let sessions: Vec<_> = self.members.keys().copied().collect();
        let followed = self.follow(&sessions, actions);
        let live = self.sets_in(State::Live);
        for number in &live {
            if let Some(set) = self.sets.get(number) {
                actions.push(Action::Forward(set::subscribe(self.subprotocol, *number, set)));
            }
        }
        self.receipts.clear();
        self.upstream = Upstream::Restoring {
            due: 1 + followed + live.len(),
        };
    }

    /// The upstream is gone.
    pub(in crate::feed) fn lost(&mut self, actions: &mut Vec<Action>) {
        self.flush(actions);
        self.losses += 1;
        if self.losses > RESTORATIONS_MAX || rtdb_runtime::planted("lost feeds are not opened again") {
            return self.close(&CloseReason::restart(), actions);
        }
        self.upstream = Upstream::Opening;
        self.fences.under_way = None;
        let next = self.fences.last + 1;
        let unkept = self.sets.values().filter(|set| set.state == State::Unkept);
        for session in unkept.flat_map(|set| set.members.clone()).collect::<Vec<_>>() {
            self.dismiss(session, actions);
        }
        let mut suspects = Vec::new();
        for (number, set) in &mut self.sets {
            set.rows.forget_told();
            if set.state == State::Asked {
                suspects.push(*number);
            }
            set.waiting.iter_mut().for_each(|joiner| {
                if set.state == State::Live {
                    joiner.fence = next;
                }
            });
        }
        // One of these may have brought the server down.
        for number in suspects {
            self.freeze(number, actions);
        }
        actions.push(Action::Open);
    }

    /// The server tells what a query set shows that members are subscribed to already.
    pub(super) fn answered_again(
        &mut self,
        number: u32,
        error: bool,
        changes: &Changes,
        actions: &mut Vec<Action>,
    ) {
        if !matches!(self.upstream, Upstream::Restoring { .. }) {
            return;
        }
        let changes: Vec<_> = changes.visible().collect();
        if error {
            self.freeze(number, actions);
        } else if !self.apply(number, &changes, true) {
            self.outgrown(number, actions);
        }
        self.one_restored(actions);
    }

    /// One of the answers is there that were due.
    pub(super) fn one_restored(&mut self, actions: &mut Vec<Action>) {
        let Upstream::Restoring { due } = &mut self.upstream else {
            return;
        };
        *due -= 1;
        if *due == 0 {
            self.restored(actions);
        }
    }

    fn restored(&mut self, actions: &mut Vec<Action>) {
        self.upstream = Upstream::Open;
        self.losses = 0;
        let live = || self.sets.iter().filter(|(_, set)| set.state == State::Live);
        let missed: Vec<_> = live()
            .flat_map(|(number, set)| {
                let tables = set.rows.difference().into_iter();
                tables.map(|table| TableDifference {
                    query_set: *number,
                    ..table
                })
            })
            .collect();
        let missed = (!missed.is_empty())
            .then(|| put_difference(self.subprotocol, &missed))
            .and_then(|message| self.read_update(&message))
            .map(|update| Arc::new(Batch::new(vec![update], self.only_set())));
        for set in self.sets.values_mut().filter(|set| set.state == State::Live) {
            if !rtdb_runtime::planted("restored rows are shown again") {
                set.rows.take_told();
            }
            set.forget_snapshot();
        }
        for (session, member) in &self.members {
            if !member.sets.is_empty() {
                let restored = Item::Restored {
                    missed: missed.clone(),
                    receipt: self.receipts.get(session).copied().unwrap_or(0),
                };
                actions.push(Action::Tell(*session, restored));
            }
        }
        self.receipts.clear();
        self.ask(actions);
        self.fence(actions);
    }

    fn read_update(&self, message: &Bytes) -> Option<Update> {
        let mut payload = BytesMut::with_capacity(1 + message.len());
        payload.put_u8(0);
        payload.put_slice(message);
        match split(self.subprotocol, payload.freeze()).next() {
            Some(Ok(ServerMessage::Update(update))) => Some(update),
            _ => None,
        }
    }
}
