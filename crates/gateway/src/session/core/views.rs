//! Reads wait until this node has what they are to show, and the views among it are prepared; and a view that fails ends the
//! subscriptions that read it.

use super::{Action, Context, Core, Upstream, Waiting};
use crate::close::CloseReason;
use crate::freshness::Freshness;
use crate::session::subscriptions::subscribes;
use crate::session::views::Unprepared;
use crate::views;
use rtdb_determinism::View;
use rtdb_protocol::client::{self, ClientMessage, Read, ReadKind};
use rtdb_protocol::reply;

/// How far the views are that the waiting message reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Preparing {
    /// It has not been asked for them.
    #[default]
    No,
    UnderWay,
    /// They show what they are to show.
    Ready,
}

impl Core {
    /// Whether the next read can be forwarded as far as that is concerned; asks for what it needs.
    pub(super) fn are_views_there(
        &mut self,
        read: &Read,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        match self.preparing {
            Preparing::UnderWay => false,
            Preparing::Ready => {
                self.preparing = Preparing::No;
                true
            }
            Preparing::No => {
                let wanted = views::wanted(context.module, read.queries.iter(), self.caller.identity);
                // What ends a subscription shows nothing, and must not fail.
                let freshness = match subscribes(read.kind) || read.kind == ReadKind::OneOffQuery {
                    true => self.caller.freshness,
                    false => Freshness::default(),
                };
                if wanted.is_empty() && freshness == Freshness::default() {
                    return true;
                }
                if !wanted.is_empty() {
                    self.refreshes.look();
                }
                self.preparing = Preparing::UnderWay;
                actions.push(Action::Prepare(freshness, wanted));
                false
            }
        }
    }

    /// The views that the waiting read needs are prepared, or can't be.
    pub(crate) fn views_prepared(
        &mut self,
        prepared: Result<(), Unprepared>,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let there = matches!(self.upstream, Upstream::Subscribing | Upstream::Open);
        self.preparing = match prepared {
            // It may have been lost and come back as new.
            _ if !there => Preparing::No,
            Ok(()) => Preparing::Ready,
            Err(error) => {
                if let Some(Waiting {
                    message: ClientMessage::Read(read),
                    ..
                }) = self.waiting.pop_front()
                {
                    self.declined = self.declined.saturating_sub(1);
                    let message = self.refused_read(&read, context, &error.to_string());
                    actions.push(Action::Send(message));
                }
                Preparing::No
            }
        };
        self.admit(context, actions);
    }

    /// A view has failed: the client's subscriptions that read it end.
    pub(crate) fn view_failed(
        &mut self,
        view: String,
        why: String,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let mut views = context.module.views().iter();
        // The module may be another one by now.
        let names = views.find(|known| known.name == view).map(View::names);
        let names = names
            .unwrap_or([&view; 2])
            .map(|name| (name.to_owned(), why.clone()));
        self.failed_views.extend(names);
        self.end_failed_views(actions);
    }

    /// Ends what reads views that have failed, unless that has to wait until everything is restored. On an upstream that
    /// is open the server ends it first, so that no more of its rows come.
    pub(super) fn end_failed_views(&mut self, actions: &mut Vec<Action>) {
        let forward = match self.upstream {
            Upstream::Open => true,
            Upstream::Reopening | Upstream::Absent => false,
            Upstream::Opening | Upstream::Restoring { .. } | Upstream::Subscribing => return,
        };
        for (view, why) in std::mem::take(&mut self.failed_views) {
            let Some(subscriptions) = &self.subscriptions else {
                return;
            };
            let mut queries = self.reads.iter().flat_map(|read| &read.queries);
            if queries.any(|query| query.reads(&view)) {
                // Once it is answered.
                self.failed_views.push((view, why));
                continue;
            }
            for read in subscriptions.reading(&view) {
                if read.query_sets.is_empty() {
                    return self.close_when_idle(CloseReason::new(CloseReason::ERROR, why), actions);
                }
                for query_set in read.query_sets {
                    if self.is_ending(query_set) {
                        continue;
                    }
                    self.ending.push((query_set, why.clone()));
                    if forward {
                        let unsubscribe = client::unsubscribe(self.subprotocol, read.kind, query_set);
                        actions.push(Action::Forward(unsubscribe));
                    } else {
                        self.ended(query_set, actions);
                    }
                }
            }
        }
    }

    pub(super) fn is_ending(&self, query_set: u32) -> bool {
        self.ending.iter().any(|(ending, _)| *ending == query_set)
    }

    /// No more rows of a query set come.
    pub(super) fn ended(&mut self, query_set: u32, actions: &mut Vec<Action>) {
        let Some(at) = self.ending.iter().position(|(ending, _)| *ending == query_set) else {
            return;
        };
        let (_, why) = self.ending.swap_remove(at);
        // The client may have ended it meanwhile.
        if let Some(subscriptions) = self.subscriptions.as_mut().filter(|all| all.has(query_set)) {
            subscriptions.lost(Some(query_set));
            let lost = reply::subscription_lost(self.subprotocol, query_set, &why);
            actions.push(Action::Send(lost));
        }
    }

    /// The upstream is lost, and the server may be a new one: its instances of views are gone, and what was being ended has
    /// ended.
    pub(super) fn forget_views(&mut self, actions: &mut Vec<Action>) {
        if self.preparing == Preparing::Ready {
            self.preparing = Preparing::No;
        }
        for (query_set, _) in self.ending.clone() {
            self.ended(query_set, actions);
        }
    }
}
