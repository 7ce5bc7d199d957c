//! The log after crashes, at any moment, and after damage, at any byte: generated, on a disk in memory.

use super::super::broken::Broken;
use super::super::change::{Change, Sequence, Space};
use super::super::journal::Journal;
use super::super::queue::Done;
use super::super::sim::{Crash, Op, SimFiles};
use super::super::store::Store;
use crate::group_id::GroupId;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Small, so that a few writes fill one.
const SEGMENT_BYTES: u64 = 8 << 10;

const GROUPS: [GroupId; 3] = [GroupId(0), GroupId(1), GroupId(u64::MAX)];

fn path() -> &'static Path {
    Path::new("/node")
}

fn folder() -> PathBuf {
    path().join("log")
}

/// All that a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Contents {
    values: BTreeMap<(Space, Vec<u8>), Bytes>,
    records: BTreeMap<(GroupId, Sequence, u64), Bytes>,
}

impl Contents {
    /// The plainest model of what changes do.
    fn apply(&mut self, change: &Change) {
        let kept = |group: GroupId, keep: &dyn Fn(u64) -> bool, all: &mut BTreeMap<_, _>| {
            all.retain(|(of, _, index): &(GroupId, Sequence, u64), _| *of != group || keep(*index));
        };
        match change {
            Change::Append {
                group,
                sequence,
                index,
                record,
            } => {
                self.records
                    .retain(|(of, kind, at), _| (of, kind) != (group, sequence) || at < index);
                let record = Bytes::copy_from_slice(record);
                self.records.insert((*group, *sequence, *index), record);
            }
            Change::Truncate { group, from } => kept(*group, &|index| index < *from, &mut self.records),
            Change::Purge { group, before } => kept(*group, &|index| index >= *before, &mut self.records),
            Change::Set { space, key, value } => {
                let name = (*space, key.clone());
                match value {
                    Some(value) => self.values.insert(name, Bytes::copy_from_slice(value)),
                    None => self.values.remove(&name),
                };
            }
            Change::Known { .. } => unreachable!("only in checkpoints"),
        }
    }

    fn read(journal: &Journal) -> Result<Self, Broken> {
        let reader = journal.reader();
        reader.verify()?;
        let mut contents = Self::default();
        for space in [Space::Meta, Space::State] {
            for (key, value) in reader.range(space, &[], &[0xff; 64]) {
                contents.values.insert((space, key), value);
            }
        }
        for group in GROUPS {
            for sequence in [Sequence::Entries, Sequence::Decisions] {
                for (index, record) in reader.read(group, sequence, 0, u64::MAX, usize::MAX)? {
                    contents.records.insert((group, sequence, index), record);
                }
            }
        }
        Ok(contents)
    }

    fn end(&self, group: GroupId, sequence: Sequence) -> u64 {
        let range = (group, sequence, 0)..=(group, sequence, u64::MAX);
        self.records
            .range(range)
            .next_back()
            .map_or(1, |((.., last), _)| last + 1)
    }

    fn begin(&self, group: GroupId) -> u64 {
        let range = (group, Sequence::Entries, 0)..=(group, Sequence::Entries, u64::MAX);
        self.records
            .range(range)
            .next()
            .map_or(1, |((.., first), _)| *first)
    }

    fn state(&self, key: &[u8]) -> Option<u64> {
        let value = self.values.get(&(Space::State, key.to_vec()))?;
        Some(u64::from_le_bytes(value[..8].try_into().unwrap()))
    }
}

fn applied_key(group: GroupId) -> Vec<u8> {
    [b"applied".as_slice(), &group.0.to_be_bytes()].concat()
}

/// The next write of a node's life, and whether somebody waits for it.
fn next_write(contents: &Contents, rng: &mut StdRng) -> (Vec<Change>, bool) {
    let group = GROUPS[rng.random_range(0..GROUPS.len())];
    let end = contents.end(group, Sequence::Entries);
    let decided = contents.end(group, Sequence::Decisions);
    let record = |rng: &mut StdRng| {
        let len = match rng.random_range(0..20) {
            0 => rng.random_range(4_000..20_000),
            1 => 0,
            _ => rng.random_range(1..700),
        };
        // Rows of zeros are what a torn write looks like.
        vec![rng.random_range(0..3); len]
    };
    match rng.random_range(0..12) {
        0 => {
            let key = vec![b'k', rng.random_range(0..4)];
            let value = rng.random_bool(0.7).then(|| record(rng));
            (
                vec![Change::Set {
                    space: Space::Meta,
                    key,
                    value,
                }],
                true,
            )
        }
        1 if end > decided => {
            let from = rng.random_range(decided..=end);
            (vec![Change::Truncate { group, from }], true)
        }
        2 if decided > contents.begin(group) + 20 => {
            let before = rng.random_range(contents.begin(group)..decided);
            (vec![Change::Purge { group, before }], true)
        }
        3..6 if end > decided => {
            // The resolver's decisions and how far it has come, about entries that came before.
            let upto = rng.random_range(decided..end);
            let mut changes: Vec<Change> = (decided..=upto)
                .map(|index| Change::Append {
                    group,
                    sequence: Sequence::Decisions,
                    index,
                    record: vec![7; rng.random_range(0..60)],
                })
                .collect();
            let value = [upto.to_le_bytes().to_vec(), vec![0; rng.random_range(0..900)]].concat();
            changes.push(Change::set(Space::State, applied_key(group), value));
            (changes, false)
        }
        _ => {
            let changes = (end..end + rng.random_range(1..5)).map(|index| Change::Append {
                group,
                sequence: Sequence::Entries,
                index,
                record: record(rng),
            });
            (changes.collect(), true)
        }
    }
}

