//! Publishing and deleting: nothing else is under way meanwhile.
//!
//! Each step can be broken off and done again: the database's state says whether the publication is part of it, and if
//! not, all steps are repeated. So are they, for as long as it takes, when the server has troubles of its own: the
//! outcome of a publication is the module's, and the same on every node.

use super::window::Failure;
use super::{Applier, Connection, Interrupt, before, words};
use crate::{ActiveDatabase, AdminError, DatabaseId};
use bytes::Bytes;
use rtdb_consensus::command::{Body, Owner, Publish};
use rtdb_consensus::{Refusal, ResolvedCommand};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{Claims, MARK, Module};
use rtdb_protocol::reply::Outcome;
use std::sync::Arc;
use uuid::Uuid;

/// What the server, or the module on it, says against a module: the same on every node.
type Judged = Result<(), String>;

impl Applier {
    /// Creates the database or replaces its module. Gives the connection to go on with; `None` if there is no database
    /// afterwards.
    pub(super) async fn publish(
        &mut self,
        command: &ResolvedCommand,
        publish: &Publish,
        mut connection: Option<Connection>,
    ) -> Result<Option<Connection>, Interrupt> {
        self.core.publishing(command);
        if let Some((position, text)) = &self.refused
            && *position == command.position
        {
            return Ok(self.refused(text.clone(), connection));
        }
        let (module, owner) = match (Module::from_def(&publish.original_def), &publish.owner) {
            (Ok(module), Some(owner)) => (module, owner),
            (Err(e), _) => return Ok(self.refused(e.to_string(), connection)),
            (_, None) => return Ok(self.refused("the module has no owner".into(), connection)),
        };
        if publish.clear
            && connection.is_some()
            && let Err(text) = self.rehearse(command, publish, owner, &module).await?
        {
            self.refused = Some((command.position, text.clone()));
            self.slot.published();
            return Ok(self.refused(text, connection));
        }
        let anew = publish.clear || connection.is_none();
        match &mut connection {
            Some(connection) if !anew => self.settle(connection, command, owner).await?,
            // What is there is to go, or was never finished. Whatever comes, it does not come again.
            _ => {
                connection = None;
                self.born = command.position;
                self.remove().await?;
            }
        }
        if let Err(text) = self.upload(self.database, publish, owner).await? {
            self.refused = Some((command.position, text.clone()));
            let stays = connection.is_some();
            if !stays {
                self.remove().await?;
            }
            self.refused(text.clone(), connection);
            self.slot.published();
            // 1.2.0 drops the running database when it can't compile an update, and opens it again for whoever comes
            // next: a connection from before goes on with rows that nobody else sees.
            return if stays {
                Err(Interrupt::ModuleRefused(text))
            } else {
                Ok(None)
            };
        }
        self.owner = owner.clone();
        self.slot.set_owner(owner.clone());

        let mut connection = Connection::open(&self.shared.admin, owner, &self.database).await?;
        if let Err(text) = begin(&mut connection, command, owner, anew.then_some(&module)).await? {
            self.refused = Some((command.position, text.clone()));
            self.slot.published();
            if anew {
                self.remove().await?;
                return Ok(self.refused(text, None));
            }
            self.revert().await?;
            self.refused(text.clone(), Some(connection));
            return Err(Interrupt::ModuleRefused(text));
        }
        if let Some(state) = self.state().await? {
            self.core.counted(state.successes);
        }
        let (identity, position) = (self.database, command.position);
        let active = Arc::new(ActiveDatabase {
            identity,
            owner: owner.clone(),
            module: Arc::new(module),
            claims: Claims::of(&publish.module),
            position,
        });
        self.core.set_active(Some(Arc::clone(&active)));
        self.shared.activate(active);
        self.core.published(Ok(()));
        self.slot.published();
        tracing::info!(database = self.hex(), position = %command.position, "module published");
        Ok(Some(connection))
    }

