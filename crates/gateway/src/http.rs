//! SpacetimeDB's HTTP API, as far as the cluster serves it. What is not served says so with 501; nothing ever writes
//! to the local server behind the log's back.

mod auth;
mod body;
mod call;
mod cors;
mod database;
mod idempotency;
mod identity;
mod logs;
mod mcp;
mod names;
mod outcome;
mod plan;
mod publish;
mod route;
mod sql;

use crate::http_error::HttpError;
use crate::limits::{BODY_BYTES_MAX, MODULE_BYTES_MAX, ROUTE_BODY_BYTES_MAX};
use crate::local::Authenticated;
use crate::node::Node;
use crate::session::upgrade;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, delete, get, post, put};
pub(crate) use publish::prepare;
use std::sync::Arc;

/// All of the API.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let large = DefaultBodyLimit::max(MODULE_BYTES_MAX);
    // Whatever is asked of a database by whatever method: whether there is one is said first.
    let existing = Router::new()
        .route("/database/{database}/pre_publish", post(plan::plan).layer(large))
        .route("/database/{database}/reset", put(publish::reset).layer(large))
        .route(
            "/database/{database}/names",
            get(names::get).post(names::add).put(names::set),
        )
        .route("/database/{database}/call/{reducer}", post(call::call))
        .route("/database/{database}/schema", get(database::schema))
        .route("/database/{database}/logs", get(logs::logs))
        .route("/database/{database}/sql", post(sql::sql))
        .route("/database/{database}/outcome", get(outcome::outcome))
        .route("/database/{database}/lock", post(database::lock))
        .route("/database/{database}/unlock", post(database::unlock))
        .route(
            "/database/{database}/unstable/timestamp",
            get(database::timestamp),
        )
        .route_layer(middleware::from_fn_with_state(node.clone(), database::exists));
    let identify = middleware::from_fn_with_state(node.clone(), auth::identify);
    let databases = Router::new()
        .route("/database", post(publish::anonymous).layer(large))
        .route(
            "/database/{database}",
            put(publish::named)
                .post(publish::named)
                .layer(large)
                .merge(get(database::info))
                .merge(delete(database::delete)),
        )
        .route("/database/{database}/identity", get(database::identity))
        .route("/database/{database}/subscribe", get(upgrade::subscribe))
        .route("/database/{database}/mcp", post(mcp::of_database))
        .merge(existing)
        .route_layer(identify.clone());
    // Nobody is asked who he is: what stands in the headers is for the handlers.
    let routes = Router::new()
        .route("/database/{database}/route", any(route::root))
        .route("/database/{database}/route/", any(route::slash))
        .route("/database/{database}/route/{*path}", any(route::path))
        .layer(DefaultBodyLimit::max(ROUTE_BODY_BYTES_MAX));
    let api = databases
        .route("/ping", get(auth::ping))
        .route("/health", get(identity::health))
        .route("/identity", post(identity::forward))
        .route("/identity/public-key", get(identity::forward))
        .route("/identity/websocket-token", post(identity::forward))
        .route("/identity/{identity}/verify", get(identity::forward))
        .route("/identity/{identity}/databases", get(identity::databases))
        .route(
            "/energy/{identity}",
            get(identity::forward)
                .put(identity::forward)
                .post(identity::forward),
        )
        .route("/mcp", post(mcp::of_host).route_layer(identify))
        .merge(routes)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(node.clone(), body::counted))
        .layer(middleware::from_fn(cors::cors))
        .layer(middleware::from_fn_with_state(node.clone(), answers));
    Router::new().nest("/v1", api).with_state(node)
}

/// Counts answers, and what of them waits to be sent.
async fn answers(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let response = body::held(next.run(request).await, &node.budget).await;
    node.metrics.answered(response.status());
    response
}
