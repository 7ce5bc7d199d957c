use super::*;
use proptest::prelude::*;

const NOW_US: u64 = 1_800_000_000_000_000;

fn id(term: u64, index: u64) -> LogIdRecord {
    LogIdRecord { term, node: 3, index }
}

fn sent(vote_term: u64, prev: Option<LogIdRecord>, ids: &[LogIdRecord]) -> Append {
    let record = |id: &LogIdRecord| LogRecord {
        log_id: Some(*id),
        ..LogRecord::default()
    };
    Append {
        vote: Some(VoteRecord {
            term: vote_term,
            node: 3,
            committed: true,
        }),
        prev,
        entries: ids.iter().map(record).collect(),
        commit: None,
    }
}

#[test]
fn terms_have_a_ceiling_that_grows() {
    assert!(
        term_max(0) > 1 << 30,
        "a clock of 1970 still lets a cluster elect"
    );
    assert_eq!(term_max(NOW_US + 1_000_000), term_max(NOW_US) + TERMS_PER_SECOND);
    assert!(term_max(u64::MAX) < u64::MAX - TERMS_SLACK);
    let max = term_max(NOW_US);
    assert_eq!(append(&sent(max, None, &[]), 3, max, None), Ok(()));
    assert!(append(&sent(max + 1, None, &[]), 3, max, None).is_err());
    assert!(append(&sent(u64::MAX, None, &[]), 3, max, None).is_err());
    assert!(
        append(&sent(5, None, &[]), 4, max, None).is_err(),
        "another's vote"
    );
}

#[test]
fn entries_follow_each_other() {
    let max = term_max(NOW_US);
    let check = |prev, ids: &[LogIdRecord]| append(&sent(9, prev, ids), 3, max, None).is_ok();
    assert!(check(None, &[id(0, 0), id(1, 1)]) && check(Some(id(7, 4)), &[id(7, 5), id(9, 6)]));
    assert!(!check(None, &[id(1, 1)]), "the first is missing");
    assert!(!check(Some(id(7, 4)), &[id(7, 5), id(7, 7)]), "a gap");
    assert!(!check(Some(id(7, 4)), &[id(6, 5)]), "a term that goes back");
    assert!(!check(Some(id(7, 4)), &[id(10, 5)]), "a term above the vote's");
    assert!(!check(Some(id(7, u64::MAX)), &[id(7, 0)]));
}

#[test]
fn what_is_committed_is_one_and_the_same() {
    let of = |term, index| LogId::from(id(term, index));
    let committed = Some(of(5, 10));
    let known = |index| (index > 2).then(|| of(if index < 8 { 4 } else { 5 }, index));
    let check = |said: &[LogId]| history(committed, known, said.iter().copied());
    assert_eq!(
        check(&[of(4, 7), of(5, 8), of(5, 10), of(5, 11), of(6, 12)]),
        Ok(())
    );
    assert_eq!(check(&[of(1, 2)]), Ok(()), "it was purged");
    for other in [of(5, 7), of(9, 10), of(4, 10), of(4, 11)] {
        assert_eq!(check(&[other]), Err(Unsound::Committed(other.index)));
    }
    assert_eq!(history(None, |_| None, [of(1, 1)]), Ok(()));
    // Nor does a message contradict itself.
    let mut message = sent(9, Some(id(7, 4)), &[id(7, 5), id(9, 6)]);
    for (commit, is_sound) in [
        (id(7, 5), true),
        (id(8, 5), false),
        (id(6, 4), false),
        (id(8, 9), true),
    ] {
        message.commit = Some(commit);
        assert_eq!(
            append(&message, 3, term_max(NOW_US), None).is_ok(),
            is_sound,
            "{commit:?}"
        );
    }
}

