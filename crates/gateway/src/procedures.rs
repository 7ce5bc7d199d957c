//! Procedures that clients call, or that rows call which are due: run once, on this node, on a connection to the local server that
//! nothing else waits for. What their transactions do goes through the log meanwhile. As natively, they go on when the client
//! leaves.

pub(crate) mod scheduled;

use self::scheduled::Claim;
use crate::budget::{Exceeded, Share};
use crate::node::Node;
use crate::upstream::{self, Upstream, UpstreamConfig};
use crate::wire::Received;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use rtdb_consensus::command::{Body, Transaction, Turn};
use rtdb_consensus::{Applied, Outcome, Pending, Position, Refusal, Unapplied};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{CONFLICT, TransactionVerdict};
use rtdb_protocol::client;
use rtdb_protocol::server::{self, ProcedureResult, ServerMessage};
use rtdb_replica::{Run, TURN_MAX, TurnQueue, Uncommitted};
use rtdb_runtime::Instant;
use spacetimedb_lib::Identity;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_tungstenite::tungstenite::Message;

/// What is heard of a procedure whose server has ended, or whose module.
const ENDED: &str =
    "SpacetimeDB has ended while the procedure ran, or the module was replaced: what came of it is not known";

/// Who calls if nobody has to say who he is.
pub(crate) const NOBODY: Identity = Identity::ZERO;

/// A call whose arguments are of the procedure's types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcedureCall {
    pub(crate) procedure: String,
    /// The procedure's own arguments.
    pub(crate) args: Bytes,
    pub(crate) request_id: u32,
    /// Who calls; in the index's place stands what the run is called.
    pub(crate) header: CallHeader,
    /// The session that wants receipts of its transactions, 0 for none.
    pub(crate) receipts: u64,
}

/// A procedure that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// What became of it, in the local server's words; or why that is not known.
    pub(crate) result: Result<ProcedureResult, String>,
    /// The position of its last transaction, 0 if it had none.
    pub(crate) last: u64,
    /// The bytes of its arguments.
    pub(crate) args_bytes: usize,
}

/// Runs a procedure to its end, once it is let through the gate.
pub(crate) async fn run(node: Arc<Node>, config: UpstreamConfig, call: ProcedureCall) -> Finished {
    let course = Course::new(node, config, &call);
    let pass = course.pass().await;
    course.finish(call, pass).await
}

/// The same of one that is let through already.
pub(crate) async fn run_let_through(
    node: Arc<Node>,
    config: UpstreamConfig,
    call: ProcedureCall,
) -> Finished {
    Course::new(node, config, &call).finish(call, Ok(())).await
}

/// A procedure's course.
struct Course {
    node: Arc<Node>,
    config: UpstreamConfig,
    /// Who calls, which may be nobody. That is not always who is connected to the local server.
    caller: Identity,
    receipts: u64,
    last: u64,
    /// Its first transaction has been let through the gate with the call itself.
    has_passed: bool,
    /// The turn in which its next transaction runs.
    held: Option<Held>,
    /// Why a transaction of it is lost. It traps then, which says nothing of that.
    lost: Option<String>,
    /// What its first transaction takes, if it is scheduled.
    claim: Option<Claim>,
}

/// What has become of a transaction.
struct Settled {
    seq: u64,
    decided: Decided,
    /// Who wants receipts from now on.
    receipts: u64,
    /// The turn in which it may run again.
    held: Option<Held>,
}

impl Course {
    fn new(node: Arc<Node>, config: UpstreamConfig, call: &ProcedureCall) -> Self {
        Self {
            node,
            config,
            caller: Identity::from_byte_array(call.header.sender),
            receipts: call.receipts,
            last: 0,
            has_passed: false,
            held: None,
            lost: None,
            claim: None,
        }
    }

    /// Runs to the end, if it may.
    async fn finish(mut self, call: ProcedureCall, pass: Result<(), String>) -> Finished {
        let args_bytes = call.args.len();
        let result = match pass {
            Ok(()) => self.run(call).await,
            Err(refused) => Err(refused),
        };
        Finished {
            result,
            last: self.last,
            args_bytes,
        }
    }

    /// A client's call is let through the gate.
    async fn pass(&self) -> Result<(), String> {
        let pass = self.node.gate.pass(&self.config.database, &self.caller).await;
        pass.map(drop).map_err(|error| error.body)
    }

