//! Procedures that run on the local server for clients of this node, as far as their transactions are concerned.
//!
//! A procedure is called with the number of its *run*. What a transaction of it would write, the prepared module puts into a
//! table of the node's own, and waits. [`Watcher`](watcher::Watcher) finds it there and hands it to whoever has begun the run,
//! who has it go through the log, and [settles](Run::settle) it; the procedure is told in the same way. It ends with the run
//! at the latest: whatever belongs to no run is settled as lost.

pub(crate) mod watcher;

use bytes::Bytes;
use parking_lot::Mutex;
use rtdb_consensus::Position;
use rtdb_determinism::{Transaction, TransactionVerdict};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{Mutex as Queue, Notify, OwnedMutexGuard, mpsc, watch};

/// Runs of one database on this node at a time.
pub(crate) const RUNS_MAX: usize = 256;
/// How many there may be when one begins for somebody who needs no token: the others are left for clients.
const RUNS_FOR_ANYONE_MAX: usize = RUNS_MAX / 2;
/// Verdicts that are to be told at a time. Beyond, the oldest go: their procedures give up by themselves.
const SETTLED_MAX: usize = 16_384;

/// No procedure can be run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} procedures of the database are running on this node: try again later")]
pub struct TooManyRuns(usize);

/// The procedures of one database.
#[derive(Debug, Default)]
pub struct Procedures {
    state: Mutex<State>,
    /// There is something to do.
    wake: Notify,
    /// Where runs wait for a turn.
    queue: Arc<Queue<()>>,
}

#[derive(Debug, Default)]
struct State {
    runs: BTreeMap<u64, Running>,
    settled: VecDeque<Settled>,
}

#[derive(Debug)]
struct Running {
    /// The last transaction that was handed on.
    seen: u64,
    to: mpsc::Sender<Uncommitted>,
    /// The position of its turn: the database waits for it.
    turn: watch::Sender<Position>,
}

/// What has become of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settled {
    run: u64,
    seq: u64,
    verdict: TransactionVerdict,
}

/// A transaction that a procedure waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncommitted {
    /// Its number in the run.
    pub seq: u64,
    /// The position of the last call that had succeeded before it.
    pub base: u64,
    /// What it has done.
    pub operations: Bytes,
}

/// A procedure under way. When it is dropped nobody waits for its transactions any more.
#[derive(Debug)]
pub struct Run {
    procedures: Arc<Procedures>,
    id: u64,
    uncommitted: mpsc::Receiver<Uncommitted>,
    turn: watch::Receiver<Position>,
}

/// Runs of one database, one behind the other.
#[derive(Debug)]
pub struct TurnQueue(Arc<Queue<()>>);

impl TurnQueue {
    /// Resolves when no other run has a turn, until what it gives is dropped.
    pub async fn first(self) -> OwnedMutexGuard<()> {
        self.0.lock_owned().await
    }
}

impl Procedures {
    /// Begins a run, before the procedure is called.
    ///
    /// # Errors
    /// [`TooManyRuns`].
    pub fn begin(self: &Arc<Self>) -> Result<Run, TooManyRuns> {
        self.begin_within(RUNS_MAX)
    }

    /// The same for somebody who needs no token.
    ///
    /// # Errors
    /// [`TooManyRuns`].
    pub fn begin_for_anyone(self: &Arc<Self>) -> Result<Run, TooManyRuns> {
        self.begin_within(RUNS_FOR_ANYONE_MAX)
    }

    fn begin_within(self: &Arc<Self>, max: usize) -> Result<Run, TooManyRuns> {
        let mut state = self.state.lock();
        if state.runs.len() >= max {
            return Err(TooManyRuns(state.runs.len()));
        }
        // 0 is none. Nobody has had the number, in an earlier life of the node either.
        let mut id = rtdb_runtime::random().max(1);
        while state.runs.contains_key(&id) {
            id = rtdb_runtime::random().max(1);
        }
        // A procedure has one transaction at a time.
        let (to, uncommitted) = mpsc::channel(1);
        let (has_turn, turn) = watch::channel(Position::default());
        let running = Running {
            seen: 0,
            to,
            turn: has_turn,
        };
        state.runs.insert(id, running);
        drop(state);
        self.wake.notify_one();
        Ok(Run {
            procedures: self.clone(),
            id,
            uncommitted,
            turn,
        })
    }

    /// The database waits for a run. Whether there is such a one.
    pub(crate) fn has_turn(&self, run: u64, turn: Position) -> bool {
        let state = self.state.lock();
        let running = state.runs.get(&run);
        running.map(|running| running.turn.send_replace(turn)).is_some()
    }

    /// Resolves when there may be something to do. Nothing is missed in between.
    async fn woken(&self) {
        self.wake.notified().await;
    }

    fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.runs.is_empty() && state.settled.is_empty()
    }

    /// Takes a row of the table in which transactions wait. The same may come again, on another connection.
    fn found(&self, row: &Bytes) {
        let Some(transaction) = Transaction::decode(row) else {
            tracing::error!("a transaction of a procedure can't be read");
            return;
        };
        let Transaction {
            run,
            seq,
            base,
            operations,
        } = transaction;
        let mut state = self.state.lock();
        let is_taken = match state.runs.get_mut(&run) {
            Some(running) if seq <= running.seen => return,
            Some(running) => {
                running.seen = seq;
                let operations = row.slice_ref(operations);
                let uncommitted = Uncommitted {
                    seq,
                    base,
                    operations,
                };
                running.to.try_send(uncommitted).is_ok()
            }
            None => false,
        };
        if !is_taken {
            let verdict = TransactionVerdict::Lost;
            state.settle(Settled { run, seq, verdict });
            drop(state);
            self.wake.notify_one();
        }
    }

    fn take_settled(&self) -> Option<Settled> {
        self.state.lock().settled.pop_front()
    }

    /// What was not told after all, oldest last.
    fn tell_again(&self, settled: impl Iterator<Item = Settled>) {
        let mut state = self.state.lock();
        for settled in settled {
            state.settled.push_front(settled);
        }
    }
}

