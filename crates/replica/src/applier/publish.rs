//! Publishing and deleting: nothing else is under way meanwhile.
//!
//! Each step can be broken off and done again: the database's state says whether the publication is part of it, and if
//! not, all steps are repeated. So are they, for as long as it takes, when the server has troubles of its own. Whether a
//! module is taken is the same on every node: the first that knows says so through the log, and all go by that.

use super::update::INVALID_TOKEN;
use super::window::Failure;
use super::{Applier, Connection, Interrupt, before, words};
use crate::migration::program;
use crate::replica::Taken;
use crate::{ActiveDatabase, AdminError, DatabaseId};
use bytes::Bytes;
use http::StatusCode;
use rtdb_consensus::command::{Owner, Publish};
use rtdb_consensus::{Position, Refusal, ResolvedCommand};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{MARK, Module};
use rtdb_protocol::reply::Outcome;
use rtdb_runtime::Instant;
use spacetimedb_lib::{Hash, hash_bytes};
use std::sync::Arc;
use std::time::Duration;

/// What is said of a publication: that it is taken, or what the server, or the module on it, says against it.
pub(super) type Judged = Result<Taken, String>;

/// Once the server has answered a publication with an error of an unknown kind for so long, it is the module's.
const UNKNOWN_MAX: Duration = Duration::from_secs(30);

/// A publication under way.
#[derive(Clone, Copy)]
pub(super) struct Publication<'a> {
    pub(super) command: &'a ResolvedCommand,
    pub(super) publish: &'a Publish,
    pub(super) owner: &'a Owner,
    pub(super) module: &'a Module,
}

impl Applier {
    /// Creates the database or replaces its module. Gives the connection to go on with; `None` if there is no database
    /// afterwards.
    pub(super) async fn publish(
        &mut self,
        command: &ResolvedCommand,
        publish: &Publish,
        connection: Option<Connection>,
    ) -> Result<Option<Connection>, Interrupt> {
        self.core.publishing(command);
        let (module, owner) = match (Module::from_def(&publish.original_def), &publish.owner) {
            (Ok(module), Some(owner)) => (module, owner),
            (Err(e), _) => return Ok(self.refused(e.to_string(), connection)),
            (_, None) => return Ok(self.refused("the module has no owner".into(), connection)),
        };
        let publication = Publication {
            command,
            publish,
            owner,
            module: &module,
        };
        let position = command.position;
        if connection.is_some() && self.is_outdated(publish) {
            return Ok(self.refused(INVALID_TOKEN.to_owned(), connection));
        }
        self.refresh_verdict();
        if let Some(Err(text)) = self.judged(position) {
            return self.turn_down(publication, text, connection).await;
        }
        let (tried, connection, before) = match connection {
            Some(connection) if publish.clear => {
                let rehearsed = self.rehearse(publication).await?;
                if let Err(text) = self.decided(publication, rehearsed).await {
                    return self.turn_down(publication, text, Some(connection)).await;
                }
                drop(connection);
                let (tried, connection) = self.create(publication).await?;
                (tried, connection, false)
            }
            Some(connection) => {
                let (tried, connection) = self.update(publication, connection).await?;
                (tried, Some(connection), true)
            }
            None => {
                if !publish.clear {
                    self.created = position;
                }
                // Another owner's may be what was broken off, and none of the one before.
                self.owner = owner.clone();
                let (tried, connection) = self.create(publication).await?;
                (tried, connection, false)
            }
        };
        let (taken, connection) = match (self.decided(publication, tried.clone()).await, tried, connection) {
            (Ok(taken), Ok(_), Some(connection)) => (taken, connection),
            (Ok(_), tried, _) => {
                self.untaken_since(position);
                return Err(Interrupt::Untaken(tried.err().unwrap_or_default()));
            }
            (Err(_), Ok(_), connection) if before => {
                drop(connection);
                tracing::error!(
                    database = self.hex(),
                    %position,
                    "SpacetimeDB has taken a module here that the others refuse: the database is made again, without it"
                );
                return Err(self.rebuild(position).await);
            }
            (Err(text), _, connection) => {
                let connection = connection.filter(|_| before);
                return self.turn_down(publication, text, connection).await;
            }
        };
        self.owner = owner.clone();
        self.slot.set_owner(owner.clone());
        // Natively the database that is cleared is another one, too, and its clients go.
        if taken.breaks || publish.clear {
            self.slot.break_clients(position);
        }
        if publish.loads {
            self.begin_loading(publication, connection);
            return Ok(None);
        }
        self.opened(position, publish, module).await?;
        tracing::info!(database = self.hex(), %position, breaks = taken.breaks, "module published");
        Ok(Some(connection))
    }

    /// The database runs the module that was published at `position`, and what was to be done first is done.
    pub(super) async fn opened(
        &mut self,
        position: Position,
        publish: &Publish,
        module: Module,
    ) -> Result<(), Interrupt> {
        self.is_judged = publish.judged;
        if let Some(state) = self.state().await? {
            self.core.counted(state.successes);
        }
        let active = Arc::new(ActiveDatabase::new(
            self.database,
            publish,
            &self.owner,
            module,
            position,
        ));
        self.core.set_active(Some(Arc::clone(&active)));
        self.shared.activate(active);
        self.core.published(Ok(()));
        self.slot.published();
        self.untaken = None;
        Ok(())
    }

