//! A database as it is on this node, on its way to whoever keeps it.

use super::send::Outgoing;
use super::{PIECES_WAITING, conflict, unavailable};
use crate::catalog;
use crate::node::{Node, Refused};
use axum::body::{Body, Bytes};
use futures::StreamExt;
use rtdb_consensus::command::{Body as Command, ENDS_LEVEL, FEATURE_LEVEL};
use rtdb_consensus::{Follow, Position, Propose, Session, SystemClock, WallClock};
use rtdb_replica::{DatabaseId, STATE_TABLE, Snapshot};
use rtdb_snapshot::{Departed, Header, Owner};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long this node may take to apply what is committed when it is asked.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

impl Node {
    /// Takes a snapshot of a database that has in it all that was acknowledged before; gives its bytes as they are wanted.
    pub(crate) async fn snapshot(self: &Arc<Self>, database: &str) -> Result<Body, Refused> {
        let identity = self.identity_of(database)?;
        let id: DatabaseId = identity
            .as_ref()
            .try_into()
            .map_err(|_| conflict("the database's record is not sound"))?;
        let record = self.manager.meta().meta().database(&identity).cloned();
        let record = record.ok_or_else(|| conflict("the database has just been deleted"))?;
        let running = self
            .local
            .running()
            .ok_or_else(|| unavailable("this node is still starting"))?;
        let is_open = self.manager.shard().with_shard(|shard| shard.is_open(&identity));
        if is_open == Some(false) {
            return Err(unavailable(
                "the database is not there yet, as far as this node knows: it is being published or restored",
            ));
        }
        let turn = self.snapshots.0.clone().try_acquire_owned();
        let turn = turn
            .map_err(|_| unavailable("this node is at another snapshot: try again later, or another node"))?;
        let quarantine = running.replica.quarantine(&id);
        if let Some(why) = quarantine.and_then(|quarantine| quarantine.borrow().clone()) {
            return Err(conflict(format!(
                "the database is set aside on this node: {why}: ask another one"
            )));
        }
        let index = self.manager.shard().read_index().await;
        let index = index.map_err(|_| unavailable("no leader says how far the log is: try again"))?;
        let caught_up = tokio::time::timeout(CATCH_UP_MAX, running.replica.caught_up(&id, index)).await;
        caught_up.map_err(|_| unavailable("this node's replica of the database lags: ask another one"))?;
        let before = self.by_session(&identity);
        let snapshot = running.replica.snapshot(&id).await?;
        let mut after = self.by_session(&identity);
        // Who came while the rows were read, and has left since, the log alone knows.
        let unknown = |id: &&u64| !before.contains_key(*id) && !after.contains_key(*id);
        let short: Vec<u64> = snapshot.sessions.keys().filter(unknown).copied().collect();
        for id in short {
            after.extend(self.session_of_then(&identity, id).await?);
        }
        let departed = departed(&snapshot, &before, &after);
        let owner = snapshot.publish.owner.clone().unwrap_or_default();
        let rows = snapshot.tables.iter().map(|(_, rows)| rows.len() as u64);
        let header = Header {
            level: needed_level(&snapshot),
            database: identity,
            owner: Some(Owner {
                identity: owner.identity,
                issuer: owner.issuer,
                subject: owner.subject,
            }),
            names: record.names,
            module: snapshot.publish.module.clone(),
            original_def: snapshot.publish.original_def.clone(),
            program: snapshot.publish.program.clone(),
            position: snapshot.state.index(),
            taken_us: SystemClock.now_us() as i64,
            written_by: format!("rafttimedb {}", env!("CARGO_PKG_VERSION")),
            spacetimedb: running
                .server
                .version()
                .map(|version| version.to_string())
                .unwrap_or_default(),
            rows: rows.sum(),
            ..Header::default()
        };
        let (pieces, received) = mpsc::channel::<Bytes>(PIECES_WAITING);
        let outgoing = Outgoing {
            header,
            clients: departed,
            ours: vec![(STATE_TABLE, Bytes::copy_from_slice(snapshot.state.bytes()))],
            tables: snapshot.tables,
        };
        tokio::spawn(async move {
            outgoing.send(&pieces).await;
            drop(turn);
        });
        let received = futures::stream::unfold(received, async |mut received| {
            Some((received.recv().await?, received))
        });
        Ok(Body::from_stream(received.map(Ok::<_, io::Error>)))
    }

    /// A session that may be over, from the command that began it.
    async fn session_of_then(&self, database: &Bytes, id: u64) -> Result<Option<(u64, Session)>, Refused> {
        let at = Position(id);
        let entries = self.manager.shard().read(at.index(), 1).await;
        let entries = entries.map_err(|error| unavailable(error.to_string()))?;
        let mut commands = entries.iter().flat_map(|entry| &entry.commands);
        let began = commands.find_map(|it| match &it.command.body {
            Some(Command::Connect(connect)) if it.position == at => {
                Some((it.origin, &connect.sender, &connect.connection))
            }
            Some(Command::Load(load)) if it.position < at => {
                let nth = (at.0 - it.position.0 - 1) as usize;
                let departed = load.departed.get(nth)?;
                Some((it.origin, &departed.sender, &departed.connection))
            }
            _ => None,
        });
        Ok(began.map(|(origin, sender, connection)| {
            let (database, sender, connection) = (database.clone(), sender.clone(), connection.clone());
            let session = Session {
                id,
                origin,
                database,
                sender,
                connection,
            };
            (id, session)
        }))
    }

    fn by_session(&self, database: &Bytes) -> BTreeMap<u64, Session> {
        let sessions = catalog::sessions(self.manager.shard(), database);
        sessions
            .into_iter()
            .map(|session| (session.id, session))
            .collect()
    }
}

/// What the nodes must be able to apply that go on with the database.
fn needed_level(snapshot: &Snapshot) -> u32 {
    match rtdb_replica::calls_at_once(&snapshot.publish.module) {
        true => FEATURE_LEVEL,
        false => ENDS_LEVEL,
    }
}

/// Who was connected at the snapshot's position. The log goes on while it is taken: so of the sessions of before and after, those
/// count that the rows know of, or that were there all the time.
fn departed(
    snapshot: &Snapshot,
    before: &BTreeMap<u64, Session>,
    after: &BTreeMap<u64, Session>,
) -> Vec<Departed> {
    let all: BTreeMap<_, _> = before.iter().chain(after).collect();
    let there = all.into_iter().filter_map(|(id, session)| {
        let known = snapshot.sessions.get(id);
        let is_there = *id <= snapshot.state.index()
            && (known.is_some() || before.contains_key(id) && after.contains_key(id));
        is_there.then(|| Departed {
            sender: session.sender.clone(),
            connection: session.connection.clone(),
            claims: known.cloned().unwrap_or_default(),
        })
    });
    there.collect()
}
