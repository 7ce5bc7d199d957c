//! What a client is subscribed to, kept so that it can be subscribed anew when its upstream was away.

use crate::limits::{SUBSCRIPTIONS_BYTES_MAX, SUBSCRIPTIONS_MAX};
use crate::rows::{Rows, Side};
use bytes::Bytes;
use prometheus::IntGauge;
use rtdb_determinism::Module;
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
    /// If it is to all tables: the same request to each of those that there were.
    each: Option<Bytes>,
}

impl Live {
    fn bytes(&self) -> usize {
        self.request.len() + self.each.as_ref().map_or(0, Bytes::len)
    }
}

/// A client's subscriptions, and the rows it was shown for them.
#[derive(Debug)]
pub(super) struct Subscriptions {
    subprotocol: Subprotocol,
    /// In the order in which they were accepted: what a v1 server answers depends on it.
    live: Vec<Live>,
    /// Requests whose answers are due and that are to all tables, as they came, and to each of them.
    asked: Vec<(Bytes, Bytes)>,
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
            asked: Vec::new(),
            bytes: 0,
            rows: Rows::new(row_bytes),
            known: true,
        }
    }

    /// The client comes from a feed, with all that it was shown there.
    pub(super) fn moving(mut self) -> Self {
        self.rows.moving();
        self
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
            .filter(|read| read.queries.iter().any(|query| query.reads(view)))
            .collect()
    }

    /// Whether a query set is subscribed to.
    pub(super) fn has(&self, query_set: u32) -> bool {
        self.live.iter().any(|live| live.sets.contains(&query_set))
    }

    /// The client asks for a subscription, of a database that runs `module`.
    pub(super) fn asked(&mut self, read: &Read, module: &Module, is_owner: bool) {
        if let Some(each) = of_each(self.subprotocol, read, module, is_owner) {
            self.asked.push((read.raw.clone(), each));
        }
        if self.asked.iter().map(|(_, each)| each.len()).sum::<usize>() > SUBSCRIPTIONS_BYTES_MAX {
            self.asked.clear();
            self.give_up();
        }
    }

    /// All that was asked for is asked for anew.
    pub(super) fn forget_asked(&mut self) {
        self.asked.clear();
    }

    /// The requests that subscribe the client to all of it, though the database may run another `module` by now: nobody
    /// knows tables that have come since.
    pub(super) fn requests(&self, module: &Module, is_owner: bool) -> Vec<Bytes> {
        let request = |live: &Live| match &live.each {
            Some(each) if self.now(live, module, is_owner).as_ref() != Some(each) => each.clone(),
            _ => live.request.clone(),
        };
        self.live.iter().map(request).collect()
    }

    /// What a request to all tables is to each of those that there are now.
    fn now(&self, live: &Live, module: &Module, is_owner: bool) -> Option<Bytes> {
        match client::split(self.subprotocol, live.request.clone()).next() {
            Some(Ok(ClientMessage::Read(read))) => of_each(self.subprotocol, &read, module, is_owner),
            _ => None,
        }
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
        let message = self.rows.show_told(self.subprotocol);
        if !self.rows.moved() {
            self.give_up();
        }
        message
    }

    /// The client has got the answer to its request.
    pub(super) fn answered(&mut self, read: &Read, error: bool, changes: &Changes) {
        use ReadKind::{
            OneOffQuery, SubscribeBatch, SubscribeLegacy, SubscribeMulti, SubscribeSingle, UnsubscribeMulti,
            UnsubscribeSingle,
        };
        let asked = self.asked.iter().position(|(request, _)| *request == read.raw);
        let each = asked.map(|at| self.asked.swap_remove(at).1);
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
                self.accept(read, each);
                self.shown(changes);
            }
            SubscribeSingle | SubscribeMulti | SubscribeBatch => {
                if self.live.iter().any(|live| live.sets.is_empty()) {
                    self.give_up();
                }
                self.accept(read, each);
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

    fn accept(&mut self, read: &Read, each: Option<Bytes>) {
        let live = Live {
            sets: read.query_sets.clone(),
            // Copied out: it may be a small part of a larger buffer.
            request: Bytes::copy_from_slice(&read.raw),
            each,
        };
        self.bytes += live.bytes();
        if self.live.len() >= SUBSCRIPTIONS_MAX || self.bytes > SUBSCRIPTIONS_BYTES_MAX {
            self.give_up();
        }
        if self.known {
            self.live.push(live);
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
        self.bytes -= self.live.remove(at).bytes();
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

/// The same request to each table that the client may read, if it is to all of them: the server leaves out event tables.
fn of_each(subprotocol: Subprotocol, read: &Read, module: &Module, is_owner: bool) -> Option<Bytes> {
    if !read.queries.iter().any(|query| query.reads_all()) {
        return None;
    }
    let tables = module.tables().iter().filter(|table| !table.event);
    let tables = tables.map(|table| (&table.name, table.public));
    let views = module.views().iter().map(|view| (&view.name, view.public));
    let readable = tables.chain(views).filter(|(_, public)| *public || is_owner);
    let all = readable.map(|(name, _)| format!("SELECT * FROM \"{name}\""));
    let others = read.queries.iter().filter(|query| !query.reads_all());
    let queries: Vec<_> = all.chain(others.map(|query| query.text().to_owned())).collect();
    let queries: Vec<_> = queries.iter().map(String::as_str).collect();
    client::subscribe_instead(subprotocol, read, &queries)
}
