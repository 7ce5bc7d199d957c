//! Looks through the log for databases, and starts an applier for each.

use super::{Shared, Slot};
use crate::applier::{Applier, absent, database_of};
use crate::procedures::watcher::Watcher;
use crate::views::refresher::Refresher;
use crate::{DatabaseId, Fatal};
use futures::FutureExt;
use futures::future::OptionFuture;
use rtdb_consensus::command::{Body, Owner};
use rtdb_consensus::{
    Applied, LogIndex, Outcome, Position, ReadError, Refusal, Reply, ResolvedCommand, ResolvedEntry,
    Unapplied,
};
use rtdb_runtime::{Instant, JoinError, Tasks};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How much of the log is looked through at once, in bytes.
const READ_BYTES_MAX: usize = 4 << 20;

/// Databases that were deleted before the start, of which at a time it is looked what the server still has.
const LEFTOVERS_MAX: usize = 32;

/// Looks through the log for databases.
pub(super) struct Scout {
    shared: Arc<Shared>,
    /// What was found before the start was reached.
    births: BTreeMap<DatabaseId, Birth>,
    /// The databases that have an applier.
    known: BTreeMap<DatabaseId, Life>,
    /// The appliers, and what refreshes views and watches procedures. An applier whose database is deleted says where.
    tasks: Tasks<Result<Option<(DatabaseId, Position)>, String>>,
}

/// A database that has an applier, which may not have come as far as the scout.
struct Life {
    /// The last publication.
    published: Position,
    owner: Owner,
}

/// Where a database, as it is at this place in the log, begins: at its creation or at its deletion. Nothing before that has a
/// trace in it. A publication that clears it may be refused, and then all stays: so it is no beginning.
struct Birth {
    position: Position,
    owner: Owner,
    exists: bool,
    /// The publications since, whose owners are the same: if the first of them has failed by decision, the database begins
    /// at the next.
    later: VecDeque<Position>,
    /// What is the case if all of them have failed.
    before: Option<Box<Birth>>,
}

impl Birth {
    /// What is the case without the publication at `position`, which has failed by decision.
    fn without(mut self, position: Position) -> Option<Self> {
        self.later.retain(|later| *later != position);
        if self.exists && self.position == position {
            let Some(next) = self.later.pop_front() else {
                return self.before.map(|before| *before);
            };
            self.position = next;
            return Some(self);
        }
        self.before = self
            .before
            .and_then(|before| before.without(position))
            .map(Box::new);
        Some(self)
    }
}

