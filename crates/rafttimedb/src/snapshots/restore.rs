//! A database from a snapshot's bytes: its module and its rows go through the log, and it is there once all of them are.

use super::{IDLE_MAX, PIECES_WAITING, conflict, refused, unavailable};
use crate::node::{Node, Refused};
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use rtdb_consensus::command::{
    Body as Command, Delete, Departed, EndDatabase, JUDGEMENT_LEVEL, LOAD_BYTES_MAX, LOAD_DEPARTED_MAX, Load,
    Names, Owner, Publish, RESTORE_LEVEL, RegisterDatabase, SetNames, TableRows, TableSum,
};
use rtdb_consensus::{
    Applied, Database, Follow, Group, GroupId, Pending, Position, Propose, Refusal, Reply, SystemClock,
    Unapplied, WallClock,
};
use rtdb_gateway::{Local, check_name};
use rtdb_snapshot::{CLIENTS_MAX, Header, Piece, ROWS_BYTES, Reader};
use serde::Serialize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Loads that are on their way through the log.
const LOADS_IN_FLIGHT: usize = 4;

// What a piece holds, a load may carry.
const _: () = assert!(CLIENTS_MAX <= LOAD_DEPARTED_MAX && ROWS_BYTES <= LOAD_BYTES_MAX);

/// How long a command may take; one with a large module is compiled on each node first.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// How long this node may take to hear what the cluster has agreed on.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// How far the snapshot's clock may be ahead of this node's.
const AHEAD_US_MAX: i64 = 10_000_000;

/// Where a snapshot is to be restored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// As a database of its own, of this name; else as what it was.
    pub(crate) name: Option<String>,
    /// In the place of the database that is there.
    pub(crate) replace: bool,
}

impl Target {
    /// What the database is to be called.
    fn names(&self, header: &Header) -> Vec<String> {
        match &self.name {
            Some(name) => vec![name.clone()],
            None => header.names.clone(),
        }
    }
}

/// A database was restored.
#[derive(Serialize)]
pub(crate) struct Restored {
    /// Its identity.
    identity: String,
    /// Its names.
    names: Vec<String>,
    /// How many rows it has.
    rows: u64,
    /// The position of the last of them.
    position: String,
}

impl Node {
    /// Restores a database. Once it has begun it goes on, or is undone, whether somebody waits for it or not.
    pub(crate) async fn restore(self: &Arc<Self>, target: Target, body: Body) -> Result<Restored, Refused> {
        let turn = self.snapshots.0.clone().try_acquire_owned();
        let turn = turn
            .map_err(|_| unavailable("this node is at another snapshot: try again later, or another node"))?;
        let (parts, received) = mpsc::channel::<Bytes>(PIECES_WAITING);
        let node = Arc::clone(self);
        let restoring = tokio::spawn(async move {
            let restored = Restoring::new(node, received).run(target).await;
            drop(turn);
            restored
        });
        let mut stream = body.into_data_stream();
        let feeding = async {
            // The connection's end, or a pause that is too long, ends the snapshot early.
            while let Ok(Some(Ok(part))) = tokio::time::timeout(IDLE_MAX, stream.next()).await {
                // Who sends hears the answer only once all is sent.
                let _ = parts.send(part).await;
            }
            drop(parts);
        };
        let (_, restored) = futures::join!(feeding, restoring);
        restored.unwrap_or_else(|error| {
            Err(refused(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("restoring ended by itself: {error}"),
            ))
        })
    }
}

/// A database that is being restored.
pub(super) struct Restoring {
    node: Arc<Node>,
    received: mpsc::Receiver<Bytes>,
    reader: Reader,
    /// Whether the database has its names.
    is_named: bool,
    /// Whether clients may have called the database already.
    may_be_open: bool,
}

/// What was begun, and is undone if it comes to no end.
struct Begun {
    record: Database,
    of: Position,
    loads: u64,
    in_flight: FuturesOrdered<Pending>,
    state: Option<TableRows>,
}

impl Restoring {
    pub(super) fn new(node: Arc<Node>, received: mpsc::Receiver<Bytes>) -> Self {
        Self {
            node,
            received,
            reader: Reader::default(),
            is_named: false,
            may_be_open: false,
        }
    }

