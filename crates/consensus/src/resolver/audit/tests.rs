use super::*;
use proptest::prelude::*;

fn voters(count: u64) -> BTreeSet<u64> {
    (1..=count).collect()
}

fn noted(audit: &mut Audit, voters: &BTreeSet<u64>, reports: &[(u64, u64, u64)]) {
    for (node, position, digest) in reports.iter().copied() {
        audit.note(node, Holding { position, digest }, voters, 0);
    }
}

#[test]
fn a_majority_is_right_and_who_differs_is_named() {
    let (mut audit, voters) = (Audit::default(), voters(3));
    noted(&mut audit, &voters, &[(1, 10, 7), (2, 10, 7), (3, 10, 7)]);
    assert_eq!(
        audit.agreed(),
        Some(Holding {
            position: 10,
            digest: 7
        })
    );
    assert!(audit.open.is_empty() && audit.diverged().is_empty());

    noted(&mut audit, &voters, &[(3, 20, 9), (1, 20, 8)]);
    let contest = audit.contest().unwrap();
    assert_eq!((contest.after, contest.by), (10, 20));
    assert!(!contest.is_split(DOUBT_US - 1) && contest.is_split(DOUBT_US));
    noted(&mut audit, &voters, &[(2, 20, 8)]);
    assert_eq!(audit.contest(), None);
    assert_eq!(audit.diverged().get(&3), Some(&Divergence { after: 10, by: 20 }));

    // It stays so, and where it was first seen, until it holds what the others do.
    noted(&mut audit, &voters, &[(1, 30, 1), (2, 30, 1), (3, 30, 2)]);
    assert_eq!(audit.diverged().get(&3), Some(&Divergence { after: 10, by: 20 }));
    noted(&mut audit, &voters, &[(1, 40, 3), (2, 40, 3), (3, 40, 3)]);
    assert!(audit.diverged().is_empty());
}

#[test]
fn a_replica_that_is_behind_is_compared_when_it_comes() {
    let (mut audit, voters) = (Audit::default(), voters(3));
    noted(
        &mut audit,
        &voters,
        &[(1, 10, 7), (2, 10, 7), (1, 20, 8), (2, 20, 8)],
    );
    assert!(audit.diverged().is_empty());
    noted(&mut audit, &voters, &[(3, 10, 6)]);
    assert_eq!(audit.diverged().get(&3), Some(&Divergence { after: 0, by: 10 }));
}

#[test]
fn learners_are_compared_and_do_not_count() {
    let (mut audit, voters) = (Audit::default(), voters(3));
    noted(&mut audit, &voters, &[(4, 10, 1), (5, 10, 1), (1, 10, 7)]);
    assert_eq!((audit.agreed(), audit.contest()), (None, None));
    noted(&mut audit, &voters, &[(2, 10, 7)]);
    assert_eq!(audit.diverged().keys().copied().collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn where_no_two_agree_the_database_is_split_until_someone_says_who_is_right() {
    let (mut audit, voters) = (Audit::default(), voters(3));
    noted(&mut audit, &voters, &[(1, 10, 1), (2, 10, 2), (3, 10, 3)]);
    assert!(audit.contest().unwrap().is_split(0));
    // Nor can it come right by itself.
    noted(&mut audit, &voters, &[(1, 20, 4), (2, 20, 5)]);
    assert!(audit.contest().unwrap().is_split(0));
    assert!(!audit.resolve(4), "it has said nothing");
    assert!(audit.resolve(2));
    assert_eq!(audit.contest(), None);
    assert_eq!(audit.diverged().keys().copied().collect::<Vec<_>>(), [1, 3]);
    assert!(!audit.resolve(2));
    // What those still say is no contradiction; the one that is right goes on alone.
    noted(&mut audit, &voters, &[(3, 30, 4), (2, 30, 5)]);
    assert_eq!(audit.contest(), None);
}

#[test]
fn what_is_kept_is_bounded() {
    let (mut audit, voters) = (Audit::default(), voters(3));
    for position in 0..10 * POSITIONS_MAX as u64 {
        noted(&mut audit, &voters, &[(1, position, 1)]);
    }
    assert_eq!(audit.open.len(), POSITIONS_MAX);
    // What is older than all that is kept is passed over.
    noted(&mut audit, &voters, &[(2, 1, 1)]);
    assert!(audit.open.len() == POSITIONS_MAX && !audit.open.contains_key(&1));
}

/// Clients come and go while a split database waits for an operator.
#[test]
fn a_split_can_be_resolved_whatever_is_reported_meanwhile() {
    let (mut audit, voters) = (Audit::default(), voters(3));
    noted(&mut audit, &voters, &[(1, 10, 1), (2, 10, 2)]);
    assert!(audit.contest().unwrap().is_split(DOUBT_US));
    for position in 0..10 * POSITIONS_MAX as u64 {
        noted(&mut audit, &voters, &[(1 + position % 2, 11 + position, 3)]);
    }
    assert_eq!(audit.open.len(), POSITIONS_MAX);
    assert_eq!(audit.contestants().collect::<Vec<_>>(), [1, 2]);
    assert!(audit.resolve(1));
}

#[test]
fn a_learner_that_is_a_little_behind_is_compared() {
    let (mut audit, voters) = (Audit::default(), voters(3));
    for position in 1..=100u64 {
        noted(
            &mut audit,
            &voters,
            &[(1, position, 7), (2, position, 7), (3, position, 7)],
        );
        if position > 1 {
            noted(&mut audit, &voters, &[(4, position - 1, 8)]);
        }
    }
    assert!(audit.diverged().contains_key(&4));
    assert!(audit.open.is_empty() && audit.agreed.len() == AGREED_MAX);
}

#[test]
fn what_may_begin_anew_begins_once_and_there() {
    let mut audit = Audit::default();
    for at in 0..2 * CLEARS_MAX as u64 {
        audit.may_begin(at);
    }
    assert_eq!(audit.clears.len(), CLEARS_MAX);
    let at = CLEARS_MAX as u64 + 3;
    assert!(audit.might_begin(at) && !audit.might_begin(at));
    audit.begin(at);
    // What comes before is decided with it.
    assert!(!audit.might_begin(at - 1) && audit.might_begin(at + 1));
    noted(&mut audit, &voters(1), &[(1, at - 1, 1)]);
    assert_eq!(audit.agreed(), None);
    noted(&mut audit, &voters(1), &[(1, at, 1)]);
    assert_eq!(audit.agreed().map(|agreed| agreed.position), Some(at));
}

proptest! {
    /// A restart between any two reports changes nothing.
    #[test]
    fn what_is_written_is_all_there_is(
        reports in proptest::collection::vec((1..6u64, 1..4u64, 0..3u64), 1..24),
    ) {
        let (mut audit, mut restarted) = (Audit::default(), Audit::default());
        for report in reports {
            noted(&mut audit, &voters(3), &[report]);
            noted(&mut restarted, &voters(3), &[report]);
            restarted = Audit::decode(restarted.encode().into()).unwrap();
            prop_assert_eq!(&restarted, &audit);
        }
    }
}
