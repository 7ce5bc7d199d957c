//! The I/O of a feed, in one task.

use super::core::{Action, Core};
use super::gathering::Gathering;
use super::item::Item;
use super::member::Request;
use super::registry::{FeedKey, Means};
use super::shareable::all_shareable;
use crate::close::CloseReason;
use crate::limits::{APART_BYTES, COUNT_MAX, UPSTREAM_AWAY_MAX};
use crate::local::Claims;
use crate::local_client::count_in;
use crate::pool;
use crate::reach::OpenError;
use crate::upstream::{self, Upstream, UpstreamConfig};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use rtdb_protocol::server;
use spacetimedb_lib::{ConnectionId, Identity};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

/// What happens to a feed.
enum Event {
    /// A member wants something.
    Request(Option<Request>),
    /// The upstream is open, or can't be opened.
    Opened(Box<Result<Upstream, OpenError>>),
    /// SpacetimeDB sent something.
    Upstream(Vec<Bytes>),
    /// The upstream is gone.
    Lost,
    /// A query set's rows have been counted.
    Counted(u32, Option<u64>),
    /// The database's module was replaced, or nearly: the upstream may hang on what was there before.
    Published,
}

type Opening = BoxFuture<'static, Result<Upstream, OpenError>>;

/// A feed.
pub(super) struct Feed {
    means: Arc<Means>,
    key: FeedKey,
    core: Core,
    asked: mpsc::Receiver<Request>,
    members: BTreeMap<u64, mpsc::Sender<Item>>,
    /// Sessions that hear nothing more.
    gone: Vec<u64>,
    upstream: Option<Upstream>,
    gathering: Gathering,
    opening: Option<Opening>,
    counts: FuturesUnordered<BoxFuture<'static, (u32, Option<u64>)>>,
    /// Whom it is to the local server: somebody new, since nothing that is shared depends on who asks.
    caller: Option<(Claims, String)>,
}

impl Feed {
    pub(super) fn new(means: Arc<Means>, key: FeedKey, asked: mpsc::Receiver<Request>) -> Self {
        Self {
            core: Core::new(
                key.subprotocol,
                means.metrics.row_bytes.clone(),
                means.budget.clone(),
            ),
            gathering: Gathering::new(means.gather),
            means,
            key,
            asked,
            members: BTreeMap::new(),
            gone: Vec::new(),
            upstream: None,
            opening: None,
            counts: FuturesUnordered::new(),
            caller: None,
        }
    }

    /// Runs the feed until nobody needs it.
    pub(super) async fn run(mut self) {
        let mut actions = Vec::new();
        loop {
            let event = poll_fn(|cx| self.poll(cx)).await;
            if self.burden(&event) > APART_BYTES {
                let turn = self.means.pool.turn().await;
                pool::in_place(turn, || self.handle(event, &mut actions));
            } else {
                self.handle(event, &mut actions);
            }
            while !actions.is_empty() {
                for action in std::mem::take(&mut actions) {
                    self.act(action);
                }
                for session in std::mem::take(&mut self.gone) {
                    self.core.request(Request::Gone { session }, &mut actions);
                }
            }
            if self.core.is_idle() && self.means.end(&self.key, &self.asked) {
                return;
            }
        }
    }