/// A node's life on a disk in memory: what was done to the disk, and what the log held after each write.
fn live(seed: u64, writes: usize) -> (SimFiles, Vec<Contents>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (files, mut rng) = (SimFiles::default(), StdRng::seed_from_u64(seed));
        let store = Store::on(Arc::new(files.clone()), path(), 1, SEGMENT_BYTES, true, None).unwrap();
        let mut contents = Contents::default();
        contents.apply(&Change::set(
            Space::Meta,
            b"node".to_vec(),
            1u64.to_be_bytes().to_vec(),
        ));
        let (mut states, mut pending) = (vec![contents.clone()], Vec::new());
        files.acknowledge(0);
        for number in 1..=writes {
            let (changes, is_awaited) = next_write(&contents, &mut rng);
            changes.iter().for_each(|change| contents.apply(change));
            states.push(contents.clone());
            if is_awaited {
                let (done, waiter) = oneshot::channel();
                store.write(changes, Done::Synced(done)).await.unwrap();
                pending.push((number, waiter));
            } else {
                let (written, index) = (Arc::default(), 0);
                store
                    .write(changes, Done::Later { written, index })
                    .await
                    .unwrap();
            }
            // Sometimes many are under way, so that they share a batch.
            if rng.random_bool(0.3) {
                for (number, waiter) in pending.drain(..) {
                    waiter.await.unwrap().unwrap();
                    files.acknowledge(number);
                }
            }
        }
        drop(store);
        (files, states)
    })
}

/// Opens what a crash left, and checks that it is what was written, up to some write that is not before the last that
/// was acknowledged.
fn check(disk: &SimFiles, states: &[Contents], acknowledged: Option<usize>) -> Result<(), String> {
    let files: Arc<SimFiles> = Arc::new(disk.clone());
    let mut journal = match (
        Journal::open(files.clone(), &folder(), SEGMENT_BYTES),
        acknowledged,
    ) {
        (Ok(journal), _) => journal,
        // Nobody was told that there is a log.
        (Err(_), None) => return Ok(()),
        (Err(error), Some(_)) => return Err(format!("it does not open: {error}")),
    };
    let found = Contents::read(&journal).map_err(|error| format!("it can't be read: {error}"))?;
    if found.values.is_empty() && acknowledged.is_none() {
        return Ok(());
    }
    let stands = states.iter().rposition(|state| *state == found);
    let stands = stands.ok_or("it holds what was never there")?;
    if Some(stands) < acknowledged {
        return Err(format!(
            "it stands at write {stands}, and {acknowledged:?} was acknowledged"
        ));
    }
    for group in GROUPS {
        let applied = found.state(&applied_key(group)).unwrap_or(0);
        if applied >= found.end(group, Sequence::Entries) {
            return Err(format!(
                "{group} was applied up to {applied}, which it does not hold"
            ));
        }
    }
    // It goes on from there.
    let mut then = found.clone();
    for byte in 0..3 {
        let change = Change::Append {
            group: GROUPS[0],
            sequence: Sequence::Entries,
            index: then.end(GROUPS[0], Sequence::Entries),
            record: vec![byte; 900],
        };
        then.apply(&change);
        journal
            .append(&[change])
            .map_err(|error| format!("it can't be written: {error}"))?;
    }
    drop(journal);
    let journal =
        Journal::open(files, &folder(), SEGMENT_BYTES).map_err(|error| format!("not again: {error}"))?;
    let again = Contents::read(&journal).map_err(|error| format!("not again: {error}"))?;
    (again == then)
        .then_some(())
        .ok_or("it is not what it was, and what was added".to_owned())
}

fn acknowledged(trace: &[Op]) -> Option<usize> {
    trace
        .iter()
        .filter_map(|op| match op {
            Op::Acknowledged(count) => Some(*count),
            _ => None,
        })
        .max()
}

