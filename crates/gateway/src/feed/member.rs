use super::item::Item;
use super::shape::{Shape, Shapes};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::compress::Compression;
use rtdb_protocol::sql::Query;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// What a member wants of its feed.
#[derive(Debug)]
pub(super) enum Request {
    /// It comes, for a session.
    Enter { session: u64, items: mpsc::Sender<Item> },
    /// It wants to be subscribed.
    Join {
        session: u64,
        ticket: u32,
        queries: Vec<Query>,
    },
    /// It lets go of a query set, and wants to know its rows or does not.
    Leave {
        session: u64,
        ticket: u32,
        set: u32,
        rows: bool,
    },
    /// It goes on by itself, and wants to know what it has been shown.
    MoveOut { session: u64 },
    /// It is gone.
    Gone { session: u64 },
}

/// A session's part in a feed. It ends when this is dropped.
pub(crate) struct Member {
    pub(super) session: u64,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) items: mpsc::Receiver<Item>,
    pub(super) shapes: Arc<Shapes>,
}

impl Member {
    /// Asks for a subscription: [`Item::Joined`] or [`Item::Declined`] follows.
    pub(crate) fn join(&mut self, ticket: u32, queries: Vec<Query>) {
        self.ask(Request::Join {
            session: self.session,
            ticket,
            queries,
        });
    }

    /// Lets go of a query set: [`Item::Left`] follows.
    pub(crate) fn leave(&mut self, ticket: u32, set: u32, rows: bool) {
        self.ask(Request::Leave {
            session: self.session,
            ticket,
            set,
            rows,
        });
    }

    /// Goes away with what has been shown: [`Item::Moved`] follows, and nothing else.
    pub(crate) fn move_out(&mut self) {
        self.ask(Request::MoveOut {
            session: self.session,
        });
    }

    /// The shape of a client with these query sets: the feed's numbers and its own, sorted.
    pub(crate) fn shape(
        &self,
        subprotocol: Subprotocol,
        compression: Compression,
        numbers: Vec<(u32, u32)>,
    ) -> Arc<Shape> {
        self.shapes.of(Shape {
            subprotocol,
            compression,
            numbers,
        })
    }

    /// The next item. `None` if the feed has ended, or the session did not keep up with it.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.items.poll_recv(cx)
    }

    /// Without room for what it asks the member hears nothing more.
    fn ask(&mut self, request: Request) {
        if self.requests.try_send(request).is_err() {
            self.items.close();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.ask(Request::Gone {
            session: self.session,
        });
    }
}
