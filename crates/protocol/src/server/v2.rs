//! v2 and v3: `crates/client-api-messages/src/websocket/v2.rs` of 2.8.3; `SubscribeBatchApplied` since 2.14.

use super::changes::{Changes, Direction, TableRows};
use super::rows::RowList;
use super::tables::Tables;
use super::update::{Kind, Update};
use super::{CallResult, ProcedureOutcome, ServerMessage, procedure_result};
use crate::FrameError;
use crate::reader::Reader;
use crate::reply::{CallReply, Outcome};
use crate::writer::Write;
use bytes::{BufMut, Bytes, BytesMut};

pub(crate) const INITIAL_CONNECTION: u8 = 0;
pub(crate) const SUBSCRIBE_APPLIED: u8 = 1;
pub(crate) const UNSUBSCRIBE_APPLIED: u8 = 2;
pub(crate) const SUBSCRIPTION_ERROR: u8 = 3;
pub(crate) const TRANSACTION_UPDATE: u8 = 4;
pub(crate) const ONE_OFF_QUERY_RESULT: u8 = 5;
pub(crate) const REDUCER_RESULT: u8 = 6;
pub(crate) const PROCEDURE_RESULT: u8 = 7;
pub(crate) const SUBSCRIBE_BATCH_APPLIED: u8 = 8;

/// `ReducerOutcome`'s tags.
pub(crate) const OUTCOME_OK: u8 = 0;
pub(crate) const OUTCOME_ERR: u8 = 2;
pub(crate) const OUTCOME_INTERNAL_ERROR: u8 = 3;

pub(super) fn read(reader: &mut Reader<'_>) -> Result<ServerMessage, FrameError> {
    let payload = reader.frame();
    let start = reader.at();
    let message = match reader.tag("v2 server message", 9)? {
        INITIAL_CONNECTION => {
            let (identity, connection, token) = (reader.array()?, reader.array()?, reader.text()?);
            ServerMessage::Hello {
                identity,
                token,
                connection,
            }
        }
        tag @ (SUBSCRIBE_APPLIED | UNSUBSCRIBE_APPLIED) => {
            let request_id = Some(reader.u32()?);
            let query_set = reader.u32()?;
            let (direction, tables) = if tag == SUBSCRIBE_APPLIED {
                (Direction::Come, query_rows(reader)?)
            } else {
                (Direction::Leave, reader.option(query_rows)?.unwrap_or_default())
            };
            let raw = tables.strip(payload, start..reader.at());
            ServerMessage::SubscribeReply {
                request_id,
                query_set: Some(query_set),
                error: false,
                changes: Changes::lists(payload, direction, vec![(query_set, tables)]),
                raw,
            }
        }
        SUBSCRIPTION_ERROR => {
            let request_id = reader.option(Reader::u32)?;
            let query_set = Some(reader.u32()?);
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
        TRANSACTION_UPDATE => {
            let changes = transaction_update(reader)?;
            ServerMessage::Update(Update {
                raw: reader.since(start),
                changes,
                kind: Kind::Plain,
            })
        }
        ONE_OFF_QUERY_RESULT => {
            reader.skip(4)?;
            let (tables, error) = match reader.tag("query result", 2)? {
                0 => (query_rows(reader)?, None),
                _ => (Tables::default(), Some(reader.text()?)),
            };
            let raw = tables.strip(payload, start..reader.at());
            ServerMessage::QueryReply {
                error,
                changes: Changes::lists(payload, Direction::Come, vec![(0, tables)]),
                raw,
            }
        }
        REDUCER_RESULT => ServerMessage::CallResult(reducer_result(reader)?),
        PROCEDURE_RESULT => {
            let outcome = match reader.tag("procedure status", 2)? {
                0 => ProcedureOutcome::Returned(reader.bytes()?),
                _ => ProcedureOutcome::Internal(reader.text()?),
            };
            ServerMessage::Procedure(procedure_result(reader, outcome, start)?)
        }
        _ => batch_applied(reader, start)?,
    };
    Ok(message)
}

/// A row list: tag, the shortest hint, data length.
const ROW_LIST_BYTES_MIN: usize = 1 + 2 + 4;

/// An update that stands alone.
pub(super) fn read_update(message: Bytes) -> Option<Update> {
    match read(&mut Reader::new(&message, 0)).ok()? {
        ServerMessage::Update(update) => Some(update),
        _ => None,
    }
}

fn query_rows(reader: &mut Reader<'_>) -> Result<Tables, FrameError> {
    Tables::read(reader, reader.frame(), 4 + ROW_LIST_BYTES_MIN, |reader| {
        let name = reader.place()?;
        Ok((name, RowList::skip(reader)?.start))
    })
}

fn transaction_update(reader: &mut Reader<'_>) -> Result<Changes, FrameError> {
    let start = reader.at();
    let count = reader.count(4 + 4)?;
    let mut sets = Vec::with_capacity(count);
    for _ in 0..count {
        let query_set = reader.u32()?;
        let tables = Tables::read(reader, reader.frame(), 4 + 4, |reader| {
            let name = reader.place()?;
            let updates = reader.at();
            for _ in 0..reader.count(1 + ROW_LIST_BYTES_MIN)? {
                let is_event_table = reader.tag("table rows", 2)? == 1;
                RowList::skip(reader)?;
                if !is_event_table {
                    RowList::skip(reader)?;
                }
            }
            Ok((name, updates))
        })?;
        sets.push((query_set, tables));
    }
    Ok(Changes::nested(reader.frame(), start..reader.at(), sets))
}

/// The inserts and deletes of one table's updates.
pub(super) fn changes(reader: &mut Reader<'_>) -> Result<Vec<TableRows>, FrameError> {
    let update = |reader: &mut Reader<'_>| {
        let is_event_table = reader.tag("table rows", 2)? == 1;
        let inserts = RowList::read(reader)?;
        let deletes = if is_event_table {
            RowList::default()
        } else {
            RowList::read(reader)?
        };
        Ok(TableRows {
            inserts,
            deletes,
            events: is_event_table,
        })
    };
    (0..reader.count(1 + ROW_LIST_BYTES_MIN)?)
        .map(|_| update(reader))
        .collect()
}

