//! Refreshes a database's views, over a connection of its own: nothing that goes wrong here concerns the applier.

use super::{LINGER, PAUSE_FACTOR, Request, ViewError, Views};
use crate::AdminError;
use crate::applier::{Connection, ConnectionError};
use crate::replica::{Shared, Slot};
use rtdb_determinism::header::CallHeader;
use rtdb_determinism::{REFRESH, REFRESH_ALL, view_pause};
use rtdb_protocol::reply::Outcome;
use rtdb_runtime::Instant;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;

/// A view that fails after so long, twice in a row, is taken for one that would run for ever. Its own code ends such a view
/// sooner; the server stops one whose module was prepared without that, or that waits for memory all the time, after some
/// 13 s or more, and says of it no more than of a panic. Once may be due to calls that came before it.
const STUCK_AFTER: Duration = Duration::from_secs(4);
/// One that has been asked for may follow at once if the last one was shorter.
const SHORT: Duration = Duration::from_millis(20);
/// The version of definitions that may have views.
const SCHEMA_VERSION: u32 = 10;
/// The pause before a lost connection is tried again: doubles from the first to the second.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// Refreshes the views of one database.
pub(crate) struct Refresher {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    views: Arc<Views>,
    /// A refresh of all has failed, and none of the instances that are known: they are refreshed one by one.
    by_key: bool,
    /// The life of the server that is connected to.
    life: u64,
    /// A refresh of all took too long, so that the server was stopped: which view it was is still to be found.
    was_overlong: bool,
    /// When the next refresh may begin: any, and one that has been asked for.
    rested: Instant,
    rested_a_little: Instant,
}

/// Why refreshing stopped.
#[derive(Debug, Error)]
enum Interrupt {
    #[error("the database is not there")]
    Absent,
    #[error("its module was published by an older RaftTimeDB, which did not know of views: publish it again")]
    OldModule,
    #[error("another module was published")]
    Published,
    #[error("a view has run for {0:?}, longer than a call may")]
    Overlong(Duration),
    #[error("a view could not be put aside: {0}")]
    NotPutAside(String),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

impl Refresher {
    pub(crate) fn new(shared: Arc<Shared>, slot: Arc<Slot>) -> Self {
        let (views, now) = (slot.views.clone(), Instant::now());
        Self {
            shared,
            slot,
            views,
            by_key: false,
            life: 0,
            was_overlong: false,
            rested: now,
            rested_a_little: now,
        }
    }

    /// Refreshes for as long as it is polled.
    pub(crate) async fn run(mut self) {
        let mut pause = BACK_OFF_MIN;
        loop {
            self.views.woken().await;
            match self.serve(&mut pause).await {
                Ok(()) => {}
                Err(Interrupt::Published) => {
                    self.views.published();
                    self.views.outdate();
                }
                Err(error) => {
                    tracing::warn!(database = self.slot.hex(), %error, "views can't be refreshed now");
                    self.views.refuse(&error.to_string());
                    rtdb_runtime::sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF_MAX);
                    self.views.outdate();
                }
            }
        }
    }