    pub(super) async fn run(mut self, target: Target) -> Result<Restored, Refused> {
        let Piece::Header(header) = self.next().await? else {
            return Err(bad("it does not begin with a header"));
        };
        let record = self.place(&header, &target).await?;
        match self.fill(&header, record.clone(), &target).await {
            Ok(restored) => Ok(restored),
            Err(error) => {
                if !self.may_be_open {
                    self.end(&record).await;
                }
                Err(error)
            }
        }
    }

    /// The snapshot's next piece.
    async fn next(&mut self) -> Result<Piece, Refused> {
        loop {
            match self.reader.piece() {
                Ok(Some(piece)) => return Ok(piece),
                Ok(None) => {}
                Err(error) => return Err(bad(error)),
            }
            match self.received.recv().await {
                Some(part) => self.reader.push(&part),
                None => {
                    self.reader.finish().map_err(bad)?;
                    return Err(bad("there is nothing behind its end"));
                }
            }
        }
    }

    /// Gives the database its place in the cluster, if it may have it.
    async fn place(&mut self, header: &Header, target: &Target) -> Result<Database, Refused> {
        let manager = &self.node.manager;
        let level = manager.feature_level();
        if level < RESTORE_LEVEL {
            return Err(conflict(
                "not all nodes know yet how databases are restored: update RaftTimeDB on each of them first",
            ));
        }
        if header.level > level {
            return Err(conflict(format!(
                "the snapshot was taken of a cluster whose nodes apply more than these do (level {}, here {level}): update \
                 RaftTimeDB on each of them first",
                header.level
            )));
        }
        let now_us = SystemClock.now_us() as i64;
        if header.taken_us > now_us + AHEAD_US_MAX {
            return Err(conflict(format!(
                "the snapshot was taken {} s from now, by this node's clock: a database's time never goes back; set the clock",
                (header.taken_us - now_us) / 1_000_000
            )));
        }
        if let Some(name) = &target.name {
            check_name(name).map_err(bad)?;
        }
        // Else a database that is whole elsewhere might look here like one that was restored by half.
        for group in [manager.meta(), manager.shard()] {
            known(group).await?;
        }
        let meta = manager.meta().meta();
        let names = target.names(header);
        let identity = match &target.name {
            None => header.database.clone(),
            Some(name) => match meta.identity(name) {
                Some(known) => known.clone(),
                None => self.fresh()?,
            },
        };
        for name in &names {
            if let Some(other) = meta.named(name).filter(|other| other.identity != identity) {
                return Err(conflict(format!(
                    "the name `{name}` is that of another database, {}: restore with --as, under another name",
                    crate::node::hex_of(&other.identity)
                )));
            }
        }
        if let Some(there) = meta.database(&identity).cloned() {
            let is_half = manager
                .shard()
                .with_shard(|shard| !shard.is_open(&identity))
                .unwrap_or_default();
            if !target.replace && !is_half {
                return Err(conflict(format!(
                    "there is a database {} already: --replace puts the snapshot in its place, --as NAME beside it",
                    names
                        .first()
                        .cloned()
                        .unwrap_or_else(|| crate::node::hex_of(&identity)),
                )));
            }
            // What is to take its place would be refused afterwards.
            if manager.status().space.is_low {
                return Err(unavailable(
                    "this node's disk is nearly full: nothing was changed; ask another node, or make room",
                ));
            }
            let end = EndDatabase {
                database: identity.clone(),
                born: there.born,
            };
            match self.propose(manager.meta(), Command::EndDatabase(end)).await? {
                Ok(_) | Err(Unapplied::Refused(Refusal::NoSuchDatabase)) => {}
                Err(error) => return Err(conflict(error.to_string())),
            }
        }
        let owner = header.owner.clone().unwrap_or_default();
        let register = RegisterDatabase {
            database: identity,
            owner: Some(Owner {
                identity: owner.identity,
                issuer: owner.issuer,
                subject: owner.subject,
            }),
            name: String::new(),
            shard: GroupId::SHARD.0,
            has_birth: true,
        };
        match self
            .propose(manager.meta(), Command::RegisterDatabase(register))
            .await?
        {
            Ok(Applied {
                reply:
                    Reply::Database {
                        identity,
                        created: true,
                        ..
                    },
                ..
            }) => {
                let record = manager.meta().meta().database(&identity).cloned();
                record.ok_or_else(|| conflict("the database was deleted as soon as it was there"))
            }
            Ok(_) => Err(conflict(
                "somebody else has just made a database of that identity",
            )),
            Err(error) => Err(conflict(error.to_string())),
        }
    }