fn reducer_result(reader: &mut Reader<'_>) -> Result<CallResult, FrameError> {
    let (request_id, timestamp_us) = (reader.u32()?, reader.i64()?);
    let mut changes = Changes::default();
    let ok = |return_value| Outcome::Ok {
        return_value,
        execution_us: 0,
        energy: 0,
    };
    let outcome = match reader.tag("reducer outcome", 4)? {
        OUTCOME_OK => {
            let outcome = ok(reader.bytes()?);
            changes = transaction_update(reader)?;
            outcome
        }
        1 => ok(Bytes::new()),
        OUTCOME_ERR => Outcome::Failed {
            message: error_text(&reader.bytes()?),
            execution_us: 0,
            energy: 0,
        },
        _ => Outcome::Internal(reader.text()?.to_string()),
    };
    Ok(CallResult {
        request_id,
        timestamp_us,
        outcome,
        changes,
    })
}

/// A reducer's error value. SpacetimeDB has strings only, though the format would allow any type.
fn error_text(value: &Bytes) -> String {
    let mut reader = Reader::new(value, 0);
    match reader.text() {
        Ok(text) if reader.left() == 0 => text.to_string(),
        _ => String::from_utf8_lossy(value).into_owned(),
    }
}

fn batch_applied(reader: &mut Reader<'_>, start: usize) -> Result<ServerMessage, FrameError> {
    let payload = reader.frame();
    let request_id = Some(reader.u32()?);
    let mut query_set = None;
    let mut stripped = BytesMut::new();
    let mut copied = start;
    let mut sets = Vec::new();
    for _ in 0..reader.count(4 + 1 + 4)? {
        let set = reader.u32()?;
        query_set = query_set.or(Some(set));
        match reader.tag("subscribe outcome", 2)? {
            0 => {
                let tables = query_rows(reader)?;
                if tables.any_hidden() {
                    stripped.put_slice(&tables.strip(payload, copied..reader.at()));
                    copied = reader.at();
                }
                sets.push((set, tables));
            }
            _ => {
                reader.place()?;
            }
        }
    }
    let raw = if stripped.is_empty() {
        reader.since(start)
    } else {
        stripped.put_slice(&payload[copied..reader.at()]);
        stripped.freeze()
    };
    Ok(ServerMessage::SubscribeReply {
        request_id,
        query_set,
        error: false,
        changes: Changes::lists(payload, Direction::Come, sets),
        raw,
    })
}

/// Writes the `ReducerResult` of a call that went well; the rows it changed are `changes`.
///
/// SpacetimeDB 2.8.3 always says `Ok`, though `OkEmpty` would be shorter where there is nothing to tell.
pub(crate) fn put_ok(out: &mut BytesMut, reply: &CallReply<'_>, changes: &Changes) {
    let return_value: &[u8] = match reply.outcome {
        Outcome::Ok { return_value, .. } => return_value,
        _ => &[],
    };
    put_result(out, reply, OUTCOME_OK);
    out.put_bytes_bsatn(return_value);
    changes.put_visible(out);
}

pub(crate) fn put_result(out: &mut BytesMut, reply: &CallReply<'_>, outcome: u8) {
    out.put_u8(REDUCER_RESULT);
    out.put_u32_le(reply.request_id);
    out.put_i64_le(reply.timestamp_us);
    out.put_u8(outcome);
}
