use super::*;

const A: DatabaseId = [1; 32];
const B: DatabaseId = [2; 32];

fn behind(commands: u64) -> Lag {
    Lag {
        commands,
        ..Lag::default()
    }
}

fn old(age_ms: u64) -> Lag {
    Lag {
        commands: LAG_POSITIONS_MIN + 1,
        age_ms,
        applied: 0,
    }
}

/// Some nodes, of which this is node 1, and a clock.
struct Cluster {
    lags: Lags,
    voters: BTreeSet<u64>,
    now: Instant,
}

impl Cluster {
    fn of(voters: u64) -> Self {
        Self {
            lags: Lags::new(1),
            voters: (1..=voters).collect(),
            now: Instant::now(),
        }
    }

    fn say(&mut self, node: u64, lag: Lag) -> &mut Self {
        self.lags.note(node, [(A, lag)], self.now);
        self
    }

    fn judge(&mut self) -> Vec<Slowed> {
        self.lags.judge(&self.voters, self.now)
    }

    fn is_slowed(&mut self) -> bool {
        !self.judge().is_empty()
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }
}

#[test]
fn a_lag_is_common_if_a_majority_has_it() {
    let mut it = Cluster::of(3);
    let is_common = |it: &Cluster| it.lags.is_common(&A, &it.voters, it.now);
    it.say(1, old(LAG_MS_MAX)).say(4, old(LAG_MS_MAX));
    assert!(!is_common(&it), "one of three, and one that does not vote");
    it.say(3, old(LAG_MS_MAX / 2));
    assert!(is_common(&it) && !it.lags.is_common(&B, &it.voters, it.now));
    it.pass(SAID_AGE_MAX.as_millis() as u64 + 1);
    assert!(!is_common(&it), "long ago");
    assert!(behind(1).is_little() && !behind(0).is_little() && !old(1).is_little());
}

#[test]
fn a_node_is_behind_the_others_if_it_lags_and_most_of_them_do_not() {
    let mut it = Cluster::of(3);
    let is_behind = |it: &Cluster| it.lags.is_behind_others(&it.voters, it.now);
    it.say(1, old(LAG_MS_MAX)).say(2, old(LAG_MS_MAX + 1));
    assert!(!is_behind(&it), "others");
    let mut it = Cluster::of(3);
    it.say(1, old(LAG_MS_MAX + 1));
    assert!(is_behind(&it));
    it.say(2, old(LAG_MS_MAX / 2 + 1));
    assert!(!is_behind(&it), "most of them");
    let mut it = Cluster::of(1);
    it.say(1, old(LAG_MS_MAX + 1));
    assert!(!is_behind(&it), "there is no other");
    // Few commands, which the others have applied, or not.
    let one = |age_ms| Lag {
        commands: 1,
        age_ms,
        applied: 0,
    };
    let mut it = Cluster::of(3);
    it.say(1, one(LAG_MS_MAX));
    assert!(!is_behind(&it), "not for long");
    it.say(1, one(LAG_MS_MAX + 1));
    assert!(is_behind(&it) && !it.say(2, one(LAG_MS_MAX + 1)).is_slowed());
    it.say(2, one(LAG_MS_MAX / 2 + 1));
    assert!(!is_behind(&it), "a long call");
    // The others have a long call, too, and this node stands still for longer.
    it.say(1, old(2 * LAG_MS_MAX)).say(2, one(LAG_MS_MAX / 2));
    it.say(3, one(LAG_MS_MAX / 2));
    assert!(is_behind(&it), "they will have it behind them");
    it.say(2, one(LAG_MS_MAX));
    assert!(!is_behind(&it), "they stand still as well");
}

#[test]
fn a_database_is_slowed_while_a_majority_lags() {
    const MAX: u64 = LAG_POSITIONS_MAX;
    let mut it = Cluster::of(3);
    assert!(!it.say(1, behind(9 * MAX)).is_slowed(), "one of three");
    assert!(!it.say(2, behind(MAX)).is_slowed(), "not beyond the limit");
    assert!(it.say(2, behind(MAX + 1)).is_slowed());
    assert!(it.lags.is_slowed(&A) && !it.lags.is_slowed(&B));
    assert!(
        it.say(2, behind(MAX / 2 + 1)).is_slowed(),
        "not before half of it"
    );
    assert!(!it.say(2, behind(MAX / 2)).is_slowed());
    assert!(!it.say(2, behind(MAX)).is_slowed(), "not again before the limit");
}