#[test]
fn a_new_entry_is_not_far_ahead() {
    let entry = |timestamp_us| {
        let entry = crate::entry::EncodedEntry {
            version: crate::ENTRY_VERSION,
            timestamp_us,
            batches: vec![],
        };
        Some(entry.encode_to_vec().into())
    };
    let mut message = sent(9, Some(id(7, 4)), &[id(7, 5)]);
    message.entries[0].entry = entry(1_000);
    let check = |message: &Append, max| append(message, 3, term_max(NOW_US), max).is_ok();
    assert!(check(&message, Some(1_000)) && check(&message, None) && !check(&message, Some(999)));
    message.entries[0].entry = entry(i64::MAX);
    assert!(!check(&message, Some(i64::MIN)));
}

#[test]
fn members_have_ids_and_addresses() {
    use crate::record::{MemberRecord, VoterSet};
    let record = |voters: &[&[u64]], members: &[(u64, &str)]| MembershipRecord {
        configs: voters
            .iter()
            .map(|set| VoterSet { voters: set.to_vec() })
            .collect(),
        members: members
            .iter()
            .map(|(id, addr)| {
                let addr = (*addr).to_owned();
                (
                    *id,
                    MemberRecord {
                        addr,
                        ..MemberRecord::default()
                    },
                )
            })
            .collect(),
        ..MembershipRecord::default()
    };
    assert!(members(&record(
        &[&[1], &[1, 2]],
        &[(1, "a:1"), (2, "b:1"), (3, "c:1")]
    )));
    let long = format!("{}:1", "a".repeat(ADDR_BYTES_MAX));
    for (voters, known) in [
        (&[][..], &[(1, "a:1")][..]),
        (&[&[][..]], &[(1, "a:1")]),
        (&[&[1, 2]], &[(1, "a:1")]),
        (&[&[1], &[1], &[1]], &[(1, "a:1")]),
        (&[&[0]], &[(0, "a:1")]),
        (&[&[1]], &[(1, "")]),
        (&[&[1]], &[(1, &long)]),
    ] {
        assert!(!members(&record(voters, known)), "{voters:?} {known:?}");
    }
    assert_eq!(founders(&[1, 2, 3], 2, 1), Some(BTreeSet::from([1, 2, 3])));
    for (nodes, me, from) in [
        (&[1, 3][..], 2, 1),
        (&[1, 2], 2, 3),
        (&[1, 2, 2], 2, 1),
        (&[0, 1, 2], 2, 1),
        (&[], 2, 1),
    ] {
        assert_eq!(founders(nodes, me, from), None);
    }
}

#[test]
fn a_follower_answers_what_it_was_sent() {
    let (prev, last) = (Some(id(7, 4)), Some(id(9, 6)));
    let check = |matching, conflict, higher| {
        appended(
            &Appended {
                matching,
                conflict,
                higher,
            },
            prev,
            last,
            100,
        )
        .is_ok()
    };
    assert!(check(last, None, None) && check(prev, None, None) && check(None, prev, None));
    assert!(!check(Some(id(9, 7)), None, None), "more than it was sent");
    assert!(!check(Some(id(8, 6)), None, None), "another entry");
    assert!(!check(None, Some(id(7, 3)), None) && !check(None, last, None));
    let higher = |term| {
        Some(VoteRecord {
            term,
            node: 2,
            committed: false,
        })
    };
    assert!(check(None, None, higher(100)) && !check(None, None, higher(u64::MAX)));
}

proptest! {
    #[test]
    fn nothing_that_is_said_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        numbers in proptest::array::uniform6(prop_oneof![Just(0), Just(u64::MAX), 0u64..9, any::<u64>()]),
    ) {
        if let Ok(message) = Append::decode(&*bytes) {
            drop(append(&message, numbers[0], numbers[1]>>1, Some(numbers[2] as i64)));
        }
        let [term, prev, first, second, from, now] = numbers;
        drop(append(&sent(term, Some(id(term, prev)), &[id(term, first), id(prev, second)]), from, term_max(now), None));
        let batch = EncodedBatch { node: 1, epoch: term, first_seq: first, commands: vec![bytes.into()] };
        drop(proposals(&batch, now));
    }
}
