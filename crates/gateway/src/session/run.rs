//! The I/O of one session, in one task: whatever is ready first becomes an event for the [`Core`], and what the core
//! wants done is done.

mod act;
mod apart;
mod finish;
mod handle;
mod life;
mod poll;
mod returns;

pub(super) use finish::close;

use super::core::{Action, Context, Core};
use super::outbox::Outbox;
use super::views::{Reopened, Unprepared};
use crate::budget::{Exceeded, Share};
use crate::close::CloseReason;
use crate::feed::{Item, Member, Shape};
use crate::gate::{Entry, Pass};
use crate::limits::{APART_BYTES, PROCEDURES_MAX};
use crate::node::Node;
use crate::pool;
use crate::procedures::Finished;
use crate::reach::OpenError;
use crate::socket::Socket;
use crate::upstream::{Upstream, UpstreamConfig};
use crate::wire::{Received, Wire};
use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_consensus::{NotProposed, Outcome, Pending, Propose};
use rtdb_determinism::Module;
use rtdb_replica::ViewHold;
use rtdb_runtime::{Instant, Sleep};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What happens to a session.
enum Event {
    /// The client sent something or went away.
    Client(Received),
    /// SpacetimeDB sent something or went away.
    Upstream(Received),
    /// The upstream is open, or can't be opened.
    Opened(Box<Result<Reopened, OpenError>>),
    /// The database's module was replaced, or nearly: the upstream may hang on what was there before.
    Published,
    /// The views that the client asks for are prepared, or can't be.
    Views(Result<Vec<ViewHold>, Unprepared>),
    /// Some view has failed.
    ViewFailed,
    /// The feed says something, or nothing any more.
    Feed(Option<Item>),
    /// What an update waits for has not come in time.
    Late,
    /// What became of the oldest call.
    Outcome(Outcome),
    /// What became of a procedure: its caller's number for it, and the rest.
    Finished(u32, Box<Finished>),
    /// There is room for proposals again, or it is this session's turn.
    Room,
    /// Time to look after the client.
    Tick,
    /// An update has broken the client: nothing more of the database is for it.
    Broken,
    /// The node wants all sessions closed.
    Closing(CloseReason),
    /// Calls under way have held up the close for long enough.
    Drained,
    /// The client can't be written to, or can't be told what it is to be told.
    Ended(End),
    /// More is held for the client than may be.
    Exceeded(Exceeded),
}

/// How a session ends.
pub(super) enum End {
    /// The client is to be closed.
    Close(CloseReason),
    /// The client is to be closed, without what still waits for it.
    CutOff(CloseReason),
    /// The client has closed, and waits for the answer.
    Answer,
    /// The client is gone.
    Gone,
}

/// A session that has been let in.
pub(super) struct Session<W> {
    /// Its number.
    pub(super) session: u64,
    pub(super) node: Arc<Node>,
    pub(super) core: Core,
    pub(super) module: Arc<Module>,
    /// Whether the client speaks JSON.
    pub(super) is_json: bool,
    pub(super) upstream_config: UpstreamConfig,
    pub(super) client: Socket<W>,
    pub(super) outbox: Outbox,
    /// Resolves when an update breaks the client.
    pub(super) broken: BoxFuture<'static, ()>,
    pub(super) share: Share,
    pub(super) closing: BoxFuture<'static, CloseReason>,
}

/// What only the loop needs.
struct Io {
    upstream: Option<Upstream>,
    opening: Option<BoxFuture<'static, Result<Reopened, OpenError>>>,
    /// The client's part in a feed.
    member: Option<Member>,
    /// What it is told in which way.
    shape: Option<Arc<Shape>>,
    /// Views that are being prepared.
    preparing: Option<BoxFuture<'static, Result<Vec<ViewHold>, Unprepared>>>,
    /// The views that the client has asked for.
    views: Vec<ViewHold>,
    /// While there are any: the next failure of a view.
    view_failed: Option<BoxFuture<'static, ()>>,
    /// How long the update waits that does so for a refresh, and its number.
    keeps: Option<(u64, Pin<Box<Sleep>>)>,
    pending: VecDeque<(Instant, Pending)>,
    finished: Endings,
    /// Bytes of the payload whose messages the core holds back.
    held_bytes: usize,
    room: Option<BoxFuture<'static, Option<Pass>>>,
    /// The next call has passed the gate.
    pass: Option<Pass>,
    /// When it is time to look after the client.
    tick: Pin<Box<Sleep>>,
    /// When it was last looked after.
    looked: Instant,
    /// How often it was asked what is ready.
    polls: u32,
    /// Until when calls under way may hold up a close, and its reason.
    drain: Option<(Pin<Box<Sleep>>, CloseReason)>,
    /// When the client was last heard of, or was not listened to; and what had been written when it was heard of.
    heard: (Instant, u64),
    /// How far writing had got, and since when it has not got any further.
    progress: (u64, Instant),
}

