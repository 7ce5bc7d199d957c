//! Why a node, or its log, can't go on.

use std::sync::Arc;
use tokio::sync::watch;

/// The reason, once there is one. Clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Fatal(watch::Sender<Option<Arc<str>>>);

impl Fatal {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Becomes `Some` when there is a reason.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.subscribe()
    }

    /// The reason, if there is one.
    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        self.0.borrow().clone()
    }

    /// Notes a reason; the first one stays.
    pub(crate) fn set(&self, reason: impl Into<Arc<str>>) {
        self.0.send_if_modified(|fatal| {
            let is_first = fatal.is_none();
            fatal.get_or_insert_with(|| reason.into());
            is_first
        });
    }
}