    async fn run(&mut self, call: ProcedureCall) -> Result<ProcedureResult, String> {
        let Self { node, config, .. } = self;
        if !node.catalog.runs_procedures() {
            return Err("procedures are not served before all nodes of the cluster are updated".to_owned());
        }
        let active = node.local.database(&config.database);
        let procedures = node.local.procedures(&config.database);
        if let (Some(claim), Some(active)) = (&self.claim, &active)
            && !claim.is_of(active.position)
        {
            return Err("the database's module was updated meanwhile".to_owned());
        }
        let (Some(active), Some(procedures)) = (active, procedures) else {
            return Err("the database is not served on this node".to_owned());
        };
        let begun = match self.caller == NOBODY {
            true => procedures.begin_for_anyone(),
            false => procedures.begin(),
        };
        let mut run = begun.map_err(|error| error.to_string())?;
        let opened = upstream::open(node.local.clone(), node.reach.clone(), config.clone()).await;
        let mut upstream = opened.map_err(|error| error.to_string())?;
        let header = CallHeader {
            index: run.id(),
            ..call.header
        };
        upstream.socket.push(client::call_procedure(
            config.subprotocol,
            &call.procedure,
            &[&header.encode(), &call.args],
            call.request_id,
        ));
        // While it runs they are the server's alone.
        drop(call);
        let transaction = Transaction {
            database: config.database.to_byte_array().to_vec().into(),
            program: active.program.data.to_vec().into(),
            sender: self.caller.to_byte_array().to_vec().into(),
            ..Transaction::default()
        };
        let mut share = Share::new(&node.budget);
        let mut committing: Option<BoxFuture<'static, Settled>> = None;
        loop {
            let kept_until = self.held.as_ref().map(|held| held.kept_until);
            rtdb_runtime::select! {
                settled = poll_fn(|cx| match &mut committing {
                    Some(committing) => committing.poll_unpin(cx),
                    None => Poll::Pending,
                }) => {
                    committing = None;
                    run.settle(settled.seq, self.settled(settled));
                }
                uncommitted = run.next(), if committing.is_none() => {
                    committing = Some(self.commit(transaction.clone(), uncommitted, Turns::of(&run)));
                }
                received = next(&mut upstream, &mut share) => match received.map_err(|error| error.to_string())? {
                    Some(Ok(Message::Binary(payload))) => {
                        if let Some(result) = self.result(payload) {
                            return self.lost.take().map_or(Ok(result), Err);
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(ENDED.to_owned()),
                },
                Some(()) = OptionFuture::from(kept_until.map(rtdb_runtime::sleep_until)) => self.held = None,
            }
        }
    }

    fn settled(&mut self, settled: Settled) -> TransactionVerdict {
        self.receipts = settled.receipts;
        self.held = settled.held;
        if let Some(claim) = &mut self.claim {
            claim.settled(&settled.decided);
        }
        match settled.decided {
            Decided::Committed(applied) => {
                self.last = self.last.max(applied.position.0);
                TransactionVerdict::Committed
            }
            Decided::Conflict => TransactionVerdict::Conflict,
            Decided::Lost(why) | Decided::Unknown(why) => {
                self.lost = Some(format!("the procedure was stopped at a transaction: {why}"));
                TransactionVerdict::Lost
            }
        }
    }

    fn result(&self, payload: Bytes) -> Option<ProcedureResult> {
        let messages = server::split(self.config.subprotocol, payload);
        messages.into_iter().find_map(|message| match message {
            Ok(ServerMessage::Procedure(result)) => Some(result),
            _ => None,
        })
    }

    /// Has a transaction done everywhere. What can't be is lost, and ends the procedure.
    fn commit(
        &mut self,
        transaction: Transaction,
        uncommitted: Uncommitted,
        turns: Turns,
    ) -> BoxFuture<'static, Settled> {
        let Uncommitted {
            seq,
            base,
            operations,
        } = uncommitted;
        let claim = self.claim.as_mut().and_then(Claim::take);
        // What is scheduled has been let through where that is looked after.
        let passes = claim.is_none() && std::mem::replace(&mut self.has_passed, true);
        let (node, held) = (self.node.clone(), self.held.take());
        let (database, caller) = (self.config.database, self.caller);
        let mut transaction = Transaction {
            base,
            operations,
            session: self.receipts,
            claim,
            ..transaction
        };
        async move {
            // In a turn the database waits, and its first attempt has passed.
            let pass = match passes && held.is_none() {
                true => node.gate.pass(&database, &caller).await.map(drop),
                false => Ok(()),
            };
            let began = Instant::now();
            let decided = match (pass, held) {
                (Err(refused), _) => Decided::Lost(refused.body),
                (Ok(()), Some(held)) => held.commit(&mut transaction).await,
                (Ok(()), None) => commit(&node, &mut transaction).await,
            };
            let held = match decided {
                // A node whose server is so far behind has no use of a turn, and all others would wait for it.
                Decided::Conflict if began.elapsed() < TURN_MAX => turns.ask(&node, &transaction).await,
                _ => None,
            };
            Settled {
                seq,
                decided,
                receipts: transaction.session,
                held,
            }
        }
        .boxed()
    }
}

/// What the log has decided of a transaction.
enum Decided {
    Committed(Applied),
    Conflict,
    /// It can't be done, and why.
    Lost(String),
    /// It is not known what became of it.
    Unknown(String),
}

/// Has a transaction done, unless calls have come between.
async fn commit(node: &Node, transaction: &mut Transaction) -> Decided {
    loop {
        let since = Instant::now();
        node.metrics.calls.inc();
        let body = Body::Transaction(transaction.clone());
        let outcome = match node.propose(&node.shard, body).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::debug!(error = error.body, "a procedure's transaction is not proposed");
                return Decided::Lost(error.body);
            }
        };
        node.metrics.call_done(since.elapsed(), &outcome);
        match outcome {
            // The client has left: nobody is told.
            Err(Unapplied::Refused(Refusal::SessionGone)) if transaction.session != 0 => {
                transaction.session = 0;
            }
            outcome => return decided(outcome),
        }
    }
}

