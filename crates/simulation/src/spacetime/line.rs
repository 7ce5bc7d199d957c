//! Connections to the server: the replica's, on which it calls, and the gateway's, on which it subscribes.

use super::SpacetimeDb;
use super::message::{self, Message};
use super::subscribers::{Connection, Sets};
use crate::module::owner;
use crate::wire::{End, pair};
use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use rtdb_gateway::{OpenError, Reach, Unanswered, Visit, Wire};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::reply::{CallReply, Outcome, call_result, hello};
use rtdb_replica::{AdminError, DatabaseId, Line, LineError};
use rtdb_runtime::{sim, sleep, timeout};
use spacetimedb_lib::Identity;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message as Frame;

/// Messages that may wait to be sent.
const UNSENT_MAX: usize = 64 << 10;
/// Bytes that may be on their way: frames are few enough.
const WAY_BYTES_MAX: usize = 1 << 20;
/// The longest that a frame takes, and an answer.
const FRAME_MAX: Duration = Duration::from_micros(300);
/// The longest that a call takes on a connection that is lost.
const LATE_MAX: Duration = Duration::from_millis(20);
/// The longest that a query may take.
const QUERY_MAX: Duration = Duration::from_secs(10);

/// A replica's end of a connection.
pub(super) struct Called(pub(super) End);

impl Line for Called {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, LineError>> {
        Poll::Ready(match ready!(self.0.poll_receive(cx)) {
            Some(Ok(Frame::Binary(payload))) => Ok(payload),
            _ => Err(LineError::Ended),
        })
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        // There is always room.
        self.0.poll_flush(cx).map_err(|_| LineError::Ended)
    }

    fn send(&mut self, frame: Bytes) -> Result<(), LineError> {
        self.0.push(frame).map_err(|_| LineError::Ended)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        Poll::Ready(Ok(()))
    }

    fn gather(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
}

/// Who was connected has gone.
struct Gone;

/// What the server does about a connection, for as long as both live.
struct Served {
    server: SpacetimeDb,
    number: u64,
    database: DatabaseId,
    subprotocol: Subprotocol,
    end: End,
    unsent: mpsc::Receiver<Bytes>,
    breaks: watch::Receiver<u64>,
}

impl SpacetimeDb {
    /// Opens a connection. What the server says there in the end it says of somebody.
    pub(super) fn open(
        &self,
        sender: [u8; 32],
        database: DatabaseId,
        subprotocol: Subprotocol,
        is_light: bool,
    ) -> End {
        let (near, end) = pair(WAY_BYTES_MAX, WAY_BYTES_MAX);
        let (answers, unsent) = mpsc::channel(UNSENT_MAX);
        let number = self.admit(Connection {
            database,
            subprotocol,
            is_light,
            is_deaf: false,
            answers,
            sets: Sets::default(),
        });
        let served = Served {
            server: self.clone(),
            number,
            database,
            subprotocol,
            end,
            unsent,
            breaks: self.breaks(),
        };
        self.say(number, hello(subprotocol, &sender, "token", &[3; 16]));
        drop(sim::spawn_on(self.task(), served.run()));
        near
    }
}

impl Served {
    async fn run(mut self) {
        loop {
            rtdb_runtime::select! {
                Ok(()) = self.breaks.changed() => {
                    self.end.shut();
                    let frame = self.end.receive().await;
                    return self.late(frame).await;
                }
                message = self.unsent.recv() => match message {
                    Some(message) => {
                        if self.tell(message).await.is_err() {
                            return self.server.dismiss(self.number);
                        }
                    }
                    // The database is gone.
                    None => return,
                },
                frame = self.end.receive() => match frame {
                    Some(Frame::Binary(frame)) => {
                        if self.hear(&frame).await.is_err() {
                            return self.late(Some(Frame::Binary(frame))).await;
                        }
                    }
                    Some(Frame::Close(_)) | None => return self.server.dismiss(self.number),
                    Some(_) => {}
                },
            }
        }
    }

    /// Sends what is to be sent. What it has done it need not have said: it may die before.
    async fn tell(&mut self, first: Bytes) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        if sim::draw(4) == 0 {
            sleep(sim::up_to(FRAME_MAX)).await;
        }
        self.server.pace().await;
        let mut messages = vec![first];
        while let Ok(message) = self.unsent.try_recv() {
            messages.push(message);
        }
        match self.subprotocol {
            Subprotocol::V3 => self.end.push(payload(messages)),
            _ => messages
                .into_iter()
                .try_for_each(|message| self.end.push(payload([message]))),
        }
    }

