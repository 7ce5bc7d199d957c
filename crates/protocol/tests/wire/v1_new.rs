//! The v1 types of 2.8.3.

pub(crate) use messages_v2::energy::EnergyQuanta;
pub(crate) use messages_v2::websocket::v1 as ws;
pub(crate) use spacetimedb_lib as lib;

use crate::model::{Row, fixed_size};

pub(crate) fn row_list(rows: &[Row]) -> ws::BsatnRowList {
    let mut at = 0;
    let hint = match fixed_size(rows) {
        Some(size) => ws::RowSizeHint::FixedSize(size),
        None => {
            let start = |row: &Row| {
                at += row.len() as u64;
                at - row.len() as u64
            };
            ws::RowSizeHint::RowOffsets(rows.iter().map(start).collect())
        }
    };
    ws::BsatnRowList::new(hint, rows.concat().into())
}

#[path = "v1_suite.rs"]
mod suite;

#[test]
fn a_refused_procedure_is_what_the_server_would_say() {
    let raw = rtdb_protocol::reply::procedure_refused(rtdb_protocol::Subprotocol::V1, 9, "not served");
    let message = lib::bsatn::from_slice::<ws::ServerMessage<ws::BsatnFormat>>(&raw).unwrap();
    let ws::ServerMessage::ProcedureResult(result) = message else {
        panic!("another message")
    };
    assert!(matches!(result.status, ws::ProcedureStatus::InternalError(error) if error == "not served"));
    assert_eq!(result.request_id, 9);
    assert_eq!(result.timestamp.to_micros_since_unix_epoch(), 0);

    let call = ws::ClientMessage::CallProcedure(ws::CallProcedure::<Box<[u8]>> {
        procedure: "p".into(),
        args: [1, 2].into(),
        request_id: 9,
        flags: ws::CallProcedureFlags::Default,
    });
    let frame = lib::bsatn::to_vec(&call).unwrap().into();
    let messages: Vec<_> = rtdb_protocol::client::split(rtdb_protocol::Subprotocol::V1, frame).collect();
    let procedure = rtdb_protocol::client::CallProcedure {
        procedure: "p".into(),
        args: bytes::Bytes::from_static(&[1, 2]),
        request_id: 9,
    };
    assert_eq!(
        messages,
        [Ok(rtdb_protocol::client::ClientMessage::Procedure(procedure))]
    );
}