#[test]
fn ten_thousand_crashes_lose_nothing_that_was_acknowledged() {
    const POINTS: usize = 10_000;
    let (mut points, mut recoveries, mut seed) = (0, 0, 0);
    while points < POINTS {
        seed += 1;
        let (files, states) = live(seed, 60);
        let (trace, before) = (files.trace(), SimFiles::default());
        let mut rng = StdRng::seed_from_u64(seed);
        for at in 0..=trace.len() {
            if let Some(done) = at.checked_sub(1) {
                before.apply(&trace[done]);
            }
            let crashes: &[Crash] = match trace.get(at) {
                Some(Op::Acknowledged(_)) => continue,
                Some(Op::Write { .. } | Op::Sync { .. }) => {
                    &[Crash::PowerCut, Crash::PowerCut, Crash::Killed]
                }
                _ => &[Crash::PowerCut, Crash::Killed],
            };
            let known = acknowledged(&trace[..at]);
            let sound = |disk: &SimFiles, what: &str| {
                if let Err(reason) = check(disk, &states, known) {
                    panic!(
                        "seed {seed}, {what} at operation {at} of {}: {reason}",
                        trace.len()
                    );
                }
            };
            for crash in crashes {
                let disk = before.crashed(&[], trace.get(at), *crash, &mut rng);
                // And another one, while it recovers.
                if rng.random_bool(0.3) {
                    let probe = disk.copy();
                    drop(Journal::open(Arc::new(probe.clone()), &folder(), SEGMENT_BYTES));
                    let recovery = probe.trace();
                    let at = rng.random_range(0..recovery.len().max(1)).min(recovery.len());
                    let again = disk.crashed(&recovery[..at], recovery.get(at), Crash::PowerCut, &mut rng);
                    sound(&again, "a power cut in the recovery from a crash");
                    recoveries += 1;
                    points += 1;
                }
                sound(&disk, &format!("{crash:?}"));
                points += 1;
            }
        }
    }
    assert!(
        recoveries > POINTS / 10,
        "only {recoveries} crashes in a recovery"
    );
}

/// What is on a disk, or `None` if it is refused.
fn read(disk: &SimFiles) -> Option<Contents> {
    let journal = Journal::open(Arc::new(disk.clone()), &folder(), SEGMENT_BYTES).ok()?;
    Contents::read(&journal).ok()
}

/// A small log of a few segments.
fn small() -> (SimFiles, Contents) {
    for seed in 1.. {
        let (files, states) = live(seed, 24);
        let opened = files.copy();
        let contents = states.last().unwrap().clone();
        assert!(read(&opened).as_ref() == Some(&contents));
        // All of them are needed, and none is large.
        let sizes = files.sizes();
        let bytes: usize = sizes.iter().map(|(_, size)| size).sum();
        if sizes.len() == 3 && opened.sizes() == sizes && bytes < 4 * SEGMENT_BYTES as usize {
            return (files, contents);
        }
    }
    unreachable!("there is always another seed")
}

#[test]
fn every_flipped_byte_is_harmless_or_refused() {
    let (files, contents) = small();
    let (mut refused, mut harmless, mut rng) = (0, 0, StdRng::seed_from_u64(1));
    for (path, size) in files.sizes() {
        for at in 0..size {
            let disk = files.copy();
            let flip = rng.random_range(1..=255);
            disk.rot(&path, |bytes| bytes[at] ^= flip);
            match read(&disk) {
                None => refused += 1,
                Some(found) => {
                    assert!(
                        found == contents,
                        "byte {at} of {} changed by {flip}",
                        path.display()
                    );
                    harmless += 1;
                }
            }
        }
    }
    // Only what lies behind a segment's seal is of no meaning.
    assert!(refused > 4 * harmless, "{refused} refused, {harmless} harmless");
}

#[test]
fn every_other_length_is_refused() {
    let (files, _) = small();
    for (path, size) in files.sizes() {
        for len in (0..size).chain([size + 1, size + 512]) {
            let disk = files.copy();
            disk.rot(&path, |bytes| bytes.resize(len, 0));
            assert!(
                read(&disk).is_none(),
                "{} of {len} bytes instead of {size}",
                path.display()
            );
        }
        let disk = files.copy();
        disk.forget(&path);
        assert!(read(&disk).is_none(), "without {}", path.display());
    }
}

#[test]
fn an_older_picture_of_a_segment_is_refused() {
    // A disk that forgot what it had synced, but for the files' names: as a restored copy would look.
    let (files, _) = small();
    let trace = files.trace();
    let sizes = files.sizes();
    let mut refused = 0;
    for at in 0..trace.len() {
        let mut rng = StdRng::seed_from_u64(1);
        let older = SimFiles::default().crashed(&trace[..at], None, Crash::Killed, &mut rng);
        for (path, _) in &sizes[..sizes.len() - 1] {
            let (Some(old), disk) = (older.content(path), files.copy()) else {
                continue;
            };
            if Some(&old) == files.content(path).as_ref() {
                continue;
            }
            disk.rot(path, |bytes| *bytes = old);
            assert!(
                read(&disk).is_none(),
                "{} as it was at operation {at}",
                path.display()
            );
            refused += 1;
        }
    }
    assert!(refused > 10, "{refused} pictures");
}