    /// An identity that no database has.
    fn fresh(&self) -> Result<Bytes, Refused> {
        let tokens = self.node.local.tokens();
        let fresh = tokens.and_then(|tokens| tokens.fresh());
        let (claims, _) = fresh.ok_or_else(|| unavailable("this node is still starting"))?;
        Ok(claims.identity.to_byte_array().to_vec().into())
    }

    /// Has the module and all rows pass through the log.
    async fn fill(
        &mut self,
        header: &Header,
        record: Database,
        target: &Target,
    ) -> Result<Restored, Refused> {
        let shard = Arc::clone(self.node.manager.shard());
        // What was of this identity before may not be gone from the shard yet.
        let delete = Delete {
            database: record.identity.clone(),
            before: record.born,
        };
        match self.propose(&shard, Command::Delete(delete)).await? {
            Ok(_) | Err(Unapplied::Refused(Refusal::NoSuchDatabase)) => {}
            Err(error) => return Err(unavailable(error.to_string())),
        }
        let names = target.names(header);
        let publish = Publish {
            database: record.identity.clone(),
            owner: record.owner.clone(),
            names: names.clone(),
            module: header.module.clone(),
            original_def: header.original_def.clone(),
            clear: true,
            judged: self.node.manager.feature_level() >= JUDGEMENT_LEVEL,
            program: header.program.clone(),
            token: Bytes::new(),
            born: record.born,
            loads: true,
        };
        let published = self.propose(&shard, Command::Publish(publish)).await?;
        let of = published.map_err(|error| failed(&error))?.position;
        let mut begun = Begun {
            record,
            of,
            loads: 0,
            in_flight: FuturesOrdered::new(),
            state: None,
        };
        let end = loop {
            match self.next().await? {
                Piece::Rows(rows) => {
                    let rows = TableRows {
                        table: rows.table,
                        rows: rows.rows,
                    };
                    if rows.table == rtdb_replica::STATE_TABLE {
                        begun.state = Some(rows);
                        continue;
                    }
                    let load = Load {
                        tables: vec![rows],
                        ..Load::default()
                    };
                    self.load(&mut begun, load).await?;
                }
                Piece::Clients(clients) => {
                    let departed = clients.clients.into_iter().map(|it| Departed {
                        sender: it.sender,
                        connection: it.connection,
                        claims: it.claims,
                    });
                    let load = Load {
                        departed: departed.collect(),
                        ..Load::default()
                    };
                    self.load(&mut begun, load).await?;
                }
                Piece::End(end) => break end,
                Piece::Header(_) => return Err(bad("it has two headers")),
            }
        };
        let rows = end
            .tables
            .iter()
            .filter(|it| it.table != rtdb_replica::STATE_TABLE);
        let sums: Vec<TableSum> = rows
            .map(|it| TableSum {
                table: it.table.clone(),
                rows: it.rows,
                sum: it.sum.clone(),
            })
            .collect();
        let rows = sums.iter().map(|sum| sum.rows).sum();
        // Before it is open: else a node that ends in between would leave one that nobody can call by its name.
        let named = SetNames {
            database: begun.record.identity.clone(),
            names: names.clone(),
            replaced: Some(Names {
                born: begun.record.born,
                names: begun.record.names.clone(),
            }),
        };
        let meta = Arc::clone(self.node.manager.meta());
        let named = self.propose(&meta, Command::SetNames(named)).await?;
        named.map_err(|error| conflict(error.to_string()))?;
        self.is_named = true;
        let last = Load {
            tables: begun.state.take().into_iter().collect(),
            sums,
            last: true,
            ..Load::default()
        };
        self.load(&mut begun, last).await?;
        let position = self.opened(&mut begun).await?;
        Ok(Restored {
            identity: crate::node::hex_of(&begun.record.identity),
            names,
            rows,
            position: position.to_string(),
        })
    }

