//! The I/O of one session, in one task: whatever is ready first becomes an event for the [`Core`], and what the core
//! wants done is done.

mod act;
mod apart;
mod finish;
mod life;
mod poll;

pub(super) use finish::close;

use super::core::{Action, Context, Core};
use super::outbox::Outbox;
use super::views::Reopened;
use crate::budget::{Exceeded, Share};
use crate::close::CloseReason;
use crate::feed::{Item, Member, Shape};
use crate::gate::{Entry, Pass};
use crate::limits::{APART_BYTES, CLIENT_BYTES_MAX, DRAIN_MAX};
use crate::node::Node;
use crate::pool;
use crate::socket::{Received, Socket};
use crate::upstream::{OpenError, Upstream, UpstreamConfig};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_consensus::{NotProposed, Outcome, Pending, Propose};
use rtdb_determinism::Module;
use rtdb_protocol::server;
use rtdb_replica::{ViewError, ViewHold};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::{Error, Message};

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
    Views(Result<Vec<ViewHold>, ViewError>),
    /// Some view has failed.
    ViewFailed,
    /// The feed says something, or nothing any more.
    Feed(Option<Item>),
    /// What became of the oldest call.
    Outcome(Outcome),
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
    /// The client can't be written to.
    Gone,
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
pub(super) struct Session<S> {
    /// Its number.
    pub(super) session: u64,
    pub(super) node: Arc<Node>,
    pub(super) core: Core,
    pub(super) module: Arc<Module>,
    pub(super) upstream_config: UpstreamConfig,
    pub(super) client: Socket<S>,
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
    preparing: Option<BoxFuture<'static, Result<Vec<ViewHold>, ViewError>>>,
    /// The views that the client has asked for.
    views: Vec<ViewHold>,
    /// While there are any: the next failure of a view.
    view_failed: Option<BoxFuture<'static, ()>>,
    pending: VecDeque<(Instant, Pending)>,
    /// Bytes of the payload whose messages the core holds back.
    held_bytes: usize,
    room: Option<BoxFuture<'static, Option<Pass>>>,
    /// The next call has passed the gate.
    pass: Option<Pass>,
    ticker: Interval,
    /// Until when calls under way may hold up a close, and its reason.
    drain: Option<(Pin<Box<Sleep>>, CloseReason)>,
    /// When the client was last heard of, or was not listened to; and what had been written when it was heard of.
    heard: (Instant, u64),
    /// How far writing had got, and since when it has not got any further.
    progress: (u64, Instant),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Runs the session until it ends.
    pub(super) async fn run(&mut self) -> End {
        let now = Instant::now();
        let period = self.node.limits.idle_timeout / 2;
        let mut ticker = tokio::time::interval_at(now + period, period);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut io = Io {
            upstream: None,
            opening: None,
            member: None,
            shape: None,
            preparing: None,
            views: Vec::new(),
            view_failed: None,
            pending: VecDeque::new(),
            held_bytes: 0,
            room: None,
            pass: None,
            ticker,
            drain: None,
            heard: (now, 0),
            progress: (0, now),
        };
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

    /// Gives an event to the core. `Some` ends the session.
    fn handle(&mut self, event: Event, io: &mut Io, actions: &mut Vec<Action>) -> Option<End> {
        if matches!(event, Event::Opened(_)) {
            self.look_at_module();
        }
        let module = self.module.clone();
        let context = Context {
            module: &module,
            now_us: now_us(),
        };
        match event {
            Event::Client(received) => {
                io.heard = (Instant::now(), self.client.written());
                return self.client_sent(received, actions);
            }
            Event::Upstream(received) => self.upstream_sent(received, io, &context, actions),
            Event::Opened(opened) => match *opened {
                Ok(Reopened {
                    upstream,
                    views,
                    failed,
                }) => {
                    io.upstream = Some(upstream);
                    if !io.views.is_empty() {
                        io.views = views;
                    }
                    for error in failed {
                        self.view_failed(error, &context, actions);
                    }
                    self.core.upstream_opened(&context, actions);
                }
                Err(error) => {
                    let reason = CloseReason::new(CloseReason::AGAIN, error.to_string());
                    self.core.upstream_lost(reason, &context, actions);
                }
            },
            Event::Published => {
                io.upstream = None;
                self.core.upstream_lost(CloseReason::restart(), &context, actions);
            }
            Event::Views(prepared) => self.views_prepared(prepared, io, &context, actions),
            Event::ViewFailed => {
                io.view_failed = self.next_view_failure();
                for error in io.views.iter().filter_map(ViewHold::failure) {
                    self.view_failed(error, &context, actions);
                }
            }
            Event::Feed(Some(item)) => {
                let ends = matches!(item, Item::Moved { .. } | Item::Closed(_));
                self.core.feed(item, &context, actions);
                if ends {
                    io.member = None;
                }
            }
            Event::Feed(None) => {
                io.member = None;
                let why = "this client did not keep up with its subscriptions";
                self.core
                    .feed_lost(CloseReason::new(CloseReason::AGAIN, why), actions);
            }
            Event::Outcome(outcome) => {
                if let Some((since, _)) = io.pending.pop_front() {
                    self.node.metrics.call_done(since.elapsed(), &outcome);
                }
                self.core.outcome(outcome, &context, actions);
            }
            Event::Room => {}
            Event::Tick => return self.tick(io),
            Event::Broken => {
                (io.upstream, io.opening, io.member) = (None, None, None);
                let reason = CloseReason::module_exited();
                self.core.feed_lost(reason.clone(), actions);
                self.core.give_up_upstream(reason.clone(), actions);
                io.drain = Some((Box::pin(tokio::time::sleep(DRAIN_MAX)), reason));
            }
            Event::Closing(reason) => {
                self.core.close_when_idle(reason.clone(), actions);
                io.drain = Some((Box::pin(tokio::time::sleep(DRAIN_MAX)), reason));
            }
            Event::Drained => return io.drain.take().map(|(_, reason)| End::Close(reason)),
            Event::Gone => return Some(End::Gone),
            Event::Exceeded(exceeded) => {
                self.node.metrics.slow_clients.inc();
                tracing::info!(connection = %self.upstream_config.connection, "closing a client: {exceeded}");
                // What it has is free in a moment: others need not go for it, too.
                self.share.give_back();
                let reason = CloseReason::new(CloseReason::AGAIN, exceeded.to_string());
                return Some(End::CutOff(reason));
            }
        }
        if self.core.wants_upstream() {
            io.held_bytes = 0;
        }
        None
    }

    fn views_prepared(
        &mut self,
        prepared: Result<Vec<ViewHold>, ViewError>,
        io: &mut Io,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let prepared = prepared.map(|holds| {
            for hold in holds {
                // There are no more of them than the module has views.
                if io.views.iter().all(|held| held.key() != hold.key()) {
                    io.views.push(hold);
                }
            }
        });
        if io.view_failed.is_none() && !io.views.is_empty() {
            io.view_failed = self.next_view_failure();
        }
        self.core.views_prepared(prepared, context, actions);
    }

    /// Resolves at the next failure of a view.
    fn next_view_failure(&self) -> Option<BoxFuture<'static, ()>> {
        let mut failures = self.node.local.views(&self.upstream_config.database)?.failures();
        Some(
            async move {
                if failures.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            .boxed(),
        )
    }

    /// A publication may have brought another module.
    fn look_at_module(&mut self) {
        if let Some(database) = self.node.local.database(&self.upstream_config.database) {
            self.module = database.module;
        }
    }

    fn view_failed(&mut self, error: ViewError, context: &Context<'_>, actions: &mut Vec<Action>) {
        let why = error.to_string();
        if let ViewError::Failed { view, .. } | ViewError::Stuck { view, .. } = error {
            self.core.view_failed(view, why, context, actions);
        }
    }

    fn client_sent(&mut self, received: Received, actions: &mut Vec<Action>) -> Option<End> {
        match received {
            Some(Ok(Message::Binary(frame))) => {
                self.look_at_module();
                let module = self.module.clone();
                self.core.client(
                    frame,
                    &Context {
                        module: &module,
                        now_us: now_us(),
                    },
                    actions,
                );
                None
            }
            Some(Ok(Message::Text(_))) => {
                let reason = CloseReason::new(
                    CloseReason::UNSUPPORTED,
                    "text messages are not served: send binary ones",
                );
                self.core.close_when_idle(reason, actions);
                None
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => None,
            Some(Ok(Message::Close(_))) => Some(End::Answer),
            None => Some(End::Gone),
            Some(Err(error)) => Some(unreadable(&error)),
        }
    }

    fn upstream_sent(
        &mut self,
        received: Received,
        io: &mut Io,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let lost = match received {
            Some(Ok(Message::Binary(payload))) => {
                io.held_bytes = payload.len();
                match self.upstream_payload(payload, context, actions) {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(%error, "SpacetimeDB sent what can't be read");
                        CloseReason::new(CloseReason::ERROR, error.to_string())
                    }
                }
            }
            Some(Err(Error::Capacity(_))) => CloseReason::new(
                CloseReason::ERROR,
                format!(
                    "an answer or update has more than {} MiB: ask for less",
                    CLIENT_BYTES_MAX >> 20
                ),
            ),
            // What SpacetimeDB has to say to this client, such as that a query could not be run.
            Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == CloseReason::ERROR => {
                CloseReason::new(CloseReason::ERROR, frame.reason.as_str().to_owned())
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => CloseReason::restart(),
            Some(Ok(_)) => return,
        };
        io.upstream = None;
        let database = &self.upstream_config.database;
        if self.node.catalog.by_identity(database).is_none() {
            self.core.give_up_upstream(CloseReason::module_exited(), actions);
        } else if lost.code == CloseReason::ERROR {
            self.core.give_up_upstream(lost, actions);
        } else {
            self.core.upstream_lost(lost, context, actions);
        }
    }

    fn upstream_payload(
        &mut self,
        payload: Bytes,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), rtdb_protocol::FrameError> {
        for message in server::split(self.upstream_config.subprotocol, payload) {
            self.core.upstream(message?, context, actions);
        }
        Ok(())
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

/// How to end with a client whose bytes are no WebSocket messages.
fn unreadable(error: &Error) -> End {
    End::Close(match error {
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => CloseReason::new(
            CloseReason::TOO_BIG,
            format!("the message has {size} bytes, and at most {max_size} are taken"),
        ),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return End::Gone,
        Error::Protocol(error) => CloseReason::new(CloseReason::PROTOCOL, error.to_string()),
        Error::Utf8(_) => CloseReason::new(CloseReason::NOT_UTF8, "text that is not UTF-8"),
        _ => return End::Gone,
    })
}

/// Microseconds since the Unix epoch.
fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64)
}

#[cfg(test)]
mod tests;
