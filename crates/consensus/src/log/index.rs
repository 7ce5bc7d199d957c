//! What the log holds, and where: in memory, and no larger for old entries.

use super::change::{Change, Run, Sequence, Space, Span};
use crate::group_id::GroupId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// All values, and of each sequence which segment holds which part of it.
#[derive(Debug, Default)]
pub(super) struct Index {
    values: BTreeMap<(Space, Vec<u8>), Bytes>,
    /// Ascending, and without overlaps.
    runs: BTreeMap<(GroupId, Sequence), Vec<Run>>,
}

impl Index {
    /// Takes a change in that stands in `segment`.
    ///
    /// # Errors
    /// With the reason, if it does not fit what is there.
    pub(super) fn apply(&mut self, change: &Change, segment: u64) -> Result<(), String> {
        match change {
            Change::Append {
                group,
                sequence,
                index,
                ..
            } => {
                let runs = self.runs.entry((*group, *sequence)).or_default();
                truncate(runs, *index);
                match runs.last_mut() {
                    Some(last) if *sequence == Sequence::Entries && last.last + 1 != *index => {
                        return Err(format!("entry {index} of {group} follows entry {}", last.last));
                    }
                    Some(last) if last.segment == segment => last.last = *index,
                    _ => runs.push(Run {
                        first: *index,
                        last: *index,
                        segment,
                    }),
                }
            }
            Change::Truncate { group, from } => {
                for runs in self.sequences(*group) {
                    truncate(runs, *from);
                }
            }
            Change::Purge { group, before } => {
                for runs in self.sequences(*group) {
                    runs.retain(|run| run.last >= *before);
                    if let Some(first) = runs.first_mut() {
                        first.first = first.first.max(*before);
                    }
                }
            }
            Change::Set { space, key, value } => {
                let name = (*space, key.clone());
                match value {
                    Some(value) => self.values.insert(name, Bytes::copy_from_slice(value)),
                    None => self.values.remove(&name),
                };
            }
            Change::Known { group, sequence, run } => {
                let runs = self.runs.entry((*group, *sequence)).or_default();
                let follows = runs.last().is_none_or(|last| match sequence {
                    Sequence::Entries => last.last + 1 == run.first,
                    Sequence::Decisions => last.last < run.first,
                });
                if !follows || run.last < run.first || run.segment >= segment {
                    return Err(format!("{run:?} of {group} is out of place"));
                }
                runs.push(*run);
            }
        }
        Ok(())
    }

    fn sequences(&mut self, group: GroupId) -> impl Iterator<Item = &mut Vec<Run>> {
        self.runs
            .range_mut((group, Sequence::Entries)..=(group, Sequence::Decisions))
            .map(|(_, runs)| runs)
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.values.get(&(space, key.to_vec())).cloned()
    }

    /// The names from `from` up to `to` (exclusive), in order, with their values.
    pub(super) fn range(&self, space: Space, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Bytes)> {
        let bounds = (
            Bound::Included((space, from.to_vec())),
            Bound::Excluded((space, to.to_vec())),
        );
        self.values
            .range(bounds)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }

    /// A sequence's first and last index.
    pub(super) fn bounds(&self, group: GroupId, sequence: Sequence) -> Option<(u64, u64)> {
        let runs = self.runs.get(&(group, sequence))?;
        Some((runs.first()?.first, runs.last()?.last))
    }

    /// The first run that holds anything from `from` on.
    pub(super) fn run(&self, group: GroupId, sequence: Sequence, from: u64) -> Option<Run> {
        let runs = self.runs.get(&(group, sequence))?;
        let place = runs.partition_point(|run| run.last < from);
        runs.get(place).copied()
    }

    /// The oldest segment that anything stands in.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.runs.values().flatten().map(|run| run.segment).min()
    }

    /// Everything, as changes from nothing.
    pub(super) fn dump(&self) -> Vec<Change> {
        let values = self.values.iter().map(|((space, key), value)| Change::Set {
            space: *space,
            key: key.clone(),
            value: Some(value.to_vec()),
        });
        let runs = self.runs.iter().flat_map(|((group, sequence), runs)| {
            runs.iter().map(|run| Change::Known {
                group: *group,
                sequence: *sequence,
                run: *run,
            })
        });
        values.chain(runs).collect()
    }
}