impl Scout {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            births: BTreeMap::new(),
            known: BTreeMap::new(),
            tasks: Tasks::default(),
        }
    }

    /// Looks for as long as it is polled; the appliers end with it.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let looked = rtdb_runtime::select! {
            () = shared.stop.notified() => return self.tasks.shutdown().await,
            looked = AssertUnwindSafe(self.look()).catch_unwind() => looked,
        };
        shared.fail(match looked {
            Ok(Err(fatal)) => fatal,
            Err(panic) => Fatal::Scout {
                reason: last_words(panic.as_ref()),
            },
        });
    }

    async fn look(&mut self) -> Result<Infallible, Fatal> {
        let begun = Instant::now();
        self.shared.see_resolved();
        let mut resolved = self.shared.follow.resolved();
        // Nobody on this node waits for commands from before its start, so what was undone since is passed over.
        let start = *resolved.borrow_and_update();
        let mut next = 1;
        while next <= start {
            next = self
                .read(next, start, |scout, entry| {
                    entry.commands.iter().try_for_each(|command| scout.note(command))
                })
                .await?;
        }
        let turns = Arc::new(Semaphore::new(LEFTOVERS_MAX));
        for (identity, birth) in std::mem::take(&mut self.births) {
            let life = Life {
                published: birth.position,
                owner: birth.owner,
            };
            let turns = (!birth.exists).then(|| turns.clone());
            self.appoint(identity, life, birth.position, turns);
            if !birth.exists {
                // What its server may still have of it goes, and then its applier.
                self.shared.end(identity, birth.position);
            }
        }
        // How many of them each server has not applied yet, its applier will find.
        for slot in self.shared.slots() {
            slot.resolved(next - 1, 0, begun);
        }
        self.shared.set_scouted(next - 1);
        loop {
            rtdb_runtime::select! {
                Some(ended) = self.tasks.join_next() => self.ended(ended)?,
                changed = resolved.wait_for(|resolved| *resolved >= next).map(|end| end.map(|end| *end)) => {
                    let end = changed.map_err(|_| ReadError("the log has been closed".into()))?;
                    self.shared.see_resolved();
                    next = self.read(next, end, Self::meet_all).await?;
                    self.shared.set_scouted(next - 1);
                }
            }
        }
    }

    /// Reads from `next` on and shows each entry to `look`. Gives the index to read from next.
    async fn read(
        &mut self,
        next: LogIndex,
        end: LogIndex,
        mut look: impl FnMut(&mut Self, &ResolvedEntry) -> Result<(), Fatal>,
    ) -> Result<LogIndex, Fatal> {
        let entries = self.shared.follow.read(next, READ_BYTES_MAX).await?;
        for entry in &entries {
            look(self, entry)?;
        }
        // Without entries, none up to the end holds commands.
        Ok(entries.last().map_or(end, |entry| entry.index) + 1)
    }

    /// Before the start is reached: notes where databases begin.
    fn note(&mut self, command: &ResolvedCommand) -> Result<(), Fatal> {
        let position = command.position;
        match &command.command.body {
            None => return Err(Fatal::NewerCommand { position }),
            Some(Body::Publish(publish)) => {
                let Some((identity, owner)) = named(&publish.database, publish.owner.as_ref()) else {
                    return Ok(());
                };
                self.shared.published(identity, publish);
                let birth = match self.births.remove(&identity) {
                    Some(mut birth) if birth.exists => {
                        birth.later.push_back(position);
                        birth
                    }
                    before => Birth {
                        position,
                        owner,
                        exists: true,
                        later: VecDeque::new(),
                        before: before.map(Box::new),
                    },
                };
                self.births.insert(identity, birth);
            }
            Some(Body::Delete(delete)) => {
                let Some(identity) = identity(&delete.database) else {
                    return Ok(());
                };
                self.shared.end(identity, position);
                if let Some(birth) = self.births.get_mut(&identity) {
                    (birth.position, birth.exists, birth.before) = (position, false, None);
                    birth.later.clear();
                }
            }
            Some(Body::Poison(poison)) => {
                self.shared.note(command.origin, poison);
                let failed = Some(poison).filter(|poison| poison.decides());
                let identity = failed.and_then(|poison| identity(&poison.database));
                let struck = identity.and_then(|identity| {
                    let birth = self.births.remove(&identity)?;
                    Some((identity, birth.without(Position(poison.position))?))
                });
                self.births.extend(struck);
            }
            Some(Body::Judgement(judgement)) => self.shared.judge(judgement),
            Some(_) => {}
        }
        Ok(())
    }

    /// From the start on: what is resolved is counted as such until it is applied.
    fn meet_all(&mut self, entry: &ResolvedEntry) -> Result<(), Fatal> {
        entry.commands.iter().try_for_each(|command| self.meet(command))?;
        let mut counts: BTreeMap<&[u8], u64> = BTreeMap::new();
        for database in entry.commands.iter().filter_map(database_of) {
            *counts.entry(database).or_default() += 1;
        }
        for (database, count) in counts {
            self.shared.resolved(database, entry.index, count);
        }
        Ok(())
    }

    /// From the start on: a database that was not known gets its applier, which goes on by itself.
    fn meet(&mut self, command: &ResolvedCommand) -> Result<(), Fatal> {
        let position = command.position;
        match &command.command.body {
            None => Err(Fatal::NewerCommand { position }),
            Some(Body::Publish(publish)) => {
                let Some((identity, owner)) = named(&publish.database, publish.owner.as_ref()) else {
                    self.refuse(command, Refusal::Module("the publication is malformed".into()));
                    return Ok(());
                };
                self.shared.published(identity, publish);
                let published = position;
                match self.known.get_mut(&identity) {
                    Some(life) => (life.published, life.owner) = (published, owner),
                    None => self.appoint(identity, Life { published, owner }, position, None),
                }
                Ok(())
            }
            Some(Body::Call(call)) => self.stray(command, &call.database),
            Some(Body::Connect(connect)) => self.stray(command, &connect.database),
            Some(Body::Timer(timer)) => {
                self.shared.tick(timer);
                match timer.over {
                    true => self.stray(command, &timer.database),
                    false => Ok(()),
                }
            }
            Some(Body::Write(write)) => self.stray(command, &write.database),
            Some(Body::Transaction(transaction)) => {
                if let Some(claim) = &transaction.claim {
                    self.shared.tick(claim);
                }
                self.stray(command, &transaction.database)
            }
            Some(Body::Turn(turn)) => self.stray(command, &turn.database),
            Some(Body::Load(load)) => self.stray(command, &load.database),
            Some(Body::Delete(delete)) => {
                if let Some(identity) = identity(&delete.database) {
                    self.shared.end(identity, position);
                }
                self.stray(command, &delete.database)
            }
            Some(Body::Poison(poison)) => {
                self.shared.note(command.origin, poison);
                // The applier that it concerns may be waiting for just this.
                self.done(command);
                Ok(())
            }
            Some(Body::Judgement(judgement)) => {
                self.shared.judge(judgement);
                self.done(command);
                Ok(())
            }
            Some(Body::Outcomes(asked)) => {
                self.shared.want(asked);
                self.done(command);
                Ok(())
            }
            Some(Body::Trapped(trapped)) => {
                self.shared.witness(command.origin.node, trapped);
                self.done(command);
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// A command for a database whose publication was malformed: nobody else answers it.
    fn stray(&mut self, command: &ResolvedCommand, database: &[u8]) -> Result<(), Fatal> {
        if identity(database).is_none_or(|identity| !self.known.contains_key(&identity)) {
            self.refuse(command, absent(command));
        }
        Ok(())
    }

    fn done(&self, command: &ResolvedCommand) {
        let done = Applied {
            position: command.position,
            timestamp_us: command.timestamp_us,
            reply: Reply::Done,
        };
        self.shared.follow.complete(command.origin, command.seq, Ok(done));
    }

    fn refuse(&self, command: &ResolvedCommand, refusal: Refusal) {
        let outcome: Outcome = Err(Unapplied::Refused(refusal));
        self.shared.follow.complete(command.origin, command.seq, outcome);
    }

    /// Starts the applier of a database that begins at `born`, when it is its turn.
    fn appoint(&mut self, identity: DatabaseId, life: Life, born: Position, turns: Option<Arc<Semaphore>>) {
        let slot = Arc::new(Slot::new(identity, life.owner.clone()));
        self.shared.add_slot(slot.clone());
        let refresher = Refresher::new(self.shared.clone(), slot.clone());
        let watcher = Watcher::new(self.shared.clone(), slot.clone());
        let mut deleted = slot.deleted();
        let applier = Applier::new(self.shared.clone(), slot, born, life.owner.clone());
        self.tasks.spawn(async move {
            rtdb_runtime::select! {
                _ = deleted.wait_for(|deleted| *deleted) => {}
                () = refresher.run() => {}
                () = watcher.run() => {}
            }
            Ok(None)
        });
        self.tasks.spawn(async move {
            let turn = turns.map(Semaphore::acquire_owned);
            // It is never closed.
            let _turn = OptionFuture::from(turn).await;
            let run = AssertUnwindSafe(applier.run()).catch_unwind();
            let end = run.await.map_err(|panic| last_words(panic.as_ref()))?;
            Ok(end.map(|position| (identity, position)))
        });
        self.known.insert(identity, life);
    }

    /// An applier ends when its database is deleted: then nothing is left of it, unless it was published again since. Else
    /// it has failed.
    fn ended(
        &mut self,
        ended: Result<Result<Option<(DatabaseId, Position)>, String>, JoinError>,
    ) -> Result<(), Fatal> {
        let ended = ended.unwrap_or_else(|e| Err(e.to_string()));
        let ended = ended.map_err(|reason| Fatal::Applier { reason })?;
        // One that has failed has said why.
        let Some((identity, position)) = ended else {
            return Ok(());
        };
        match self.known.remove(&identity) {
            Some(life) if life.published > position => {
                self.appoint(identity, life, Position(position.0.saturating_add(1)), None);
            }
            _ => self.shared.forget(&identity),
        }
        Ok(())
    }
}

fn last_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

fn identity(database: &[u8]) -> Option<DatabaseId> {
    database.try_into().ok()
}

fn named(database: &[u8], owner: Option<&Owner>) -> Option<(DatabaseId, Owner)> {
    let owner = owner.filter(|owner| identity(&owner.identity).is_some())?;
    Some((identity(database)?, owner.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_that_has_failed_is_no_birth() {
        let birth = |position, before: Option<Birth>| Birth {
            position: Position(position),
            owner: Owner::default(),
            exists: true,
            later: VecDeque::new(),
            before: before.map(Box::new),
        };
        let births = || birth(3, Some(birth(2, Some(birth(1, None)))));
        let left = |birth: Option<Birth>| {
            let each = std::iter::successors(birth.as_ref(), |birth| birth.before.as_deref());
            each.map(|birth| birth.position.0).collect::<Vec<_>>()
        };
        assert_eq!(left(births().without(Position(3))), [2, 1]);
        assert_eq!(left(births().without(Position(2))), [3, 1]);
        assert_eq!(left(births().without(Position(9))), [3, 2, 1]);
        assert!(birth(1, None).without(Position(1)).is_none());
        let mut updated = birth(1, None);
        updated.later.extend([Position(5), Position(7)]);
        assert_eq!(
            left(
                updated
                    .without(Position(5))
                    .and_then(|it| it.without(Position(1)))
            ),
            [7]
        );
    }
}
