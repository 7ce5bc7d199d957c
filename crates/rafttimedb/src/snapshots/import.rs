//! A database of a plain SpacetimeDB, on its way into the cluster: it is read there, and restored here.

use super::restore::{Restored, Restoring, Target};
use super::send::Outgoing;
use super::{PIECES_WAITING, conflict, refused, unavailable};
use crate::node::{Node, Refused};
use axum::body::Bytes;
use axum::http::StatusCode;
use rtdb_consensus::command::{ENDS_LEVEL, FEATURE_LEVEL};
use rtdb_consensus::{SystemClock, WallClock};
use rtdb_replica::{ImportError, Module, SEQUENCE_TABLE, STATE_TABLE, Source, calls_at_once};
use rtdb_snapshot::{Departed, Header, Owner};
use std::sync::Arc;
use tokio::sync::mpsc;

impl Node {
    /// Imports a database, with the module that it runs.
    pub(crate) async fn import(
        self: &Arc<Self>,
        source: Source,
        target: Target,
        module: Bytes,
    ) -> Result<Restored, Refused> {
        if self.local.running().is_none() {
            return Err(unavailable("this node is still starting"));
        }
        let turn = self.snapshots.0.clone().try_acquire_owned();
        let turn = turn
            .map_err(|_| unavailable("this node is at another snapshot: try again later, or another node"))?;
        let prepared = self.gateway.prepare(module).await;
        let (prepared, program) = prepared.map_err(|why| refused(StatusCode::BAD_REQUEST, why))?;
        let offered = Module::from_def(&prepared.original_def);
        let offered = offered.map_err(|error| refused(StatusCode::BAD_REQUEST, error.to_string()))?;
        let imported = rtdb_replica::import(&source, &offered, program)
            .await
            .map_err(refusal)?;
        let owner = Owner {
            identity: imported.owner.identity.clone(),
            issuer: imported.owner.issuer.clone(),
            subject: imported.owner.subject.clone(),
        };
        let is_name = rtdb_gateway::check_name(&source.database).is_ok();
        let departed = imported.clients.iter().map(|(sender, connection)| Departed {
            sender: sender.to_vec().into(),
            connection: connection.to_vec().into(),
            claims: String::new(),
        });
        let header = Header {
            level: if calls_at_once(&prepared.wasm) {
                FEATURE_LEVEL
            } else {
                ENDS_LEVEL
            },
            database: imported.identity.to_vec().into(),
            owner: Some(owner),
            names: if is_name {
                vec![source.database.clone()]
            } else {
                Vec::new()
            },
            module: prepared.wasm.into(),
            original_def: prepared.original_def.into(),
            program: program.data.to_vec().into(),
            taken_us: SystemClock.now_us() as i64,
            ..Header::default()
        };
        let (pieces, received) = mpsc::channel(PIECES_WAITING);
        let restoring = tokio::spawn({
            let node = Arc::clone(self);
            async move {
                let restored = Restoring::new(node, received).run(target).await;
                drop(turn);
                restored
            }
        });
        let state = Bytes::copy_from_slice(imported.state.bytes());
        let sequence = imported.sequence.map(|row| (SEQUENCE_TABLE, row));
        let outgoing = Outgoing {
            header,
            clients: departed.collect(),
            ours: [(STATE_TABLE, state)].into_iter().chain(sequence).collect(),
            tables: imported.tables,
        };
        outgoing.send(&pieces).await;
        drop(pieces);
        restoring
            .await
            .unwrap_or_else(|error| Err(conflict(error.to_string())))
    }
}

fn refusal(error: ImportError) -> Refused {
    let status = match error {
        ImportError::Rows(error) => return error.into(),
        ImportError::NoSuchDatabase { .. } => StatusCode::NOT_FOUND,
        ImportError::NoToken | ImportError::OtherModule => StatusCode::BAD_REQUEST,
        ImportError::NotOwner(_) => StatusCode::FORBIDDEN,
        ImportError::Server { .. } => StatusCode::BAD_GATEWAY,
    };
    refused(status, error.to_string())
}