fn truncate(runs: &mut Vec<Run>, from: u64) {
    while runs.last().is_some_and(|last| last.first >= from) {
        runs.pop();
    }
    if let Some(last) = runs.last_mut().filter(|last| last.last >= from) {
        last.last = from - 1;
    }
}

/// Where the records of one segment stand.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<(GroupId, Sequence), Vec<(u64, Span)>>);

impl Places {
    /// Takes in a change whose body stands at `span`.
    pub(super) fn apply(&mut self, change: &Change, span: Span) {
        match change {
            Change::Append {
                group,
                sequence,
                index,
                ..
            } => {
                let places = self.0.entry((*group, *sequence)).or_default();
                cut(places, *index);
                places.push((*index, span));
            }
            Change::Truncate { group, from } => {
                for sequence in [Sequence::Entries, Sequence::Decisions] {
                    if let Some(places) = self.0.get_mut(&(*group, sequence)) {
                        cut(places, *from);
                    }
                }
            }
            // What was purged is not asked for, and goes with the whole segment.
            Change::Purge { .. } | Change::Set { .. } | Change::Known { .. } => {}
        }
    }

    /// The records from `from` to `last` (included).
    pub(super) fn range(&self, group: GroupId, sequence: Sequence, from: u64, last: u64) -> &[(u64, Span)] {
        let Some(places) = self.0.get(&(group, sequence)) else {
            return &[];
        };
        let begin = places.partition_point(|(index, _)| *index < from);
        let end = places.partition_point(|(index, _)| *index <= last);
        &places[begin..end.max(begin)]
    }
}

fn cut(places: &mut Vec<(u64, Span)>, from: u64) {
    while places.last().is_some_and(|(index, _)| *index >= from) {
        places.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId(5);

    fn append(index: u64) -> Change {
        Change::Append {
            group: GROUP,
            sequence: Sequence::Entries,
            index,
            record: vec![],
        }
    }

    proptest! {
        /// Against the plainest model there is: which segment each index was last written to.
        #[test]
        fn runs_say_where_everything_stands(steps in proptest::collection::vec((0u8..8, 0u64..40), 1..200)) {
            let (mut index, mut model, mut segment) = (Index::default(), BTreeMap::<u64, u64>::new(), 1);
            for (what, number) in steps {
                let end = model.last_key_value().map_or(1, |(last, _)| last + 1);
                let begin = model.first_key_value().map_or(1, |(first, _)| *first);
                match what {
                    0 => {
                        segment += 1;
                        let mut again = Index::default();
                        for change in index.dump() {
                            again.apply(&change, segment).unwrap();
                        }
                        prop_assert_eq!(again.dump(), index.dump());
                    }
                    1 => {
                        let from = end.saturating_sub(number % 5).max(begin);
                        index.apply(&Change::Truncate { group: GROUP, from }, segment).unwrap();
                        model.retain(|at, _| *at < from);
                    }
                    2 if end > begin => {
                        let before = begin + number % (end - begin);
                        index.apply(&Change::Purge { group: GROUP, before }, segment).unwrap();
                        model.retain(|at, _| *at >= before);
                    }
                    3 if end > begin => {
                        prop_assert!(index.apply(&append(end + 1), segment).is_err(), "a gap was taken");
                    }
                    _ => {
                        let at = end - u64::from(what == 4 && end > begin);
                        index.apply(&append(at), segment).unwrap();
                        model.insert(at, segment);
                    }
                }
                for at in 0..60 {
                    let found = index.run(GROUP, Sequence::Entries, at).filter(|run| run.first <= at);
                    prop_assert_eq!(found.map(|run| run.segment), model.get(&at).copied(), "at {}", at);
                }
                prop_assert_eq!(index.oldest(), model.values().min().copied());
            }
        }
    }

    #[test]
    fn places_are_those_of_what_was_written_last() {
        let mut places = Places::default();
        let span = |offset| Span { offset, len: 1 };
        for (offset, index) in (0..).zip([4, 5, 6, 5, 6, 7]) {
            places.apply(&append(index), span(offset));
        }
        let found = |from, last| places.range(GROUP, Sequence::Entries, from, last).to_vec();
        assert_eq!(found(5, 6), [(5, span(3)), (6, span(4))]);
        assert_eq!(found(0, 100).len(), 4);
        assert_eq!(found(8, 9), []);
        places.apply(
            &Change::Truncate {
                group: GROUP,
                from: 6,
            },
            span(9),
        );
        assert_eq!(places.range(GROUP, Sequence::Entries, 0, 9).len(), 2);
    }
}