    /// Awaits the last loads; gives the position of the last one. Once it may be in the log, clients may have called the database,
    /// and only what is certain to have failed goes again.
    async fn opened(&mut self, begun: &mut Begun) -> Result<Position, Refused> {
        let mut last = Err(Unapplied::unknown("no load was sent"));
        loop {
            match tokio::time::timeout(COMMAND_MAX, begun.in_flight.next()).await {
                Ok(Some(Err(error @ Unapplied::Refused(_)))) => return Err(failed(&error)),
                Ok(Some(loaded)) => last = loaded,
                Ok(None) => break,
                Err(_) => {
                    last = Err(Unapplied::unknown("the nodes take too long to take rows"));
                    break;
                }
            }
        }
        last.map(|loaded| loaded.position).map_err(|error| {
            self.may_be_open = true;
            unavailable(format!(
                "all rows are on their way, but whether the database is restored this node can't say ({error}): see `rtdb status`"
            ))
        })
    }

    /// The next load goes its way, once there is room.
    async fn load(&self, begun: &mut Begun, load: Load) -> Result<(), Refused> {
        while begun.in_flight.len() >= LOADS_IN_FLIGHT {
            let oldest = tokio::time::timeout(COMMAND_MAX, begun.in_flight.next()).await;
            match oldest {
                Ok(Some(Ok(_)) | None) => {}
                Ok(Some(Err(error))) => return Err(failed(&error)),
                Err(_) => return Err(unavailable("the nodes take too long to take rows")),
            }
        }
        let load = Load {
            database: begun.record.identity.clone(),
            of: begun.of.0,
            number: begun.loads,
            ..load
        };
        begun.loads += 1;
        let shard = self.node.manager.shard();
        shard.ready().await;
        let pending = shard.submit(Command::Load(load).into());
        begun
            .in_flight
            .push_back(pending.map_err(|error| unavailable(error.to_string()))?);
        Ok(())
    }

    async fn propose(
        &self,
        group: &Arc<Group>,
        body: Command,
    ) -> Result<Result<Applied, Unapplied>, Refused> {
        let pending = group.submit(body.into());
        let mut pending = pin!(pending.map_err(|error| unavailable(error.to_string()))?);
        let outcome = tokio::time::timeout(COMMAND_MAX, &mut pending).await;
        outcome.map_err(|_| unavailable("the nodes have not agreed in time: see `rtdb status`"))
    }

    /// What was begun goes again.
    async fn end(&self, record: &Database) {
        let meta = Arc::clone(self.node.manager.meta());
        if self.is_named {
            // They would stay with its identity.
            let unnamed = SetNames {
                database: record.identity.clone(),
                names: record.names.clone(),
                replaced: None,
            };
            let _ = self.propose(&meta, Command::SetNames(unnamed)).await;
        }
        let end = EndDatabase {
            database: record.identity.clone(),
            born: record.born,
        };
        if let Err(Refused { reason, .. }) = self.propose(&meta, Command::EndDatabase(end)).await {
            tracing::error!(
                database = crate::node::hex_of(&record.identity),
                reason,
                "what was restored by half is still there: restore it again, or delete it"
            );
            return;
        }
        // If this node ends now, the shard's leader does it.
        let delete = Delete {
            database: record.identity.clone(),
            before: record.born.saturating_add(1),
        };
        let shard = Arc::clone(self.node.manager.shard());
        let _ = self.propose(&shard, Command::Delete(delete)).await;
    }
}

/// Waits until this node knows all that the group had agreed on by now.
async fn known(group: &Group) -> Result<(), Refused> {
    let index = group.read_index().await;
    let index = index.map_err(|_| unavailable("no leader says how far the log is: try again"))?;
    let mut resolved = group.resolved();
    let reached = resolved.wait_for(|resolved| *resolved >= index);
    let reached = tokio::time::timeout(CATCH_UP_MAX, reached).await;
    match reached {
        Ok(Ok(_)) => Ok(()),
        _ => Err(unavailable(
            "this node lags behind the others: try again later, or another node",
        )),
    }
}

fn bad(why: impl ToString) -> Refused {
    refused(StatusCode::BAD_REQUEST, why.to_string())
}

fn failed(error: &Unapplied) -> Refused {
    match error {
        Unapplied::Refused(Refusal::Module(text)) => conflict(format!(
            "the database can't be restored, and nothing of it is left: {text}"
        )),
        Unapplied::Refused(refusal) => conflict(refusal.to_string()),
        error => unavailable(error.to_string()),
    }
}
