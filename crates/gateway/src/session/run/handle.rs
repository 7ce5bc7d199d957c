//! What an event means: it goes to the core.

use super::{End, Event, Io, Session, now_us};
use crate::close::CloseReason;
use crate::feed::Item;
use crate::json;
use crate::limits::{BODY_BYTES_MAX, CLIENT_BYTES_MAX, DRAIN_MAX, REFRESH_WAIT_MAX};
use crate::session::core::{Action, Context};
use crate::session::views::{Reopened, Unprepared};
use crate::wire::{Received, Wire};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_protocol::server;
use rtdb_replica::{ViewError, ViewHold};
use rtdb_runtime::Instant;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::{Error, Message};

impl<W: Wire> Session<W> {
    /// Gives an event to the core. `Some` ends the session.
    pub(super) fn handle(&mut self, event: Event, io: &mut Io, actions: &mut Vec<Action>) -> Option<End> {
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
            Event::Late => self.core.refresh_is_late(&context, actions),
            Event::Outcome(outcome) => {
                if let Some((since, _)) = io.pending.pop_front() {
                    self.node.metrics.call_done(since.elapsed(), &outcome);
                }
                self.core.outcome(outcome, &context, actions);
            }
            Event::Finished(request_id, finished) => {
                self.core
                    .procedure_finished(request_id, *finished, &context, actions);
            }
            Event::Room => {}
            Event::Tick => {
                self.core.tell_overdue(actions);
                return self.tick(io);
            }
            Event::Broken => {
                (io.upstream, io.opening, io.member) = (None, None, None);
                let reason = CloseReason::module_exited();
                self.core.feed_lost(reason.clone(), actions);
                self.core.give_up_upstream(reason.clone(), actions);
                io.drain = Some((Box::pin(rtdb_runtime::sleep(DRAIN_MAX)), reason));
            }
            Event::Closing(reason) => {
                self.core.close_when_idle(reason.clone(), actions);
                io.drain = Some((Box::pin(rtdb_runtime::sleep(DRAIN_MAX)), reason));
            }
            Event::Drained => return io.drain.take().map(|(_, reason)| End::Close(reason)),
            Event::Ended(end) => return Some(end),
            Event::Exceeded(exceeded) => {
                self.node.metrics.slow_clients.inc();
                tracing::info!(connection = %self.upstream_config.connection, "closing a client: {exceeded}");
                // What it has is free in a moment: others need not go for it, too.
                self.share.give_back();
                let reason = CloseReason::new(CloseReason::AGAIN, exceeded.to_string());
                return Some(End::CutOff(reason));
            }
        }
        let kept = self.core.waits_for_refresh();
        // What waits may be a small part of its payload.
        if self.core.wants_upstream() && kept.is_none() {
            io.held_bytes = 0;
        }
        if io.keeps.as_ref().map(|(count, _)| *count) != kept {
            io.keeps = kept.map(|count| (count, Box::pin(rtdb_runtime::sleep(REFRESH_WAIT_MAX))));
        }
        None
    }

    fn views_prepared(
        &mut self,
        prepared: Result<Vec<ViewHold>, Unprepared>,
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
            if self.is_json {
                self.outbox.speak_json(self.module.clone());
            }
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
            Some(Ok(Message::Text(text))) if self.is_json && text.len() > BODY_BYTES_MAX => {
                let why = format!("JSON of at most {} MiB is taken", BODY_BYTES_MAX >> 20);
                self.core
                    .close_when_idle(CloseReason::new(CloseReason::TOO_BIG, why), actions);
                None
            }
            Some(Ok(Message::Text(text))) if self.is_json => {
                self.look_at_module();
                let module = self.module.clone();
                let context = Context {
                    module: &module,
                    now_us: now_us(),
                };
                match json::request(&text, &module, self.core.is_owner()) {
                    Ok(asked) => self.core.client_in_json(asked, &context, actions),
                    Err(error) => self
                        .core
                        .close_when_idle(CloseReason::new(CloseReason::ERROR, error), actions),
                }
                None
            }
            Some(Ok(Message::Binary(_))) if self.is_json => {
                let why = "binary messages are not served in v1.json: send text";
                self.core
                    .close_when_idle(CloseReason::new(CloseReason::UNSUPPORTED, why), actions);
                None
            }
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
