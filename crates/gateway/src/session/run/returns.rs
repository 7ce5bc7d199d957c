//! What procedures return, for clients that speak JSON.

use crate::json;
use crate::limits::JSON_APART_BYTES;
use crate::pool::Pool;
use crate::procedures::Finished;
use rtdb_determinism::Module;
use rtdb_protocol::server::{ProcedureOutcome, ProcedureResult};
use spacetimedb_sats::AlgebraicType;
use std::sync::Arc;

/// What a procedure returns, by the module that was there when it was called.
pub(super) struct Returns {
    pub(super) module: Arc<Module>,
    pub(super) ty: AlgebraicType,
}

impl Returns {
    /// Puts what a procedure has returned into JSON. If that can't be done, it has failed.
    pub(super) async fn in_json(self, mut finished: Finished, pool: &Pool) -> Finished {
        finished.result = match finished.result {
            Ok(result) if result.raw.len() > JSON_APART_BYTES => pool.apart(move || self.put(result)).await,
            Ok(result) => self.put(result),
            Err(why) => Err(why),
        };
        finished
    }

    fn put(&self, mut result: ProcedureResult) -> Result<ProcedureResult, String> {
        if let ProcedureOutcome::Returned(value) = &result.outcome {
            let json = json::returned(&self.module, &self.ty, value, &result.raw);
            result.raw = json.map_err(|error| {
                tracing::warn!(%error, "a client can't be told in JSON what a procedure has returned");
                error.to_string()
            })?;
        }
        Ok(result)
    }
}
