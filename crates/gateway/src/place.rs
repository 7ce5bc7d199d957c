use crate::metrics::Present;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A connection's place among those that may be. A WebSocket session keeps it when the HTTP connection has ended.
#[derive(Clone)]
pub(crate) struct Place(#[expect(dead_code, reason = "held")] Arc<(OwnedSemaphorePermit, Present)>);

impl Place {
    pub(crate) fn new(permit: OwnedSemaphorePermit, present: Present) -> Self {
        Self(Arc::new((permit, present)))
    }
}
