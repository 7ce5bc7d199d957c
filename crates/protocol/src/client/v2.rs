//! v2 and v3: `crates/client-api-messages/src/websocket/v2.rs` of 2.8.3; `SubscribeBatch` since 2.14.

use super::{CallProcedure, CallReducer, ClientMessage, Read, ReadKind};
use crate::FrameError;
use crate::client::QUERIES_MAX;
use crate::reader::Reader;
use bytes::Bytes;

pub(super) const SUBSCRIBE: u8 = 0;
pub(super) const UNSUBSCRIBE: u8 = 1;
pub(super) const ONE_OFF_QUERY: u8 = 2;
pub(super) const CALL_REDUCER: u8 = 3;
pub(super) const CALL_PROCEDURE: u8 = 4;

pub(super) fn read(reader: &mut Reader<'_>) -> Result<ClientMessage, FrameError> {
    let start = reader.at();
    let tag = reader.tag("v2 client message", 6)?;
    let request_id = reader.u32()?;
    let (mut query_sets, mut places) = (Vec::new(), Vec::new());
    let kind = match tag {
        SUBSCRIBE => {
            query_sets.push(reader.u32()?);
            reader.queries(&mut places)?;
            ReadKind::SubscribeMulti
        }
        UNSUBSCRIBE => {
            query_sets.push(reader.u32()?);
            reader.tag("unsubscribe flag", 2)?;
            ReadKind::UnsubscribeMulti
        }
        ONE_OFF_QUERY => {
            reader.query(&mut places)?;
            ReadKind::OneOffQuery
        }
        CALL_REDUCER => {
            reader.tag("call flags", 1)?;
            let (reducer, args) = (reader.text()?, reader.bytes()?);
            return Ok(ClientMessage::Call(CallReducer {
                reducer,
                args,
                request_id,
                no_success_notify: false,
            }));
        }
        CALL_PROCEDURE => {
            reader.tag("call flags", 1)?;
            let (procedure, args) = (reader.text()?, reader.bytes()?);
            return Ok(ClientMessage::Procedure(CallProcedure {
                procedure,
                args,
                request_id,
            }));
        }
        _ => {
            for _ in 0..reader.count(8)? {
                let query_set = reader.u32()?;
                if query_sets.len() <= QUERIES_MAX {
                    query_sets.push(query_set);
                }
                reader.queries(&mut places)?;
            }
            ReadKind::SubscribeBatch
        }
    };
    let read = Read {
        raw: reader.since(start),
        kind,
        request_id: Some(request_id),
        query_sets,
        queries: Vec::new(),
        message_id: Bytes::new(),
        refused: None,
    };
    read.understand(reader.frame(), start, &places)
        .map(ClientMessage::Read)
}
