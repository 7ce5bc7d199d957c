//! One database's commands, read off the log in order and at the applier's own pace.

use crate::DatabaseId;
use futures::future::BoxFuture;
use rtdb_consensus::command::Body;
use rtdb_consensus::{Follow, LogIndex, Position, ReadError, ResolvedCommand, ResolvedEntry};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// How much of the log is read at once, in bytes.
const READ_BYTES_MAX: usize = 1 << 20;

/// Reads the log for one database.
pub(super) struct Reader {
    follow: Arc<dyn Follow>,
    resolved: watch::Receiver<LogIndex>,
    database: DatabaseId,
    /// Commands up to here are passed over.
    after: Position,
    /// The index to read from next.
    next: LogIndex,
    /// What was read, and the next command's place in the first entry.
    entries: VecDeque<Arc<ResolvedEntry>>,
    place: usize,
    /// A read under way, and the log's end when it began.
    reading: Option<(LogIndex, Reading)>,
}

type Reading = BoxFuture<'static, Result<Vec<Arc<ResolvedEntry>>, ReadError>>;

/// A command in the log, together with the entry that holds it.
pub(super) struct Head {
    entry: Arc<ResolvedEntry>,
    place: usize,
}

impl Head {
    pub(super) fn command(&self) -> &ResolvedCommand {
        &self.entry.commands[self.place]
    }
}

impl Reader {
    pub(super) fn new(follow: Arc<dyn Follow>, database: DatabaseId, after: Position) -> Self {
        let resolved = follow.resolved();
        let (entries, next) = (VecDeque::new(), after.index().max(1));
        Self {
            follow,
            resolved,
            database,
            after,
            next,
            entries,
            place: 0,
            reading: None,
        }
    }

    /// Goes on behind `after`, wherever that is.
    pub(super) fn seek(&mut self, after: Position) {
        self.after = after;
        self.next = after.index().max(1);
        self.entries.clear();
        self.place = 0;
        self.reading = None;
    }

    /// The database's next command, of what was read.
    pub(super) fn peek(&mut self) -> Option<&ResolvedCommand> {
        while let Some(entry) = self.entries.front() {
            let (after, database) = (self.after, &self.database);
            let concerns = |command: &ResolvedCommand| {
                command.position > after && database_of(command).is_none_or(|of| of == database)
            };
            if let Some(skipped) = entry.commands[self.place..].iter().position(concerns) {
                self.place += skipped;
                break;
            }
            self.entries.pop_front();
            self.place = 0;
        }
        self.entries.front()?.commands.get(self.place)
    }

    /// The command that [`Reader::peek`] shows.
    pub(super) fn head(&mut self) -> Option<Head> {
        self.peek()?;
        Some(Head {
            entry: self.entries.front()?.clone(),
            place: self.place,
        })
    }

    /// Passes over the command that [`Reader::peek`] shows.
    pub(super) fn advance(&mut self) {
        self.place += 1;
    }

    /// The index up to which every command was passed over.
    pub(super) fn passed(&mut self) -> LogIndex {
        match self.peek() {
            Some(command) => command.position.index() - 1,
            None => self.next - 1,
        }
    }

    /// An index beyond which no command was passed over.
    pub(super) fn reached(&mut self) -> LogIndex {
        match self.peek() {
            Some(command) => command.position.index(),
            None => self.next - 1,
        }
    }

    /// Whether all that was read is passed over.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Waits for more of the log and reads it. May be dropped and called again.
    pub(super) async fn more(&mut self) -> Result<(), ReadError> {
        let (end, reading) = match &mut self.reading {
            Some(reading) => reading,
            None => {
                let end = wait_for(&mut self.resolved, self.next).await?;
                let (follow, next) = (self.follow.clone(), self.next);
                let read = Box::pin(async move { follow.read(next, READ_BYTES_MAX).await });
                self.reading.insert((end, read))
            }
        };
        let read = reading.await;
        // Without entries, none up to the end holds commands.
        let end = *end;
        self.reading = None;
        let read = read?;
        self.next = read.last().map_or(end, |entry| entry.index) + 1;
        self.entries.extend(read);
        Ok(())
    }

    /// Waits until the log is known up to `index`.
    pub(super) async fn known(&mut self, index: LogIndex) -> Result<(), ReadError> {
        wait_for(&mut self.resolved, index).await.map(drop)
    }

    /// The log's end, as far as it is known.
    pub(super) fn end(&self) -> LogIndex {
        *self.resolved.borrow()
    }

    /// Reads one command, wherever it is: `None` if there is no such command of this database.
    pub(super) async fn at(&mut self, position: Position) -> Result<Option<Head>, ReadError> {
        if position.index() == 0 || position.index() > self.end() {
            return Ok(None);
        }
        let read = self.follow.read(position.index(), 1).await?;
        let Some(entry) = read.into_iter().next() else {
            return Ok(None);
        };
        let found = entry
            .commands
            .binary_search_by_key(&position, |command| command.position);
        let place = found
            .ok()
            .filter(|place| database_of(&entry.commands[*place]) == Some(&self.database));
        Ok(place.map(|place| Head { entry, place }))
    }
}

/// The database that a command concerns. `None` for one that this version does not know: that concerns every applier.
pub(crate) fn database_of(command: &ResolvedCommand) -> Option<&[u8]> {
    Some(match command.command.body.as_ref()? {
        Body::Call(call) => &call.database,
        Body::Connect(connect) => &connect.database,
        Body::Disconnect(_) => command.session.as_ref().map_or(&[], |session| &session.database),
        Body::Publish(publish) => &publish.database,
        Body::Delete(delete) => &delete.database,
        Body::Write(write) => &write.database,
        Body::Transaction(transaction) => &transaction.database,
        Body::Turn(turn) => &turn.database,
        Body::Load(load) => &load.database,
        Body::Verify(verify) => &verify.database,
        Body::Timer(timer) => &timer.database,
        Body::Poison(poison) if poison.decides() => &poison.database,
        // Nodes' and the meta group's commands concern no database's rows.
        _ => &[],
    })
}

async fn wait_for(resolved: &mut watch::Receiver<LogIndex>, index: LogIndex) -> Result<LogIndex, ReadError> {
    match resolved.wait_for(|resolved| *resolved >= index).await {
        Ok(resolved) => Ok(*resolved),
        Err(_) => Err(ReadError("the log has been closed".into())),
    }
}
