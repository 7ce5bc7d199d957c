//! Publishing: a module is prepared, its database gets its place in the cluster, and the prepared module goes through
//! the log to every replica.

use super::{Authenticated, HttpError};
use crate::catalog::DatabaseRecord;
use crate::database_name::NameOrIdentity;
use crate::limits::PUBLICATION_TURN_MAX;
use crate::node::Node;
use crate::pool::Turn;
use crate::query::Query;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use http::StatusCode;
use rtdb_consensus::command::{self, Owner, RegisterDatabase};
use rtdb_consensus::{Applied, GroupId, Refusal, Reply, Unapplied};
use rtdb_determinism::{Module, Options, PrepareError, Prepared};
use serde::{Deserialize, Serialize};
use serde_json::json;
use spacetimedb_lib::{Hash, Identity, hash_bytes};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// How long is waited for what the nodes know of, when a cluster has just begun, or this node has: the module is prepared for
/// good by that.
const HEARD_MAX: Duration = Duration::from_secs(3);
const HEARD_POLL: Duration = Duration::from_millis(20);

/// What SpacetimeDB 2.8.3 says to who has not asked for the plan of an update first.
const MISSING_TOKEN: &str = "Migration policy is set to `BreakClients`, but no migration token was provided.";

/// What it says to who wants to clear a database that is locked.
const LOCKED: &str =
    "Database is locked and cannot be reset with --delete-data. Run `spacetime unlock` first.";

/// What it says of a parent for a database that is cleared.
const PARENT: &str = "Setting the parent of an existing database is not supported";

/// What it says to who wants to clear a database that is only about to be made.
const NOTHING_TO_CLEAR: &str = "Clear database requires database name or identity";

/// How many replicas may be asked for.
const REPLICAS_MAX: usize = u8::MAX as usize;

/// What an update may do to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Policy {
    #[default]
    Compatible,
    /// Whatever its plan says, whose token the owner has.
    BreakClients,
}

/// What modules are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum HostType {
    #[default]
    Wasm,
    Js,
}

/// The query parameters of a publish, as far as they are known.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Params {
    #[serde(default)]
    clear: bool,
    num_replicas: Option<usize>,
    #[serde(default)]
    policy: Policy,
    token: Option<Hash>,
    #[serde(default)]
    host_type: HostType,
    parent: Option<NameOrIdentity>,
    #[serde(alias = "org")]
    organization: Option<NameOrIdentity>,
    /// Whether there has to be a database already.
    #[serde(skip)]
    must_exist: bool,
}

/// Those of a reset.
#[derive(Debug, Deserialize)]
pub(super) struct ResetParams {
    num_replicas: Option<usize>,
    #[serde(default)]
    host_type: HostType,
}

impl Params {
    /// What there is to say against it before the module is looked at, in SpacetimeDB's order. Gives the token by which the
    /// owner agrees to what the update does to clients; empty for none.
    fn check(
        &self,
        node: &Node,
        existing: Option<&DatabaseRecord>,
        caller: &Authenticated,
    ) -> Result<Bytes, HttpError> {
        let clears = self.clear && existing.is_some();
        if clears {
            if self.parent.is_some() {
                return Err(HttpError::bad_request(PARENT));
            }
            self.allow(node, existing, caller)?;
        } else {
            // Natively, too, they make no difference, and have to be known.
            for NameOrIdentity(named) in self.parent.iter().chain(&self.organization) {
                let known = node.identity(named)?;
                known.ok_or_else(|| HttpError::no_such_name(named))?;
            }
        }
        // Nor does it: every node has a replica.
        if let Some(replicas) = self.num_replicas.filter(|replicas| *replicas > REPLICAS_MAX) {
            return Err(HttpError::bad_request(format!(
                "Replication factor {replicas} out of bounds"
            )));
        }
        let mut token = Bytes::new();
        if !clears {
            self.allow(node, existing, caller)?;
            token = self.token(node)?;
        }
        match self.host_type {
            HostType::Wasm => Ok(token),
            HostType::Js => Err(HttpError::bad_request(
                "modules of type `Js` can't be replicated yet: publish one that is built to WebAssembly",
            )),
        }
    }

    /// Whether the caller may do that to the database that there is, or else make one.
    fn allow(
        &self,
        node: &Node,
        existing: Option<&DatabaseRecord>,
        caller: &Authenticated,
    ) -> Result<(), HttpError> {
        let identity = &caller.claims.identity;
        match existing {
            Some(record) if self.clear => {
                authorize(record, caller, "reset database")?;
                if record.locked {
                    return Err(HttpError::new(StatusCode::FORBIDDEN, LOCKED));
                }
                Ok(())
            }
            Some(record) => authorize(record, caller, "update database"),
            None if self.must_exist => Err(HttpError::no_such_database()),
            None if node.publishers.get().is_none_or(|them| them.allow(identity)) => Ok(()),
            None => {
                let why = format!(
                    "{} is not authorized to create databases here: ask the operator to name it in --publishers",
                    identity.to_hex()
                );
                Err(HttpError::new(StatusCode::FORBIDDEN, why))
            }
        }
    }

