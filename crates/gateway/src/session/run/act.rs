//! What the core wants done.

use super::returns::Returns;
use super::{End, Io, Session};
use crate::feed::{FeedConfig, Member, Shape};
use crate::procedures;
use crate::session::core::Action;
use crate::session::views::{self, Reopened};
use crate::upstream;
use crate::wire::Wire;
use futures::FutureExt;
use rtdb_protocol::sql::Query;
use std::sync::Arc;

impl<W: Wire> Session<W> {
    /// Does something. `Some` ends the session.
    pub(super) fn act(&mut self, action: Action, io: &mut Io) -> Option<End> {
        match action {
            Action::Send(message) => self.outbox.push(message),
            Action::SendParts(head, body) => self.outbox.push_parts(head, body),
            Action::Join(ticket, queries) => self.member(io, &queries).join(ticket, queries),
            Action::Leave(ticket, set, rows) => {
                if let Some(member) = &mut io.member {
                    member.leave(ticket, set, rows);
                }
            }
            Action::MoveOut => {
                let (database, client) = (
                    self.upstream_config.database,
                    self.upstream_config.claims.identity,
                );
                self.node.feeds.remember_alone(database, client);
                if let Some(member) = &mut io.member {
                    member.move_out();
                }
            }
            Action::Subscribed(numbers) => io.shape = self.shape(io, numbers),
            Action::Show(batch) => {
                if let Some(shape) = &io.shape {
                    let frames = batch.frames(shape, &self.node.budget);
                    if frames.len() > 0 {
                        self.outbox.push_shared(frames);
                    }
                }
            }
            Action::ShowOne(batch, at) => {
                let message = io.shape.as_ref().and_then(|shape| batch.message(at, shape));
                message.into_iter().for_each(|message| self.outbox.push(message));
            }
            Action::OpenUpstream => {
                let (local, reach) = (self.node.local.clone(), self.node.reach.clone());
                let config = self.upstream_config.clone();
                let opening = async move {
                    let opened = upstream::open(local, reach, config).await;
                    opened.map(Reopened::without_views)
                };
                io.opening = Some(opening.boxed());
            }
            Action::ReopenUpstream => {
                io.upstream = None;
                self.node.metrics.restorations.inc();
                let (node, config) = (self.node.clone(), self.upstream_config.clone());
                let views = io.views.iter().map(|hold| hold.view().to_owned()).collect();
                io.opening = Some(views::reopen(node, config, views).boxed());
            }
            Action::Forward(message) => {
                if let Some(upstream) = &mut io.upstream {
                    upstream.socket.push(message);
                }
            }
            Action::Prepare(freshness, wanted) => {
                let (node, config) = (self.node.clone(), self.upstream_config.clone());
                io.preparing = Some(views::prepare(node, config, freshness, wanted).boxed());
            }
            Action::CallProcedure(call) => {
                let returns = self.returns(&call.procedure);
                let (node, config) = (self.node.clone(), self.upstream_config.clone());
                let (request_id, told) = (call.request_id, io.finished.told.clone());
                rtdb_runtime::spawn(async move {
                    let pool = node.pool.clone();
                    let mut finished = procedures::run(node, config, call).await;
                    if let Some(returns) = returns {
                        finished = returns.in_json(finished, &pool).await;
                    }
                    // The client may be gone. There is room for as many as may be under way.
                    let _ = told.try_send((request_id, finished));
                });
            }
            Action::Close(reason) => return Some(End::Close(reason)),
        }
        None
    }

    /// What a procedure returns, for a client that speaks JSON.
    fn returns(&self, procedure: &str) -> Option<Returns> {
        let procedure = self.module.procedure(procedure).filter(|_| self.is_json)?;
        Some(Returns {
            module: self.module.clone(),
            ty: procedure.returns.clone(),
        })
    }

    /// The client's part in the feed for these queries.
    fn member<'a>(&self, io: &'a mut Io, queries: &[Query]) -> &'a mut Member {
        io.member.get_or_insert_with(|| {
            let config = FeedConfig {
                database: self.upstream_config.database,
                subprotocol: self.upstream_config.subprotocol,
                light: self.upstream_config.light,
            };
            self.node.feeds.enter(config, self.session, queries)
        })
    }

    /// How the client is told of what it has.
    fn shape(&self, io: &Io, numbers: Vec<(u32, u32)>) -> Option<Arc<Shape>> {
        let member = io.member.as_ref().filter(|_| !numbers.is_empty())?;
        let (subprotocol, compression) = self.outbox.kind();
        Some(member.shape(subprotocol, compression, numbers))
    }
}