    /// How many bytes may have to be gone through for an event.
    fn burden(&self, event: &Event) -> usize {
        match event {
            Event::Upstream(payloads) => payloads.iter().map(Bytes::len).sum::<usize>() + self.core.burden(),
            Event::Request(Some(
                Request::MoveOut { session }
                | Request::Leave {
                    session, rows: true, ..
                },
            )) => self.core.shown_to(*session),
            _ => 0,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(request) = self.asked.poll_recv(cx) {
            return Poll::Ready(Event::Request(request));
        }
        if let Some(opening) = &mut self.opening
            && let Poll::Ready(opened) = opening.poll_unpin(cx)
        {
            self.opening = None;
            return Poll::Ready(Event::Opened(Box::new(opened)));
        }
        if let Poll::Ready(Some((set, rows))) = self.counts.poll_next_unpin(cx) {
            return Poll::Ready(Event::Counted(set, rows));
        }
        let Some(upstream) = &mut self.upstream else {
            return Poll::Pending;
        };
        if upstream.poll_published(cx).is_ready() {
            return Poll::Ready(Event::Published);
        }
        let upstream = &mut upstream.socket;
        if matches!(upstream.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(Event::Lost);
        }
        let gathering = &mut self.gathering;
        while !gathering.is_full() {
            match upstream.poll_read(cx) {
                Poll::Ready(Some(Ok(Message::Binary(payload)))) => gathering.add(payload),
                Poll::Ready(Some(Ok(Message::Close(_)) | Err(_)) | None) if gathering.is_empty() => {
                    return Poll::Ready(Event::Lost);
                }
                Poll::Ready(end @ (Some(Ok(Message::Close(_)) | Err(_)) | None)) => {
                    upstream.unread(end);
                    return Poll::Ready(Event::Upstream(gathering.take()));
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Pending => break,
            }
        }
        let in_flight = || self.means.local.in_flight(&self.key.database);
        gathering
            .poll(self.members.len(), in_flight, cx)
            .map(Event::Upstream)
    }

    fn handle(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Request(Some(request)) => {
                match &request {
                    Request::Enter { session, items } => {
                        self.members.insert(*session, items.clone());
                    }
                    Request::Gone { session } => {
                        self.members.remove(session);
                    }
                    _ => {}
                }
                self.core.request(request, actions);
            }
            // The registry holds on to a sender for as long as this runs.
            Event::Request(None) => {}
            Event::Opened(opened) => match *opened {
                Ok(upstream) => {
                    self.upstream = Some(upstream);
                    let database = self.means.local.database(&self.key.database);
                    let module = database.map(|database| database.module);
                    self.core.opened(
                        |queries| {
                            module
                                .as_ref()
                                .is_some_and(|module| all_shareable(queries, module))
                        },
                        actions,
                    );
                }
                Err(error) => {
                    let reason = CloseReason::new(CloseReason::AGAIN, error.to_string());
                    self.core.close(&reason, actions);
                }
            },
            Event::Upstream(payloads) => self.received(payloads, actions),
            Event::Lost | Event::Published => self.lost(actions),
            Event::Counted(set, rows) => self.core.counted(set, rows, actions),
        }
    }

    fn received(&mut self, payloads: Vec<Bytes>, actions: &mut Vec<Action>) {
        let messages = payloads
            .into_iter()
            .flat_map(|payload| server::split(self.key.subprotocol, payload));
        let messages: Result<Vec<_>, _> = messages.collect();
        match messages {
            Ok(messages) => self.core.upstream(messages, actions),
            Err(error) => {
                tracing::error!(%error, "SpacetimeDB sent what can't be read");
                let reason = CloseReason::new(CloseReason::ERROR, error.to_string());
                self.core.close(&reason, actions);
            }
        }
    }

    fn lost(&mut self, actions: &mut Vec<Action>) {
        self.drop_upstream();
        self.means.metrics.restorations.inc_by(self.core.subscribed());
        self.core.lost(actions);
    }

    /// What it has sent and nobody was told is missed, as is what it would have sent.
    fn drop_upstream(&mut self) {
        self.upstream = None;
        self.gathering.take();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open => {
                self.drop_upstream();
                let caller = self.caller();
                self.opening = Some(open(self.means.clone(), self.key.clone(), caller).boxed());
            }
            Action::Forward(message) => {
                if let Some(upstream) = &mut self.upstream {
                    upstream.socket.push(message);
                }
            }
            Action::Count(set, counts) => self.count(set, counts),
            Action::Tell(session, item) => self.tell(session, item),
            Action::Broadcast(batch, sessions) => {
                for session in sessions {
                    self.tell(session, Item::Batch(batch.clone()));
                }
            }
        }
    }

    /// A session that does not keep up hears nothing more, and ends by itself.
    fn tell(&mut self, session: u64, item: Item) {
        if let Some(items) = self.members.get(&session)
            && items.try_send(item).is_err()
        {
            self.members.remove(&session);
            self.gone.push(session);
        }
    }

    fn count(&mut self, set: u32, counts: Vec<String>) {
        let (means, database) = (self.means.clone(), self.key.database);
        let token = self.caller().map(|(_, token)| token);
        let counted = async move {
            let counting = count(&means, &database, token, counts);
            // What takes long is not for a connection that others wait for.
            let rows = rtdb_runtime::timeout(COUNT_MAX, counting).await;
            (set, rows.ok().flatten())
        };
        self.counts.push(counted.boxed());
    }

    fn caller(&mut self) -> Option<(Claims, String)> {
        if self.caller.is_none() {
            self.caller = self.means.local.tokens().and_then(|tokens| tokens.fresh());
        }
        self.caller.clone()
    }
}

/// Opens the upstream.
async fn open(
    means: Arc<Means>,
    key: FeedKey,
    caller: Option<(Claims, String)>,
) -> Result<Upstream, OpenError> {
    let (claims, token) = caller.ok_or(OpenError::Unavailable)?;
    let config = UpstreamConfig {
        database: key.database,
        subprotocol: key.subprotocol,
        connection: ConnectionId::ZERO,
        light: key.alone.is_some_and(|(light, _)| light),
        claims,
        token,
        counted: means.metrics.upstreams.clone(),
    };
    let opened = upstream::reopen(means.local.as_ref(), means.reach.as_ref(), &config);
    rtdb_runtime::timeout(UPSTREAM_AWAY_MAX, opened)
        .await
        .map_err(|_| OpenError::Unavailable)
}

/// How many rows queries have together.
async fn count(
    means: &Means,
    database: &Identity,
    token: Option<String>,
    counts: Vec<String>,
) -> Option<u64> {
    let token = token?;
    let mut rows = 0;
    for query in counts {
        let asked = means.reach.query(database, &token, query).await;
        let (_, body) = asked.ok().filter(|(status, _)| status.is_success())?;
        rows += count_in(&body)?;
    }
    Some(rows)
}
