//! What the log's segments hold: finding it and reading it.

use super::batch::End;
use super::broken::Broken;
use super::change::{self, Change, Sequence, Space, Span};
use super::head::Head;
use super::index::{Index, Places};
use super::segment::Segment;
use crate::group_id::GroupId;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Segments that are not written any more, of which it is kept in memory where their records stand.
/// Their files are open.
const COLD_SEGMENTS_MAX: usize = 8;

/// What the log holds: what readers share with the writer.
pub(super) struct Contents {
    pub(super) index: Index,
    /// The segment that is being written, and where its records stand.
    pub(super) active: u64,
    pub(super) places: Places,
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
}

/// The reading side.
pub(super) struct Reader {
    pub(super) contents: RwLock<Contents>,
    /// The one that was read last comes first.
    cold: Mutex<VecDeque<(Arc<Segment>, Arc<Places>)>>,
}

/// An entry or a decision: its index, and where it stands.
type Location = (u64, Arc<Segment>, Span);

impl Contents {
    pub(super) fn apply(&mut self, change: &Change, span: Span, segment: u64) -> Result<(), String> {
        self.index.apply(change, segment)?;
        self.places.apply(change, span);
        Ok(())
    }
}

impl Reader {
    pub(super) fn new(contents: Contents) -> Arc<Self> {
        Arc::new(Self {
            contents: RwLock::new(contents),
            cold: Mutex::default(),
        })
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.contents.read().index.get(space, key)
    }

    pub(super) fn range(&self, space: Space, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Bytes)> {
        self.contents.read().index.range(space, from, to)
    }

    /// The first and the last index of a group's entries.
    pub(super) fn bounds(&self, group: GroupId) -> Option<(u64, u64)> {
        self.contents.read().index.bounds(group, Sequence::Entries)
    }

    /// Reads records from `from` up to `end` (exclusive), about `bytes_max` bytes of them, but at least one if there is
    /// one. It may read a whole segment, and must not be called where others wait for the thread.
    ///
    /// # Errors
    /// [`Broken`] if they can't be read as they were written.
    pub(super) fn read(
        &self,
        group: GroupId,
        sequence: Sequence,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, Broken> {
        let locations = self.locate(group, sequence, from, end, bytes_max)?;
        let mut records = Vec::with_capacity(locations.len());
        for piece in locations.chunk_by(|(_, one, _), (_, other, _)| Arc::ptr_eq(one, other)) {
            let spans: Vec<Span> = piece.iter().map(|(_, _, span)| *span).collect();
            let bodies = piece[0].1.read(&spans)?;
            records.extend(piece.iter().map(|(index, ..)| *index).zip(bodies));
        }
        Ok(records)
    }

    fn locate(
        &self,
        group: GroupId,
        sequence: Sequence,
        mut from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<Location>, Broken> {
        let (mut found, mut bytes): (Vec<Location>, usize) = (Vec::new(), 0);
        while from < end && (bytes < bytes_max || found.is_empty()) {
            let contents = self.contents.read();
            let Some(run) = contents
                .index
                .run(group, sequence, from)
                .filter(|run| run.first < end)
            else {
                break;
            };
            let segment = contents.segments.get(&run.segment);
            let segment = segment.ok_or_else(|| missing(run.segment))?.clone();
            let last = run.last.min(end - 1);
            let mut take = |places: &Places| {
                for (index, span) in places.range(group, sequence, from.max(run.first), last) {
                    if bytes >= bytes_max && !found.is_empty() {
                        return;
                    }
                    bytes += span.len as usize;
                    found.push((*index, segment.clone(), *span));
                }
            };
            if run.segment == contents.active {
                take(&contents.places);
            } else {
                drop(contents);
                take(&*self.cold(&segment)?);
            }
            from = last + 1;
        }
        Ok(found)
    }

    /// Where the records of a segment stand that is not written any more. All of it is read, and so checked.
    fn cold(&self, segment: &Arc<Segment>) -> Result<Arc<Places>, Broken> {
        let number = segment.head.number;
        let mut cold = self.cold.lock();
        let known = cold.iter().position(|(known, _)| known.head.number == number);
        if let Some(known) = known.and_then(|place| cold.remove(place)) {
            let places = known.1.clone();
            cold.push_front(known);
            return Ok(places);
        }
        segment.hold()?;
        let (contents, end) = load(segment).inspect_err(|_| segment.rest())?;
        let next = self.contents.read().segments.get(&(number + 1)).cloned();
        check_follows(&next.ok_or_else(|| missing(number + 1))?.head, &end)?;
        let places = Arc::new(contents.places);
        while cold.len() >= COLD_SEGMENTS_MAX {
            cold.pop_back().inspect(|(oldest, _)| oldest.rest());
        }
        cold.push_front((segment.clone(), places.clone()));
        Ok(places)
    }

    /// Reads every segment, and so checks all that was written.
    ///
    /// # Errors
    /// [`Broken::Damaged`] if anything is not what was written.
    #[cfg(test)]
    pub(super) fn verify(&self) -> Result<(), Broken> {
        let segments: Vec<_> = self.contents.read().segments.values().cloned().collect();
        let active = self.contents.read().active;
        for segment in segments {
            match segment.head.number == active {
                true => drop(load(&segment)?),
                false => drop(self.cold(&segment)?),
            }
        }
        Ok(())
    }
}

/// Reads a segment: its checkpoint, and what was written after it.
pub(super) fn load(segment: &Arc<Segment>) -> Result<(Contents, End), Broken> {
    let number = segment.head.number;
    let mut contents = Contents {
        index: Index::default(),
        active: number,
        places: Places::default(),
        segments: BTreeMap::new(),
    };
    let end = segment.scan(|batch| {
        let changes = change::decode(batch.offset, &batch.changes);
        let newer = || {
            Broken::Newer(format!(
                "segment {number} holds a change that this program does not know"
            ))
        };
        for (change, span) in changes.ok_or_else(newer)? {
            let applied = contents.apply(&change, span, number);
            applied.map_err(|reason| Broken::Damaged(format!("segment {number}: {reason}")))?;
        }
        Ok(())
    })?;
    Ok((contents, end))
}

pub(super) fn missing(number: u64) -> Broken {
    Broken::Damaged(format!("segment {number} is missing"))
}

pub(super) fn foreign(number: u64) -> Broken {
    Broken::Damaged(format!("segment {number} is another log's, or of another time"))
}

/// Checks that a segment goes on where the one before it ends.
pub(super) fn check_follows(head: &Head, end: &End) -> Result<(), Broken> {
    let follows = end.is_sealed && (end.next.batch, end.next.chain) == (head.first_batch, head.chain);
    follows.then_some(()).ok_or_else(|| foreign(head.number))
}
