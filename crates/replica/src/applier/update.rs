//! Updates whose owner agrees to what they do to clients.
//!
//! The owner's token is for two modules of the log, so whether it is good is the same on every node. What the local server
//! wants in its place is for prepared modules, and is asked of it.

use super::{Applier, words};
use crate::AdminError;
use crate::migration::{UpdatePlan, migration_token, program};
use crate::replica::Taken;
use bytes::Bytes;
use rtdb_consensus::command::{Owner, Publish};
use spacetimedb_lib::{Hash, hash_bytes};

/// What the owner of a database hears who has agreed to the update of another module: SpacetimeDB's words (2.8.3).
pub(super) const INVALID_TOKEN: &str =
    "Failed to create or update the database: Token provided is invalid or does not match expected hash";

impl Applier {
    /// Replaces the module, whatever that does to clients, and says whether it breaks them.
    pub(super) async fn exchange(
        &mut self,
        owner: &Owner,
        module: Bytes,
        program: Hash,
    ) -> Result<Taken, AdminError> {
        let admin = &self.shared.admin;
        let plan = match admin.plan(owner, &self.database, module.clone()).await {
            // Asked to do it, the server says so again. What it has no plan for because of troubles of its own, it may still
            // do.
            Err(AdminError::Refused { text, .. }) if !words::is_trouble(&text) => None,
            plan => plan?,
        };
        let (token, mut breaks) = match plan {
            Some(UpdatePlan::AutoMigrate { token, break_clients }) => (Some(token), break_clients),
            Some(UpdatePlan::ManualMigrate {}) | None => (None, false),
        };
        let prepared = hash_bytes(&module);
        if token == Some(migration_token(&self.database, prepared, prepared)) {
            // An attempt that was broken off has put it in place: what that did to clients can't be told any more.
            breaks = self.core.active().is_some_and(|active| active.program != program);
        }
        admin.publish(owner, &self.database, module, token).await?;
        Ok(Taken { breaks })
    }

    /// Whether the publication is an update that was planned for another module than runs.
    pub(super) fn is_outdated(&self, publish: &Publish) -> bool {
        let Some(active) = self
            .core
            .active()
            .filter(|_| !publish.clear && !publish.token.is_empty())
        else {
            return false;
        };
        let (from, to) = (active.program, program(publish));
        // As natively, no token is needed for what runs already.
        from != to && publish.token[..] != migration_token(&self.database, from, to).data
    }
}
