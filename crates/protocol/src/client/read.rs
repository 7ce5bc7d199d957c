use crate::reader::Reader;
use crate::sql::{self, Query, SqlError};
use crate::writer::Write;
use crate::{FrameError, RECEIPT_QUERY_SET, Text};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;
use thiserror::Error;

/// Queries of one message, and query sets.
pub const QUERIES_MAX: usize = 8_192;

/// Their bytes.
pub const QUERIES_BYTES_MAX: usize = 256 << 10;

/// A message that SpacetimeDB answers from its own state. Each gets exactly one answer
/// ([`crate::server::ServerMessage::answers_read`]), unless SpacetimeDB closes the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The message alone, its queries as they were understood: what is forwarded. Empty if it is refused.
    pub raw: Bytes,
    /// Which one it is.
    pub kind: ReadKind,
    /// The client's number for it; a v1 one-off query has `message_id` instead.
    pub request_id: Option<u32>,
    /// The query-set ids (v1: query ids) it speaks of: none for legacy subscribe and one-off queries, several for a
    /// batch, else one.
    pub query_sets: Vec<u32>,
    /// The queries.
    pub queries: Vec<Query>,
    /// A v1 one-off query's own number.
    pub message_id: Bytes,
    /// Why it must not be forwarded, if so.
    pub refused: Option<Refused>,
}

/// The kinds of [`Read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// v1 `Subscribe`: replaces the whole of the client's unnumbered subscription.
    SubscribeLegacy,
    /// v1 `SubscribeSingle`.
    SubscribeSingle,
    /// v1 `SubscribeMulti`, v2 `Subscribe`.
    SubscribeMulti,
    /// v2 `SubscribeBatch` (since 2.14).
    SubscribeBatch,
    /// v1 `Unsubscribe`.
    UnsubscribeSingle,
    /// v1 `UnsubscribeMulti`, v2 `Unsubscribe`.
    UnsubscribeMulti,
    /// `OneOffQuery`.
    OneOffQuery,
}

/// Why a read must not be forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// It uses the cluster's own query-set id.
    #[error("the query set id {RECEIPT_QUERY_SET} is reserved")]
    QuerySet,
    /// It has more than [`QUERIES_MAX`].
    #[error("a message may have {QUERIES_MAX} queries")]
    Queries,
    /// They have more than [`QUERIES_BYTES_MAX`].
    #[error("the queries of a message may have {QUERIES_BYTES_MAX} bytes together")]
    Bytes,
    /// One of them was not understood.
    #[error("{error}")]
    Sql {
        /// The query.
        query: String,
        /// What is wrong with it.
        error: SqlError,
    },
    /// One of them names something of the cluster's own.
    #[error("no such table: `{table}`")]
    Hidden {
        /// The query.
        query: String,
        /// The name.
        table: String,
    },
}

/// Bytes of a query that was parsed, besides its text.
const QUERY_BYTES: usize = 192;

impl Read {
    /// About how many bytes it takes: the message, and what was read from it.
    pub fn bytes(&self) -> usize {
        2 * self.raw.len() + self.queries.len() * QUERY_BYTES
    }

    /// Whether an unsubscribe of v2 or v3 asks for the rows that it lets go of.
    pub fn wants_rows(&self) -> bool {
        self.kind == ReadKind::UnsubscribeMulti && self.raw.last() == Some(&1)
    }

    /// Parses the queries, which are at `places` of the frame; the message begins at `start`.
    pub(super) fn understand(
        mut self,
        frame: &Bytes,
        start: usize,
        places: &[Range<usize>],
    ) -> Result<Self, FrameError> {
        match self.respell(frame, start, places)? {
            Ok(raw) => self.raw = raw,
            Err(refused) => {
                self.raw = Bytes::new();
                self.refused = Some(refused);
            }
        }
        Ok(self)
    }

    /// The message with the queries as they were understood, which are added to it.
    fn respell(
        &mut self,
        frame: &Bytes,
        start: usize,
        places: &[Range<usize>],
    ) -> Result<Result<Bytes, Refused>, FrameError> {
        let bytes = places.iter().map(Range::len).sum::<usize>();
        if self.query_sets.contains(&RECEIPT_QUERY_SET) {
            return Ok(Err(Refused::QuerySet));
        }
        if places.len() > QUERIES_MAX || self.query_sets.len() > QUERIES_MAX {
            return Ok(Err(Refused::Queries));
        }
        if bytes > QUERIES_BYTES_MAX {
            return Ok(Err(Refused::Bytes));
        }
        let mut raw = BytesMut::new();
        let mut copied = start;
        for place in places {
            let text = Text::new(frame.slice(place.clone()), place.start)?;
            let query = match sql::parse_query(&text) {
                Ok(query) => query,
                Err(error) => {
                    let query = text.to_string();
                    return Ok(Err(Refused::Sql { query, error }));
                }
            };
            if let Some(table) = query.hidden() {
                let (query, table) = (text.to_string(), table.to_owned());
                return Ok(Err(Refused::Hidden { query, table }));
            }
            if query.text() != &*text {
                // The text's length is before it.
                raw.put_slice(&frame[copied..place.start - 4]);
                raw.put_bytes_bsatn(query.text().as_bytes());
                copied = place.end;
            }
            self.queries.push(query);
        }
        if copied == start {
            return Ok(Ok(self.raw.clone()));
        }
        raw.put_slice(&frame[copied..start + self.raw.len()]);
        Ok(Ok(raw.freeze()))
    }
}

impl Reader<'_> {
    /// The places of a list of queries, its length before it. Not more are kept than are too many.
    pub(super) fn queries(&mut self, places: &mut Vec<Range<usize>>) -> Result<(), FrameError> {
        for _ in 0..self.count(4)? {
            self.query(places)?;
        }
        Ok(())
    }

    pub(super) fn query(&mut self, places: &mut Vec<Range<usize>>) -> Result<(), FrameError> {
        let at = self.at();
        let place = self.place()?;
        Text::new(self.frame().slice(place.clone()), at)?;
        if places.len() <= QUERIES_MAX {
            places.push(place);
        }
        Ok(())
    }
}
