//! Who is subscribed to what, and what each hears of a commit.

use super::message::Message;
use super::query::{Changes, Query, Table};
use super::{Files, SpacetimeDb, State};
use bytes::{BufMut, Bytes, BytesMut};
use rtdb_determinism::header::CallHeader;
use rtdb_protocol::Subprotocol;
use rtdb_protocol::client::{Read, ReadKind};
use rtdb_protocol::reply::{Direction, TableRows, applied_head, applied_rows, read_refused};
use rtdb_protocol::server::{TableDifference, put_difference};
use rtdb_replica::DatabaseId;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// Query sets, and their queries.
pub(super) type Sets = BTreeMap<u32, Vec<Query>>;

/// A connection.
pub(super) struct Connection {
    pub(super) database: DatabaseId,
    pub(super) subprotocol: Subprotocol,
    pub(super) is_light: bool,
    /// It hangs on what was there before a publication, and hears of nothing.
    pub(super) is_deaf: bool,
    pub(super) answers: mpsc::Sender<Bytes>,
    pub(super) sets: Sets,
}

/// The call that made a commit, as v1 tells it with the rows.
pub(super) struct Cause<'a> {
    pub(super) reducer: &'a str,
    pub(super) args: &'a [u8],
    pub(super) sender: [u8; 32],
}

impl SpacetimeDb {
    /// Somebody connects.
    pub(super) fn admit(&self, connection: Connection) -> u64 {
        let mut state = self.0.state.lock();
        state.last_connection += 1;
        let number = state.last_connection;
        state.connections.insert(number, connection);
        number
    }

    /// Somebody has gone.
    pub(super) fn dismiss(&self, number: u64) {
        self.0.state.lock().connections.remove(&number);
    }

    /// Says something on a connection, if that is still there.
    pub(super) fn say(&self, number: u64, message: Bytes) {
        if let Some(connection) = self.0.state.lock().connections.get(&number) {
            connection.say(message);
        }
    }

    /// A query set begins, or ends.
    pub(super) fn set(&self, number: u64, message: Message) {
        let mut state = self.0.state.lock();
        let State {
            connections,
            databases,
            ..
        } = &mut *state;
        let Some(connection) = connections.get_mut(&number) else {
            return;
        };
        let Some(Files { database, .. }) = databases.get(&connection.database) else {
            connections.remove(&number);
            return;
        };
        let Message::Set {
            kind,
            request_id,
            set,
            queries,
            wants_rows,
        } = message
        else {
            return;
        };
        let begins = matches!(kind, ReadKind::SubscribeMulti | ReadKind::SubscribeSingle);
        let found = match begins {
            true => queries.iter().map(|query| Query::parse(query)).collect(),
            false => connection
                .sets
                .remove(&set)
                .ok_or_else(|| "Subscription not found".to_owned()),
        };
        let queries: Vec<Query> = match found {
            Ok(queries) => queries,
            Err(why) => return connection.refuse(kind, request_id, set, &why),
        };
        let rows: Vec<(Table, Vec<Bytes>)> = queries
            .iter()
            .map(|query| (query.table, database.rows_of(query)))
            .collect();
        let direction = match begins {
            true => Direction::Come,
            false => Direction::Leave,
        };
        if begins {
            connection.sets.insert(set, queries);
        }
        connection.tell_set(kind, (direction, wants_rows), request_id, set, &rows);
    }
}

impl Connection {
    fn say(&self, message: Bytes) {
        match self.answers.try_send(message) {
            Err(mpsc::error::TrySendError::Full(_)) => panic!("more is to be said than may be"),
            // Its task is about to end.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    fn refuse(&self, kind: ReadKind, request_id: u32, set: u32, why: &str) {
        let read = Read {
            raw: Bytes::new(),
            kind,
            request_id: Some(request_id),
            query_sets: vec![set],
            queries: Vec::new(),
            message_id: Bytes::new(),
            refused: None,
        };
        self.say(read_refused(self.subprotocol, &read, &[2; 32], &[3; 16], 0, why));
    }

    fn tell_set(
        &self,
        kind: ReadKind,
        (direction, wants_rows): (Direction, bool),
        request_id: u32,
        set: u32,
        rows: &[(Table, Vec<Bytes>)],
    ) {
        // v1 says nothing of a table without rows.
        let is_list = matches!(kind, ReadKind::SubscribeMulti | ReadKind::UnsubscribeMulti);
        let is_brief = self.subprotocol == Subprotocol::V1 && is_list;
        let tables: Vec<_> = rows
            .iter()
            .filter(|(_, rows)| !is_brief || !rows.is_empty())
            .map(|(table, rows)| TableRows {
                table: table.name(),
                table_id: table.number(),
                rows: rows.iter().map(|row| row.as_ref()).collect(),
            })
            .collect();
        let tables = Some(tables.as_slice()).filter(|_| wants_rows);
        let mut answer = BytesMut::from(&applied_head(self.subprotocol, direction, request_id, set)[..]);
        let rows = applied_rows(self.subprotocol, direction, tables);
        match kind {
            // One table, and not a list of them: its number and name come first.
            ReadKind::SubscribeSingle | ReadKind::UnsubscribeSingle => {
                answer[0] -= 3;
                let table = &rows[4..];
                let named = 4 + 4 + u32::from_le_bytes([table[4], table[5], table[6], table[7]]) as usize;
                answer.put_slice(&table[..named]);
                answer.put_slice(table);
            }
            _ => answer.put_slice(&rows),
        }
        self.say(answer.freeze());
    }

    /// Tells of a commit, as far as it shows here.
    pub(super) fn hear(&self, changes: &Changes, cause: Option<&Cause<'_>>) {
        if self.is_deaf {
            return;
        }
        let mut tables: Vec<TableDifference<'_>> = Vec::new();
        for (set, queries) in &self.sets {
            for query in queries {
                let (inserts, deletes) = query.seen(changes);
                if !inserts.is_empty() || !deletes.is_empty() {
                    tables.push(TableDifference {
                        query_set: *set,
                        table: query.table.name(),
                        table_id: query.table.number(),
                        inserts,
                        deletes,
                    });
                }
            }
        }
        if tables.is_empty() {
            return;
        }
        let light = put_difference(self.subprotocol, &tables);
        self.say(match cause {
            Some(cause) if self.subprotocol == Subprotocol::V1 && !self.is_light => full(&light, cause),
            _ => light,
        });
    }
}

/// What v1 tells to who has not asked for less.
fn full(light: &[u8], cause: &Cause<'_>) -> Bytes {
    let mut update = BytesMut::with_capacity(light.len() + cause.args.len() + 128);
    // Committed; what comes then stands in a light one behind its tag and the number of a request.
    update.put_slice(&[1, 0]);
    update.put_slice(&light[5..]);
    update.put_i64_le(0);
    update.put_slice(&cause.sender);
    update.put_slice(&[3; 16]);
    update.put_u32_le(cause.reducer.len() as u32);
    update.put_slice(cause.reducer.as_bytes());
    update.put_u32_le(0);
    update.put_u32_le(cause.args.len() as u32);
    update.put_slice(cause.args);
    update.put_u32_le(0);
    // The call says in this way where it stands, as it does to its caller.
    let place = CallHeader::decode(cause.args).map_or(0, |header| header.index);
    update.put_u128_le(place.into());
    update.put_i64_le(1);
    update.freeze()
}
