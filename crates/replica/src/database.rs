//! A database that the replica runs.

use crate::migration::program;
use rtdb_consensus::Position;
use rtdb_consensus::command::{Owner, Publish};
use rtdb_determinism::{Claims, Firing, Module};
use spacetimedb_lib::Hash;
use std::sync::Arc;

/// A database's identity, 32 bytes as in BSATN (little endian).
pub type DatabaseId = [u8; 32];

/// A database whose module is running on this node.
#[derive(Clone, Debug)]
pub struct ActiveDatabase {
    /// Its identity.
    pub identity: DatabaseId,
    /// Who owns it.
    pub owner: Owner,
    /// What its module offers, as the author wrote it.
    pub module: Arc<Module>,
    /// What its module does with the claims of its callers.
    pub claims: Claims,
    /// How its module calls what is scheduled.
    pub firing: Firing,
    /// Whether its module may ask for calls at once, by rows of a hidden table.
    pub calls_at_once: bool,
    /// Whether its module takes rows that are changed by others than itself.
    pub takes_rows: bool,
    /// Whether refreshes of its module's views can be brief.
    pub refreshes_briefly: bool,
    /// Whether its module has procedures.
    pub runs_procedures: bool,
    /// The position of the `Publish` that brought the module.
    pub position: Position,
    /// The hash that stands for the module in tokens.
    pub program: Hash,
}

impl ActiveDatabase {
    /// The database with the module that was published at `position`.
    pub(crate) fn new(
        identity: DatabaseId,
        publish: &Publish,
        owner: &Owner,
        module: Module,
        position: Position,
    ) -> Self {
        let prepared = &publish.module;
        Self {
            identity,
            owner: owner.clone(),
            module: Arc::new(module),
            claims: Claims::of(prepared),
            firing: Firing::of(prepared),
            calls_at_once: rtdb_determinism::calls_at_once(prepared),
            takes_rows: rtdb_determinism::takes_rows(prepared),
            refreshes_briefly: rtdb_determinism::refreshes_briefly(prepared),
            runs_procedures: rtdb_determinism::runs_procedures(prepared),
            position,
            program: program(publish),
        }
    }
}
