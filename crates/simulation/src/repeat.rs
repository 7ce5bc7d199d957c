//! Calls with keys: their clients send them again through other nodes, above all those of which nobody has told what became.

use crate::client::Client;
use crate::module::DATABASE;
use rtdb_consensus::command::{Body, Call, CallKey, Outcomes};
use rtdb_consensus::{Command, Outcome, Propose, Refusal, Unapplied};
use rtdb_runtime::{Instant, sim, sleep};
use std::time::Duration;

/// One call of so many has a key.
const KEYED_ONE_IN: u64 = 8;

/// How long it is waited for what became of the first call.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether the log has it.
const LOOK: Duration = Duration::from_millis(100);

/// After so many looks all replicas are asked.
const LOOKS: u32 = 5;

/// Gives a call a key, now and then: one without a session, which may be over when it is sent again.
pub(crate) fn draw_key(command: Command, name: &str) -> Command {
    match command.body {
        Some(Body::Call(call)) if call.session == 0 && sim::draw(KEYED_ONE_IN) == 0 => {
            let key = Some(CallKey {
                sender: DATABASE,
                key: name.to_owned(),
                ..CallKey::default()
            });
            Body::Call(Call { key, ..call }).into()
        }
        _ => command,
    }
}

impl Client {
    /// Sends a call with a key again, through any node, as a gateway does.
    pub(crate) async fn repeat(&self, nodes: &[u64], name: &str, command: &Command) {
        let node = nodes[sim::draw(nodes.len() as u64) as usize];
        let (Some(key), Some(manager)) = (command.key(), self.cluster.manager(node)) else {
            return;
        };
        let Ok(pending) = manager.shard().submit(command.clone()) else {
            return;
        };
        drop(manager);
        let mut outcome = pending.await;
        if outcome == Err(Unapplied::Refused(Refusal::Repeated)) {
            let Some(first) = self.first(node, key).await else {
                return;
            };
            outcome = first;
        }
        self.cluster.truth.repeated(node, name, &outcome);
    }

    /// What became of the first call with a key, as a node has it from the log.
    async fn first(&self, node: u64, key: &CallKey) -> Option<Outcome> {
        let begun = Instant::now();
        for look in 1.. {
            let manager = self.cluster.manager(node)?;
            let first = manager.shard().with_shard(|shard| {
                let (position, call) = shard.keyed(&DATABASE, &key.sender, &key.key)?;
                Some((position, call.outcome()))
            });
            let (position, outcome) = first??;
            if outcome.is_some() {
                return outcome;
            }
            if begun.elapsed() >= WAIT_MAX {
                return None;
            }
            if look % LOOKS == 0 {
                let wanted = vec![position.0];
                let ask = Body::Outcomes(Outcomes {
                    database: DATABASE,
                    wanted,
                    ..Outcomes::default()
                });
                drop(manager.shard().submit(ask.into()));
            }
            drop(manager);
            sleep(LOOK).await;
        }
        None
    }
}
