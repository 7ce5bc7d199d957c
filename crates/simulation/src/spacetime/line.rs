//! Connections to the server.

use super::SpacetimeDb;
use crate::module::owner;
use bytes::{BufMut, Bytes, BytesMut};
use rtdb_consensus::command::Owner;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client::{self, ClientMessage};
use rtdb_protocol::reply::{CallReply, Outcome, call_result, hello};
use rtdb_replica::{DatabaseId, Line, LineError};
use rtdb_runtime::{sim, sleep};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Frames that may be on their way: more than an applier may have under way.
const FRAMES_MAX: usize = 64 << 10;
/// Answers that may wait to be read.
const ANSWERS_MAX: usize = 64 << 10;
/// The longest that a frame takes, and an answer.
const FRAME_MAX: Duration = Duration::from_micros(300);
/// The longest that a call takes on a connection that is lost.
const LATE_MAX: Duration = Duration::from_millis(20);

pub(super) struct Wire {
    frames: mpsc::Sender<Bytes>,
    answers: mpsc::Receiver<Bytes>,
}

impl Line for Wire {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, LineError>> {
        Poll::Ready(ready!(self.answers.poll_recv(cx)).ok_or(LineError::Ended))
    }

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        Poll::Ready(match self.frames.is_closed() {
            true => Err(LineError::Ended),
            false => Ok(()),
        })
    }

    fn send(&mut self, frame: Bytes) -> Result<(), LineError> {
        match self.frames.try_send(frame) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(LineError::Ended),
            Err(mpsc::error::TrySendError::Full(_)) => panic!("more is under way than may be"),
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LineError>> {
        Poll::Ready(Ok(()))
    }

    fn gather(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
}

/// What the server does about a connection, for as long as both live.
struct Served {
    server: SpacetimeDb,
    database: DatabaseId,
    subprotocol: Subprotocol,
    frames: mpsc::Receiver<Bytes>,
    answers: mpsc::Sender<Bytes>,
    breaks: watch::Receiver<u64>,
}

impl SpacetimeDb {
    pub(super) fn open(&self, owner: &Owner, database: DatabaseId, subprotocol: Subprotocol) -> Wire {
        let (frames, incoming) = mpsc::channel(FRAMES_MAX);
        let (outgoing, answers) = mpsc::channel(ANSWERS_MAX);
        let served = Served {
            server: self.clone(),
            database,
            subprotocol,
            frames: incoming,
            answers: outgoing,
            breaks: self.breaks(),
        };
        let identity = owner.identity.as_ref().try_into().unwrap_or_default();
        let hello = hello(subprotocol, &identity, "token", &[3; 16]);
        drop(sim::spawn_on(self.task(), served.run(hello)));
        Wire { frames, answers }
    }
}

impl Served {
    async fn run(mut self, hello: Bytes) {
        if self.answers.send(payload([hello])).await.is_err() {
            return;
        }
        loop {
            let frame = rtdb_runtime::select! {
                frame = self.frames.recv() => frame,
                Ok(()) = self.breaks.changed() => {
                    drop(self.answers);
                    let frame = self.frames.recv().await;
                    return late(&self.server, &self.database, self.subprotocol, frame).await;
                }
            };
            let Some(frame) = frame else { return };
            if sim::draw(4) == 0 {
                sleep(sim::up_to(FRAME_MAX)).await;
            }
            self.server.pace().await;
            if self.answers.is_closed() {
                return late(&self.server, &self.database, self.subprotocol, Some(frame)).await;
            }
            let mut answers = Vec::new();
            for call in calls(self.subprotocol, frame) {
                let Some(outcome) = self.server.call(&self.database, &call.reducer, &call.args) else {
                    // The database is gone.
                    return;
                };
                answers.extend(self.answer(&call, outcome));
            }
            // What it has done it need not have said.
            if sim::draw(4) == 0 {
                sleep(sim::up_to(FRAME_MAX)).await;
            }
            let sent = match self.subprotocol {
                Subprotocol::V3 if !answers.is_empty() => self.answers.send(payload(answers)).await.is_ok(),
                _ => {
                    let mut sent = true;
                    for answer in answers {
                        sent &= self.answers.send(payload([answer])).await.is_ok();
                    }
                    sent
                }
            };
            if !sent {
                return;
            }
        }
    }

    fn answer(&self, call: &client::CallReducer, outcome: Outcome) -> Option<Bytes> {
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
                request_id: call.request_id,
                timestamp_us: 0,
                sender: &sender,
                connection: &[3; 16],
                reducer: &call.reducer,
                reducer_id: 0,
                args: &call.args,
                no_success_notify: call.no_success_notify,
                outcome: &outcome,
            },
        )
    }
}

/// Makes the calls of a frame that came before the connection was lost: nobody hears of them.
async fn late(server: &SpacetimeDb, database: &DatabaseId, subprotocol: Subprotocol, frame: Option<Bytes>) {
    for call in frame.into_iter().flat_map(|frame| calls(subprotocol, frame)) {
        sleep(sim::up_to(LATE_MAX)).await;
        rtdb_runtime::reached("calls of lost connections");
        if server.call(database, &call.reducer, &call.args).is_none() {
            return;
        }
    }
}

fn calls(subprotocol: Subprotocol, frame: Bytes) -> impl Iterator<Item = client::CallReducer> {
    client::split(subprotocol, frame).map(|message| match message {
        Ok(ClientMessage::Call(call)) => call,
        _ => panic!("a frame that is no call"),
    })
}

fn payload(messages: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u8(0);
    messages.into_iter().for_each(|message| payload.put(message));
    payload.freeze()
}