    /// What holds for the publication, of which this node's server says `word`.
    async fn decided(&mut self, publication: Publication<'_>, word: Judged) -> Judged {
        let position = publication.command.position;
        if publication.publish.judged {
            return self.decide(position, word).await;
        }
        if let Err(text) = &word {
            self.refused = Some((position, text.clone()));
        }
        word
    }

    /// Makes the database, in the place of what is there or was never finished. Whatever comes, that does not come again.
    async fn create(
        &mut self,
        publication: Publication<'_>,
    ) -> Result<(Judged, Option<Connection>), Interrupt> {
        let Publication {
            command,
            publish,
            owner,
            module,
        } = publication;
        let program = hash_bytes(&publish.module);
        self.born = command.position;
        self.remove().await?;
        if let Err(text) = self.upload(self.database, publication).await? {
            return Ok((Err(text), None));
        }
        let mut connection = Connection::open(&self.shared.admin, owner, &self.database).await?;
        // Of the server at the other end: one before it may have died.
        self.expect_empty(self.database, owner, program).await?;
        // What is restored has begun long ago.
        let begun = match publish.loads {
            true => Ok(()),
            false => begin(&mut connection, command, owner, Some(module)).await?,
        };
        Ok((begun.map(|()| Taken::default()), Some(connection)))
    }

    /// Replaces the module.
    async fn update(
        &mut self,
        publication: Publication<'_>,
        mut connection: Connection,
    ) -> Result<(Judged, Connection), Interrupt> {
        let Publication {
            command,
            publish,
            owner,
            ..
        } = publication;
        let index = self.settle(&mut connection, command, owner).await?;
        drop(connection);
        let module = publish.module.clone();
        let put = match publish.token.is_empty() {
            true if rtdb_runtime::planted("updates are left out") => Ok(Taken::default()),
            true => self.put(owner, self.database, module).await,
            false => self.exchange(owner, module, program(publish)).await,
        };
        let taken = match self.heard(command.position, put)? {
            Ok(taken) => taken,
            Err(text) => {
                self.passed_over.insert(command.position);
                // 1.2.0 drops the running database when it can't compile an update, and opens it again for whoever comes
                // next: a connection from before goes on with rows that nobody else sees.
                return Ok((Err(text), self.connect(index, None).await?));
            }
        };
        self.passed_over.remove(&command.position);
        let program = Some(hash_bytes(&publish.module));
        let program = program.filter(|_| !rtdb_runtime::planted("updates are left out"));
        let mut connection = self.connect(index, program).await?;
        let begun = begin(&mut connection, command, owner, None).await?;
        Ok((begun.map(|()| taken), connection))
    }

    /// Deletes the database.
    pub(super) async fn delete(
        &mut self,
        command: &ResolvedCommand,
    ) -> Result<Option<Connection>, Interrupt> {
        self.remove().await?;
        (self.born, self.created) = (command.position, command.position);
        self.core.deleted(command);
        tracing::info!(database = self.hex(), position = %command.position, "database deleted");
        Ok(None)
    }

    pub(super) async fn remove(&mut self) -> Result<(), Interrupt> {
        self.shared.deactivate(&self.database);
        self.shared.admin.delete(&self.owner, &self.database).await?;
        Ok(())
    }

    /// The publication is refused; what was there before goes on.
    pub(super) fn refused(&mut self, text: String, connection: Option<Connection>) -> Option<Connection> {
        if connection.is_none() {
            self.core.set_active(None);
        }
        tracing::warn!(database = self.hex(), text, "module refused");
        self.core.published(Err(Failure::Refused(Refusal::Module(text))));
        connection
    }

    /// Before the module is replaced: calls before the publication that failed must not be tried again with the new one. Gives the
    /// index up to which all is applied.
    pub(super) async fn settle(
        &mut self,
        connection: &mut Connection,
        command: &ResolvedCommand,
        owner: &Owner,
    ) -> Result<u64, Interrupt> {
        let index = before(command.position).0;
        let header = CallHeader {
            index,
            ..header(command, owner)
        };
        let Err(text) = mark(connection, header, false).await? else {
            return Ok(index);
        };
        // Such a module can't have been accepted, and none of its calls succeeds.
        tracing::error!(
            database = self.hex(),
            text,
            "the running module does not take a mark; replacing it"
        );
        Ok(self.state().await?.map_or(0, |state| state.index))
    }

    /// Hands the module to the server, for a database that is not there.
    async fn upload(
        &mut self,
        database: DatabaseId,
        publication: Publication<'_>,
    ) -> Result<Result<(), String>, Interrupt> {
        let Publication { publish, owner, .. } = publication;
        let put = self.put(owner, database, publish.module.clone()).await;
        Ok(self.heard(publication.command.position, put)?.map(drop))
    }

