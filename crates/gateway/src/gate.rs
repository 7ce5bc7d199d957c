//! Where a client's call passes before it is proposed: within its quotas, and in its turn while its database is slowed.
//!
//! What is beyond a [quota](Quotas) is refused at once, and nothing of it comes into the log. While a majority of a
//! database's replicas lags, its calls wait for their turn, one identity after the other, so that many connections of one
//! identity do not crowd out another's only one. Other databases' calls do not wait for them.
//!
//! Only calls pass here. Coming and going clients, publications, and what nodes and operators tell the log are few, and must
//! not wait for what they may be the cure of.

mod quota;
mod turns;

pub use quota::Quotas;
pub(crate) use quota::Spent;

use crate::http_error::HttpError;
use crate::limits::{TURN_WAIT_MAX, TURNS_MAX};
use crate::metrics::GatewayMetrics;
use http::StatusCode;
use quota::Accounts;
use rtdb_runtime::Instant;
use spacetimedb_lib::Identity;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use turns::Turns;

/// A database whose calls are held back, and how many more of them may pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slowed {
    /// Its identity.
    pub database: Identity,
    /// Calls that may pass.
    pub calls: u64,
}

/// A call may be proposed.
#[derive(Debug)]
pub(crate) struct Pass(());

/// A call on its way.
pub(crate) enum Entry {
    /// It may be proposed.
    Passed(Pass),
    /// It must wait for its turn.
    Waits(Turn),
}

/// Resolves when it is a call's turn.
pub(crate) struct Turn(oneshot::Receiver<Pass>);

impl Future for Turn {
    type Output = Pass;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Pass> {
        // Who is forgotten by the gate is not held back by it.
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|turn| turn.unwrap_or(Pass(())))
    }
}

/// Where calls pass.
pub(crate) struct Gate {
    state: Mutex<State>,
    metrics: GatewayMetrics,
}

#[derive(Default)]
struct State {
    accounts: Accounts,
    slowed: BTreeMap<Identity, Turns<Identity, oneshot::Sender<Pass>>>,
}

impl Gate {
    pub(crate) fn new(metrics: GatewayMetrics) -> Self {
        Self {
            state: Mutex::default(),
            metrics,
        }
    }

    pub(crate) fn set_quotas(&self, quotas: Quotas) {
        self.state().accounts = Accounts::new(quotas);
    }

    /// A call of an identity to a database.
    pub(crate) fn enter(&self, database: &Identity, caller: &Identity, now: Instant) -> Result<Entry, Spent> {
        let mut state = self.state();
        if let Err(spent) = state.accounts.spend(database, caller, now) {
            self.metrics.refused(spent.reason());
            return Err(spent);
        }
        let Some(turns) = state.slowed.get_mut(database) else {
            return Ok(Entry::Passed(Pass(())));
        };
        if turns.take() {
            return Ok(Entry::Passed(Pass(())));
        }
        self.metrics.held_calls.inc();
        let (sender, turn) = oneshot::channel();
        turns.wait(*caller, sender);
        Ok(Entry::Waits(Turn(turn)))
    }

    /// The same for a call over HTTP: 429 if a quota is spent, 503 if its turn does not come soon.
    pub(crate) async fn pass(&self, database: &Identity, caller: &Identity) -> Result<Pass, HttpError> {
        let entry = self.enter(database, caller, Instant::now());
        let entry =
            entry.map_err(|spent| HttpError::new(StatusCode::TOO_MANY_REQUESTS, spent.to_string()))?;
        let turn = match entry {
            Entry::Passed(pass) => return Ok(pass),
            Entry::Waits(turn) => turn,
        };
        rtdb_runtime::timeout(TURN_WAIT_MAX, turn).await.map_err(|_| {
            self.metrics.refused("slowed");
            HttpError::unavailable(
                "the database is slowed, since most of its replicas are behind: the call was not made; try again later",
            )
        })
    }

    /// Says which databases are slowed from now on: the calls of all others pass.
    pub(crate) fn slow(&self, slowed: &[Slowed]) {
        let mut state = self.state();
        let is_still = |database: &Identity| slowed.iter().any(|it| it.database == *database);
        // Dropping the others lets those go on who wait.
        state.slowed.retain(|database, _| is_still(database));
        for Slowed { database, calls } in slowed {
            let turns = state.slowed.entry(*database).or_default();
            turns.retain(|waiter| !waiter.is_closed());
            turns.allow(*calls, TURNS_MAX);
            while let Some(waiter) = turns.pop() {
                if waiter.send(Pass(())).is_err() {
                    turns.give_back();
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::num::NonZeroU32;

    fn id(name: &str) -> Identity {
        Identity::from_claims("test", name)
    }

    fn gate() -> Gate {
        Gate::new(GatewayMetrics::new().expect("metrics"))
    }

    fn slowed(calls: u64) -> [Slowed; 1] {
        let database = id("slow");
        [Slowed { database, calls }]
    }

    fn enter(gate: &Gate, database: &str, caller: &str) -> Entry {
        let entry = gate.enter(&id(database), &id(caller), Instant::now());
        entry.expect("within the quotas")
    }

    fn turn(gate: &Gate, caller: &str) -> Turn {
        match enter(gate, "slow", caller) {
            Entry::Waits(turn) => turn,
            Entry::Passed(_) => panic!("it did not wait"),
        }
    }

    #[tokio::test]
    async fn only_a_slowed_database_s_calls_wait() {
        let gate = gate();
        gate.slow(&slowed(1));
        assert!(matches!(enter(&gate, "slow", "alice"), Entry::Passed(_)));
        let mut waits = turn(&gate, "alice");
        assert!(matches!(enter(&gate, "other", "alice"), Entry::Passed(_)));
        gate.slow(&slowed(0));
        assert!((&mut waits).now_or_never().is_none());
        gate.slow(&[]);
        waits.await;
        assert!(matches!(enter(&gate, "slow", "alice"), Entry::Passed(_)));
    }

    #[tokio::test]
    async fn who_goes_away_loses_no_turn() {
        let gate = gate();
        gate.slow(&slowed(0));
        let (mut first, gone, mut bob) = (turn(&gate, "alice"), turn(&gate, "alice"), turn(&gate, "bob"));
        let mut last = turn(&gate, "alice");
        drop(gone);
        gate.slow(&slowed(2));
        assert!((&mut first).now_or_never().is_some());
        assert!((&mut bob).now_or_never().is_some());
        assert!((&mut last).now_or_never().is_none());
        gate.slow(&slowed(1));
        last.await;
    }

    #[tokio::test(start_paused = true)]
    async fn over_http_a_call_waits_for_a_while() {
        let gate = gate();
        gate.slow(&slowed(0));
        let refused = gate.pass(&id("slow"), &id("bob")).await.expect_err("its turn");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.body.contains("replicas are behind"), "{}", refused.body);
        gate.set_quotas(Quotas {
            identity: NonZeroU32::new(1),
            ..Quotas::default()
        });
        gate.pass(&id("other"), &id("bob")).await.expect("the first");
        let refused = gate.pass(&id("other"), &id("bob")).await.expect_err("a quota");
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        let counted = |reason| gate.metrics.refused_calls.with_label_values(&[reason]).get();
        assert_eq!((counted("slowed"), counted("identity_quota")), (1, 1));
    }
}
