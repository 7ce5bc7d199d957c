//! A snapshot into bytes.

use crate::piece::Framed;
use crate::{
    CLIENTS_MAX, Clients, Departed, End, FORMAT, HASH_BYTES, Header, MAGIC, Piece, ROWS_BYTES, ROWS_MAX,
    Rows, Sum,
};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use std::collections::BTreeMap;

/// Makes bytes of a snapshot, piece by piece.
#[derive(Debug)]
pub struct Writer {
    hasher: blake3::Hasher,
    sums: BTreeMap<String, Sum>,
    gathered: Rows,
    bytes: usize,
}

impl Writer {
    /// Begins one; gives its first bytes.
    pub fn begin(header: Header) -> (Self, Bytes) {
        let mut writer = Self {
            hasher: blake3::Hasher::new(),
            sums: BTreeMap::new(),
            gathered: Rows::default(),
            bytes: 0,
        };
        let magic = [&MAGIC[..], &FORMAT.to_le_bytes()].concat();
        writer.hasher.update(&magic);
        let header = Header {
            format: FORMAT,
            ..header
        };
        let framed = writer.frame(Piece::Header(header));
        (writer, [magic.into(), framed].concat().into())
    }

    /// Who was connected.
    pub fn clients(&mut self, clients: Vec<Departed>) -> Vec<Bytes> {
        let (mut pieces, mut piece, mut bytes) = (Vec::new(), Clients::default(), 0);
        for client in clients {
            let more = client.encoded_len();
            if piece.clients.len() >= CLIENTS_MAX || bytes + more > ROWS_BYTES && bytes > 0 {
                pieces.push(self.frame(Piece::Clients(std::mem::take(&mut piece))));
                bytes = 0;
            }
            bytes += more;
            piece.clients.push(client);
        }
        if !piece.clients.is_empty() {
            pieces.push(self.frame(Piece::Clients(piece)));
        }
        pieces
    }

    /// A row comes. Gives bytes once there are enough.
    pub fn row(&mut self, table: &str, row: Bytes) -> Option<Bytes> {
        let is_full = self.gathered.table != table
            || self.gathered.rows.len() >= ROWS_MAX
            || self.bytes + row.len() > ROWS_BYTES;
        let full = is_full.then(|| self.flush(table)).flatten();
        match self.sums.get_mut(table) {
            Some(sum) => sum.add(&row),
            None => self.sums.entry(table.to_owned()).or_default().add(&row),
        }
        self.bytes += row.len();
        self.gathered.rows.push(row);
        full
    }

    /// All rows have come; gives the last bytes.
    pub fn end(mut self) -> Bytes {
        let rest = self.flush("").unwrap_or_default();
        let sums = std::mem::take(&mut self.sums).into_iter();
        let end = End {
            tables: sums.map(|(table, sum)| sum.of_table(table)).collect(),
        };
        let end = self.frame(Piece::End(end));
        [rest, end].concat().into()
    }

    fn flush(&mut self, next: &str) -> Option<Bytes> {
        self.bytes = 0;
        let rows = Rows {
            table: next.to_owned(),
            rows: Vec::new(),
        };
        let rows = std::mem::replace(&mut self.gathered, rows);
        (!rows.rows.is_empty()).then(|| self.frame(Piece::Rows(rows)))
    }

    /// A piece as it is written: its length, itself, and a hash of all that was written.
    fn frame(&mut self, piece: Piece) -> Bytes {
        let framed = Framed { piece: Some(piece) };
        let mut out = BytesMut::with_capacity(framed.encoded_len() + 4 + HASH_BYTES);
        out.put_u32_le(framed.encoded_len() as u32);
        // A buffer that grows takes all.
        let _ = framed.encode(&mut out);
        self.hasher.update(&out);
        out.put_slice(&self.hasher.finalize().as_bytes()[..HASH_BYTES]);
        out.freeze()
    }
}
