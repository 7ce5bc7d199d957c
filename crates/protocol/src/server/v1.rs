//! v1: `crates/client-api-messages/src/websocket.rs` of 1.2.0; `ProcedureResult` since 1.4.

use super::changes::{Changes, Direction, TableRows};
use super::rows::RowList;
use super::tables::{Table, Tables};
use super::update::{Event, Kind, Status, Update};
use super::{ProcedureOutcome, ServerMessage, procedure_result};
use crate::reader::Reader;
use crate::writer::Write;
use crate::{ConnectionId, FrameError, Identity};
use bytes::{BufMut, BytesMut};
use std::ops::Range;

pub(crate) const TRANSACTION_UPDATE: u8 = 1;
pub(crate) const TRANSACTION_UPDATE_LIGHT: u8 = 2;
pub(crate) const IDENTITY_TOKEN: u8 = 3;
pub(crate) const ONE_OFF_QUERY_RESPONSE: u8 = 4;
pub(crate) const SUBSCRIPTION_ERROR: u8 = 7;
pub(crate) const SUBSCRIBE_MULTI_APPLIED: u8 = 8;
pub(crate) const UNSUBSCRIBE_MULTI_APPLIED: u8 = 9;
pub(crate) const PROCEDURE_RESULT: u8 = 10;

/// The reducer name in a v1 `TransactionUpdate` that answers a read which the server could not even start: 1.2.0's,
/// 2.8.3's.
pub(crate) const NO_REDUCER: [&str; 2] = ["<none>", ""];

pub(super) fn read(reader: &mut Reader<'_>) -> Result<ServerMessage, FrameError> {
    let payload = reader.frame();
    let start = reader.at();
    let message = match reader.tag("v1 server message", 11)? {
        0 => {
            let tables = database_update(reader)?;
            let request_id = Some(reader.u32()?);
            reader.skip(8)?;
            let raw = tables.strip(payload, start..reader.at());
            ServerMessage::SubscribeReply {
                request_id,
                query_set: None,
                error: false,
                changes: Changes::flat(payload, tables),
                raw,
            }
        }
        TRANSACTION_UPDATE => transaction_update(reader, start)?,
        TRANSACTION_UPDATE_LIGHT => {
            let request_id = reader.u32()?;
            let changes = Changes::flat(payload, database_update(reader)?);
            ServerMessage::Update(Update {
                raw: reader.since(start),
                changes,
                kind: Kind::Light { request_id },
            })
        }
        IDENTITY_TOKEN => {
            let (identity, token, connection) = (reader.array()?, reader.text()?, reader.array()?);
            ServerMessage::Hello {
                identity,
                token,
                connection,
            }
        }
        ONE_OFF_QUERY_RESPONSE => {
            reader.place()?;
            let error = reader.option(Reader::text)?;
            let tables = Tables::read(reader, payload, 4 + ROW_LIST_BYTES_MIN, |reader| {
                let name = reader.place()?;
                Ok((name, RowList::skip(reader)?.start))
            })?;
            reader.skip(8)?;
            let raw = tables.strip(payload, start..reader.at());
            ServerMessage::QueryReply {
                error,
                changes: Changes::lists(payload, Direction::Come, vec![(0, tables)]),
                raw,
            }
        }
        // The rows of SubscribeApplied and UnsubscribeApplied are of the one table that the client's query named.
        5 | 6 => {
            let request_id = Some(reader.u32()?);
            reader.skip(8)?;
            let query_set = Some(reader.u32()?);
            reader.skip(4)?;
            reader.place()?;
            let from = reader.at();
            let (name, updates) = table_update(reader)?;
            let table = Table::new(payload, from..reader.at(), name, updates);
            ServerMessage::SubscribeReply {
                request_id,
                query_set,
                error: false,
                changes: Changes::flat(payload, Tables::one(table)),
                raw: reader.since(start),
            }
        }
        SUBSCRIPTION_ERROR => {
            reader.skip(8)?;
            let request_id = reader.option(Reader::u32)?;
            let query_set = reader.option(Reader::u32)?;
            reader.option(Reader::u32)?;
            reader.place()?;
            let raw = reader.since(start);
            match request_id {
                Some(_) => ServerMessage::SubscribeReply {
                    request_id,
                    query_set,
                    error: true,
                    changes: Changes::default(),
                    raw,
                },
                None => ServerMessage::SubscriptionLost { query_set, raw },
            }
        }
        PROCEDURE_RESULT => {
            let outcome = match reader.tag("procedure status", 3)? {
                0 => ProcedureOutcome::Returned(reader.bytes()?),
                1 => ProcedureOutcome::OutOfEnergy,
                _ => ProcedureOutcome::Internal(reader.text()?),
            };
            ServerMessage::Procedure(procedure_result(reader, outcome, start)?)
        }
        // SubscribeMultiApplied and UnsubscribeMultiApplied.
        _ => {
            let request_id = Some(reader.u32()?);
            reader.skip(8)?;
            let query_set = Some(reader.u32()?);
            let tables = database_update(reader)?;
            let raw = tables.strip(payload, start..reader.at());
            ServerMessage::SubscribeReply {
                request_id,
                query_set,
                error: false,
                changes: Changes::flat(payload, tables),
                raw,
            }
        }
    };
    Ok(message)
}

