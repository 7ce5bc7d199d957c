//! Watches the table in which transactions of procedures wait, and tells the procedures what has become of them: over a
//! connection of its own, as long as there are any.

use super::{Procedures, RUNS_MAX, Settled};
use crate::AdminError;
use crate::applier::{Connection, ConnectionError};
use crate::replica::{Shared, Slot};
use bytes::Bytes;
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{OUTBOX, SETTLE, TransactionVerdict, settle_args};
use rtdb_protocol::FrameError;
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::{Changes, ServerMessage};
use rtdb_runtime::Instant;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long the connection stays when no procedure is running any more.
const LINGER: Duration = Duration::from_secs(30);
/// The pause before a lost connection is tried again: doubles from the first to the second.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// The largest message that the server may send, in bytes: all transactions that may wait, as after its end.
const OUTBOX_BYTES_MAX: usize = RUNS_MAX * (25 << 20);

/// Forgets the verdicts of all runs: there is no run 0.
const FORGET: Settled = Settled {
    run: 0,
    seq: 0,
    verdict: TransactionVerdict::Over,
};

/// What watches for one database.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    procedures: Arc<Procedures>,
    /// The life of the server in which what earlier ones have left was cleared away.
    cleared: Option<u64>,
}

/// Why watching stopped.
#[derive(Debug, Error)]
enum Interrupt {
    #[error("the database is not there")]
    Absent,
    #[error("another module was published")]
    Published,
    #[error("SpacetimeDB does not show what procedures have written")]
    Refused,
    #[error("a procedure could not be told what has become of its transaction: {0:?}")]
    NotTold(Outcome),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, slot: Arc<Slot>) -> Self {
        let procedures = slot.procedures.clone();
        Self {
            shared,
            slot,
            procedures,
            cleared: None,
        }
    }

    /// Watches for as long as it is polled.
    pub(crate) async fn run(mut self) {
        let mut pause = BACK_OFF_MIN;
        loop {
            if self.procedures.is_idle() {
                self.procedures.woken().await;
                continue;
            }
            let mut told = VecDeque::new();
            let watched = self.watch(&mut told, &mut pause).await;
            // Whether these were taken nobody knows, and telling it twice does no harm.
            self.procedures.tell_again(told.into_iter().rev());
            match watched {
                Ok(()) | Err(Interrupt::Published) => {}
                Err(error) => {
                    tracing::warn!(database = self.slot.hex(), %error, "procedures have to wait");
                    rtdb_runtime::sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF_MAX);
                }
            }
        }
    }

    /// Watches until nothing has run for a while. `told` is what was sent and is not confirmed.
    async fn watch(&mut self, told: &mut VecDeque<Settled>, pause: &mut Duration) -> Result<(), Interrupt> {
        let mut publications = self.slot.publications();
        publications.borrow_and_update();
        let mut connection = self.connect(told).await?;
        *pause = BACK_OFF_MIN;
        let mut busy = Instant::now();
        while busy.elapsed() < LINGER {
            while let Some(settled) = self.procedures.take_settled() {
                tell(&mut connection, settled, told);
            }
            if !self.procedures.is_idle() || !told.is_empty() {
                busy = Instant::now();
            }
            rtdb_runtime::select! {
                received = connection.next() => self.received(&connection, received?, told)?,
                changed = publications.changed() => match changed {
                    Ok(()) => return Err(Interrupt::Published),
                    Err(_) => std::future::pending().await,
                },
                () = self.procedures.woken() => {}
                () = rtdb_runtime::sleep(LINGER) => {}
            }
        }
        Ok(())
    }

    async fn connect(&mut self, told: &mut VecDeque<Settled>) -> Result<Connection, Interrupt> {
        let (admin, identity) = (&self.shared.admin, &self.slot.identity);
        admin.up().await;
        let life = admin.server().life();
        // Those of the module before, which may have had none but these, are to hear that it is another one.
        let active = self.shared.active(identity).ok_or(Interrupt::Absent)?;
        let mut connection = Connection::open_for(admin, &active.owner, identity, OUTBOX_BYTES_MAX).await?;
        if self.cleared != Some(life) {
            tell(&mut connection, FORGET, told);
            self.cleared = Some(life);
        }
        connection.subscribe(&[&format!("SELECT * FROM \"{OUTBOX}\"")]);
        Ok(connection)
    }

    fn received(
        &self,
        connection: &Connection,
        payload: Bytes,
        told: &mut VecDeque<Settled>,
    ) -> Result<(), Interrupt> {
        for message in connection.split(payload) {
            match message? {
                ServerMessage::SubscribeReply {
                    error: false,
                    changes,
                    ..
                } => self.found(&changes),
                ServerMessage::Update(update) => self.found(update.changes()),
                ServerMessage::SubscribeReply { .. } | ServerMessage::SubscriptionLost { .. } => {
                    return Err(Interrupt::Refused);
                }
                message => match message.into_applied().map(|call| call.outcome) {
                    Some(Outcome::Ok { .. }) => {
                        told.pop_front();
                    }
                    Some(outcome) => return Err(Interrupt::NotTold(outcome)),
                    None => {}
                },
            }
        }
        Ok(())
    }

    fn found(&self, changes: &Changes) {
        for change in changes.iter().filter(|change| *change.table == *OUTBOX) {
            change.inserts.iter().for_each(|row| self.procedures.found(&row));
        }
    }
}

fn tell(connection: &mut Connection, settled: Settled, told: &mut VecDeque<Settled>) {
    let Settled { run, seq, verdict } = settled;
    let header = CallHeader::default().encode();
    connection.send_call(SETTLE, &[&header, &settle_args(run, seq, verdict)]);
    told.push_back(settled);
}
