//! Normal running: commands from the log into the window, results out of it, and what is told of both.

use super::held::Held;
use super::reader::Head;
use super::window::Told;
use super::{Applier, Connection, Interrupt, before, calls, is_alone};
use crate::replica::{Found, Shared, Slot};
use bytes::Bytes;
use futures::FutureExt;
use rtdb_consensus::command::{Body, Trapped};
use rtdb_consensus::{Holding, Unapplied};
use rtdb_runtime::Instant;
use std::pin::pin;
use std::time::Duration;

/// How often it is looked at how long the first of the calls under way has been running.
pub(super) const RESULT_POLL: Duration = Duration::from_millis(500);
/// A call that runs for so long may have run out of energy, of which 1.2.0 says nothing.
pub(super) const FENCE_AFTER: Duration = Duration::from_secs(5);
/// Payloads that are handled in one go, before more calls are sent.
const PAYLOADS_MAX: usize = 256;
/// While so many results are still to come, they are let gather for a moment before they are handled, so that they are
/// read, told and answered many at a time; the server has enough to do meanwhile.
const GATHER_FROM: usize = 256;
/// The moment.
const GATHER: Duration = Duration::from_millis(1);

impl Applier {
    /// Applies commands until one comes that must be alone, and everything before it is done.
    pub(super) async fn pump(&mut self, connection: &mut Connection) -> Result<Head, Interrupt> {
        let mut poll = pin!(rtdb_runtime::sleep(RESULT_POLL));
        let mut last_result = Instant::now();
        let mut gathers = false;
        loop {
            if self.core.window().is_empty() {
                last_result = Instant::now();
                self.take_turn(connection).await?;
            }
            let alone = self.fill(connection);
            if let Some(position) = self.runs_refused() {
                return Err(self.rebuild(position).await);
            }
            self.report();
            if self.core.window().is_empty() && self.is_checkpoint_due() {
                self.check().await?;
                continue;
            }
            if let Some(head) = alone.filter(|_| self.core.window().is_empty()) {
                return Ok(head);
            }
            if std::mem::take(&mut gathers) {
                connection.send_for(GATHER).await?;
            }
            rtdb_runtime::select! {
                payload = connection.next() => {
                    let refreshes = self.core.window().refreshes();
                    let results = self.results(connection, payload?)?;
                    // Before the next call is followed by one.
                    if self.core.has_refresh_failed() {
                        self.slot.views.refresh_failed();
                    } else if self.core.window().refreshes() < refreshes {
                        self.slot.views.took(last_result.elapsed() / results.max(1));
                    }
                    last_result = Instant::now();
                    gathers = self.core.window().len() >= GATHER_FROM;
                }
                read = self.reader.more(), if self.reader.is_empty() => read?,
                // The sender lives as long as the slot.
                Ok(()) = self.witnesses.changed() => {
                    self.held.confirm(self.witnesses.borrow().asked(self.shared.node));
                }
                () = &mut poll => {
                    poll.set(rtdb_runtime::sleep(RESULT_POLL));
                    let (ran, max) = (last_result.elapsed(), self.shared.admin.call_time_max());
                    if let Some(first) = self.core.window().first().filter(|_| ran >= max) {
                        return Err(Interrupt::Overlong { position: first.position, ran, max });
                    }
                    if ran >= FENCE_AFTER && connection.may_leave_calls_unanswered() {
                        self.core.fence(&mut connection.calls);
                    }
                    // The log rests, here as on the other nodes.
                    if self.core.window().is_empty() && self.reader.peek().is_none() && self.checkpoints.is_dirty() {
                        self.check().await?;
                    }
                }
            }
        }
    }

    /// Before a command that may stop the server is sent: waits until no other database's is on its way, so that it is
    /// known which one it was.
    async fn take_turn(&mut self, connection: &mut Connection) -> Result<(), Interrupt> {
        self.turn = None;
        let next = self.reader.peek().map(|command| command.position);
        if !next.is_some_and(|next| self.poison.is_suspect(next)) {
            return Ok(());
        }
        let mut turn = pin!(self.shared.turns.clone().lock_owned());
        loop {
            rtdb_runtime::select! {
                turn = &mut turn => {
                    self.turn = Some(turn);
                    return Ok(());
                }
                payload = connection.next() => drop(self.results(connection, payload?)?),
            }
        }
    }

    /// Takes commands from the log into the window while there is room; stops at one that must be alone.
    fn fill(&mut self, connection: &mut Connection) -> Option<Head> {
        if self.verdicts.has_changed().is_ok_and(|changed| changed) {
            self.refresh_verdict();
        }
        self.core.refresh_up_to(self.slot.views.refreshes_max());
        while self.core.window().has_room() {
            let command = self.reader.peek()?;
            if self.checkpoints.is_due(command.timestamp_us) {
                return None;
            }
            if is_alone(command) {
                return self.reader.head();
            }
            let on_its_way = self.core.window().first().map(|open| open.position);
            let mut either = [Some(command.position), on_its_way].into_iter().flatten();
            if on_its_way.is_some() && either.any(|position| self.poison.is_suspect(position)) {
                return None;
            }
            self.slot.took(command);
            match self.verdict.failed(command.position) {
                None => {
                    self.checkpoints.took(command.timestamp_us);
                    self.core.take(command, &mut connection.calls);
                }
                Some(why) => {
                    self.passed_over.insert(command.position);
                    self.core.pass_over(command, why, &mut connection.calls);
                }
            }
            self.reader.advance();
        }
        None
    }

