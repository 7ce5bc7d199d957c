//! A client's views: prepared before it looks at them, and again when its upstream was away.

use crate::freshness::{Freshness, NotFresh};
use crate::limits::UPSTREAM_AWAY_MAX;
use crate::node::Node;
use crate::reach::OpenError;
use crate::upstream::{self, RETRY, Upstream, UpstreamConfig};
use crate::views::{self, Wanted};
use rtdb_replica::{ViewError, ViewHold};
use std::sync::Arc;
use thiserror::Error;

/// An upstream that was opened for a client.
pub(super) struct Reopened {
    pub(super) upstream: Upstream,
    /// The views that the client has asked for, held anew.
    pub(super) views: Vec<ViewHold>,
    /// Those of them that fail now.
    pub(super) failed: Vec<ViewError>,
}

/// Why a read is refused.
#[derive(Debug, Error)]
pub(super) enum Unprepared {
    #[error(transparent)]
    NotFresh(#[from] NotFresh),
    #[error(transparent)]
    View(#[from] ViewError),
}

/// Prepares views for a client's first look at them, once this node has what is to be shown.
pub(super) async fn prepare(
    node: Arc<Node>,
    config: UpstreamConfig,
    freshness: Freshness,
    wanted: Vec<Wanted>,
) -> Result<Vec<ViewHold>, Unprepared> {
    freshness.wait(&node, &config.database).await?;
    let token = config.current_token(node.local.as_ref());
    let holds = views::prepare(node.views(), &config.database, &token, &wanted).await;
    Ok(holds?)
}

/// Opens the upstream again for a client that has asked for `views`; what it was shown of them is shown again.
pub(super) async fn reopen(
    node: Arc<Node>,
    config: UpstreamConfig,
    views: Vec<String>,
) -> Result<Reopened, OpenError> {
    let reopened = async {
        let mut reopened = Reopened {
            upstream: upstream::reopen(node.local.as_ref(), node.reach.as_ref(), &config).await,
            views: Vec::new(),
            failed: Vec::new(),
        };
        for view in &views {
            match prepare_again(&node, &config, view).await {
                Ok(holds) => reopened.views.extend(holds),
                Err(failed) => reopened.failed.push(failed),
            }
        }
        reopened
    };
    rtdb_runtime::timeout(UPSTREAM_AWAY_MAX, reopened)
        .await
        .map_err(|_| OpenError::Unavailable)
}

/// Prepares a view again, as soon as that is possible. The module may be another one.
async fn prepare_again(node: &Node, config: &UpstreamConfig, view: &str) -> Result<Vec<ViewHold>, ViewError> {
    loop {
        let token = config.current_token(node.local.as_ref());
        let wanted = match node.local.database(&config.database) {
            Some(database) => views::named(&database.module, view, config.claims.identity.to_byte_array()),
            None => Vec::new(),
        };
        match views::prepare(node.views(), &config.database, &token, &wanted).await {
            Err(ViewError::Unavailable(error)) => tracing::debug!(error, "views can't be refreshed yet"),
            settled => return settled,
        }
        rtdb_runtime::sleep(RETRY).await;
    }
}

impl Reopened {
    /// For a client that has asked for no views.
    pub(super) fn without_views(upstream: Upstream) -> Self {
        Self {
            upstream,
            views: Vec::new(),
            failed: Vec::new(),
        }
    }
}
