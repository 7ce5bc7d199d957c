//! The way into a batcher.

use super::{Incoming, Refused};
use crate::budget::Share;
use crate::entry::EncodedBatch;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Batches, of all origins, that wait for an entry of one group.
const WAITING_BATCHES_MAX: usize = 256;

/// The way into a batcher. What has come in holds its bytes of the node's budget until it is in the log, or refused.
#[derive(Clone)]
pub(crate) struct Inbox {
    incoming: mpsc::Sender<Incoming>,
    share: Share,
}

impl Inbox {
    /// The way in, and its end at the batcher.
    pub(crate) fn new(share: Share) -> (Self, mpsc::Receiver<Incoming>) {
        let (sender, incoming) = mpsc::channel(WAITING_BATCHES_MAX);
        let inbox = Self {
            incoming: sender,
            share,
        };
        (inbox, incoming)
    }

    /// Waits until there is room, and puts a batch in; `false` if the batcher has stopped.
    pub(crate) async fn put(&self, batch: EncodedBatch, refused: &Arc<Refused>) -> bool {
        let room = rtdb_runtime::select! {
            () = self.incoming.closed() => return false,
            room = self.share.acquire(batch.size()) => room,
        };
        let incoming = Incoming {
            batch,
            refused: refused.clone(),
            room,
        };
        self.incoming.send(incoming).await.is_ok()
    }
}