fn transaction_update(reader: &mut Reader<'_>, start: usize) -> Result<ServerMessage, FrameError> {
    let mut changes = Changes::default();
    let status = match reader.tag("update status", 3)? {
        0 => {
            changes = Changes::flat(reader.frame(), database_update(reader)?);
            Status::Committed
        }
        1 => Status::Failed(reader.text()?),
        _ => Status::OutOfEnergy,
    };
    let event = Event {
        status,
        timestamp_us: reader.i64()?,
        sender: reader.array()?,
        connection: reader.array()?,
        reducer: reader.text()?,
        reducer_id: reader.u32()?,
        args: reader.bytes()?,
        request_id: reader.u32()?,
        energy: reader.u128()?,
        execution_us: reader.i64()?,
    };
    let raw = reader.since(start);
    let answers_read = matches!(event.status, Status::Failed(_))
        && event.args.is_empty()
        && NO_REDUCER.iter().any(|name| event.reducer == *name);
    if answers_read {
        return Ok(ServerMessage::SubscribeReply {
            request_id: None,
            query_set: None,
            error: true,
            changes: Changes::default(),
            raw,
        });
    }
    Ok(ServerMessage::Update(Update {
        raw,
        changes,
        kind: Kind::Full(Box::new(event)),
    }))
}

/// A row list: tag, the shortest hint, data length.
const ROW_LIST_BYTES_MIN: usize = 1 + 2 + 4;
/// Table id, name, row count, array of updates.
const TABLE_BYTES_MIN: usize = 4 + 4 + 8 + 4;
/// Compression tag, the length of the compressed bytes.
const QUERY_UPDATE_BYTES_MIN: usize = 1 + 4;

fn database_update(reader: &mut Reader<'_>) -> Result<Tables, FrameError> {
    Tables::read(reader, reader.frame(), TABLE_BYTES_MIN, table_update)
}

fn table_update(reader: &mut Reader<'_>) -> Result<(Range<usize>, usize), FrameError> {
    reader.skip(4)?;
    let name = reader.place()?;
    reader.skip(8)?;
    let updates = reader.at();
    for _ in 0..reader.count(QUERY_UPDATE_BYTES_MIN)? {
        check_uncompressed(reader)?;
        RowList::skip(reader)?;
        RowList::skip(reader)?;
    }
    Ok((name, updates))
}

fn check_uncompressed(reader: &mut Reader<'_>) -> Result<(), FrameError> {
    match reader.tag("row compression", 3)? {
        0 => Ok(()),
        scheme => Err(FrameError::Compressed { scheme }),
    }
}

/// The inserts and deletes of one table's updates.
pub(super) fn changes(reader: &mut Reader<'_>) -> Result<Vec<TableRows>, FrameError> {
    let update = |reader: &mut Reader<'_>| {
        check_uncompressed(reader)?;
        let deletes = RowList::read(reader)?;
        Ok(TableRows {
            inserts: RowList::read(reader)?,
            deletes,
            events: false,
        })
    };
    (0..reader.count(QUERY_UPDATE_BYTES_MIN)?)
        .map(|_| update(reader))
        .collect()
}

/// The fields of a v1 `TransactionUpdate` that tell of the call.
pub(crate) struct Call<'a> {
    pub(crate) timestamp_us: i64,
    pub(crate) sender: &'a Identity,
    pub(crate) connection: &'a ConnectionId,
    pub(crate) reducer: &'a str,
    pub(crate) reducer_id: u32,
    pub(crate) args: &'a [u8],
    pub(crate) request_id: u32,
    pub(crate) energy: u128,
    pub(crate) execution_us: i64,
}

/// Writes a `TransactionUpdate`; `changes` are its rows if it is committed.
pub(crate) fn put_update(out: &mut BytesMut, status: &Status, changes: &Changes, call: &Call<'_>) {
    out.put_u8(TRANSACTION_UPDATE);
    match status {
        Status::Committed => {
            out.put_u8(0);
            changes.put_visible(out);
        }
        Status::Failed(message) => {
            out.put_u8(1);
            out.put_bytes_bsatn(message.as_bytes());
        }
        Status::OutOfEnergy => out.put_u8(2),
    }
    out.put_i64_le(call.timestamp_us);
    out.put_slice(call.sender);
    out.put_slice(call.connection);
    out.put_bytes_bsatn(call.reducer.as_bytes());
    out.put_u32_le(call.reducer_id);
    out.put_bytes_bsatn(call.args);
    out.put_u32_le(call.request_id);
    out.put_u128_le(call.energy);
    out.put_i64_le(call.execution_us);
}