    fn is_checkpoint_due(&mut self) -> bool {
        let next = self.reader.peek().map(|command| command.timestamp_us);
        next.is_some_and(|next_us| self.checkpoints.is_due(next_us))
    }

    /// Looks at what the replica holds, with nothing under way.
    async fn check(&mut self) -> Result<(), Interrupt> {
        let next = self.reader.peek();
        let next = next.filter(|next| self.checkpoints.is_due(next.timestamp_us));
        let place = next.map(|next| next.position);
        let held = self.state().await?.map(|state| Holding {
            position: state.index,
            digest: state.digest,
        });
        if let Some(held) = self.checkpoints.found(held, place.is_some()) {
            self.slot.hold(Found {
                held,
                of_rows: false,
                place,
            });
        }
        Ok(())
    }

    /// Handles a payload, and what else has come by now. Gives the number of results.
    fn results(&mut self, connection: &mut Connection, payload: Bytes) -> Result<u32, Interrupt> {
        let mut count = 0;
        let mut payload = Some(Ok(payload));
        for _ in 0..PAYLOADS_MAX {
            let Some(received) = payload.take() else { break };
            count += self.results_in(connection, received?)?;
            payload = connection.next().now_or_never();
        }
        match payload {
            Some(received) => Ok(count + self.results_in(connection, received?)?),
            None => Ok(count),
        }
    }

    fn results_in(&mut self, connection: &Connection, payload: Bytes) -> Result<u32, Interrupt> {
        connection.results(payload).try_fold(0, |count, result| {
            self.core.result(result?)?;
            Ok(count + 1)
        })
    }

    /// Answers commands for a database that does not exist, until one comes that may create it.
    pub(super) async fn skim(&mut self) -> Result<Head, Interrupt> {
        let mut nothing = calls::Calls::new(rtdb_protocol::Subprotocol::V3);
        loop {
            while let Some(head) = self.reader.head() {
                if is_alone(head.command()) {
                    return Ok(head);
                }
                self.core.take(head.command(), &mut nothing);
                self.reader.advance();
                self.report();
            }
            self.report();
            // Somebody may wait for an answer that is held.
            let more = rtdb_runtime::timeout(RESULT_POLL, self.reader.more());
            let more = match &mut self.loading {
                None => more.await,
                Some(loading) => rtdb_runtime::select! {
                    more = more => more,
                    error = loading.lost() => return Err(error.into()),
                },
            };
            match more {
                Ok(more) => more?,
                Err(_) => continue,
            }
        }
    }

    /// Tells outcomes, and how far we are.
    pub(super) fn report(&mut self) {
        let majority = self
            .shared
            .reports
            .as_ref()
            .and_then(|reports| reports.majority());
        for told in self.core.told() {
            let is_held = majority.is_some() && !rtdb_runtime::planted("doubtful answers are told at once");
            match told.doubtful.filter(|_| is_held) {
                Some(position) => {
                    let is_own = told.origin.node == self.shared.node;
                    let is_waited_for = is_own || told.keyed.is_some() || told.in_session.is_some();
                    self.held
                        .take(position, is_waited_for.then_some(told), Instant::now());
                }
                None => {
                    if let Err(Unapplied::Reducer { position, .. }) = told.outcome {
                        let is_asked = self.witnesses.borrow().count(position) > 0;
                        self.held.failed(position, is_asked);
                    }
                    complete(&self.shared, &self.slot, told);
                }
            }
        }
        self.say_trapped();
        if self.held.is_waiting() {
            let witnesses = self.witnesses.borrow();
            let is_shared = |position| majority.is_none_or(|majority| witnesses.count(position) >= majority);
            let settled = self.held.settled(Instant::now(), is_shared);
            drop(witnesses);
            self.tell(|_| settled);
        }
        self.shared.say_outcomes(&self.slot);
        let passed = self.reader.passed();
        self.slot.set_reach(self.reader.reached(), self.core.succeeded());
        let open = self.core.first_open();
        let done = open.map_or(passed, |open| passed.min(open.index().saturating_sub(1)));
        self.poison.done(open.map_or(self.core.completed(), before));
        let window = self.core.window();
        self.slot
            .set_progress(done, self.core.completed(), window.len(), window.bytes());
        if self.core.has_refresh_failed() {
            self.slot.views.refresh_failed();
        } else if self.core.is_refresh_due() {
            self.slot.views.outdate();
        }
        self.shared.report_applied();
    }

    /// Tells what is held no longer.
    pub(super) fn tell(&mut self, settled: impl FnOnce(&mut Held) -> Vec<Told>) {
        for told in settled(&mut self.held) {
            complete(&self.shared, &self.slot, told);
        }
    }

    /// Says to the others which calls have failed here by the server's word, or failed at all if they ask.
    fn say_trapped(&mut self) {
        let Some(reports) = &self.shared.reports else {
            return;
        };
        while let Some(positions) = self.held.unsaid() {
            let count = positions.len();
            let database = self.database.to_vec().into();
            if !reports.report(Body::Trapped(Trapped { database, positions })) {
                return;
            }
            self.held.said(count);
        }
    }
}

/// Tells an outcome to who waits for it on this node; of a call with a key, or within a session, it is remembered.
fn complete(shared: &Shared, slot: &Slot, told: Told) {
    if let Some(position) = told.keyed {
        shared.learn(slot, position, told.origin, &told.outcome);
    }
    if let Some(position) = told.in_session {
        slot.ended(position, &told.outcome);
    }
    shared.follow.complete(told.origin, told.seq, told.outcome);
}