/// Where procedures tell that they have ended, each with its caller's number for it, and where that is heard.
struct Endings {
    told: mpsc::Sender<(u32, Finished)>,
    heard: mpsc::Receiver<(u32, Finished)>,
}

impl Endings {
    fn new() -> Self {
        let (told, heard) = mpsc::channel(PROCEDURES_MAX);
        Self { told, heard }
    }
}

impl Io {
    fn new(tick: Pin<Box<Sleep>>) -> Self {
        let now = Instant::now();
        Self {
            upstream: None,
            opening: None,
            member: None,
            shape: None,
            preparing: None,
            views: Vec::new(),
            view_failed: None,
            keeps: None,
            pending: VecDeque::new(),
            finished: Endings::new(),
            held_bytes: 0,
            room: None,
            pass: None,
            tick,
            looked: now,
            polls: 0,
            drain: None,
            heard: (now, 0),
            progress: (0, now),
        }
    }
}

impl<W: Wire> Session<W> {
    /// Runs the session until it ends.
    pub(super) async fn run(&mut self) -> End {
        let mut io = Io::new(self.next_tick());
        let mut actions = Vec::new();
        loop {
            let event = poll_fn(|cx| self.poll(&mut io, cx)).await;
            let end = if self.burden(&event, &io) > APART_BYTES {
                let mut turn = self.node.pool.turn();
                let is_sent = matches!(event, Event::Client(_));
                match poll_fn(|cx| self.poll_turn(&mut turn, is_sent, &mut io, cx)).await {
                    Ok(turn) => pool::in_place(turn, || self.handle(event, &mut io, &mut actions)),
                    Err(end) => Some(end),
                }
            } else {
                self.handle(event, &mut io, &mut actions)
            };
            if let Some(end) = end {
                return end;
            }
            if io.room.is_none() {
                self.propose(&mut io, &mut actions);
            }
            for action in actions.drain(..) {
                if let Some(end) = self.act(action, &mut io) {
                    return end;
                }
            }
        }
    }

    /// Proposes what the core has, as far as there is room.
    fn propose(&mut self, io: &mut Io, actions: &mut Vec<Action>) {
        while let Some(command) = self.core.proposal() {
            let Some(pass) = io.pass.take().or_else(|| self.enter(io, actions)) else {
                if io.room.is_some() {
                    return;
                }
                continue;
            };
            match self.node.shard.submit(command) {
                Ok(pending) => {
                    self.node.metrics.calls.inc();
                    io.pending.push_back((Instant::now(), pending));
                    self.core.proposed();
                }
                Err(NotProposed::Overloaded { .. }) => {
                    let group = self.node.shard.clone();
                    io.pass = Some(pass);
                    io.room = Some(group_is_ready(group).boxed());
                    return;
                }
                Err(error @ (NotProposed::TooLarge { .. } | NotProposed::DiskLow { .. })) => {
                    self.refuse(error.to_string(), actions);
                }
                Err(NotProposed::Stopping) => {
                    // The order to close is on its way.
                    io.room = Some(std::future::pending().boxed());
                    return;
                }
            }
        }
    }

    /// Lets the next call through the gate. If it does not pass it waits for its turn, or is refused.
    fn enter(&mut self, io: &mut Io, actions: &mut Vec<Action>) -> Option<Pass> {
        let UpstreamConfig { database, claims, .. } = &self.upstream_config;
        match self.node.gate.enter(database, &claims.identity, Instant::now()) {
            Ok(Entry::Passed(pass)) => return Some(pass),
            Ok(Entry::Waits(turn)) => io.room = Some(turn.map(Some).boxed()),
            Err(spent) => self.refuse(spent.to_string(), actions),
        }
        None
    }

    /// Answers the next call without proposing it.
    fn refuse(&mut self, why: String, actions: &mut Vec<Action>) {
        let module = self.module.clone();
        let context = Context {
            module: &module,
            now_us: now_us(),
        };
        self.core.unproposable(why, &context, actions);
    }
}

async fn group_is_ready(group: Arc<dyn Propose>) -> Option<Pass> {
    group.ready().await;
    None
}

/// Microseconds since the Unix epoch.
fn now_us() -> i64 {
    rtdb_runtime::wall_us() as i64
}

#[cfg(test)]
mod tests;