fn decided(outcome: Outcome) -> Decided {
    match outcome {
        Ok(applied) => Decided::Committed(applied),
        Err(Unapplied::Reducer { message, .. }) if message == CONFLICT => Decided::Conflict,
        Err(error) => {
            tracing::debug!(%error, "a procedure's transaction is lost");
            match error {
                Unapplied::Unknown { .. } => Decided::Unknown(error.to_string()),
                _ => Decided::Lost(error.to_string()),
            }
        }
    }
}

/// Where a run hears of its turns.
struct Turns {
    run: u64,
    given: watch::Receiver<Position>,
    queue: TurnQueue,
}

impl Turns {
    fn of(run: &Run) -> Self {
        Self {
            run: run.id(),
            given: run.turn(),
            queue: run.queue(),
        }
    }

    /// Has the database held for the transaction's next attempt; `None` if that can't be, and it has to try its luck.
    async fn ask(mut self, node: &Arc<Node>, transaction: &Transaction) -> Option<Held> {
        let turn = Turn {
            database: transaction.database.clone(),
            program: transaction.program.clone(),
            run: self.run,
        };
        let first = self.queue.first().await;
        let before = *self.given.borrow();
        let mut outcome = node.shard.submit(Body::Turn(turn).into()).ok()?;
        let position = rtdb_runtime::select! {
            given = self.given.wait_for(|given| *given > before) => *given.ok()?,
            _ = &mut outcome => return None,
        };
        Some(Held {
            node: node.clone(),
            database: transaction.database.clone(),
            position,
            outcome,
            is_used: false,
            kept_until: Instant::now() + TURN_MAX,
            _first: first,
        })
    }
}

/// The database is held for a procedure. Is given back if it is dropped.
struct Held {
    node: Arc<Node>,
    database: Bytes,
    position: Position,
    /// What becomes of the transaction that is run in it.
    outcome: Pending,
    is_used: bool,
    kept_until: Instant,
    /// Until it is over, no other run on this node has one.
    _first: OwnedMutexGuard<()>,
}

impl Held {
    /// Has the transaction done that was run in it.
    async fn commit(mut self, transaction: &mut Transaction) -> Decided {
        transaction.turn = self.position.0;
        loop {
            self.node.metrics.calls.inc();
            let body = Body::Transaction(transaction.clone());
            // What can't be proposed ends the turn when its time is over.
            let Ok(mut proposed) = self.node.shard.submit(body.into()) else {
                break;
            };
            self.is_used = true;
            rtdb_runtime::select! {
                outcome = &mut self.outcome => return decided_in_turn(transaction, outcome),
                refused = &mut proposed => match refused {
                    Err(Unapplied::Refused(Refusal::SessionGone)) if transaction.session != 0 => {
                        transaction.session = 0;
                    }
                    // It does not end the turn, and nothing else would.
                    Err(Unapplied::Refused(refusal)) => {
                        self.is_used = false;
                        return Decided::Lost(refusal.to_string());
                    }
                    _ => break,
                },
            }
        }
        let outcome = (&mut self.outcome).await;
        decided_in_turn(transaction, outcome)
    }
}

/// What has failed in a turn was not done, and may be tried again.
fn decided_in_turn(transaction: &mut Transaction, outcome: Outcome) -> Decided {
    transaction.turn = 0;
    match outcome {
        Err(Unapplied::Reducer { .. }) => Decided::Conflict,
        outcome => decided(outcome),
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_used {
            let nothing = Transaction::nothing(self.database.clone(), self.position.0);
            // Else its time ends by itself.
            let _ = self.node.shard.submit(Body::Transaction(nothing).into());
        }
    }
}

/// The next message of the local server's, if there is room for it. What has come of it counts.
async fn next(upstream: &mut Upstream, share: &mut Share) -> Result<Received, Exceeded> {
    poll_fn(|cx| {
        if let Poll::Ready(Err(_)) = upstream.socket.poll_flush(cx) {
            return Poll::Ready(Ok(None));
        }
        match (upstream.socket.poll_read(cx), share.set(upstream.socket.bytes())) {
            (Poll::Ready(received), _) => Poll::Ready(Ok(received)),
            (Poll::Pending, Err(exceeded)) => Poll::Ready(Err(exceeded)),
            (Poll::Pending, Ok(())) => Poll::Pending,
        }
    })
    .await
}