    /// A server that was killed may have forgotten a database and its number, but not its files: the next one that is created
    /// gets them, and runs the module that is there. Such a one goes, and another is made.
    async fn expect_empty(
        &mut self,
        database: DatabaseId,
        owner: &Owner,
        program: Hash,
    ) -> Result<(), Interrupt> {
        let admin = &self.shared.admin;
        let is_new = admin.state(owner, &database).await?.is_none()
            && admin.runs(owner, &database, program).await? != Some(false);
        if !is_new {
            admin.delete(owner, &database).await?;
            return Err(Interrupt::NotEmpty);
        }
        Ok(())
    }

    /// Publishes a module that breaks nobody.
    async fn put(&mut self, owner: &Owner, database: DatabaseId, module: Bytes) -> Result<Taken, AdminError> {
        self.shared.admin.publish(owner, &database, module, None).await?;
        Ok(Taken::default())
    }

    /// The server does not take the publication at `position`: since when.
    fn untaken_since(&mut self, position: Position) -> Instant {
        let before = self.untaken.filter(|(of, _)| *of == position);
        let untaken = before.unwrap_or((position, Instant::now()));
        self.untaken = Some(untaken);
        untaken.1
    }

    /// What the server's answer to a publication means.
    fn heard(&mut self, position: Position, put: Result<Taken, AdminError>) -> Result<Judged, Interrupt> {
        match put {
            Ok(taken) => Ok(Ok(taken)),
            Err(AdminError::Refused { status, text }) => {
                let since = self.untaken_since(position);
                let unknown = || {
                    let is_error = status == StatusCode::INTERNAL_SERVER_ERROR;
                    is_error && since.elapsed() >= UNKNOWN_MAX && !words::is_trouble(&text)
                };
                match words::is_of_module(status, &text) || unknown() {
                    true => Ok(Err(text)),
                    false => Err(Interrupt::Untaken(text)),
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Creates a database of the module beside the one that it is to take the place of, with all that comes first, and
    /// deletes it again.
    pub(super) async fn rehearse(&mut self, publication: Publication<'_>) -> Result<Judged, Interrupt> {
        // Nobody can know it, and publish under it.
        let mut stage = DatabaseId::default();
        for half in stage.chunks_exact_mut(16) {
            half.copy_from_slice(&rtdb_runtime::random_bytes());
        }
        let played = self.play(&stage, publication).await;
        // It is empty, and in nobody's way: if it can't be deleted now, it stays.
        if let Err(error) = self.shared.admin.delete(publication.owner, &stage).await {
            tracing::warn!(database = super::hex(&stage), %error, "a module's trial database can't be deleted");
        }
        played
    }

    async fn play(&mut self, stage: &DatabaseId, publication: Publication<'_>) -> Result<Judged, Interrupt> {
        let Publication {
            command,
            publish,
            owner,
            module,
        } = publication;
        let program = hash_bytes(&publish.module);
        if let Err(text) = self.upload(*stage, publication).await? {
            return Ok(Err(text));
        }
        let mut connection = Connection::open(&self.shared.admin, owner, stage).await?;
        self.expect_empty(*stage, owner, program).await?;
        let begun = begin(&mut connection, command, owner, Some(module)).await?;
        Ok(begun.map(|()| Taken::default()))
    }
}

/// The first call of a module in a database: `init`, if it is new, or else the mark of the publication.
async fn begin(
    connection: &mut Connection,
    command: &ResolvedCommand,
    owner: &Owner,
    new: Option<&Module>,
) -> Result<Result<(), String>, Interrupt> {
    let header = header(command, owner);
    match new.and_then(Module::init) {
        Some(init) => call(connection, &init.name, header.encode().to_vec().into()).await,
        None => mark(connection, header, true).await,
    }
}

/// Records the header's position as applied, and as that of the running module if that is `published` by it.
pub(super) async fn mark(
    connection: &mut Connection,
    header: CallHeader,
    published: bool,
) -> Result<Result<(), String>, Interrupt> {
    let args = [header.encode().as_slice(), &[published.into()]].concat();
    call(connection, MARK, args.into()).await
}

pub(super) async fn call(
    connection: &mut Connection,
    reducer: &str,
    args: Bytes,
) -> Result<Result<(), String>, Interrupt> {
    let text = match connection.call(reducer, &args).await?.outcome {
        Outcome::Ok { .. } => return Ok(Ok(())),
        Outcome::Failed { message, .. } => return Ok(Err(message)),
        Outcome::Internal(text) | Outcome::Rejected(text) => text,
        Outcome::OutOfEnergy => format!("`{reducer}` runs for too long"),
    };
    if words::is_trouble(&text) {
        return Err(Interrupt::Untaken(text));
    }
    Ok(Err(text))
}

/// A call of the owner's, as the server itself would make it: on no connection.
pub(super) fn header(command: &ResolvedCommand, owner: &Owner) -> CallHeader {
    CallHeader {
        sender: owner.identity.as_ref().try_into().unwrap_or_default(),
        connection: [0; 16],
        timestamp_us: command.timestamp_us,
        index: command.position.0,
        session: 0,
    }
}