    /// Deletes the database.
    pub(super) async fn delete(
        &mut self,
        command: &ResolvedCommand,
    ) -> Result<Option<Connection>, Interrupt> {
        self.remove().await?;
        self.born = command.position;
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

    /// Before the module is replaced: calls before the publication that failed must not be tried again with the new one.
    async fn settle(
        &mut self,
        connection: &mut Connection,
        command: &ResolvedCommand,
        owner: &Owner,
    ) -> Result<(), Interrupt> {
        let header = CallHeader {
            index: before(command.position).0,
            ..header(command, owner)
        };
        if let Err(text) = mark(connection, header, false).await? {
            // Such a module can't have been accepted, and none of its calls succeeds.
            tracing::error!(
                database = self.hex(),
                text,
                "the running module does not take a mark; replacing it"
            );
        }
        Ok(())
    }

    /// Hands the module to the server.
    async fn upload(
        &mut self,
        database: DatabaseId,
        publish: &Publish,
        owner: &Owner,
    ) -> Result<Judged, Interrupt> {
        let module = publish.module.clone();
        match self.shared.admin.publish(owner, &database, module).await {
            Ok(()) => Ok(Ok(())),
            Err(AdminError::Refused { status, text }) if words::is_of_module(status, &text) => Ok(Err(text)),
            Err(e) => Err(e.into()),
        }
    }

    /// Creates a database of the module beside the one that it is to take the place of, with all that comes first, and
    /// deletes it again.
    async fn rehearse(
        &mut self,
        command: &ResolvedCommand,
        publish: &Publish,
        owner: &Owner,
        module: &Module,
    ) -> Result<Judged, Interrupt> {
        // Nobody can know it, and publish under it.
        let mut stage = DatabaseId::default();
        for half in stage.chunks_exact_mut(size_of::<uuid::Bytes>()) {
            half.copy_from_slice(Uuid::new_v4().as_bytes());
        }
        let played = self.play(&stage, command, publish, owner, module).await;
        // It is empty, and in nobody's way: if it can't be deleted now, it stays.
        if let Err(error) = self.shared.admin.delete(owner, &stage).await {
            tracing::warn!(database = super::hex(&stage), %error, "a module's trial database can't be deleted");
        }
        played
    }

    async fn play(
        &mut self,
        stage: &DatabaseId,
        command: &ResolvedCommand,
        publish: &Publish,
        owner: &Owner,
        module: &Module,
    ) -> Result<Judged, Interrupt> {
        if let Err(text) = self.upload(*stage, publish, owner).await? {
            return Ok(Err(text));
        }
        let mut connection = Connection::open(&self.shared.admin, owner, stage).await?;
        begin(&mut connection, command, owner, Some(module)).await
    }

    /// An update is in place, and its hidden parts do not work: the module before it comes back, if the server lets it.
    async fn revert(&mut self) -> Result<(), Interrupt> {
        let Some(active) = self.core.active() else {
            return Ok(());
        };
        let head = self.reader.at(active.position).await?;
        let Some(Body::Publish(before)) = head
            .as_ref()
            .and_then(|head| head.command().command.body.as_ref())
        else {
            return Ok(());
        };
        if let Err(text) = self.upload(self.database, before, &active.owner).await? {
            tracing::error!(
                database = self.hex(),
                text,
                "SpacetimeDB does not take back the module before one that does not work: publish one that does"
            );
        }
        Ok(())
    }
}

/// The first call of a module in a database: `init`, if it is new, or else the mark of the publication.
async fn begin(
    connection: &mut Connection,
    command: &ResolvedCommand,
    owner: &Owner,
    new: Option<&Module>,
) -> Result<Judged, Interrupt> {
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
) -> Result<Judged, Interrupt> {
    let args = [header.encode().as_slice(), &[published.into()]].concat();
    call(connection, MARK, args.into()).await
}

async fn call(connection: &mut Connection, reducer: &str, args: Bytes) -> Result<Judged, Interrupt> {
    let text = match connection.call(reducer, &args).await?.outcome {
        Outcome::Ok { .. } => return Ok(Ok(())),
        Outcome::Failed { message, .. } => return Ok(Err(message)),
        Outcome::Internal(text) | Outcome::Rejected(text) => text,
        Outcome::OutOfEnergy => format!("`{reducer}` runs for too long"),
    };
    if words::is_trouble(&text) {
        return Err(Interrupt::Troubled(text));
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
