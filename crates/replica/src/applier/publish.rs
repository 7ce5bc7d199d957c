//! Publishing and deleting: nothing else is under way meanwhile.
//!
//! Each step can be broken off and done again: the database's state says whether the publication is part of it, and if
//! not, all steps are repeated.

use super::core::Violation;
use super::window::Failure;
use super::{Applier, Connection, Interrupt, before};
use crate::{ActiveDatabase, AdminError};
use http::StatusCode;
use rtdb_consensus::command::{Owner, Publish};
use rtdb_consensus::{Refusal, ResolvedCommand};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{Claims, MARK, Module};
use rtdb_protocol::reply::Outcome;
use std::sync::Arc;

/// A server error may be the module's fault (1.2.0 answers 500 to one that it can't compile) or the server's. After
/// this many it is taken for the module's.
const SERVER_ERRORS_MAX: u32 = 3;

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
        let anew = publish.clear || connection.is_none();
        match &mut connection {
            Some(connection) if !anew => {
                // Calls before this one that failed must not be tried again with the new module.
                let header = CallHeader {
                    index: before(command.position).0,
                    ..header(command, owner)
                };
                mark(connection, header, false).await?;
            }
            // What is there is to go, or was never finished.
            _ => {
                connection = None;
                self.remove().await?;
            }
        }
        if let Err(text) = self.upload(command, publish, owner).await? {
            self.refused = Some((command.position, text.clone()));
            let stays = connection.is_some();
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
        self.born = if anew { command.position } else { self.born };
        self.owner = owner.clone();
        self.slot.set_owner(owner.clone());

        let mut connection = Connection::open(&self.shared.admin, owner, &self.database).await?;
        match module.init().filter(|_| anew) {
            Some(init) => {
                let result = connection
                    .call(&init.name, &header(command, owner).encode())
                    .await?;
                match result.outcome {
                    Outcome::Ok { .. } => {}
                    Outcome::Failed { message: text, .. } | Outcome::Internal(text) => {
                        self.remove().await?;
                        self.refused = Some((command.position, text.clone()));
                        return Ok(self.refused(text, None));
                    }
                    Outcome::OutOfEnergy => {
                        let text = "its `init` ran out of energy".to_owned();
                        self.remove().await?;
                        self.refused = Some((command.position, text.clone()));
                        return Ok(self.refused(text, None));
                    }
                    Outcome::Rejected(text) => return Err(Violation::Rejected(text).into()),
                }
            }
            None => mark(&mut connection, header(command, owner), true).await?,
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

    /// Hands the module to the server. The inner error is its refusal: the same on every node.
    async fn upload(
        &mut self,
        command: &ResolvedCommand,
        publish: &Publish,
        owner: &Owner,
    ) -> Result<Result<(), String>, Interrupt> {
        match self
            .shared
            .admin
            .publish(owner, &self.database, publish.module.clone())
            .await
        {
            Ok(()) => Ok(Ok(())),
            Err(AdminError::Refused { status, text }) if self.is_verdict(command, status) => Ok(Err(text)),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether a status speaks of the module rather than of the server's own troubles.
    fn is_verdict(&mut self, command: &ResolvedCommand, status: StatusCode) -> bool {
        if status != StatusCode::INTERNAL_SERVER_ERROR {
            return status.is_client_error();
        }
        let (position, failures) = &mut self.publish_failures;
        if *position != command.position {
            (*position, *failures) = (command.position, 0);
        }
        *failures += 1;
        *failures >= SERVER_ERRORS_MAX
    }
}

/// Records the header's position as applied, and as that of the running module if that is `published` by it.
pub(super) async fn mark(
    connection: &mut Connection,
    header: CallHeader,
    published: bool,
) -> Result<(), Interrupt> {
    let args = [header.encode().as_slice(), &[published.into()]].concat();
    match connection.call(MARK, &args).await?.outcome {
        Outcome::Ok { .. } => Ok(()),
        outcome => Err(Violation::Hidden {
            reducer: MARK,
            message: format!("{outcome:?}"),
        }
        .into()),
    }
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
