//! A database's parts, one after the other, as bytes, for as long as somebody takes them.

use super::IDLE_MAX;
use axum::body::Bytes;
use rtdb_replica::RowList;
use rtdb_snapshot::{Departed, Header, Writer};
use tokio::sync::mpsc;

/// What is to be sent.
pub(super) struct Outgoing {
    pub(super) header: Header,
    pub(super) clients: Vec<Departed>,
    /// Rows of the cluster's own tables.
    pub(super) ours: Vec<(&'static str, Bytes)>,
    pub(super) tables: Vec<(String, RowList)>,
}

impl Outgoing {
    /// Sends it. Nothing more is sent once nobody takes it.
    pub(super) async fn send(self, pieces: &mpsc::Sender<Bytes>) {
        let _ = self.pieces(pieces).await;
    }

    async fn pieces(self, pieces: &mpsc::Sender<Bytes>) -> Option<()> {
        let put = async |piece: Bytes| {
            let sent = tokio::time::timeout(IDLE_MAX, pieces.send(piece)).await;
            sent.ok()?.ok()
        };
        let (mut writer, head) = Writer::begin(self.header);
        put(head).await?;
        for piece in writer.clients(self.clients) {
            put(piece).await?;
        }
        for (table, row) in self.ours {
            if let Some(piece) = writer.row(table, row) {
                put(piece).await?;
            }
        }
        for (table, rows) in self.tables {
            for row in rows.iter() {
                if let Some(piece) = writer.row(&table, row) {
                    put(piece).await?;
                }
            }
        }
        put(writer.end()).await
    }
}
