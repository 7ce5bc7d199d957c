//! A database's names.

use super::{Authenticated, HttpError};
use crate::catalog::DatabaseRecord;
use crate::node::Node;
use axum::Json;
use axum::extract::{Extension, Path, State};
use http::StatusCode;
use rtdb_consensus::command::{Body, SetNames};
use rtdb_consensus::{Refusal, Unapplied};
use serde_json::{Value, json};
use std::sync::Arc;
use thiserror::Error;

/// Why a database can't have that name. SpacetimeDB's rules and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum NameError {
    #[error("database names cannot be identities")]
    Identity,
    #[error("database names cannot be empty")]
    Empty,
    #[error("invalid hyphen in database name")]
    Hyphen,
    #[error("invalid characters in database name")]
    Invalid,
}

/// Checks a name: lower-case letters and digits, in groups with single hyphens between them.
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    if spacetimedb_lib::Identity::from_hex(name).is_ok() {
        return Err(NameError::Identity);
    }
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        return Err(NameError::Invalid);
    }
    if name.split('-').any(str::is_empty) {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

pub(super) async fn get(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
) -> Result<Json<Value>, HttpError> {
    Ok(Json(json!({ "names": node.database(&database)?.names })))
}

/// Gives a database one more name.
pub(super) async fn add(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Extension(caller): Extension<Authenticated>,
    name: String,
) -> Result<Json<Value>, HttpError> {
    check(&name).map_err(|error| HttpError::bad_request(error.to_string()))?;
    let record = node.database(&database)?;
    let denied = || {
        HttpError::json(
            StatusCode::UNAUTHORIZED,
            &json!({ "PermissionDenied": { "domain": name } }),
        )
    };
    if !record.is_owned_by(&caller.claims.identity) {
        return Err(denied());
    }
    let mut names = record.names.clone();
    if !names.contains(&name) {
        names.push(name.clone());
    }
    match propose(&node, &record, names).await? {
        Ok(()) => Ok(Json(
            json!({ "Success": { "domain": name, "database_identity": record.identity } }),
        )),
        Err(_) => Err(denied()),
    }
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
    let Some(record) = node.resolve(&database) else {
        return Err(HttpError::json(StatusCode::NOT_FOUND, &json!("DatabaseNotFound")));
    };
    if !record.is_owned_by(&caller.claims.identity) {
        let refused = json!({ "NotYourDatabase": { "database": record.identity } });
        return Err(HttpError::json(StatusCode::UNAUTHORIZED, &refused));
    }
    match propose(&node, &record, names).await? {
        Ok(()) => Ok(Json(json!("Success"))),
        Err(taken) => {
            let why = format!("Cannot rename to {taken} because it already is in use.");
            Err(HttpError::json(
                StatusCode::BAD_REQUEST,
                &json!({ "OtherError": why }),
            ))
        }
    }
}

/// Sets the names; the inner error is the name that is another database's.
async fn propose(
    node: &Node,
    record: &DatabaseRecord,
    names: Vec<String>,
) -> Result<Result<(), String>, HttpError> {
    let database = record.identity.to_byte_array().to_vec().into();
    match node
        .propose(&node.meta, Body::SetNames(SetNames { database, names }))
        .await?
    {
        Ok(_) => Ok(Ok(())),
        Err(Unapplied::Refused(Refusal::NameTaken(name))) => Ok(Err(name)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_servers_rules() {
        for good in ["a", "a-b", "db2", "7-of-9"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check(""), Err(NameError::Empty));
        assert_eq!(check("A"), Err(NameError::Invalid));
        assert_eq!(check("a_b"), Err(NameError::Invalid));
        for bad in ["-a", "a-", "a--b"] {
            assert_eq!(check(bad), Err(NameError::Hyphen), "{bad}");
        }
        assert_eq!(check(&"c2".repeat(32)), Err(NameError::Identity));
    }
}
