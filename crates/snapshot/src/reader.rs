//! Bytes into a snapshot.

use crate::piece::Framed;
use crate::{
    CLIENTS_MAX, Clients, End, FORMAT, HASH_BYTES, Header, MAGIC, PIECE_BYTES_MAX, Piece, Rows, Sum,
};
use bytes::{Buf, BytesMut};
use prost::Message;
use std::collections::BTreeMap;
use thiserror::Error;

/// Takes a snapshot's bytes apart, as they come. What it gives is as it was written; that nothing is missing is certain once the
/// [`End`] has come.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    hasher: blake3::Hasher,
    state: State,
    sums: BTreeMap<String, Sum>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Magic,
    Header,
    Rows,
    Ended,
}

/// Why bytes are no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// Something else.
    #[error("this is no snapshot of a database")]
    NoSnapshot,
    /// Of a newer program.
    #[error("the snapshot is of format {0}, and this program knows up to {FORMAT}: use a newer one")]
    Newer(u32),
    /// Changed on the way, or by the disk.
    #[error("the snapshot is damaged behind its byte {0}: what is there does not match its checksum")]
    Damaged(u64),
    /// It ends too early.
    #[error("the snapshot is cut off behind its byte {0}")]
    CutOff(u64),
    /// Its parts do not make one.
    #[error("the snapshot's parts do not fit together: {0}")]
    Misfit(&'static str),
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            hasher: blake3::Hasher::new(),
            state: State::Magic,
            sums: BTreeMap::new(),
        }
    }
}

impl Reader {
    /// Bytes have come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait for the rest of their piece.
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// The next piece; `None` if more bytes have to come first.
    ///
    /// # Errors
    /// [`Unreadable`]: nothing more can be read.
    pub fn piece(&mut self) -> Result<Option<Piece>, Unreadable> {
        const LEN: usize = size_of::<u32>();
        if self.state == State::Magic {
            let Some((magic, rest)) = self.buffer.split_first_chunk::<{ MAGIC.len() }>() else {
                return Ok(None);
            };
            if *magic != MAGIC {
                return Err(Unreadable::NoSnapshot);
            }
            let Some(format) = rest.first_chunk::<LEN>() else {
                return Ok(None);
            };
            let format = u32::from_le_bytes(*format);
            if format > FORMAT {
                return Err(Unreadable::Newer(format));
            }
            let head = self.buffer.split_to(MAGIC.len() + LEN);
            self.hasher.update(&head);
            self.state = State::Header;
        }
        let Some(len) = self.buffer.first_chunk::<LEN>() else {
            return Ok(None);
        };
        if self.state == State::Ended {
            return Err(Unreadable::Misfit("there is something behind its end"));
        }
        let len = u32::from_le_bytes(*len) as usize;
        if len > PIECE_BYTES_MAX {
            return Err(Unreadable::Damaged(self.hasher.count()));
        }
        if self.buffer.len() < LEN + len + HASH_BYTES {
            return Ok(None);
        }
        let at = self.hasher.count();
        let mut framed = self.buffer.split_to(LEN + len);
        self.hasher.update(&framed);
        let hash = self.buffer.split_to(HASH_BYTES);
        if hash[..] != self.hasher.finalize().as_bytes()[..HASH_BYTES] {
            return Err(Unreadable::Damaged(at));
        }
        framed.advance(LEN);
        let framed =
            Framed::decode(framed.freeze()).map_err(|_| Unreadable::Misfit("a piece can't be read"))?;
        let piece = framed
            .piece
            .ok_or(Unreadable::Misfit("a piece is of no known kind"))?;
        self.state = match (self.state, &piece) {
            (State::Header, Piece::Header(header)) => {
                whole(header)?;
                State::Rows
            }
            (State::Rows, Piece::Rows(rows)) => {
                self.count(rows);
                State::Rows
            }
            (State::Rows, Piece::Clients(clients)) => {
                sound(clients)?;
                State::Rows
            }
            (State::Rows, Piece::End(end)) => {
                self.compare(end)?;
                State::Ended
            }
            _ => return Err(Unreadable::Misfit("its pieces stand in another order")),
        };
        Ok(Some(piece))
    }

    /// No more bytes will come.
    ///
    /// # Errors
    /// [`Unreadable::CutOff`].
    pub fn finish(&self) -> Result<(), Unreadable> {
        match self.state {
            State::Ended if self.buffer.is_empty() => Ok(()),
            State::Ended => Err(Unreadable::Misfit("there is something behind its end")),
            _ => Err(Unreadable::CutOff(self.hasher.count())),
        }
    }

    fn count(&mut self, rows: &Rows) {
        let sum = self.sums.entry(rows.table.clone()).or_default();
        for row in &rows.rows {
            sum.add(row);
        }
    }

    fn compare(&mut self, end: &End) -> Result<(), Unreadable> {
        let sums = std::mem::take(&mut self.sums).into_iter();
        let came: Vec<_> = sums.map(|(table, sum)| sum.of_table(table)).collect();
        match came == end.tables {
            true => Ok(()),
            false => Err(Unreadable::Misfit("its tables hold other rows than it says")),
        }
    }
}

/// Checks what everybody relies on.
fn whole(header: &Header) -> Result<(), Unreadable> {
    let is_owner = |owner: &crate::Owner| owner.identity.len() == 32;
    let is_whole = header.database.len() == 32
        && header.owner.as_ref().is_some_and(is_owner)
        && matches!(header.program.len(), 0 | 32);
    match is_whole {
        true => Ok(()),
        false => Err(Unreadable::Misfit("its header is not whole")),
    }
}

fn sound(clients: &Clients) -> Result<(), Unreadable> {
    let is_client = |it: &crate::Departed| it.sender.len() == 32 && it.connection.len() == 16;
    match clients.clients.len() <= CLIENTS_MAX && clients.clients.iter().all(is_client) {
        true => Ok(()),
        false => Err(Unreadable::Misfit("it names clients that can be none")),
    }
}
