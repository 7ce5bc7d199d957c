//! What the log says of commands: which have failed, at which this node has said to be stuck, which publications are
//! refused, and where the database ends.

use crate::DatabaseId;
use rtdb_consensus::command::{Judgement, Poison, PoisonStep};
use rtdb_consensus::{Origin, Position};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The latest publications of which it is kept why they were refused; of those before, only that they were.
const REASONS_MAX: usize = 64;
const REFUSED: &str = "it was refused";

/// A publication that is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Whether it breaks clients.
    pub(crate) breaks: bool,
}

/// What the log says, by database.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(BTreeMap<DatabaseId, Arc<Verdict>>);

/// What it says of one database's commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    failed: BTreeMap<Position, &'static str>,
    stuck: Option<Position>,
    /// What came of publications, and why those that were refused were.
    judged: BTreeMap<Position, Result<Taken, Arc<str>>>,
    /// Where the database was deleted last.
    deleted: Position,
}

impl Verdicts {
    /// Takes what a command says, as `node` hears it.
    pub(crate) fn note(&mut self, node: u64, origin: Origin, poison: &Poison) {
        let Ok(database) = DatabaseId::try_from(poison.database.as_ref()) else {
            return;
        };
        let position = Position(poison.position);
        let verdict = Arc::make_mut(self.0.entry(database).or_default());
        if let Some(PoisonStep::Stuck(stuck)) = &poison.step
            && origin.node == node
        {
            verdict.stuck = Some(position).filter(|_| stuck.attempts > 0);
        }
        let Some(why) = poison.failure() else { return };
        verdict.failed.insert(position, why);
        verdict.stuck = verdict.stuck.filter(|stuck| *stuck != position);
    }

    /// Takes what a replica says of a publication. The first word holds.
    pub(crate) fn judge(&mut self, judgement: &Judgement) {
        let Ok(database) = DatabaseId::try_from(judgement.database.as_ref()) else {
            return;
        };
        let verdict = Arc::make_mut(self.0.entry(database).or_default());
        verdict
            .judged
            .entry(Position(judgement.position))
            .or_insert_with(|| {
                let breaks = judgement.breaks;
                let refusal = judgement.refusal.as_deref();
                refusal.map_or(Ok(Taken { breaks }), |text| Err(text.into()))
            });
        if let Some((_, Err(old))) = verdict.judged.iter_mut().nth_back(REASONS_MAX) {
            *old = REFUSED.into();
        }
    }

    /// The database is deleted at `position`: what is said of what stands before it helps nobody any more.
    pub(crate) fn delete(&mut self, database: DatabaseId, position: Position) {
        let verdict = Arc::make_mut(self.0.entry(database).or_default());
        verdict.deleted = position;
        verdict.failed = verdict.failed.split_off(&position);
        verdict.judged = verdict.judged.split_off(&position);
        verdict.stuck = verdict.stuck.filter(|stuck| *stuck > position);
    }

    /// The database is gone, and its applier with it.
    pub(crate) fn forget(&mut self, database: &DatabaseId) {
        self.0.remove(database);
    }

    pub(crate) fn of(&self, database: &DatabaseId) -> Arc<Verdict> {
        self.0.get(database).cloned().unwrap_or_default()
    }
}

