//! Publishing: a module is prepared, its database gets its place in the cluster, and the prepared module goes through
//! the log to every replica.

use super::{Authenticated, HttpError, names};
use crate::catalog::DatabaseRecord;
use crate::node::Node;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Query, State};
use axum::response::Response;
use http::{Method, StatusCode};
use rtdb_consensus::command::{self, Owner, RegisterDatabase};
use rtdb_consensus::{Applied, GroupId, Refusal, Reply, Unapplied};
use rtdb_determinism::{Module, Options, Prepared};
use serde::{Deserialize, Serialize};
use serde_json::json;
use spacetimedb_lib::Identity;
use std::sync::Arc;

/// The query parameters of a publish, as far as they are known.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Params {
    clear: Option<bool>,
    num_replicas: Option<u32>,
    policy: Option<String>,
    host_type: Option<String>,
    parent: Option<String>,
    #[serde(alias = "org")]
    organization: Option<String>,
}

impl Params {
    /// Refuses what the cluster does not serve, rather than ignore it.
    fn check(&self) -> Result<(), HttpError> {
        let unserved = [
            (
                "`num_replicas`: every node of the shard has a replica, so choosing their number",
                self.num_replicas.is_some_and(|n| n > 1),
            ),
            (
                "the migration policy `BreakClients`",
                self.policy
                    .as_deref()
                    .is_some_and(|policy| policy != "Compatible"),
            ),
            ("a `parent` database", self.parent.is_some()),
            ("an `organization`", self.organization.is_some()),
        ];
        if let Some((what, _)) = unserved.iter().find(|(_, asked)| *asked) {
            return Err(HttpError::not_served(what));
        }
        match self.host_type.as_deref() {
            None | Some("Wasm") => Ok(()),
            Some(other) => Err(HttpError::bad_request(format!(
                "modules of type `{other}` can't be replicated yet: publish one that is built to WebAssembly"
            ))),
        }
    }
}

/// The answer to a publish, field for field as SpacetimeDB writes it.
#[derive(Serialize)]
pub(super) enum PublishResult {
    /// It is done.
    Success {
        /// The name it was published under.
        domain: Option<String>,
        /// The database.
        database_identity: Identity,
        /// `created` or `updated`.
        op: &'static str,
    },
}

/// Whom SpacetimeDB lets change a database: its owner.
pub(super) fn authorize(
    record: &DatabaseRecord,
    caller: &Authenticated,
    action: &str,
) -> Result<(), HttpError> {
    if record.is_owned_by(&caller.claims.identity) {
        return Ok(());
    }
    let why = format!(
        "{} is not authorized to perform action on database {}: {action}",
        caller.claims.identity.to_hex(),
        record.identity.to_hex(),
    );
    Err(HttpError::new(StatusCode::FORBIDDEN, why))
}

/// `POST /v1/database`: a new database without a name.
pub(super) async fn anonymous(
    State(node): State<Arc<Node>>,
    Query(params): Query<Params>,
    Extension(caller): Extension<Authenticated>,
    module: Bytes,
) -> Result<Json<PublishResult>, HttpError> {
    publish(&node, None, &params, &caller, module).await
}

/// `PUT /v1/database/:name_or_identity`: a new database, or a new module for one that is there.
pub(super) async fn named(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Query(params): Query<Params>,
    Extension(caller): Extension<Authenticated>,
    module: Bytes,
) -> Result<Json<PublishResult>, HttpError> {
    publish(&node, Some(&database), &params, &caller, module).await
}

