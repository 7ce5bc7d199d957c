//! v1: `crates/client-api-messages/src/websocket.rs` of 1.2.0; `CallProcedure` since 1.4.

use super::{CallProcedure, CallReducer, ClientMessage, Read, ReadKind};
use crate::reader::Reader;
use crate::{FrameError, Text};
use bytes::Bytes;

pub(super) const CALL_REDUCER: u8 = 0;
pub(super) const CALL_PROCEDURE: u8 = 7;
pub(super) const SUBSCRIBE: u8 = 1;
pub(super) const ONE_OFF_QUERY: u8 = 2;
pub(super) const SUBSCRIBE_MULTI: u8 = 4;
pub(super) const UNSUBSCRIBE: u8 = 5;
pub(super) const UNSUBSCRIBE_MULTI: u8 = 6;

pub(super) fn read(reader: &mut Reader<'_>) -> Result<ClientMessage, FrameError> {
    let start = reader.at();
    let (mut request_id, mut query_sets, mut places, mut message_id) =
        (None, Vec::new(), Vec::new(), Bytes::new());
    let kind = match reader.tag("v1 client message", 8)? {
        CALL_REDUCER => return call_reducer(reader),
        SUBSCRIBE => {
            reader.queries(&mut places)?;
            request_id = Some(reader.u32()?);
            ReadKind::SubscribeLegacy
        }
        ONE_OFF_QUERY => {
            message_id = reader.bytes()?;
            reader.query(&mut places)?;
            ReadKind::OneOffQuery
        }
        3 => {
            reader.query(&mut places)?;
            request_id = Some(reader.u32()?);
            query_sets.push(reader.u32()?);
            ReadKind::SubscribeSingle
        }
        SUBSCRIBE_MULTI => {
            reader.queries(&mut places)?;
            request_id = Some(reader.u32()?);
            query_sets.push(reader.u32()?);
            ReadKind::SubscribeMulti
        }
        tag @ (UNSUBSCRIBE | UNSUBSCRIBE_MULTI) => {
            request_id = Some(reader.u32()?);
            query_sets.push(reader.u32()?);
            if tag == UNSUBSCRIBE {
                ReadKind::UnsubscribeSingle
            } else {
                ReadKind::UnsubscribeMulti
            }
        }
        _ => return call_procedure(reader),
    };
    let read = Read {
        raw: reader.since(start),
        kind,
        request_id,
        query_sets,
        queries: Vec::new(),
        message_id,
        refused: None,
    };
    read.understand(reader.frame(), start, &places)
        .map(ClientMessage::Read)
}

fn call_reducer(reader: &mut Reader<'_>) -> Result<ClientMessage, FrameError> {
    let (reducer, args, request_id) = call(reader)?;
    let no_success_notify = reader.tag("call flags", 2)? == 1;
    Ok(ClientMessage::Call(CallReducer {
        reducer,
        args,
        request_id,
        no_success_notify,
    }))
}

fn call_procedure(reader: &mut Reader<'_>) -> Result<ClientMessage, FrameError> {
    let (procedure, args, request_id) = call(reader)?;
    reader.tag("call flags", 1)?;
    Ok(ClientMessage::Procedure(CallProcedure {
        procedure,
        args,
        request_id,
    }))
}

fn call(reader: &mut Reader<'_>) -> Result<(Text, Bytes, u32), FrameError> {
    Ok((reader.text()?, reader.bytes()?, reader.u32()?))
}
