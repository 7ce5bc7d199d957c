//! What was decided about an entry.

use super::state::SessionRecord;
use crate::Session;

/// The decisions about one entry, kept beside the log so that any part of it can be read again with the very same
/// ones. It is to be read with [`decode`](crate::version::decode).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Resolution {
    /// The first command's timestamp, in microseconds; each next one is a microsecond later.
    #[prost(sfixed64, tag = "1")]
    pub(crate) first_timestamp_us: i64,
    /// Runs of commands that do not reach the replica: each the first one's place, then their count. Ascending.
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) skipped: Vec<u32>,
    /// Sessions that `Disconnect` commands have ended.
    #[prost(message, repeated, tag = "3")]
    pub(crate) ended: Vec<EndedSession>,
}

/// A session that a `Disconnect` has ended.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EndedSession {
    /// The place of the `Disconnect` in the entry.
    #[prost(uint32, tag = "1")]
    pub(crate) place: u32,
    #[prost(fixed64, tag = "2")]
    pub(crate) id: u64,
    #[prost(message, optional, tag = "3")]
    pub(crate) session: Option<SessionRecord>,
}

impl Resolution {
    pub(crate) fn new(first_timestamp_us: i64) -> Self {
        Self {
            first_timestamp_us,
            ..Self::default()
        }
    }

    /// Passes over the command at `place`, which is behind all that were skipped before.
    pub(crate) fn skip(&mut self, place: usize) {
        let place = place as u32;
        if let [.., first, count] = self.skipped.as_mut_slice()
            && *first + *count == place
        {
            *count += 1;
            return;
        }
        self.skipped.extend([place, 1]);
    }

    pub(crate) fn is_skipped(&self, place: usize) -> bool {
        let place = place as u32;
        let (runs, _) = self.skipped.as_chunks::<2>();
        let behind = runs.partition_point(|[first, _]| *first <= place);
        behind > 0 && place < runs[behind - 1][0] + runs[behind - 1][1]
    }

    pub(crate) fn end(&mut self, place: usize, session: &Session) {
        self.ended.push(EndedSession {
            place: place as u32,
            id: session.id,
            session: Some(session.into()),
        });
    }

    pub(crate) fn ended(&self, place: usize) -> Option<Session> {
        let found = self
            .ended
            .binary_search_by_key(&(place as u32), |ended| ended.place)
            .ok()?;
        let ended = &self.ended[found];
        Some(ended.session.clone()?.session(ended.id))
    }
}