async fn publish(
    node: &Arc<Node>,
    target: Option<&str>,
    params: &Params,
    caller: &Authenticated,
    module: Bytes,
) -> Result<Json<PublishResult>, HttpError> {
    params.check()?;
    if caller.anonymous {
        return Err(HttpError::new(
            StatusCode::UNAUTHORIZED,
            "Authorization required: log in to publish a database",
        ));
    }
    let identity = target.and_then(|target| Identity::from_hex(target).ok());
    let name = target.filter(|_| identity.is_none());
    if let Some(name) = name {
        names::check(name).map_err(|error| HttpError::bad_request(error.to_string()))?;
    }
    let existing = target.and_then(|target| node.resolve(target));
    if let Some(record) = &existing {
        authorize(record, caller, "update database")?;
    }
    let prepared = prepare(node, module).await?;
    warn(&prepared, target);
    let owner = Owner {
        identity: caller.claims.identity.to_byte_array().to_vec().into(),
        issuer: caller.claims.issuer.clone(),
        subject: caller.claims.subject.clone(),
    };
    let record = match existing {
        Some(record) => record,
        None => register(node, identity, name, &owner).await?,
    };
    let publish = command::Publish {
        database: record.identity.to_byte_array().to_vec().into(),
        owner: Some(owner),
        names: record.names,
        module: prepared.wasm.into(),
        original_def: prepared.original_def.into(),
        clear: params.clear.unwrap_or(false),
        judged: node.catalog.judges(),
    };
    let op = match node.propose(&node.shard, command::Body::Publish(publish)).await? {
        Ok(Applied {
            reply: Reply::Published { created: true },
            ..
        }) => "created",
        Ok(_) => "updated",
        Err(Unapplied::Reducer { message: error, .. }) => {
            return Err(HttpError::bad_request(format!(
                "Failed to create or update the database: {error}"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Json(PublishResult::Success {
        domain: name.map(str::to_owned),
        database_identity: record.identity,
        op,
    }))
}

/// Gives a new database its place in the cluster. Its identity is derived as SpacetimeDB derives a fresh client's, from
/// a random subject.
async fn register(
    node: &Node,
    identity: Option<Identity>,
    name: Option<&str>,
    owner: &Owner,
) -> Result<DatabaseRecord, HttpError> {
    let identity = match identity {
        Some(identity) => identity,
        None => match node.tokens()?.fresh() {
            Some((claims, _)) => claims.identity,
            None => {
                return Err(HttpError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "no identity can be made",
                ));
            }
        },
    };
    let register = RegisterDatabase {
        database: identity.to_byte_array().to_vec().into(),
        owner: Some(owner.clone()),
        name: name.unwrap_or_default().to_owned(),
        shard: GroupId::SHARD.0,
    };
    match node
        .propose(&node.meta, command::Body::RegisterDatabase(register))
        .await?
    {
        Ok(Applied {
            reply: Reply::Database { identity, .. },
            ..
        }) => {
            let identity = <[u8; 32]>::try_from(identity.as_ref())
                .map(Identity::from_byte_array)
                .map_err(|_| {
                    HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "the log gave a bad identity")
                })?;
            let names = name.map(str::to_owned).into_iter().collect();
            Ok(DatabaseRecord {
                identity,
                owner: owner.clone(),
                names,
                shard: GroupId::SHARD.0,
            })
        }
        Ok(_) => Err(HttpError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the log gave no identity",
        )),
        Err(Unapplied::Refused(Refusal::NameTaken(name))) => Err(HttpError::json(
            StatusCode::UNAUTHORIZED,
            &json!({ "PermissionDenied": { "name": name } }),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Prepares a module, away from the tasks that serve clients.
async fn prepare(node: &Node, module: Bytes) -> Result<Prepared, HttpError> {
    let _permit = node.preparing.acquire().await;
    let options = Options {
        canonical_nan: node.catalog.has_mixed_processors(),
        ..Options::default()
    };
    match tokio::task::spawn_blocking(move || rtdb_determinism::prepare_with(&module, &options)).await {
        Ok(prepared) => prepared.map_err(|error| HttpError::bad_request(error.to_string())),
        Err(error) => {
            tracing::error!(%error, "preparing a module failed");
            Err(HttpError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the module could not be prepared",
            ))
        }
    }
}

/// What the module's author may not expect.
fn warn(prepared: &Prepared, target: Option<&str>) {
    let Ok(module) = Module::from_def(&prepared.original_def) else {
        return;
    };
    let database = target.unwrap_or("(without a name)");
    tracing::info!(
        database,
        "each call of the module starts from the same instance: what it keeps in statics, thread locals and lazy caches is \
         made anew in every call"
    );
    for schedule in module.schedules() {
        tracing::warn!(
            database,
            table = &*schedule.table,
            "the module has a scheduled reducer, and its timer does not fire: RaftTimeDB does not run timers yet"
        );
    }
    for table in module.tables().iter().filter(|table| !table.ordered) {
        tracing::warn!(
            database,
            table = &*table.name,
            "the table has no primary key or unique column with a btree index: a module that iterates over it gets its \
             rows in no order that means anything, and waits until they are sorted"
        );
    }
}

/// `POST …/pre_publish`: what publishing a module would change. The local server knows, given the prepared module.
pub(super) async fn plan(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    axum::extract::RawQuery(query): axum::extract::RawQuery,
    Extension(caller): Extension<Authenticated>,
    module: Bytes,
) -> Result<Response, HttpError> {
    let record = node.database(&database)?;
    node.active(&record.identity).await?;
    authorize(&record, &caller, "update database")?;
    let prepared = prepare(&node, module).await?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/v1/database/{}/pre_publish{query}", record.identity.to_hex());
    node.client
        .send(
            Method::POST,
            &path,
            Some(&caller.token),
            None,
            Body::from(prepared.wasm),
        )
        .await
}