    /// Refreshes until nobody has held a view for a while.
    async fn serve(&mut self, pause: &mut Duration) -> Result<(), Interrupt> {
        let mut publications = self.slot.publications();
        publications.borrow_and_update();
        let mut connection = self.connect().await?;
        *pause = BACK_OFF_MIN;
        self.by_key = std::mem::take(&mut self.was_overlong);
        self.views.outdate();
        let mut held = Instant::now();
        while held.elapsed() < LINGER {
            let now = Instant::now();
            if self.views.is_held() {
                held = now;
            }
            if publications.has_changed().unwrap_or(false) {
                return Err(Interrupt::Published);
            }
            if now >= self.rested_a_little
                && let Some(request) = self.views.take_request()
            {
                self.answer(&mut connection, request).await?;
                continue;
            }
            if now >= self.all_rested() && self.views.take_outdated() {
                self.refresh_all(&mut connection).await?;
                continue;
            }
            self.wait(&mut connection, &mut publications).await?;
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<Connection, Interrupt> {
        let (admin, identity) = (&self.shared.admin, &self.slot.identity);
        admin.up().await;
        self.life = admin.server().life();
        let active = self.shared.active(identity).ok_or(Interrupt::Absent)?;
        let schema = admin.schema(&active.owner, identity, SCHEMA_VERSION).await?;
        let name = format!("\"{REFRESH}\"");
        if !schema.windows(name.len()).any(|window| window == name.as_bytes()) {
            return Err(Interrupt::OldModule);
        }
        Ok(Connection::open(admin, &active.owner, identity).await?)
    }

    /// When the next refresh of all may begin.
    fn all_rested(&self) -> Instant {
        let behind_calls = self.views.rested();
        behind_calls.map_or(self.rested, |rested| rested.max(self.rested))
    }

    /// Waits until something may be due.
    async fn wait(
        &self,
        connection: &mut Connection,
        publications: &mut watch::Receiver<u64>,
    ) -> Result<(), Interrupt> {
        let now = Instant::now();
        let rests = [self.rested_a_little, self.all_rested()]
            .into_iter()
            .filter(|until| *until > now);
        let until = rests.min().unwrap_or(now + LINGER);
        rtdb_runtime::select! {
            // Nothing is subscribed to: what comes is the connection's end.
            received = connection.next() => received.map(drop).map_err(Interrupt::from),
            changed = publications.changed() => match changed {
                Ok(()) => Err(Interrupt::Published),
                Err(_) => std::future::pending().await,
            },
            () = self.views.woken() => Ok(()),
            () = rtdb_runtime::sleep_until(until) => Ok(()),
        }
    }

    /// Refreshes what somebody waits for.
    async fn answer(&mut self, connection: &mut Connection, request: Request) -> Result<(), Interrupt> {
        let result = match self.views.check_stuck(&request.view) {
            Ok(()) => self.refresh_one(connection, request.key, false).await,
            Err(stuck) => self.put_aside(connection, request.key).await.map(|()| Err(stuck)),
        };
        match result {
            Ok(answer) => {
                request.answer(answer);
                Ok(())
            }
            Err(interrupt) => {
                let stuck = self.views.check_stuck(&request.view);
                request.answer(stuck.and(Err(ViewError::Unavailable(interrupt.to_string()))));
                Err(interrupt)
            }
        }
    }

    /// Refreshes all instances that calls have outdated. If one fails it is found, and put aside.
    async fn refresh_all(&mut self, connection: &mut Connection) -> Result<(), Interrupt> {
        let begun = Instant::now();
        if !self.by_key {
            let refreshed = self.call(connection, REFRESH_ALL).await;
            self.was_overlong = matches!(refreshed, Err(Interrupt::Overlong(_)));
            if refreshed?.is_ok() {
                return Ok(());
            }
        }
        let suspicious = begun.elapsed() >= STUCK_AFTER;
        let mut failed = false;
        for key in self.views.running() {
            // One that has run for too long takes others with it.
            if self.views.is_running(key) {
                failed |= self.refresh_one(connection, key, suspicious).await?.is_err();
            }
        }
        self.rested = Instant::now() + begun.elapsed() * PAUSE_FACTOR;
        if !failed && !self.by_key {
            tracing::warn!(
                database = self.slot.hex(),
                "a view fails that no client of this node looks at: the others are refreshed one by one"
            );
            self.by_key = true;
        }
        Ok(())
    }

    /// Refreshes an instance. `suspicious`: a refresh of it among others has failed after [`STUCK_AFTER`].
    async fn refresh_one(
        &mut self,
        connection: &mut Connection,
        key: u64,
        mut suspicious: bool,
    ) -> Result<Result<(), ViewError>, Interrupt> {
        let (reason, stuck) = loop {
            let begun = Instant::now();
            let refreshed = self.call(connection, key).await;
            if let Err(Interrupt::Overlong(_)) = refreshed {
                // The server has forgotten the instance, and whoever asks for it again hears that the view is stuck.
                let (error, _) = self.views.failed(key, String::new(), true);
                tracing::warn!(database = self.slot.hex(), %error, "a view is put aside");
            }
            let Err(reason) = refreshed? else {
                self.views.works(key);
                return Ok(Ok(()));
            };
            let is_long = begun.elapsed() >= STUCK_AFTER;
            if !is_long || suspicious {
                break (reason, is_long);
            }
            suspicious = true;
        };
        let (error, aside) = self.views.failed(key, reason, stuck);
        tracing::warn!(database = self.slot.hex(), %error, "a view is put aside");
        for key in aside {
            self.put_aside(connection, key).await?;
        }
        Ok(Err(error))
    }

    /// No code of the view runs in this.
    async fn put_aside(&mut self, connection: &mut Connection, key: u64) -> Result<(), Interrupt> {
        self.call(connection, view_pause(key))
            .await?
            .map_err(Interrupt::NotPutAside)
    }

    /// One refresh. The inner error is its failure.
    async fn call(&mut self, connection: &mut Connection, key: u64) -> Result<Result<(), String>, Interrupt> {
        let args = [&CallHeader::default().encode()[..], &key.to_le_bytes()].concat();
        let begun = Instant::now();
        let called = connection.call(REFRESH, &args).await;
        if let Err(ConnectionError::Overlong(max)) = called {
            let overlong = Interrupt::Overlong(max);
            let why = format!("database {}: {overlong}", self.slot.hex());
            self.shared.admin.server().end_life(self.life, why);
            return Err(overlong);
        }
        let (now, took) = (Instant::now(), begun.elapsed());
        self.rested = now + took * PAUSE_FACTOR;
        self.rested_a_little = if took < SHORT { now } else { self.rested };
        Ok(match called?.outcome {
            Outcome::Ok { .. } => {
                // One by one they are not for the applier.
                if !self.by_key {
                    self.views.works_as_a_whole(took);
                }
                Ok(())
            }
            Outcome::Failed { message, .. } | Outcome::Internal(message) | Outcome::Rejected(message) => {
                Err(message)
            }
            Outcome::OutOfEnergy => Err("it ran out of energy".to_owned()),
        })
    }
}
