//! A database's names.

use super::{Authenticated, HttpError};
use crate::catalog::DatabaseRecord;
use crate::database_name::check;
use crate::node::Node;
use axum::Json;
use axum::extract::{Extension, Path, State};
use http::StatusCode;
use rtdb_consensus::command::{Body, Names, SetNames};
use rtdb_consensus::{Refusal, Unapplied};
use serde::Serialize;
use serde_json::{Value, json};
use spacetimedb_lib::Identity;
use std::sync::Arc;

/// Names of one database, and their bytes: each request to it reads them.
const NAMES_MAX: usize = 1_024;
const NAMES_BYTES_MAX: usize = 64 << 10;

/// How often a change of names is tried that others come before.
const ATTEMPTS_MAX: u32 = 16;

pub(super) async fn get(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
) -> Result<Json<Value>, HttpError> {
    Ok(Json(json!({ "names": node.database(&database)?.names })))
}

/// What came of one more name, field for field as SpacetimeDB writes it.
#[derive(Serialize)]
pub(super) enum Added {
    /// The database has it.
    Success {
        /// The name.
        domain: String,
        /// The database.
        database_identity: Identity,
    },
}

/// Gives a database one more name.
pub(super) async fn add(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Extension<Authenticated>,
    name: String,
) -> Result<Json<Added>, HttpError> {
    check(&name).map_err(|error| HttpError::bad_request(error.to_string()))?;
    let denied = || {
        HttpError::json(
            StatusCode::UNAUTHORIZED,
            &json!({ "PermissionDenied": { "domain": name } }),
        )
    };
    for _ in 0..ATTEMPTS_MAX {
        let record = node.database(&database)?;
        if !record.is_owned_by(&caller.claims.identity) {
            return Err(denied());
        }
        let mut names = record.names.clone();
        if !names.contains(&name) {
            names.push(name.clone());
        }
        match propose(&node, &record, names).await? {
            Proposed::Done => {
                return Ok(Json(Added::Success {
                    domain: name,
                    database_identity: record.identity,
                }));
            }
            Proposed::Taken(_) => return Err(denied()),
            Proposed::Changed => {}
        }
    }
    Err(changing())
}

/// Replaces a database's names.
pub(super) async fn set(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Extension<Authenticated>,
    Json(names): Json<Vec<String>>,
) -> Result<Json<Value>, HttpError> {
    for name in &names {
        check(name).map_err(|error| HttpError::bad_request(format!("Error parsing `{name}`: {error}")))?;
    }
    for _ in 0..ATTEMPTS_MAX {
        let record = node.database(&database)?;
        if !record.is_owned_by(&caller.claims.identity) {
            let refused = json!({ "NotYourDatabase": { "database": record.identity } });
            return Err(HttpError::json(StatusCode::UNAUTHORIZED, &refused));
        }
        // As natively, that goes for the names that it has already.
        if let Some(taken) = names.iter().find(|name| node.catalog.identity(name).is_some()) {
            return Err(in_use(taken));
        }
        match propose(&node, &record, names.clone()).await? {
            Proposed::Done => return Ok(Json(json!("Success"))),
            Proposed::Taken(name) => return Err(in_use(&name)),
            Proposed::Changed => {}
        }
    }
    Err(changing())
}

fn in_use(name: &str) -> HttpError {
    let why = format!("Cannot rename to {name} because it already is in use.");
    HttpError::json(StatusCode::BAD_REQUEST, &json!({ "OtherError": why }))
}

fn changing() -> HttpError {
    HttpError::unavailable("the database's names are being changed by others all the time: try again")
}

/// What came of a change of names.
enum Proposed {
    Done,
    /// The name is another database's.
    Taken(String),
    /// The database has other names by now.
    Changed,
}

/// Sets the names, if the database still is what `record` says.
async fn propose(node: &Node, record: &DatabaseRecord, names: Vec<String>) -> Result<Proposed, HttpError> {
    let bytes = names.iter().map(String::len).sum::<usize>();
    if names.len() > NAMES_MAX || bytes > NAMES_BYTES_MAX {
        return Err(HttpError::bad_request(format!(
            "a database may have {NAMES_MAX} names, of {NAMES_BYTES_MAX} bytes together"
        )));
    }
    let replaced = node.catalog.ends().then(|| Names {
        born: record.born,
        names: record.names.clone(),
    });
    let set = SetNames {
        database: record.identity.to_byte_array().to_vec().into(),
        names,
        replaced,
    };
    match node.propose(&node.meta, Body::SetNames(set)).await? {
        Ok(_) => Ok(Proposed::Done),
        Err(Unapplied::Refused(Refusal::NameTaken(name))) => Ok(Proposed::Taken(name)),
        Err(Unapplied::Refused(Refusal::NamesChanged)) => Ok(Proposed::Changed),
        Err(error) => Err(error.into()),
    }
}
