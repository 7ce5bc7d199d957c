//! The one who calls while a crowd looks on: a subscriber itself, as in a game.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rtdb_testkit::client::{Client, Event};
use rtdb_testkit::demo_module::{ADD, TABLE, add};
use tokio::time::{sleep_until, timeout};

use crate::crowd::Board;
use crate::measure::connect_to;

/// How long an answer may take, if the server is behind by what a step of too high a rate has left.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Calls without an answer at a fixed rate: beyond, the writer waits, and is late.
const UNANSWERED_MAX: u64 = 50_000;

/// A client that adds rows.
#[derive(Debug)]
pub(crate) struct Writer {
    client: Client,
    unanswered: u64,
}

impl Writer {
    pub(crate) async fn connect(addr: &str, database: &str) -> Result<Self> {
        let mut client = Client::connect(&connect_to(addr, database)?).await?;
        client.subscribe(&[&format!("SELECT * FROM {TABLE}")], 1).await?;
        match timeout(ANSWER_MAX, client.event()).await?? {
            Event::Subscribed { .. } => {}
            other => bail!("not subscribed but {other:?}"),
        }
        Ok(Self {
            client,
            unanswered: 0,
        })
    }

    /// Calls for as long as `time`, with at most `window` calls under way.
    pub(crate) async fn pipelined(&mut self, board: &Board, window: u64, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            while self.unanswered < window {
                self.call(board, Instant::now()).await?;
            }
            self.client.flush().await?;
            self.answers().await?;
        }
        self.drain().await
    }

    /// Calls at a fixed rate, whether they are answered or not.
    pub(crate) async fn at_rate(&mut self, board: &Board, rate: f64, time: Duration) -> Result<()> {
        let start = Instant::now();
        let due = |call: u32| start + Duration::from_secs_f64(f64::from(call) / rate);
        let mut call = 0;
        while due(call) < start + time {
            while due(call) <= Instant::now() && due(call) < start + time && self.unanswered < UNANSWERED_MAX
            {
                self.call(board, due(call)).await?;
                call += 1;
            }
            self.client.flush().await?;
            tokio::select! {
                () = sleep_until(due(call).into()), if self.unanswered < UNANSWERED_MAX => {}
                answered = self.answers(), if self.unanswered > 0 => answered?,
            }
        }
        Ok(())
    }

    /// Waits for the answers of all calls.
    pub(crate) async fn drain(&mut self) -> Result<()> {
        while self.unanswered > 0 {
            self.answers().await?;
        }
        Ok(())
    }

    async fn call(&mut self, board: &Board, due: Instant) -> Result<()> {
        board.calling(due);
        self.client.call(ADD, &add("crowd", 1)).await?;
        self.unanswered += 1;
        Ok(())
    }

    /// At least one answer, and all that have arrived with it.
    async fn answers(&mut self) -> Result<()> {
        let answer = timeout(ANSWER_MAX, self.client.event()).await;
        self.answered(&answer.context("a call was not answered")??)?;
        while let Some(event) = self.client.event_now() {
            self.answered(&event?)?;
        }
        Ok(())
    }

    fn answered(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Reply(reply) if reply.result.is_ok() => self.unanswered -= 1,
            other => bail!("not acknowledged: {other:?}"),
        }
        Ok(())
    }
}
