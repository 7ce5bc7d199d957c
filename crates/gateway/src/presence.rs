//! A client's presence in the log: from its `Connect` to its `Disconnect`.

use crate::entrance::Entering;
use crate::limits::LEAVING_WAIT_MAX;
use rtdb_consensus::command::{Body, Connect, Disconnect};
use rtdb_consensus::{NotProposed, Propose, Refusal, Unapplied};
use spacetimedb_lib::{ConnectionId, Identity};
use std::sync::Arc;
use thiserror::Error;

/// A client that the log knows. Dropping it, in whatever way the session ends, proposes its `Disconnect`.
pub(crate) struct Presence {
    group: Arc<dyn Propose>,
    session: u64,
    has_left: bool,
}

/// Why a client was not let in.
#[derive(Debug, Error)]
pub(crate) enum NotLetIn {
    /// The node can't take it now.
    #[error(transparent)]
    NotProposed(NotProposed),
    /// `client_connected` refused it, or the log did.
    #[error(transparent)]
    Unapplied(Unapplied),
}

impl Presence {
    /// Lets a client in, whose token says `claims`; with a connection id that no other client has, if that is known to all
    /// nodes.
    pub(crate) async fn connect(
        group: Arc<dyn Propose>,
        database: &Identity,
        sender: &Identity,
        connection: ConnectionId,
        claims: String,
        unique: bool,
        entering: Entering,
    ) -> Result<Self, NotLetIn> {
        let body = Body::Connect(Connect {
            database: database.to_byte_array().to_vec().into(),
            sender: sender.to_byte_array().to_vec().into(),
            connection: connection.as_le_byte_array().to_vec().into(),
            claims,
            unique,
        });
        // The outcome is awaited by a task of its own: were the client gone before it, its session would still have
        // to be ended.
        let pending = group.submit(body.into()).map_err(NotLetIn::NotProposed)?;
        let connecting = rtdb_runtime::spawn(async move {
            let outcome = pending.await;
            drop(entering);
            match outcome {
                Ok(applied) => Ok(Self {
                    group,
                    session: applied.position.0,
                    has_left: false,
                }),
                Err(error) => {
                    // What has an unknown outcome may have begun a session all the same.
                    let begun = match &error {
                        Unapplied::Reducer { position, .. } => Some((*position, true)),
                        Unapplied::Unknown { position, .. } => position.map(|position| (position, false)),
                        Unapplied::Refused(Refusal::NothingToEnter(position)) => Some((*position, true)),
                        Unapplied::Refused(_) => None,
                    };
                    if let Some((position, refused)) = begun {
                        let session = position.0;
                        disconnect(&group, Disconnect { session, refused });
                    }
                    Err(error)
                }
            }
        });
        match connecting.await {
            Ok(presence) => presence.map_err(NotLetIn::Unapplied),
            Err(_) => Err(NotLetIn::Unapplied(Unapplied::unknown("the node is stopping"))),
        }
    }

    /// The session's id.
    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// Ends the session, and waits until that is done on this node; not for long, since what the client has done is done.
    pub(crate) async fn leave(mut self) {
        let command = Body::Disconnect(self.end()).into();
        if let Ok(pending) = self.group.submit(command) {
            self.has_left = true;
            // Whatever comes of it, the client has gone.
            let _ = rtdb_runtime::timeout(LEAVING_WAIT_MAX, pending).await;
        }
    }

    fn end(&self) -> Disconnect {
        Disconnect {
            session: self.session,
            refused: false,
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if !self.has_left && !rtdb_runtime::planted("departures are not told") {
            disconnect(&self.group, self.end());
        }
    }
}

/// Ends a session in the log. While there is no room it is tried again; a node that stops proposes nothing more, and
/// the leader ends its sessions with its epoch.
fn disconnect(group: &Arc<dyn Propose>, command: Disconnect) {
    let command = rtdb_consensus::Command::from(Body::Disconnect(command));
    if let Err(NotProposed::Overloaded { .. }) = group.submit(command.clone())
        && rtdb_runtime::is_running()
    {
        let group = group.clone();
        rtdb_runtime::spawn(async move {
            while let Err(NotProposed::Overloaded { .. }) = group.submit(command.clone()) {
                group.ready().await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use rtdb_consensus::{Command, LogIndex, NoReadIndex, Pending, Position};
    use std::sync::Mutex;

    /// A log that takes everything, and of which nothing is heard.
    #[derive(Default)]
    struct Silent(Mutex<Vec<Box<dyn std::any::Any + Send>>>);

    impl Propose for Silent {
        fn submit(&self, _: Command) -> Result<Pending, NotProposed> {
            let (done, pending) = Pending::new();
            self.0.lock().expect("no panic").push(Box::new(done));
            Ok(pending)
        }

        fn ready(&self) -> BoxFuture<'_, ()> {
            async {}.boxed()
        }

        fn read_index(&self) -> BoxFuture<'_, Result<LogIndex, NoReadIndex>> {
            std::future::ready(Err(NoReadIndex)).boxed()
        }
    }

    /// A log that takes everything, lets clients in, and knows of replicas without the database.
    #[derive(Default)]
    struct Empty(Mutex<Vec<Body>>);

    impl Propose for Empty {
        fn submit(&self, command: Command) -> Result<Pending, NotProposed> {
            let (done, pending) = Pending::new();
            self.0.lock().expect("no panic").extend(command.body);
            drop(done.send(Err(Unapplied::Refused(Refusal::NothingToEnter(Position(7))))));
            Ok(pending)
        }

        fn ready(&self) -> BoxFuture<'_, ()> {
            async {}.boxed()
        }

        fn read_index(&self) -> BoxFuture<'_, Result<LogIndex, NoReadIndex>> {
            std::future::ready(Err(NoReadIndex)).boxed()
        }
    }

    #[tokio::test]
    async fn a_session_of_a_database_that_is_not_there_is_ended() {
        let log = Arc::new(Empty::default());
        let connected = Presence::connect(
            log.clone(),
            &Identity::ZERO,
            &Identity::ZERO,
            ConnectionId::ZERO,
            String::new(),
            false,
            None,
        );
        assert!(connected.await.is_err());
        let proposed = log.0.lock().expect("no panic").pop();
        let end = Disconnect {
            session: 7,
            refused: true,
        };
        assert_eq!(proposed, Some(Body::Disconnect(end)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_does_not_wait_for_a_log_that_has_stopped() {
        let log = Arc::new(Silent::default());
        let presence = Presence {
            group: log.clone(),
            session: 7,
            has_left: false,
        };
        let left = tokio::time::timeout(LEAVING_WAIT_MAX * 2, presence.leave());
        left.await.expect("it is not waited for ever");
        assert_eq!(log.0.lock().expect("no panic").len(), 1, "it leaves once");
    }
}