    /// Does what a frame says, unless nobody is there any more who has sent it.
    async fn hear(&mut self, frame: &Bytes) -> Result<(), Gone> {
        if sim::draw(4) == 0 {
            sleep(sim::up_to(FRAME_MAX)).await;
        }
        self.server.pace().await;
        if self.end.is_shut() {
            return Err(Gone);
        }
        let messages = message::read(self.subprotocol, frame);
        for message in messages.expect("a frame that the model knows") {
            match message {
                Message::Call {
                    request_id,
                    reducer,
                    args,
                    is_silent,
                } => {
                    let Some(outcome) = self.server.call(&self.database, &reducer, &args) else {
                        self.server.dismiss(self.number);
                        return Ok(());
                    };
                    let answer = self.answer(request_id, &reducer, &args, is_silent, outcome);
                    answer
                        .into_iter()
                        .for_each(|answer| self.server.say(self.number, answer));
                }
                set => self.server.set(self.number, set),
            }
        }
        Ok(())
    }

    /// Makes the calls of a frame that came before the connection was lost: nobody hears of them.
    async fn late(self, frame: Option<Frame>) {
        self.server.dismiss(self.number);
        let Some(Frame::Binary(frame)) = frame else { return };
        for message in message::read(self.subprotocol, &frame).into_iter().flatten() {
            let Message::Call { reducer, args, .. } = message else {
                continue;
            };
            sleep(sim::up_to(LATE_MAX)).await;
            rtdb_runtime::reached("calls of lost connections");
            if self.server.call(&self.database, &reducer, &args).is_none() {
                return;
            }
        }
    }

    fn answer(
        &self,
        request_id: u32,
        reducer: &str,
        args: &[u8],
        no_success_notify: bool,
        outcome: Outcome,
    ) -> Option<Bytes> {
        let outcome = match (self.subprotocol, outcome) {
            // 1.2.0 leaves the caller without an answer.
            (Subprotocol::V1, Outcome::OutOfEnergy) => return None,
            (Subprotocol::V1, Outcome::Internal(message)) => Outcome::Failed {
                message,
                execution_us: 1,
                energy: 1,
            },
            (_, outcome) => outcome,
        };
        let sender = owner().identity.as_ref().try_into().unwrap_or_default();
        call_result(
            self.subprotocol,
            &CallReply {
                request_id,
                timestamp_us: 0,
                sender: &sender,
                connection: &[3; 16],
                reducer,
                reducer_id: 0,
                args,
                no_success_notify,
                outcome: &outcome,
            },
        )
    }
}

fn payload(messages: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u8(0);
    messages.into_iter().for_each(|message| payload.put(message));
    payload.freeze()
}

impl Reach for SpacetimeDb {
    fn connect<'a>(&'a self, visit: Visit<'a>) -> BoxFuture<'a, Result<Box<dyn Wire>, OpenError>> {
        async move {
            let database = visit.database.to_byte_array();
            if !self.is_reached(&database).await {
                return Err(OpenError::Unavailable);
            }
            let line = self.open([2; 32], database, visit.subprotocol, visit.light);
            Ok(Box::new(line) as Box<dyn Wire>)
        }
        .boxed()
    }

    fn query<'a>(
        &'a self,
        database: &'a Identity,
        _token: &'a str,
        query: String,
    ) -> BoxFuture<'a, Result<(StatusCode, Bytes), Unanswered>> {
        async move {
            let path = format!("/v1/database/{}/sql", database.to_hex());
            let owner = owner();
            let asked = self.answer(Method::POST, &path, query.into(), &owner);
            match timeout(QUERY_MAX, asked).await {
                Ok(Ok(body)) => Ok((StatusCode::OK, body)),
                Ok(Err(AdminError::Refused { status, text })) => Ok((status, text.into())),
                Ok(Err(error)) => Err(Unanswered(error.to_string())),
                Err(_) => Err(Unanswered("no answer in time".to_owned())),
            }
        }
        .boxed()
    }
}