impl State {
    fn settle(&mut self, settled: Settled) {
        if self.settled.len() >= SETTLED_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(settled);
    }
}

impl Run {
    /// The `index` in the header of the procedure's call.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The next transaction that waits. May be dropped and called again.
    pub async fn next(&mut self) -> Uncommitted {
        match self.uncommitted.recv().await {
            Some(uncommitted) => uncommitted,
            // The sender lives as long as the run.
            None => std::future::pending().await,
        }
    }

    /// Where the last turn is that the run was given.
    pub fn turn(&self) -> watch::Receiver<Position> {
        self.turn.clone()
    }

    /// Where runs wait until they may have a turn: of each database one on this node at a time, so that calls come between.
    pub fn queue(&self) -> TurnQueue {
        TurnQueue(self.procedures.queue.clone())
    }

    /// Tells the procedure what has become of its transaction.
    pub fn settle(&self, seq: u64, verdict: TransactionVerdict) {
        let run = self.id;
        self.procedures.state.lock().settle(Settled { run, seq, verdict });
        self.procedures.wake.notify_one();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut state = self.procedures.state.lock();
        let seen = state.runs.remove(&self.id).map_or(0, |running| running.seen);
        if seen > 0 {
            let (run, verdict) = (self.id, TransactionVerdict::Over);
            state.settle(Settled {
                run,
                seq: seen,
                verdict,
            });
            drop(state);
            self.procedures.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use rtdb_determinism::replay_args;

    fn row(run: u64, seq: u64) -> Bytes {
        let row = [
            &run.to_le_bytes()[..],
            &seq.to_le_bytes(),
            &replay_args(9, b"done"),
        ]
        .concat();
        row.into()
    }

    fn settled(procedures: &Procedures) -> Vec<(u64, u64, TransactionVerdict)> {
        let all = std::iter::from_fn(|| procedures.take_settled());
        all.map(|it| (it.run, it.seq, it.verdict)).collect()
    }

    #[test]
    fn a_transaction_is_handed_on_once() {
        let procedures = Arc::new(Procedures::default());
        let mut run = procedures.begin().unwrap();
        let row = row(run.id(), 1);
        procedures.found(&row);
        procedures.found(&row);
        let next = run.next().now_or_never().unwrap();
        assert_eq!((next.seq, next.base, &next.operations[..]), (1, 9, &b"done"[..]));
        assert!(run.next().now_or_never().is_none());
        run.settle(1, TransactionVerdict::Committed);
        let id = run.id();
        drop(run);
        let expected = [
            (id, 1, TransactionVerdict::Committed),
            (id, 1, TransactionVerdict::Over),
        ];
        assert_eq!(settled(&procedures), expected);
        assert!(procedures.is_idle());
    }

    #[test]
    fn a_run_hears_of_its_turn() {
        let procedures = Arc::new(Procedures::default());
        let run = procedures.begin().unwrap();
        let (id, turn) = (run.id(), run.turn());
        assert!(procedures.has_turn(id, Position(5)));
        assert_eq!(*turn.borrow(), Position(5));
        assert!(!procedures.has_turn(id.wrapping_add(1), Position(6)));
        drop(run);
        assert!(!procedures.has_turn(id, Position(7)));
    }

    #[test]
    fn what_belongs_to_no_run_is_lost() {
        let procedures = Arc::new(Procedures::default());
        let run = procedures.begin().unwrap();
        let id = run.id();
        drop(run);
        assert_eq!(settled(&procedures), [], "nothing is left of it");
        procedures.found(&row(id, 1));
        assert_eq!(settled(&procedures), [(id, 1, TransactionVerdict::Lost)]);
    }

    #[test]
    fn what_was_not_told_goes_first_again() {
        let procedures = Arc::new(Procedures::default());
        let run = procedures.begin().unwrap();
        for seq in 1..4 {
            run.settle(seq, TransactionVerdict::Conflict);
        }
        let told = [procedures.take_settled(), procedures.take_settled()].map(Option::unwrap);
        procedures.tell_again(told.into_iter().rev());
        let seqs: Vec<_> = settled(&procedures).iter().map(|it| it.1).collect();
        assert_eq!(seqs, [1, 2, 3]);
    }

    #[test]
    fn one_run_at_a_time_has_a_turn() {
        let procedures = Arc::new(Procedures::default());
        let runs = [(); 2].map(|()| procedures.begin().unwrap());
        let first = runs[0].queue().first().now_or_never().unwrap();
        assert!(runs[1].queue().first().now_or_never().is_none());
        drop(first);
        assert!(runs[1].queue().first().now_or_never().is_some());
    }

    #[test]
    fn so_many_run_at_a_time() {
        let procedures = Arc::new(Procedures::default());
        let mut runs: Vec<_> = (0..RUNS_MAX).map(|_| procedures.begin().unwrap()).collect();
        assert_eq!(procedures.begin().err(), Some(TooManyRuns(RUNS_MAX)));
        runs.pop();
        assert!(procedures.begin().is_ok());
        runs.truncate(RUNS_FOR_ANYONE_MAX);
        assert!(procedures.begin_for_anyone().is_err());
        runs.pop();
        assert!(procedures.begin_for_anyone().is_ok());
    }
}