    fn token(&self, node: &Node) -> Result<Bytes, HttpError> {
        match (self.policy, self.token) {
            (Policy::Compatible, _) => Ok(Bytes::new()),
            _ if !node.local.plans_updates() => {
                Err(HttpError::not_served("the migration policy `BreakClients`"))
            }
            (Policy::BreakClients, None) => Err(HttpError::bad_request(MISSING_TOKEN)),
            (Policy::BreakClients, Some(_)) if !node.catalog.migrates() => Err(HttpError::unavailable(
                "updates that may break clients are taken once RaftTimeDB is updated on every node of the cluster",
            )),
            (Policy::BreakClients, Some(token)) => Ok(Bytes::copy_from_slice(&token.data)),
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
    // 1.x passes it over.
    if params.clear && node.local.plans_updates() {
        return Err(HttpError::bad_request(NOTHING_TO_CLEAR));
    }
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

/// `PUT …/reset`: the database that is there begins anew, with this module.
pub(super) async fn reset(
    State(node): State<Arc<Node>>,
    Path(database): Path<String>,
    Query(ResetParams {
        num_replicas,
        host_type,
    }): Query<ResetParams>,
    Extension(caller): Extension<Authenticated>,
    module: Bytes,
) -> Result<Json<PublishResult>, HttpError> {
    node.database(&database)?;
    let params = Params {
        clear: true,
        must_exist: true,
        num_replicas,
        host_type,
        ..Params::default()
    };
    publish(&node, Some(&database), &params, &caller, module).await
}

async fn publish(
    node: &Arc<Node>,
    target: Option<&str>,
    params: &Params,
    caller: &Authenticated,
    module: Bytes,
) -> Result<Json<PublishResult>, HttpError> {
    let name = target.filter(|target| Identity::from_hex(target).is_err());
    let (_, existing) = look_up(node, target)?;
    let token = params.check(node, existing.as_ref(), caller)?;
    let is_there = existing.is_some_and(|record| node.local.database(&record.identity).is_some());
    let (turn, prepared, program) = prepare(node, module).await?;
    warn(&prepared, target);
    // Preparing takes its time, and what was there may be another one by now.
    let (identity, existing) = look_up(node, target)?;
    params.allow(node, existing.as_ref(), caller)?;
    let owner = Owner {
        identity: caller.claims.identity.to_byte_array().to_vec().into(),
        issuer: caller.claims.issuer.clone(),
        subject: caller.claims.subject.clone(),
    };
    let record = match existing {
        Some(record) => record,
        None => register(node, identity, name, &owner).await?,
    };
    if record.born != 0 {
        // What was of this identity before may not be gone from the shard yet.
        let delete = command::Delete {
            database: record.identity.to_byte_array().to_vec().into(),
            before: record.born,
        };
        drop(node.shard.submit(command::Body::Delete(delete).into()));
    }
    let publish = command::Publish {
        database: record.identity.to_byte_array().to_vec().into(),
        owner: Some(owner),
        names: record.names,
        module: prepared.wasm.into(),
        original_def: prepared.original_def.into(),
        clear: params.clear,
        judged: node.catalog.judges(),
        program: program.data.to_vec().into(),
        token,
        born: record.born,
        loads: false,
    };
    let mut published = pin!(node.propose(&node.shard, command::Body::Publish(publish)));
    let outcome = match rtdb_runtime::timeout(PUBLICATION_TURN_MAX, &mut published).await {
        Ok(outcome) => outcome?,
        Err(_) => {
            drop(turn);
            published.await?
        }
    };
    let op = match outcome {
        Ok(Applied {
            reply: Reply::Published { created: true },
            ..
            // A replica that begins the clearing again finds nothing there any more.
        }) if !is_there => "created",
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

/// The identity that a publication is for, if it is known yet, and the database, if there is one.
fn look_up(
    node: &Node,
    target: Option<&str>,
) -> Result<(Option<Identity>, Option<DatabaseRecord>), HttpError> {
    let identity = target.map(|target| node.identity(target)).transpose()?.flatten();
    let existing = identity.and_then(|identity| node.catalog.by_identity(&identity));
    Ok((identity, existing))
}

/// Gives a new database its place in the cluster. Its identity is the one that its name had before, or is derived as
/// SpacetimeDB derives a fresh client's, from a random subject.
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
        has_birth: node.catalog.ends(),
    };
    match node
        .propose(&node.meta, command::Body::RegisterDatabase(register))
        .await?
    {
        Ok(Applied {
            reply: Reply::Database { identity, born, .. },
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
                locked: false,
                born,
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

/// Prepares a module, away from the tasks that serve clients, when its turn comes; gives the original's hash, too. The turn
/// lasts until it is published: a log with many large entries on their way has no room for anything else.
pub(crate) async fn prepare(node: &Node, module: Bytes) -> Result<(Turn, Prepared, Hash), HttpError> {
    let heard = async {
        while !node.catalog.has_heard_all() {
            rtdb_runtime::sleep(HEARD_POLL).await;
        }
    };
    // If one has never been there, it goes without what asks for all.
    let _ = rtdb_runtime::timeout(HEARD_MAX, heard).await;
    let options = Options {
        canonical_nan: node.catalog.has_mixed_processors(),
        calls_at_once: node.catalog.calls_at_once(),
        ..Options::default()
    };
    let prepare = move |turn| {
        let prepared = rtdb_determinism::prepare_with(&module, &options)?;
        Ok((turn, prepared, hash_bytes(&module)))
    };
    match node.preparing.in_turn(prepare).await {
        Ok(prepared) => prepared.map_err(|error: PrepareError| HttpError::bad_request(error.to_string())),
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
    for table in module.tables().iter().filter(|table| !table.ordered) {
        tracing::warn!(
            database,
            table = &*table.name,
            "the table has no primary key or unique column with a btree index: a module that iterates over it gets its \
             rows in no order that means anything, and waits until they are sorted"
        );
    }
}