impl Verdict {
    /// Why the command at `position` has failed, if that is decided.
    pub(crate) fn failed(&self, position: Position) -> Option<&'static str> {
        self.failed.get(&position).copied()
    }

    /// What came of the publication at `position`, if that is decided.
    pub(crate) fn judged(&self, position: Position) -> Option<&Result<Taken, Arc<str>>> {
        self.judged.get(&position)
    }

    /// Whether the database is deleted further on: then nothing more is said of the command at `position`.
    pub(crate) fn is_deleted_after(&self, position: Position) -> bool {
        self.deleted > position
    }

    /// The command that this node has promised not to try.
    pub(crate) fn stuck(&self) -> Option<Position> {
        self.stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_consensus::command::{Failed, Skipped, Stuck};

    fn poison(position: u64, step: PoisonStep) -> Poison {
        Poison {
            database: vec![7; 32].into(),
            position,
            step: Some(step),
        }
    }

    fn note(verdicts: &mut Verdicts, node: u64, position: u64, step: PoisonStep) {
        verdicts.note(1, Origin { node, epoch: 1 }, &poison(position, step));
    }

    fn stuck(attempts: u32) -> PoisonStep {
        PoisonStep::Stuck(Stuck { attempts })
    }

    #[test]
    fn a_promise_holds_until_it_is_taken_back_or_the_command_has_failed() {
        let mut verdicts = Verdicts::default();
        let database = [7; 32];
        note(&mut verdicts, 2, 9, stuck(3));
        assert_eq!(verdicts.of(&database).stuck(), None, "another node's");
        note(&mut verdicts, 1, 9, stuck(3));
        assert_eq!(verdicts.of(&database).stuck(), Some(Position(9)));
        note(&mut verdicts, 1, 9, stuck(0));
        assert_eq!(verdicts.of(&database).stuck(), None);
        note(&mut verdicts, 1, 9, stuck(4));
        note(&mut verdicts, 2, 8, PoisonStep::Skipped(Skipped {}));
        assert_eq!(verdicts.of(&database).stuck(), Some(Position(9)));
        note(&mut verdicts, 2, 9, PoisonStep::Failed(Failed::default()));
        let verdict = verdicts.of(&database);
        assert_eq!(verdict.stuck(), None);
        let failed = [8, 9, 10].map(|position| verdict.failed(Position(position)));
        let steps = [
            PoisonStep::Skipped(Skipped {}),
            PoisonStep::Failed(Failed::default()),
        ];
        let [skipped, stopped] = steps.map(|step| poison(0, step).failure());
        assert_eq!(failed, [skipped, stopped, None]);
        assert!(skipped.is_some() && stopped.is_some());
        assert_eq!(*verdicts.of(&[8; 32]), Verdict::default());
    }

    #[test]
    fn reasons_are_kept_of_the_latest_refusals_only() {
        let mut verdicts = Verdicts::default();
        let last = 3 * REASONS_MAX as u64;
        for position in 1..=last {
            verdicts.judge(&Judgement {
                database: vec![7; 32].into(),
                position,
                refusal: Some("no memory".to_owned()),
                breaks: false,
            });
        }
        let verdict = verdicts.of(&[7; 32]);
        let kept = |position| verdict.judged(Position(position)) == Some(&Err("no memory".into()));
        assert_eq!((1..=last).filter(|it| kept(*it)).count(), REASONS_MAX);
        assert!(kept(last));
        assert_eq!(verdict.judged(Position(1)), Some(&Err(REFUSED.into())));
    }

    #[test]
    fn the_first_word_about_a_publication_holds() {
        let mut verdicts = Verdicts::default();
        let judge = |position, refusal: Option<&str>| Judgement {
            database: vec![7; 32].into(),
            position,
            refusal: refusal.map(str::to_owned),
            breaks: position == 5,
        };
        verdicts.judge(&judge(5, None));
        verdicts.judge(&judge(5, Some("disk full")));
        verdicts.judge(&judge(6, Some("no memory")));
        verdicts.judge(&judge(6, None));
        let verdict = verdicts.of(&[7; 32]);
        assert_eq!(verdict.judged(Position(5)), Some(&Ok(Taken { breaks: true })));
        assert_eq!(verdict.judged(Position(6)), Some(&Err("no memory".into())));
        assert_eq!(verdict.judged(Position(7)), None);
        verdicts.delete([7; 32], Position(6));
        let verdict = verdicts.of(&[7; 32]);
        assert_eq!(verdict.judged(Position(5)), None);
        assert!(verdict.is_deleted_after(Position(5)) && !verdict.is_deleted_after(Position(6)));
    }
}
