//! What a client is subscribed to, kept so that it can be subscribed anew when its upstream was away.

use super::rows::{Rows, Side};
use crate::limits::{SUBSCRIPTIONS_BYTES_MAX, SUBSCRIPTIONS_MAX};
use crate::views;
use bytes::Bytes;
use prometheus::IntGauge;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client::{self, ClientMessage, Read, ReadKind};
use rtdb_protocol::server::Changes;

/// A subscription that the server has accepted.
#[derive(Debug)]
struct Live {
    /// Its query sets (v1: query ids); none for v1's legacy subscription.
    sets: Vec<u32>,
    /// The client's request, as it came.
    request: Bytes,
}

/// A client's subscriptions, and the rows it was shown for them.
#[derive(Debug)]
pub(super) struct Subscriptions {
    subprotocol: Subprotocol,
    /// In the order in which they were accepted: what a v1 server answers depends on it.
    live: Vec<Live>,
    bytes: usize,
    rows: Rows,
    /// Whether all of it is known. If not, they end with the upstream.
    known: bool,
}

/// Whether a read subscribes the client to something.
pub(super) fn subscribes(kind: ReadKind) -> bool {
    use ReadKind::{SubscribeBatch, SubscribeLegacy, SubscribeMulti, SubscribeSingle};
    matches!(
        kind,
        SubscribeBatch | SubscribeLegacy | SubscribeMulti | SubscribeSingle
    )
}

impl Subscriptions {
    /// None yet. The bytes of their rows are counted in `row_bytes`.
    pub(super) fn new(subprotocol: Subprotocol, row_bytes: IntGauge) -> Self {
        Self {
            subprotocol,
            live: Vec::new(),
            bytes: 0,
            rows: Rows::new(row_bytes),
            known: true,
        }
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        !self.live.is_empty() || !self.known
    }

    /// Whether the client can be subscribed anew without noticing.
    pub(super) fn restorable(&self) -> bool {
        self.known
    }

    /// Bytes of the rows that are kept.
    pub(super) fn row_bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// The subscriptions whose queries may read a view.
    pub(super) fn reading(&self, view: &str) -> Vec<Read> {
        let requests = self.live.iter().map(|live| live.request.clone());
        requests
            .filter_map(|request| match client::split(self.subprotocol, request).next() {
                Some(Ok(ClientMessage::Read(read))) => Some(read),
                _ => None,
            })
            .filter(|read| read.queries.iter().any(|query| views::names(query, view)))
            .collect()
    }

    /// Whether a query set is subscribed to.
    pub(super) fn has(&self, query_set: u32) -> bool {
        self.live.iter().any(|live| live.sets.contains(&query_set))
    }

    /// The requests that subscribe the client to all of it.
    pub(super) fn requests(&self) -> impl ExactSizeIterator<Item = Bytes> + '_ {
        self.live.iter().map(|live| live.request.clone())
    }

    /// The client was shown these rows.
    pub(super) fn shown(&mut self, changes: &Changes) {
        if self.known && !self.rows.apply(changes, Side::Shown) {
            self.give_up();
        }
    }

    /// A new upstream is opened.
    pub(super) fn forget_told(&mut self) {
        self.rows.forget_told();
    }

    /// The new upstream tells of these rows, which the client is not shown.
    pub(super) fn told(&mut self, changes: &Changes) {
        if self.known && !self.rows.apply(changes, Side::Told) {
            self.give_up();
        }
    }

    /// What leads from the rows that the client was shown to those that the new upstream has told of.
    pub(super) fn show_told(&mut self) -> Option<Bytes> {
        self.rows.show_told(self.subprotocol)
    }

    /// The client has got the answer to its request.
    pub(super) fn answered(&mut self, read: &Read, error: bool, changes: &Changes) {
        use ReadKind::{
            OneOffQuery, SubscribeBatch, SubscribeLegacy, SubscribeMulti, SubscribeSingle, UnsubscribeMulti,
            UnsubscribeSingle,
        };
        if error {
            return;
        }
        match read.kind {
            OneOffQuery => {}
            SubscribeLegacy => {
                // It replaces its like, whose rows can't be told from those of others.
                if self.live.iter().any(|live| !live.sets.is_empty()) {
                    self.give_up();
                }
                self.clear();
                self.accept(read);
                self.shown(changes);
            }
            SubscribeSingle | SubscribeMulti | SubscribeBatch => {
                if self.live.iter().any(|live| live.sets.is_empty()) {
                    self.give_up();
                }
                self.accept(read);
                self.shown(changes);
            }
            UnsubscribeSingle | UnsubscribeMulti => {
                read.query_sets.iter().for_each(|set| self.end(*set));
                if self.subprotocol == Subprotocol::V1 {
                    self.shown(changes);
                }
            }
        }
    }

    /// The server has ended a subscription by itself; without a query set: all of them.
    pub(super) fn lost(&mut self, query_set: Option<u32>) {
        match query_set {
            Some(set) => self.end(set),
            None => self.clear(),
        }
    }

    fn accept(&mut self, read: &Read) {
        self.bytes += read.raw.len();
        if self.live.len() >= SUBSCRIPTIONS_MAX || self.bytes > SUBSCRIPTIONS_BYTES_MAX {
            self.give_up();
        }
        if self.known {
            self.live.push(Live {
                sets: read.query_sets.clone(),
                // Copied out: it may be a small part of a larger buffer.
                request: Bytes::copy_from_slice(&read.raw),
            });
        }
    }

    fn end(&mut self, query_set: u32) {
        let Some(at) = self.live.iter().position(|live| live.sets.contains(&query_set)) else {
            return;
        };
        if self.live[at].sets.len() > 1 {
            // Its request can't be made again as it was.
            return self.give_up();
        }
        self.bytes -= self.live.remove(at).request.len();
        if self.subprotocol != Subprotocol::V1 {
            self.rows.forget(query_set);
        }
    }

    fn clear(&mut self) {
        self.live.clear();
        self.bytes = 0;
        self.rows.clear();
    }

    fn give_up(&mut self) {
        self.known = false;
        self.clear();
    }
}