#[test]
fn old_commands_count_if_they_are_more_than_a_few() {
    let mut it = Cluster::of(3);
    assert!(!it.say(1, old(LAG_MS_MAX)).say(2, old(LAG_MS_MAX)).is_slowed());
    let few = Lag {
        commands: LAG_POSITIONS_MIN,
        ..old(99 * LAG_MS_MAX)
    };
    assert!(!it.say(1, few).say(2, few).is_slowed(), "a long call");
    let older = old(LAG_MS_MAX + 1);
    assert!(it.say(1, older).say(2, older).is_slowed());
    assert!(it.say(2, old(LAG_MS_MAX / 2 + 1)).is_slowed());
    assert!(!it.say(2, old(LAG_MS_MAX / 2)).is_slowed());
}

#[test]
fn who_does_not_vote_or_is_not_heard_does_not_count() {
    let far = behind(2 * LAG_POSITIONS_MAX);
    let mut it = Cluster::of(3);
    assert!(!it.say(1, far).say(4, far).say(5, far).is_slowed(), "no voters");
    assert!(it.say(2, far).is_slowed());
    it.pass(SAID_AGE_MAX.as_millis() as u64 + 1);
    assert!(!it.say(1, far).is_slowed(), "node 2 is not heard any more");
    assert!(!Cluster::of(0).say(1, far).is_slowed(), "there is no cluster yet");
    assert!(Cluster::of(1).say(1, far).is_slowed());
}

#[test]
fn no_node_can_slow_a_database_alone() {
    let worst = Lag {
        commands: u64::MAX,
        age_ms: u64::MAX,
        applied: u64::MAX,
    };
    let mut it = Cluster::of(3);
    assert!(!it.say(1, behind(10)).say(2, behind(10)).say(3, worst).is_slowed());
    // Nor let through what the others don't follow.
    let far = behind(2 * LAG_POSITIONS_MAX);
    it.say(1, far).say(2, far).say(3, behind(u64::MAX)).judge();
    it.say(3, worst);
    assert_eq!(it.judge()[0].calls, 0);
}

#[test]
fn what_is_let_through_is_a_share_of_what_a_majority_applies() {
    let at = |applied| Lag {
        applied,
        ..behind(2 * LAG_POSITIONS_MAX)
    };
    let mut it = Cluster::of(3);
    it.say(1, at(100)).say(2, at(7_000)).judge();
    it.say(1, at(700)).say(2, at(7_300));
    assert_eq!(
        it.judge()[0].calls,
        100,
        "node 3 keeps up, so a majority has the 600, halved and shared by three"
    );
    assert_eq!(it.judge()[0].calls, 0, "that was let through");
    it.say(2, at(9_400));
    assert_eq!(it.judge()[0].calls, 300);
    it.say(2, at(0));
    assert_eq!(it.judge()[0].calls, 0, "it has begun anew");
    it.say(2, at(600));
    assert_eq!(it.judge()[0].calls, 100);
    it.say(3, at(5)).judge();
    it.say(1, at(1_300)).say(2, at(3_600));
    assert_eq!(
        it.judge()[0].calls,
        100,
        "all three lag: the second best of them counts"
    );
}

#[test]
fn a_little_is_let_through_whatever_the_replicas_do() {
    let far = behind(2 * LAG_POSITIONS_MAX);
    let mut it = Cluster::of(3);
    it.say(1, far).say(2, far).judge();
    let mut calls = 0;
    for _ in 0..40 {
        it.pass(250);
        calls += it.say(1, far).say(2, far).judge()[0].calls;
    }
    assert_eq!(calls, 10 * SLOWED_CALLS_PER_SECOND_MIN);
}

#[test]
fn a_node_tells_the_worst_within_bounds() {
    let mut lags = Lags::new(1);
    let many = (0..2 * LAGGING_MAX as u64).map(|n| {
        let mut database = [0; 32];
        database[..8].copy_from_slice(&n.to_le_bytes());
        (database, behind(LAG_POSITIONS_MAX / 4 + n))
    });
    let now = Instant::now();
    lags.note(1, many, now);
    lags.note(2, [(B, behind(u64::MAX))], now);
    let told = lags.told();
    assert_eq!(told.len(), LAGGING_MAX);
    assert_eq!(
        told[0].1.commands,
        LAG_POSITIONS_MAX / 4 + 2 * LAGGING_MAX as u64 - 1
    );
    lags.note(1, [(A, behind(LAG_POSITIONS_MAX / 4))], now);
    assert_eq!(lags.told(), [], "what lags little is no news");
    lags.note(1, [(A, behind(LAG_POSITIONS_MAX))], now);
    assert_eq!(lags.told(), [(A, behind(LAG_POSITIONS_MAX))]);
}
