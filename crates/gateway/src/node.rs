//! What all requests and sessions of a node share.

use crate::asking::Asking;
use crate::budget::Budget;
use crate::catalog::{Catalog, DatabaseRecord};
use crate::close::CloseReason;
use crate::database_name;
use crate::entrance::Entrance;
use crate::feed::Feeds;
use crate::gate::Gate;
use crate::http_error::HttpError;
use crate::issuers::Issuers;
use crate::limits::{APART_MAX, CLAIMS_BYTES_MAX, ClientLimits, DATABASE_WAIT_MAX, PREPARATIONS_MAX};
use crate::local::{Claims, Local, LocalDatabase, SetAside, Tokens};
use crate::local_client::LocalClient;
use crate::metrics::GatewayMetrics;
use crate::pool::Pool;
use crate::publishers::Publishers;
use crate::reach::Reach;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::StatusCode;
use rtdb_consensus::Propose;
use rtdb_runtime::Instant;
use spacetimedb_lib::Identity;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked whether a database has come.
const LOOK: Duration = Duration::from_millis(20);

/// What all requests and sessions of a node share.
pub(crate) struct Node {
    pub(crate) shard: Arc<dyn Propose>,
    pub(crate) meta: Arc<dyn Propose>,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) local: Arc<dyn Local>,
    pub(crate) metrics: GatewayMetrics,
    /// Where calls pass before they are proposed.
    pub(crate) gate: Gate,
    /// Who may create databases, if that is not everyone.
    pub(crate) publishers: OnceLock<Publishers>,
    /// What is asked of all replicas.
    pub(crate) asking: Asking,
    /// Whose tokens are taken besides the cluster's own, if anybody's are.
    pub(crate) issuers: OnceLock<Arc<dyn Issuers>>,
    /// Where clients wait to be let in.
    pub(crate) entrance: Entrance,
    pub(crate) client: Arc<LocalClient>,
    /// How the local server is reached in clients' names.
    pub(crate) reach: Arc<dyn Reach>,
    /// Subscriptions that clients share.
    pub(crate) feeds: Feeds,
    /// Modules being prepared.
    pub(crate) preparing: Pool,
    /// Where large things of sessions are done.
    pub(crate) pool: Pool,
    /// Where those of requests are: a small one may ask for much, and sessions don't wait behind many of them.
    pub(crate) requests: Pool,
    /// What clients take of the memory.
    pub(crate) budget: Budget,
    pub(crate) limits: ClientLimits,
    /// The last order to close all sessions.
    pub(crate) closing: watch::Sender<Option<CloseReason>>,
}

impl Node {
    pub(crate) fn new(
        shard: Arc<dyn Propose>,
        meta: Arc<dyn Propose>,
        catalog: Arc<dyn Catalog>,
        local: Arc<dyn Local>,
        metrics: GatewayMetrics,
        limits: ClientLimits,
    ) -> Self {
        let client = Arc::new(LocalClient::new(local.clone()));
        let reach = local.reach().unwrap_or_else(|| client.clone());
        let pool = Pool::new(APART_MAX);
        let budget = Budget::new(limits.bytes_max, metrics.client_bytes.clone());
        Self {
            shard,
            meta,
            catalog,
            feeds: Feeds::new(
                local.clone(),
                reach.clone(),
                // What all members of a feed wait for does not wait for what single clients ask for.
                Pool::new(APART_MAX),
                metrics.clone(),
                budget.clone(),
                limits.gather,
            ),
            client,
            reach,
            local,
            gate: Gate::new(metrics.clone()),
            publishers: OnceLock::new(),
            asking: Asking::default(),
            issuers: OnceLock::new(),
            entrance: Entrance::default(),
            budget,
            metrics,
            preparing: Pool::new(PREPARATIONS_MAX),
            pool,
            requests: Pool::new(APART_MAX),
            limits,
            closing: watch::Sender::new(None),
        }
    }

    /// Resolves when all sessions of now are to be closed, or those of a database that is there now.
    pub(crate) fn closed(&self, database: &Identity) -> BoxFuture<'static, CloseReason> {
        let mut closing = self.closing.subscribe();
        let (local, database) = (self.local.clone(), *database);
        // Not when this is first polled: by then there may be another database of the identity.
        let deleted = local.until_deleted(&database);
        let set_aside = local.until_set_aside(&database);
        async move {
            rtdb_runtime::select! {
                changed = closing.changed() => {
                    let reason = closing.borrow_and_update().clone();
                    reason
                        .filter(|_| changed.is_ok())
                        .unwrap_or_else(CloseReason::restart)
                }
                () = deleted => CloseReason::module_exited(),
                () = set_aside => {
                    let elsewhere = local.set_aside(&database).and_then(|aside| aside.hint);
                    CloseReason::new(
                        CloseReason::AWAY,
                        elsewhere.unwrap_or_else(|| "this node's replica is set aside".to_owned()),
                    )
                }
            }
        }
        .boxed()
    }

    /// What views are prepared by.
    pub(crate) fn views(&self) -> (&dyn Local, &dyn Reach) {
        (self.local.as_ref(), self.reach.as_ref())
    }

    /// The cluster's key, or 503 until there is one.
    pub(crate) fn tokens(&self) -> Result<Arc<dyn Tokens>, HttpError> {
        self.local
            .tokens()
            .filter(|_| self.catalog.ready())
            .ok_or_else(|| {
                HttpError::unavailable(
                    "the cluster has not been initialised yet: run `rtdb init` against one of its nodes",
                )
            })
    }

    /// The identity that a path names, by name or as it is; 400 for what is neither, as SpacetimeDB answers.
    pub(crate) fn identity(&self, name_or_identity: &str) -> Result<Option<Identity>, HttpError> {
        if let Ok(identity) = Identity::from_hex(name_or_identity) {
            return Ok(Some(identity));
        }
        database_name::check(name_or_identity)
            .map_err(|error| HttpError::bad_request(format!("Invalid URL: {error}")))?;
        Ok(self.catalog.identity(name_or_identity))
    }

    /// The database that a path names, or 404 as SpacetimeDB 2.8.3 answers (1.2.0 says nothing of a name).
    pub(crate) fn database(&self, name_or_identity: &str) -> Result<DatabaseRecord, HttpError> {
        let identity = self.identity(name_or_identity)?;
        let identity = identity.ok_or_else(|| HttpError::no_such_name(name_or_identity))?;
        let record = self.catalog.by_identity(&identity);
        record.ok_or_else(HttpError::no_such_database)
    }

    /// The database on this node. One that was published through another node a moment ago is waited for.
    pub(crate) async fn active(&self, identity: &Identity) -> Result<LocalDatabase, HttpError> {
        let deadline = Instant::now() + DATABASE_WAIT_MAX;
        loop {
            if let Some(SetAside { reason, hint }) = self.local.set_aside(identity) {
                let hint = hint.map(|hint| format!("; turn to {hint}")).unwrap_or_default();
                return Err(HttpError::unavailable(format!("{reason}{hint}")));
            }
            if let Some(database) = self.local.database(identity) {
                return Ok(database);
            }
            if Instant::now() >= deadline {
                return Err(match self.local.address() {
                    Some(_) => HttpError::no_such_database(),
                    None => HttpError::unavailable("SpacetimeDB is not available on this node"),
                });
            }
            rtdb_runtime::sleep(LOOK).await;
        }
    }

    /// What is proposed of a caller's token, for the module to see: nothing before all nodes know what that is.
    pub(crate) fn claims(&self, caller: &Claims) -> Result<String, HttpError> {
        match caller.payload.len() {
            _ if !self.catalog.takes_claims() => Ok(String::new()),
            ..=CLAIMS_BYTES_MAX => Ok(caller.payload.clone()),
            bytes => Err(HttpError::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                format!("the token says {bytes} bytes, the cluster takes {CLAIMS_BYTES_MAX}"),
            )),
        }
    }

    /// Submits a command and waits for its outcome; 503 if too much is under way.
    pub(crate) async fn propose(
        &self,
        group: &Arc<dyn Propose>,
        body: rtdb_consensus::command::Body,
    ) -> Result<rtdb_consensus::Outcome, HttpError> {
        use rtdb_consensus::NotProposed;
        let pending = match group.submit(body.into()) {
            Ok(pending) => pending,
            Err(error @ NotProposed::Overloaded { .. }) => {
                return Err(HttpError::unavailable(error.to_string()));
            }
            Err(error @ NotProposed::TooLarge { .. }) => {
                return Err(HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()));
            }
            Err(error @ (NotProposed::Stopping | NotProposed::DiskLow { .. })) => {
                return Err(HttpError::unavailable(error.to_string()));
            }
        };
        Ok(pending.await)
    }
}
